"""The decision log: one JSON line for every decision, appended before anything is done on its strength.

Implements `cld.guard.Journal`. A decision that cannot be written raises, and so denies: there is no
setting for that. Lines hold the question exactly as the rules saw it (`cld.policy.input` has
redacted and shortened it), so that `cld.policy.replay` can put it again.
"""

import datetime
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
from cld.uri import URI

MAX_BYTES = 64 * 1024 * 1024
"""A file to which one process finds this much written, by its own count, is followed by another of the same day."""

KEEP_DAYS = 30

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
    uris: Sequence[str]
    context: object
    metas: Sequence[Metas] | None = None


class _Filtered(msgspec.Struct):
    time: str
    revision: str
    filter: _Question
    allowed: Sequence[bool]


class DecisionLog:
    """Appends to `decisions-<date>.jsonl` in `folder`, each line in one write; safe for any number of processes.

    Files older than `keep_days` are removed when a new one is begun.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, keep_days: int = KEEP_DAYS) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._keep_days = keep_days
        self._lock = threading.Lock()
        self._descriptor = -1
        self._size = 0
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
        question = _Question(principal_input(principal), action, uris, context_input(context), metas)
        self._write(_Filtered(timestamp(), revision, question, allowed))

    def close(self) -> None:
        """Let go of the file; a later decision opens it again."""
        with self._lock:
            self._shut()

    def _write(self, line: _Decided | _Filtered) -> None:
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
        if self._descriptor < 0 or self._size > self._max_bytes or time.time() >= self._until or self._is_removed():
            self._open()
        if self._torn:
            data = b"\n" + data
        # One write to a file opened for appending: lines of several processes do not mix.
        written = os.write(self._descriptor, data)
        self._torn = written < len(data)
        self._size += written
        if self._torn:
            raise OSError(f"only {written} of {len(data)} bytes were written")

    def _is_removed(self) -> bool:
        """Whether the open file has no name any more, so that nobody would ever read what is written to it."""
        return os.fstat(self._descriptor).st_nlink == 0

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
            size = os.fstat(descriptor).st_size
            if size <= self._max_bytes:
                self._descriptor, self._size = descriptor, size
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


def log_files(folder: Path) -> list[Path]:
    """The log's files, oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*.jsonl"), key=lambda file: (file.name[:18], _part(file)))


def _part(file: Path) -> int:
    _, _, part = file.stem.removeprefix(_PREFIX).partition("-")
    return int(part) if part.isdigit() else 0
