"""The folder of a policy: its compiled rules and data as they are now, loaded, or the reason why not.

Owns loading, hot reload and compiling. `current` looks whether `data.json`, `policy.wasm` or its lock
changed, in three microseconds, so an edit counts from the next decision on. Rego sources need the
compiler and are looked at in `look_at_sources`, which never holds up `current` for longer than a load.
What is in force is replaced in one assignment, whole.
"""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from cld.errors import PolicyError
from cld.policy.build import Compiled, compile_rules, find_opa, one_at_a_time, write_compiled
from cld.policy.data import check_data
from cld.policy.evaluator import MEMORY_BYTES, Evaluator
from cld.policy.lock import DATA, LOCK, WASM, Lock, decode_lock, difference, digest, digests, read_sources
from cld.policy.seen import Seen
from cld.policy.wasm import load_module

logger = logging.getLogger(__name__)

OnError = Literal["last_good", "deny_all"]

NO_REVISION = "none"


class InForce(msgspec.Struct, frozen=True):
    """What answers now: an evaluator, or a refusal in words."""

    evaluator: Evaluator | None
    revision: str
    needs_meta: bool
    refusal: str


class PolicyFolder:
    """Keeps what is in force in step with the files; safe to use from any thread.

    `cache` is where native code is kept, None for nowhere.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_error: OnError = "last_good",
        timeout_ms: int = 100,
        opa: str = "",
        cache: Path | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.path = path
        self._on_error: OnError = on_error
        self._timeout_ms = timeout_ms
        self._opa = opa
        self._cache = cache
        self._memory_bytes = memory_bytes
        self._loading = threading.RLock()
        self._building = threading.Lock()
        self._module: tuple[str, Any] | None = None
        self._seen: tuple[Seen, ...] = ()
        self._load_problem = ""
        self._source_problem = ""
        self._failed: Mapping[str, str] = {}
        self._lock: Lock | None = None
        self._good: InForce | None = None
        self.in_force = InForce(None, NO_REVISION, False, "the policy has not been loaded")

    def current(self) -> InForce:
        """What is in force for the files as they are now."""
        for seen in self._seen:
            if not seen.is_current():
                self.load()
                break
        return self.in_force

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the folder now, in words; nothing when all of it is in force."""
        self.current()
        return tuple(problem for problem in (self._load_problem, self._source_problem) if problem)

    def load(self) -> None:
        """Load the three files as they are on disk, unless another thread just did."""
        with self._loading:
            if self._seen and all(seen.is_current() for seen in self._seen):
                return
            data = Seen(self.path / DATA)
            wasm, lock = (Seen(self.path / name, lazily=True) for name in (WASM, LOCK))
            self._lock = None
            try:
                self._lock = _valid_lock(wasm, lock)
                evaluator = self._ready(wasm.data or b"", wasm.digest, _valid_data(data))
            except PolicyError as error:
                self._load_problem = str(error)
            else:
                self._load_problem = ""
                revision = digest(f"{wasm.digest} {data.digest}".encode())[:16]
                self._good = InForce(evaluator, revision, self._lock.needs_meta, "")
            self._settle()
            # Last, so that no other thread takes the old for current meanwhile.
            self._seen = (data, wasm, lock)

    def _ready(self, wasm: bytes, wasm_digest: str, data: bytes) -> Evaluator:
        if self._module is None or self._module[0] != wasm_digest:
            self._module = (wasm_digest, load_module(wasm, wasm_digest, self._cache))
        return Evaluator(self._module[1], data, timeout_ms=self._timeout_ms, memory_bytes=self._memory_bytes)

    def _settle(self) -> None:
        """Put in force what was good last, unless there is nothing good or a problem forbids it."""
        problem = self._load_problem or self._source_problem
        good = self._good
        if good is None or (problem and self._on_error == "deny_all"):
            refusal = f"there is no valid policy in {self.path}, so nothing is allowed: {problem}"
            self.in_force = InForce(None, NO_REVISION, False, refusal)
        else:
            self.in_force = good
        if problem:
            state = "nothing is allowed" if self.in_force is not good else "what was valid last stays in force"
            logger.error("policy: %s; %s", problem, state)

    def look_at_sources(self) -> None:
        """Compile the sources when they are not those of the lock, and note what keeps that from being done."""
        with self._building:
            before, problem = self._source_problem, ""
            try:
                sources = digests(read_sources(self.path))
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
        if (opa := find_opa(self._opa, self.path)) is None:
            raise PolicyError(
                f"the rules are not those that were compiled ({how}) and there is no opa to compile them with; "
                f"run `cld policy install-opa`, or set CLD_OPA"
            )
        with one_at_a_time(self.path):
            # Another process may have done it while this one waited.
            self.current()
            if self._lock is not None and not difference(self._lock, sources):
                return
            try:
                compiled = compile_rules(self.path, opa)
                self._try(compiled)
            except PolicyError as error:
                self._failed = sources
                raise PolicyError(f"the rules were changed ({how}) and do not hold: {error}") from error
            self._failed = {}
            write_compiled(self.path, compiled)
            self.load()

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
