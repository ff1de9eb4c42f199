"""The decision log: one JSON line for every decision, appended before anything is done on its strength.

Implements `cld.guard.Journal`. A decision that cannot be written raises, and so denies: there is no
setting for that. Lines hold the question exactly as the rules saw it (`cld.policy.input` has
redacted and shortened it), so that `cld.policy.explain.replay` can put it again. What reads the whole tree
again and again is counted (`counted`): that line has a bounded size, and names examples and a digest.
"""

import datetime
import hashlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cld.errors import PolicyError
from cld.policy import Action, Context, Decision
from cld.policy.input import Metas, build_input, context_input, principal_input
from cld.principal import Principal
from cld.resource import timestamp
from cld.uri import URI, namespace_of, type_of

MAX_BYTES = 64 * 1024 * 1024
"""A file of this size is followed by another of the same day."""

KEEP_DAYS = 30

TOTAL_BYTES = 4 * 1024**3
"""How large all files may be together; the oldest go first."""

EXAMPLES = 8
"""So many resources are named in a line that counts them; where there are no more, it names them all."""

_PREFIX = "decisions-"
_encoder = msgspec.json.Encoder()


class _Answered(msgspec.Struct):
    allow: bool
    reasons: Sequence[str]
    obligations: Mapping[str, object]


class _Decided(msgspec.Struct):
    time: str
    revision: str
    input: msgspec.Raw
    decision: _Answered


class _Question(msgspec.Struct, omit_defaults=True):
    principal: msgspec.Raw
    action: str
    context: object
    uris: Sequence[str] = ()
    metas: Sequence[Metas] | None = None


class _Filtered(msgspec.Struct):
    time: str
    revision: str
    filter: _Question
    allowed: Sequence[bool]


class _Group(msgspec.Struct, omit_defaults=True):
    """The resources of one answer: how many, the SHA-256 of their URIs with line ends between, and some of them."""

    allow: bool
    count: int
    sha256: str
    examples: Sequence[str]
    metas: Sequence[Metas] | None = None


class _Counted(msgspec.Struct):
    time: str
    revision: str
    count: _Question
    groups: Sequence[_Group]


