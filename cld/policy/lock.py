"""The lock: which sources the committed `policy.wasm` was compiled from, by which compiler.

Owns `policy.lock.json` and the digests in it. `policy.wasm` without a lock that names it is not
used: a lock is what makes a compiled file reviewable.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cld.errors import PolicyError

WASM = "policy.wasm"
LOCK = "policy.lock.json"
DATA = "data.json"

DECISION = "cld/authz/decision"
ALLOWED = "cld/authz/allowed"
EXPLAIN = "cld/authz/explain"
ENTRYPOINTS = (DECISION, ALLOWED, EXPLAIN)

# Found by word, not by meaning: the word itself, and the ways to reach a member without naming it that people write.
# A word in a comment only costs reading files early; who reaches it in yet another way has to write the word.
_LOOKS_AT_META = re.compile(r"\bmeta\b|\bresources?\s*\[\s*[a-z]|\bwalk\s*\(|\binput\s*\[")


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`wasm` and the values of `sources` are SHA-256; `needs_meta` as in `Policy.needs_meta`."""

    opa: str
    entrypoints: tuple[str, ...]
    needs_meta: bool
    wasm: str
    sources: Mapping[str, str]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_sources(folder: Path) -> dict[str, bytes]:
    """Every Rego file of the folder and below, by its path in it, tests included."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*.rego"))}


def digests(sources: Mapping[str, bytes]) -> dict[str, str]:
    return {name: digest(text) for name, text in sorted(sources.items())}


def is_test(name: str) -> bool:
    return name.endswith("_test.rego")


def looks_at_meta(sources: Mapping[str, bytes]) -> bool:
    """Whether any rule names `resource.meta`, by `meta`, `walk(`, `input[`, or `resource[` with a variable.

    May say yes for nothing; a rule that gets at it without any of these is not found (docs/policy.md says so).
    """
    return any(
        _LOOKS_AT_META.search(text.decode("utf-8", "replace")) for name, text in sources.items() if not is_test(name)
    )


def decode_lock(text: bytes) -> Lock:
    """
    Raises:
        PolicyError: it is no lock.
    """
    try:
        return msgspec.json.decode(text, type=Lock)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PolicyError(f"{LOCK} is no lock: {error}; run `cld policy build`") from error


def encode_lock(lock: Lock) -> bytes:
    return msgspec.json.format(msgspec.json.encode(lock), indent=2) + b"\n"


def difference(lock: Lock, sources: Mapping[str, str]) -> str:
    """In words, how the sources differ from those that were compiled; empty when they do not."""
    changed = sorted(name for name, value in sources.items() if name in lock.sources and lock.sources[name] != value)
    parts = (
        ("changed", changed),
        ("new", sorted(set(sources) - set(lock.sources))),
        ("gone", sorted(set(lock.sources) - set(sources))),
    )
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in parts if names)


def replace_file(file: Path, data: bytes) -> None:
    """Put `data` at `file` whole or not at all, and kept before this returns.

    Raises:
        OSError: it was not.
    """
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
