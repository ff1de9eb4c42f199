"""Rules and data ready to answer: one instance under a lock, made anew after anything went wrong in it.

An evaluator never changes what it answers with; new rules or data are a new evaluator.
"""

import threading
from typing import Any

import msgspec

from cld.errors import PolicyError
from cld.policy.lock import ALLOWED, DECISION, EXPLAIN
from cld.policy.wasm import Instance

MEMORY_BYTES = 256 * 1024 * 1024
"""Bound on the memory of one instance, data included."""


class Answer(msgspec.Struct):
    """What the entrypoint `decision` must give."""

    allow: bool
    reasons: list[str]
    obligations: dict[str, Any]


class Grounds(msgspec.Struct):
    """What the entrypoint `explain` gives: the entries of data.json that had a part in the decision."""

    decision: Answer
    subjects: list[str]
    grants: list[dict[str, Any]]
    denies: list[dict[str, Any]]


class _Decided(msgspec.Struct):
    result: Answer


class _Filtered(msgspec.Struct):
    result: list[int]


class _Explained(msgspec.Struct):
    result: Grounds


_decided = msgspec.json.Decoder(list[_Decided])
_filtered = msgspec.json.Decoder(list[_Filtered])
_explained = msgspec.json.Decoder(list[_Explained])


class Evaluator:
    """Answers inputs, from any thread, one at a time.

    Raises:
        PolicyError: (from every method) no answer, or one of the wrong shape. It stays usable.
    """

    def __init__(self, module: Any, data: bytes, *, timeout_ms: int, memory_bytes: int = MEMORY_BYTES) -> None:
        self._module = module
        self._data = data
        self._timeout_ms = timeout_ms
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._instance: Instance | None = self._new()
        self._entrypoints = self._instance.entrypoints
        for name in (DECISION, ALLOWED):
            if name not in self._entrypoints:
                raise PolicyError(f"the compiled rules have no entrypoint {name}; run `cld policy build`")

    def decide(self, question: bytes) -> Answer:
        return _one(_decided, self._evaluate(DECISION, question)).result

    def allowed(self, question: bytes, count: int) -> list[bool]:
        """For each of the `count` resources of the question whether it is allowed."""
        positions = _one(_filtered, self._evaluate(ALLOWED, question)).result
        answers = [False] * count
        for position in positions:
            if not 0 <= position < count:
                raise PolicyError(f"the rules allow resource {position} of {count}")
            answers[position] = True
        return answers

    def explain(self, question: bytes) -> Grounds:
        if EXPLAIN not in self._entrypoints:
            raise PolicyError(f"these rules have no entrypoint {EXPLAIN}, so they cannot be explained")
        return _one(_explained, self._evaluate(EXPLAIN, question)).result

    def _evaluate(self, entrypoint: str, question: bytes) -> bytes:
        with self._lock:
            instance = self._instance
            if instance is None:
                instance = self._instance = self._new()
            try:
                return instance.evaluate(self._entrypoints[entrypoint], question)
            except BaseException:
                # Its memory may be in any state.
                self._instance = None
                instance.close()
                raise

    def _new(self) -> Instance:
        return Instance(self._module, self._data, timeout_ms=self._timeout_ms, memory_bytes=self._memory_bytes)


def _one(decoder: "msgspec.json.Decoder[list[Any]]", result: bytes) -> Any:
    try:
        found = decoder.decode(result)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PolicyError(f"the rules gave an answer of the wrong shape: {error}") from error
    if len(found) != 1:
        raise PolicyError("the rules gave no answer (it is undefined)")
    return found[0]
