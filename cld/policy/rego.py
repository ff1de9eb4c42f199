"""The policy of a folder: rules compiled from its Rego, with its `data.json`, always as they are now.

Owns loading, hot reload and failing closed. Each decision first looks whether `data.json`, `policy.wasm` or its
lock changed, so an edit counts from the next decision on. Rego sources need the compiler and are
looked at in `refresh`, which never holds up a decision. What is in force is replaced in one
assignment, whole. There is one engine and no way around it: whatever goes wrong, the answer is no.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import anyio.to_thread
import msgspec

from cld.errors import CldError, InvalidArgument, PolicyError
from cld.policy import Action, Context, Decision
from cld.policy.build import Compiled, compile_rules, find_opa, one_at_a_time, write_compiled
from cld.policy.cache import private_folder
from cld.policy.data import check_data
from cld.policy.evaluator import MEMORY_BYTES, Evaluator, Grounds
from cld.policy.input import build_input
from cld.policy.lock import DATA, LOCK, WASM, Lock, decode_lock, difference, digest, digests, read_sources
from cld.policy.seen import Seen
from cld.policy.wasm import load_module
from cld.principal import Principal
from cld.uri import URI

logger = logging.getLogger(__name__)

NO_REVISION = "none"


class _InForce(msgspec.Struct, frozen=True):
    """What answers now: an evaluator, or a refusal in words."""

    evaluator: Evaluator | None
    revision: str
    needs_meta: bool
    refusal: str


class RegoPolicy:
    """Implements `cld.policy.Policy` with the rules of a folder; make one with `open`."""

    def __init__(
        self,
        folder: Path,
        *,
        on_error: Literal["last_good", "deny_all"] = "last_good",
        timeout_ms: int = 100,
        opa: str = "",
        cache: Path | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.folder = folder
        self._on_error = on_error
        self._timeout_ms = timeout_ms
        self._opa = opa
        self._cache = cache
        self._memory_bytes = memory_bytes
        self._loading = threading.RLock()
        self._module: tuple[str, Any] | None = None
        self._seen: tuple[Seen, ...] = ()
        self._building = threading.Lock()
        self._load_problem = ""
        self._source_problem = ""
        self._failed: Mapping[str, str] = {}
        self._lock: Lock | None = None
        self._good: _InForce | None = None
        self._in_force = _InForce(None, NO_REVISION, False, "the policy has not been loaded")

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        on_error: Literal["last_good", "deny_all"] = "last_good",
        timeout_ms: int = 100,
        opa: str = "",
        memory_bytes: int = MEMORY_BYTES,
    ) -> Self:
        """The policy of `folder`, loaded; compiled first, where its sources are not those of its lock.

        Never fails: without a good policy it denies everything and says why, in every decision and in
        `problems`. Blocks for as long as `opa` takes, where it has to compile.
        """
        policy = cls(
            folder.absolute(),
            on_error=on_error,
            timeout_ms=timeout_ms,
            opa=opa,
            cache=private_folder("wasm"),
            memory_bytes=memory_bytes,
        )
        policy._load()
        policy._look_at_sources()
        return policy

    @property
    def revision(self) -> str:
        return self._in_force.revision

    @property
    def needs_meta(self) -> bool:
        self._keep_current()
        return self._in_force.needs_meta

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the folder now, in words; nothing when all of it is in force."""
        self._keep_current()
        return tuple(problem for problem in (self._load_problem, self._source_problem) if problem)

    def decide(
        self, principal: Principal, action: Action, uri: URI, context: Context, meta: Mapping[str, str] | None = None
    ) -> Decision:
        """The decision; also when the rules fail, time out or answer nonsense, which is a no."""
        question = b""
        revision = NO_REVISION
        try:
            now = self._keep_current()
            revision = now.revision
            question = build_input(principal, action, uri, context, meta)
            if now.evaluator is None:
                return Decision(allow=False, reasons=(now.refusal,), revision=revision, input=question)
            answer = now.evaluator.decide(question)
            if answer.obligations and (wrong := _wrong(answer.obligations)):
                raise PolicyError(wrong)
        except CldError as error:
            return Decision(allow=False, reasons=(f"policy error: {error}",), revision=revision, input=question)
        except Exception as error:  # whatever it was, the answer is no
            logger.exception("a policy decision failed")
            return Decision(allow=False, reasons=(f"policy error: {error!r}",), revision=revision, input=question)
        reasons = tuple(answer.reasons)
        if not answer.allow:
            return Decision(allow=False, reasons=reasons or ("no rule allows it",), revision=revision, input=question)
        return Decision(allow=True, reasons=reasons, obligations=answer.obligations, revision=revision, input=question)

    def filter(
        self,
        principal: Principal,
        action: Action,
        uris: Sequence[URI],
        context: Context,
        metas: Sequence[Mapping[str, str]] | None = None,
    ) -> list[bool]:
        """As `Policy.filter`; nothing is allowed when the rules fail."""
        try:
            now = self._keep_current()
            if now.evaluator is None or not uris or (metas is not None and len(metas) != len(uris)):
                return [False] * len(uris)
            return now.evaluator.allowed(build_input(principal, action, uris, context, metas), len(uris))
        except InvalidArgument:
            # One that cannot be asked about must not take the others with it.
            return self._each(principal, action, uris, context, metas)
        except Exception:  # whatever it was, the answer is no
            logger.exception("policy could not filter %d resources; none is allowed", len(uris))
            return [False] * len(uris)

    def grounds(
        self, principal: Principal, action: Action, uri: URI, context: Context, meta: Mapping[str, str] | None = None
    ) -> Grounds:
        """The rules' own account of a decision, by the same rules.

        Raises:
            PolicyError: there is no policy in force, or it cannot explain.
            InvalidArgument: the question cannot be asked.
        """
        return self._evaluator().explain(build_input(principal, action, uri, context, meta))

    def answer(self, question: bytes) -> Decision:
        """The decision for an input as logged, to compare policies with.

        Raises:
            PolicyError: there is no policy in force, or the rules fail.
        """
        answer = self._evaluator().decide(question)
        return Decision(
            allow=answer.allow,
            reasons=tuple(answer.reasons),
            obligations=answer.obligations,
            revision=self._in_force.revision,
            input=question,
        )

    async def refresh(self) -> bool:
        """Look at everything in the folder, compile what needs it, load it; whether something else is in force now.

        Compiling takes a second or so in a thread; decisions go on meanwhile with what is in force.
        """
        before = self._in_force
        await anyio.to_thread.run_sync(self._look_again)
        return self._in_force is not before

    def _look_again(self) -> None:
        self._keep_current()
        self._look_at_sources()

    def _evaluator(self) -> Evaluator:
        now = self._keep_current()
        if now.evaluator is None:
            raise PolicyError(now.refusal)
        return now.evaluator

    def _each(
        self, principal: Principal, action: Action, uris: Sequence[URI], context: Context, metas: Any
    ) -> list[bool]:
        return [
            self.decide(principal, action, uri, context, None if metas is None else metas[index]).allow
            for index, uri in enumerate(uris)
        ]

    def _keep_current(self) -> _InForce:
        for seen in self._seen:
            if not seen.is_current():
                self._load()
                break
        return self._in_force

    def _load(self) -> None:
        """Load the three files as they are on disk, unless another thread just did."""
        with self._loading:
            if self._seen and all(seen.is_current() for seen in self._seen):
                return
            data = Seen(self.folder / DATA)
            wasm, lock = (Seen(self.folder / name, lazily=True) for name in (WASM, LOCK))
            self._seen = (data, wasm, lock)
            self._lock = None
            try:
                self._lock = _valid_lock(wasm, lock)
                evaluator = self._ready(wasm.data or b"", wasm.digest, _valid_data(data))
            except PolicyError as error:
                self._load_problem = str(error)
            else:
                self._load_problem = ""
                revision = digest(f"{wasm.digest} {data.digest}".encode())[:16]
                self._good = _InForce(evaluator, revision, self._lock.needs_meta, "")
            self._settle()

    def _ready(self, wasm: bytes, wasm_digest: str, data: bytes) -> Evaluator:
        if self._module is None or self._module[0] != wasm_digest:
            self._module = (wasm_digest, load_module(wasm, wasm_digest, self._cache))
        return Evaluator(self._module[1], data, timeout_ms=self._timeout_ms, memory_bytes=self._memory_bytes)

    def _settle(self) -> None:
        """Put in force what was good last, unless there is nothing good or a problem forbids it."""
        problem = self._load_problem or self._source_problem
        good = self._good
        if good is None or (problem and self._on_error == "deny_all"):
            refusal = f"there is no valid policy in {self.folder}, so nothing is allowed: {problem}"
            self._in_force = _InForce(None, NO_REVISION, False, refusal)
        else:
            self._in_force = good
        if problem:
            state = "nothing is allowed" if self._in_force is not good else "what was valid last stays in force"
            logger.error("policy: %s; %s", problem, state)

    def _look_at_sources(self) -> None:
        """Compile the sources when they are not those of the lock, and note what keeps that from being done."""
        with self._building:
            before, problem = self._source_problem, ""
            try:
                sources = digests(read_sources(self.folder))
                if self._lock is None or difference(self._lock, sources):
                    if sources == self._failed:
                        return
                    self._compile(sources)
            except OSError as error:
                problem = f"the rules cannot be read: {error}"
            except PolicyError as error:
                problem = str(error)
            with self._loading:
                self._source_problem = problem
                if problem != before:
                    self._settle()

    def _compile(self, sources: Mapping[str, str]) -> None:
        how = difference(self._lock, sources) if self._lock else "there is no valid lock"
        if (opa := find_opa(self._opa, self.folder)) is None:
            raise PolicyError(
                f"the rules are not those that were compiled ({how}) and there is no opa to compile them with; "
                f"run `cld policy install-opa`, or set policy.opa"
            )
        with one_at_a_time(self.folder):
            # Another process may have done it while this one waited.
            self._keep_current()
            if self._lock is not None and not difference(self._lock, sources):
                return
            try:
                compiled = compile_rules(self.folder, opa)
                self._try(compiled)
            except PolicyError as error:
                self._failed = sources
                raise PolicyError(f"the rules were changed ({how}) and do not hold: {error}") from error
            self._failed = {}
            write_compiled(self.folder, compiled)
            self._load()

    def _try(self, compiled: Compiled) -> None:
        """Load what was compiled before it replaces anything, which also compiles it to native code beforehand."""
        module = load_module(compiled.wasm, compiled.lock.wasm, self._cache)
        Evaluator(module, b"{}", timeout_ms=self._timeout_ms, memory_bytes=self._memory_bytes)
        with self._loading:
            self._module = (compiled.lock.wasm, module)


def _valid_lock(wasm: Seen, lock: Seen) -> Lock:
    for file in (wasm, lock):
        if file.data is None:
            raise PolicyError(f"{file.why}; run `cld policy build`")
    found = decode_lock(lock.data or b"")
    if found.wasm != wasm.digest:
        raise PolicyError(f"{WASM} is not the one that {LOCK} names; run `cld policy build`")
    return found


def _valid_data(data: Seen) -> bytes:
    if data.data is None:
        raise PolicyError(data.why)
    check_data(data.data)
    return data.data


def _wrong(obligations: Mapping[str, Any]) -> str:
    """What is wrong with the obligations that everyone knows; the rules may make others."""
    approval, tokens = obligations.get("require_approval", {}), obligations.get("max_tokens", 0)
    if not isinstance(approval, Mapping):
        return "the rules gave a require_approval that is no object"
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        return "the rules gave a max_tokens that is no whole number"
    return ""