class DecisionLog:
    """Appends to `decisions-<date>.jsonl` in `folder`, each line in one write; safe for any number of processes.

    When a new file is begun, those older than `keep_days` are removed, and the oldest while all of them
    together would be larger than `total_bytes`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_BYTES,
        keep_days: int = KEEP_DAYS,
        total_bytes: int = TOTAL_BYTES,
    ) -> None:
        self.folder = folder
        # Small enough that dropping the oldest file leaves most of the log.
        self._max_bytes = min(max_bytes, total_bytes // 8)
        self._total_bytes = total_bytes
        self._keep_days = keep_days
        self._lock = threading.Lock()
        self._descriptor = -1
        self._until = 0.0
        self._torn = False

    def decided(
        self, principal: Principal, action: Action, uri: URI, context: Context, meta: Metas, decision: Decision
    ) -> None:
        """Write down one decision.

        Raises:
            PolicyError: it could not be written, so nothing may be done on its strength.
        """
        question = decision.input or build_input(principal, action, uri, context, meta)
        answer = _Answered(decision.allow, decision.reasons, decision.obligations)
        self._write(_Decided(timestamp(), decision.revision, msgspec.Raw(question), answer))

    def filtered(
        self,
        principal: Principal,
        action: Action,
        uris: Sequence[URI],
        context: Context,
        metas: Sequence[Metas] | None,
        allowed: Sequence[bool],
        revision: str,
    ) -> None:
        """Write down the decisions on many resources as one line.

        Raises:
            PolicyError: as `decided`.
        """
        question = _Question(principal_input(principal), action, context_input(context), uris, metas)
        self._write(_Filtered(timestamp(), revision, question, allowed))

    def counted(
        self,
        principal: Principal,
        action: Action,
        uris: Sequence[URI],
        context: Context,
        metas: Sequence[Metas] | None,
        allowed: Sequence[bool],
        revision: str,
    ) -> None:
        """Write down the decisions on many resources as one line that names but a few of them.

        How many were allowed and denied, digests of their URIs, and `EXAMPLES` of each, of as many
        namespaces and types as there are.

        Raises:
            PolicyError: as `decided`.
        """
        if len(uris) <= EXAMPLES:
            self.filtered(principal, action, uris, context, metas, allowed, revision)
            return
        groups = [
            _group(uris, metas, [at for at, one in enumerate(allowed) if one is answer], answer)
            for answer in (True, False)
        ]
        question = _Question(principal_input(principal), action, context_input(context))
        self._write(_Counted(timestamp(), revision, question, [group for group in groups if group.count]))

    def close(self) -> None:
        """Let go of the file; a later decision opens it again."""
        with self._lock:
            self._shut()

    def _write(self, line: _Decided | _Filtered | _Counted) -> None:
        try:
            data = _encoder.encode(line) + b"\n"
            with self._lock:
                try:
                    self._append(data)
                except OSError:
                    # The next one opens it anew: whoever mends the folder may have put another file there.
                    self._shut()
                    raise
        except (OSError, TypeError, ValueError, msgspec.MsgspecError) as error:
            raise PolicyError(
                f"the decision cannot be written to the log in {self.folder} ({error}), and what is not "
                f"logged is not done; free space or mend the folder"
            ) from error

    def _append(self, data: bytes) -> None:
        if self._descriptor < 0 or time.time() >= self._until or self._is_done():
            self._open()
        if self._torn:
            data = b"\n" + data
        # One write to a file opened for appending: lines of several processes do not mix.
        written = os.write(self._descriptor, data)
        self._torn = written < len(data)
        if self._torn:
            raise OSError(f"only {written} of {len(data)} bytes were written")

    def _is_done(self) -> bool:
        """Whether the open file is full, or has no name any more, so that nobody would read what is written to it."""
        facts = os.fstat(self._descriptor)
        return facts.st_nlink == 0 or facts.st_size > self._max_bytes

    def _open(self) -> None:
        self._shut()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        today = datetime.datetime.now(datetime.UTC).date()
        tomorrow = datetime.datetime.combine(today + datetime.timedelta(days=1), datetime.time(), datetime.UTC)
        self._until = tomorrow.timestamp()
        self._remove_old(today)
        number = 0
        while True:
            part = f"-{number}" if number else ""
            file = self.folder / f"{_PREFIX}{today:%Y%m%d}{part}.jsonl"
            descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(descriptor).st_size <= self._max_bytes:
                self._descriptor = descriptor
                return
            os.close(descriptor)
            number += 1

    def _shut(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _remove_old(self, today: datetime.date) -> None:
        oldest = f"{_PREFIX}{today - datetime.timedelta(days=self._keep_days):%Y%m%d}"
        for file in self.folder.glob(f"{_PREFIX}*.jsonl"):
            if file.name < oldest:
                file.unlink(missing_ok=True)
        there = [(file, size) for file in log_files(self.folder) if (size := _size(file))]
        total = sum(size for _, size in there) + self._max_bytes
        for file, size in there[:-1]:
            if total <= self._total_bytes:
                break
            file.unlink(missing_ok=True)
            total -= size


def _group(uris: Sequence[URI], metas: Sequence[Metas] | None, places: Sequence[int], allow: bool) -> _Group:
    named: dict[tuple[str, str], int] = {}
    for place in places:
        named.setdefault((namespace_of(uris[place]), type_of(uris[place])), place)
        if len(named) == EXAMPLES:
            break
    examples = sorted(list(dict.fromkeys([*named.values(), *places[:EXAMPLES]]))[:EXAMPLES])
    digest = hashlib.sha256("\n".join(uris[place] for place in places).encode()).hexdigest()
    known = None if metas is None else [metas[place] for place in examples]
    return _Group(allow, len(places), digest, [uris[place] for place in examples], known)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0  # another process was quicker


def log_files(folder: Path) -> list[Path]:
    """The log's files, oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*.jsonl"), key=lambda file: (file.name[:18], _part(file)))


def _part(file: Path) -> int:
    _, _, part = file.stem.removeprefix(_PREFIX).partition("-")
    return int(part) if part.isdigit() else 0
