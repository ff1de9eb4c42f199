"""Patterns of what to leave out: `.gitignore` files as git reads them, and those given with the call.

Patterns come from the files that are ingested, so from anybody. They become regular expressions, whose
time grows with the number of wildcards in one pattern: one with more than git users write is not used.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MAX_PATTERNS = 1000
MAX_CHARACTERS = 256
MAX_WILDCARDS = 4


@dataclass(frozen=True)
class Ignore:
    """The patterns of one folder (`base`, "" for the top), which count for all below it."""

    base: str
    spec: "GitIgnoreSpec"

    def says(self, path: str, *, folder: bool) -> bool | None:
        """Whether `path` is to be left out (True) or kept after all (False); None for nothing said."""
        below = path[len(self.base) + 1 :] if self.base else path
        return self.spec.check_file(below + "/" if folder else below).include


def ignore_of(base: str, lines: Iterable[str]) -> Ignore | None:
    """The patterns in `lines`; None where there are none that can be used."""
    usable = [line for line in lines if line.strip() and not line.startswith("#") and _is_bounded(line)][:MAX_PATTERNS]
    if not usable:
        return None
    try:
        return Ignore(base, _spec(usable))
    except ValueError:  # git itself passes over what it cannot read
        good = [line for line in usable if _is_pattern(line)]
        return Ignore(base, _spec(good)) if good else None


def ignored(ignores: Sequence[Ignore], path: str, *, folder: bool) -> bool:
    """Whether `path` is to be left out: the deepest folder that says anything about it decides."""
    for one in reversed(ignores):
        if (said := one.says(path, folder=folder)) is not None:
            return said
    return False


def _is_bounded(line: str) -> bool:
    return len(line) <= MAX_CHARACTERS and line.replace("**", "*").count("*") <= MAX_WILDCARDS


def _is_pattern(line: str) -> bool:
    try:
        _spec([line])
    except ValueError:
        return False
    return True


def _spec(lines: Sequence[str]) -> "GitIgnoreSpec":
    import pathspec  # noqa: PLC0415 - only where there is a pattern

    return pathspec.GitIgnoreSpec.from_lines(lines)
