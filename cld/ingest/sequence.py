"""The ids of a document's passages: they sort in the order of the text, and one that did not change keeps its own.

An id is a position and a digest, `i3-9f86d081884c`. Positions are fractions in base 36, written without a
leading "0.", so that there is always room for one more between two. Pure.
"""

import hashlib
import re
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Sequence

ID = re.compile(r"[0-9a-z]+-[0-9a-f]{12}")
"""What an id made here looks like; others below a document are somebody else's."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LONGEST = 48


def digest_of(titles: Sequence[str], text: str) -> str:
    """What tells a passage from another: its words and the headings they stand under."""
    return hashlib.sha256("\x00".join([*titles, "", text]).encode()).hexdigest()[:12]


def arrange(there: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """An id for each digest in `wanted`, in order; those in `there` (ids, in order) are kept where they fit.

    The same input gives the same ids in every process.
    """
    kept = _kept(there, wanted)
    made: list[str] = []
    low = ""
    at = 0
    while at < len(wanted):
        if at in kept:
            made.append(kept[at])
            low = kept[at].partition("-")[0]
            at += 1
            continue
        end = at
        while end < len(wanted) and end not in kept:
            end += 1
        high = kept[end].partition("-")[0] if end < len(wanted) else ""
        made += [f"{key}-{wanted[at + n]}" for n, key in enumerate(positions(low, high, end - at))]
        at = end
    if any(len(id) > _LONGEST for id in made):
        return arrange((), wanted)
    return made


def positions(low: str, high: str, count: int) -> list[str]:
    """`count` positions that sort after `low` ("" for the start) and before `high` ("" for the end)."""
    width = max(len(low), len(high), 1)
    while True:
        first = _number(low, width)
        gap = (_number(high, width) if high else 36**width) - first
        if gap > count:
            break
        width += 1
    return [_written(first + gap * (n + 1) // (count + 1), width) for n in range(count)]


def _kept(there: Sequence[str], wanted: Sequence[str]) -> dict[int, str]:
    """Index in `wanted` → id in `there`: a longest run of equal digests whose order is the same in both.

    The first of equal digests is taken for the first, and so on, which keeps it from being quadratic.
    """
    places: defaultdict[str, deque[int]] = defaultdict(deque)
    for index, id in enumerate(there):
        places[id.partition("-")[2]].append(index)
    pairs = [(index, places[digest].popleft()) for index, digest in enumerate(wanted) if places.get(digest)]
    # Longest increasing subsequence of the places, by patience sorting.
    tops: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for n, (_, place) in enumerate(pairs):
        pile = bisect_left(tops, place)
        before.append(ends[pile - 1] if pile else -1)
        if pile == len(tops):
            tops.append(place)
            ends.append(n)
        else:
            tops[pile] = place
            ends[pile] = n
    kept: dict[int, str] = {}
    n = ends[-1] if ends else -1
    while n >= 0:
        index, place = pairs[n]
        kept[index] = there[place]
        n = before[n]
    return kept


def _number(key: str, width: int) -> int:
    return int(key.ljust(width, "0"), 36)


def _written(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits.rstrip("0")
