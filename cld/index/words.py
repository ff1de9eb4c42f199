"""Words: how a text becomes the words that are compared, the same for what is stored and what is asked. Pure.

Folds case, width and accents, splits names written as one (`GuardedStore`, `get_many`), drops
the plural's s, and takes scripts written without spaces in overlapping pairs of characters, as
https://unicode.org/reports/tr29/ leaves those to dictionaries.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

BODY, TITLE, NAME, END = 0, 3072, 3584, 4096
"""The positions of a passage's words: those of its text, of its title, of its type and id."""

MAX_WORD = 64


class _Letters(dict[int, str | int | None]):
    """What becomes of each character: letters, digits and vowel signs stay, accents go, all else parts words."""

    def __missing__(self, code: int) -> str | int | None:
        char = chr(code)
        category = unicodedata.category(char)
        kept: str | int | None = " "
        if category[0] in "LN" or category == "Mc":
            kept = code
        elif category in {"Mn", "Me", "Cf"}:
            # After decomposition these are accents in scripts that have case, and part of the word in others.
            kept = None if code < 0x0483 or category == "Cf" else code
        self[code] = kept
        return kept


_letters = _Letters()
_JOINED = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Thai, Lao, Burmese, Khmer; kana; CJK and its extensions; halfwidth kana.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")


def words_of(text: str) -> Iterator[tuple[int, str]]:
    """The words of `text` with their positions; a name made of several also stands whole at its first."""
    position = 0
    decomposed = text if text.isascii() else unicodedata.normalize("NFKD", text)
    for run in _APOSTROPHE.sub("", decomposed).translate(_letters).split():
        if run.isascii() and (run.islower() or run.isdigit()):
            yield position, stem(run[:MAX_WORD])
            position += 1
            continue
        # Recomposed, or a syllable of Hangul would be three letters.
        for piece in (run,) if run.isascii() else _scripts(unicodedata.normalize("NFC", run)):
            if _UNSPACED.match(piece):
                for start in range(max(1, len(piece) - 1)):
                    yield position, piece[start : start + 2]
                    position += 1
                continue
            parts = _JOINED.split(piece)
            if len(parts) > 1:
                yield position, stem(piece.casefold()[:MAX_WORD])
            for part in parts:
                yield position, stem(part.casefold()[:MAX_WORD])
                position += 1


def _scripts(run: str) -> Iterator[str]:
    at = 0
    for found in _UNSPACED.finditer(run):
        if found.start() > at:
            yield run[at : found.start()]
        yield found[0]
        at = found.end()
    if at < len(run):
        yield run[at:]


def stem(word: str) -> str:
    """The word without a plural's ending (Harman, How effective is suffixing?, 1991: the S stemmer)."""
    if len(word) < 4 or word[-1] != "s":
        return word
    if word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    return word[:-1] if word[-2] not in "us" else word


_hashes: dict[str, int] = {}
_KEPT = 50_000


def hash_of(word: str) -> int:
    """64 bits that stand for `word`, the same in every process."""
    if (known := _hashes.get(word)) is None:
        if len(_hashes) >= _KEPT:
            _hashes.clear()
        known = _hashes[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return known
