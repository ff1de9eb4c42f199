"""Names of tools: what hosts take, made of what others call theirs."""

import hashlib
import re

MAX_NAME = 48

_OTHER = re.compile(r"[^A-Za-z0-9_-]")
_DIGEST = 8


def here(prefix: str, name: str) -> str:
    """The name a tool has here: always the same for the same, and never longer than hosts take."""
    whole = f"{prefix}_{plain(name)}"
    if len(whole) <= MAX_NAME:
        return whole
    return f"{whole[: MAX_NAME - _DIGEST - 1]}_{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]}"


def plain(name: str) -> str:
    """The name with what may not be in one replaced."""
    return _OTHER.sub("_", name)
