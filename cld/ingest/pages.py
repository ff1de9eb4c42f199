"""Pages: where in a text made of several pages each of them begins. Pure.

The converter tells each page's plain words and, apart from that, one text of them all, with headings and without
the ends of lines; the two are brought together by their letters.
"""

import re
from array import array
from collections.abc import Sequence

_LETTER = re.compile(r"\w")
_NO_LETTERS = re.compile(r"\W+")
_KEY = 40
_SKIPS = (0, _KEY, 3 * _KEY)
"""Where in a page to look for something that stands in the text too: its first line may not, as a number does not."""

_SLACK = 2000


def page_starts(text: str, pages: Sequence[str]) -> list[int]:
    """Where each of `pages` begins in `text`; of one that is not found, about where it should."""
    places = array("Q", (found.start() for found in _LETTER.finditer(text)))
    letters = _NO_LETTERS.sub("", text)
    starts: list[int] = []
    least = expected = 0
    for page in pages:
        words = _NO_LETTERS.sub("", page)
        found = _found(letters, words, max(least, expected - _SLACK), expected + _SLACK)
        here = max(least, expected if found < 0 else found)
        least = here
        expected = here + len(words)
        starts.append(_line_start(text, places[here]) if here < len(places) else len(text))
    return [0, *starts[1:]]


def _found(letters: str, words: str, start: int, end: int) -> int:
    for skip in _SKIPS:
        key = words[skip : skip + _KEY]
        if key and (at := letters.find(key, start, end + skip + _KEY)) >= 0:
            return at - skip
    return -1


def _line_start(text: str, at: int) -> int:
    """`at`, or the start of its line when there is only what draws it in between."""
    line = text.rfind("\n", 0, at) + 1
    return at if _LETTER.search(text, line, at) else line
