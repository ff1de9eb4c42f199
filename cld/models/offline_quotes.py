"""Quotes: the passages of what was found that answer best, each with where it is from.

Owns the choice and the form of an answer made of quotes. Adds no word of its own to what it quotes. Compares by words
and their rarity, and by the default embedding where that is installed.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cld.errors import Unsupported
from cld.index.arrays import np
from cld.index.passages import pieces_of, sentences_of
from cld.index.wordllama import embed, rarity_of
from cld.index.words import words_of
from cld.models.offline_steps import asks

MOST_QUOTES = 3
MOST_QUOTE = 600
SHORT_QUOTE = 120
"""A shorter quote says little: its resource is read."""

NOTHING = "Nothing was found that answers this"
NOWHERE = "There was nothing to look in for this"
"""What an answer without a quote begins with; no later answer quotes it."""

_NO_ANSWER = re.compile(rf"(?m)^(?:##[^\n]*\n+)?(?:{NOTHING}|{NOWHERE})[^\n]*(?:\n\([^\n]*\)$)?\n*")
"""Such an answer, with the heading it has among those of other tasks and what it says of having no model."""

_ONLY_ASKS = re.compile(r"(?:[^.!?]+\?[\s\"'\u201d\u2019)]*)+")

_MACHINERY = re.compile(r"(?:^cld:|/)(?:common\.(?:Assistant|Prompt|Schema)|plan\.\w+|tool\.\w+|cld\.\w+)\.[^/]+$")
"""What cld itself works with: it says how answers are found, and is none."""

_SAID = re.compile(r"(?:^cld:|/)(?:common\.Message\.(?!answer$)|common\.Conversation\.)[^/]+$")
"""What somebody has said, and what a conversation is called after it."""

_STEP = re.compile(r"\s*[A-Za-z0-9_-]{1,96}: (?=\S)")
"""What stands before each step where a message is a plan."""

_MOST_PASSAGES = 400
_PIECE = 500
_COMMON = 3.0
"""Words less rare than that (the, of, how) are no evidence of anything."""
_LEAST_WORDS = 0.34
_LEAST_MEANING = 0.45
_NEW_WORDS = 0.25
_WORTH = 0.6  # of the best passage's worth another has to have


class Passage(NamedTuple):
    """Words and where they stand; `uri` may also be another name of the place."""

    uri: str
    text: str


class Quoted(NamedTuple):
    """A passage as it is quoted, and how well it answers."""

    uri: str
    text: str
    worth: float


def best_quotes(question: str, passages: Iterable[Passage], *, also_repeating: bool = False) -> list[Quoted]:
    """The passages that answer best, best first; none when nothing has enough in common with the question.

    What only repeats the question answers nothing; with `also_repeating` it is told all the same, unless it is the
    question itself. A message that asks the same, as the task's own does, is none, nor is what only asks in another.
    """
    asked = _telling(question)
    told = (_telling_of(passage, question) for passage in passages if not _MACHINERY.search(passage.uri))
    pieces = list(dict.fromkeys(piece for passage in told for piece in _pieces(passage)))[:_MOST_PASSAGES]
    if not pieces or not question.strip():
        return []
    total = sum(asked.values())
    words = [
        sum(asked[word] for word in {word for _, word in words_of(piece.text)} & asked.keys()) / total if total else 0.0
        for piece in pieces
    ]
    meanings = _meanings(question, [piece.text for piece in pieces])
    found: list[Quoted] = []
    for piece, shared, meaning in zip(pieces, words, meanings, strict=True):
        new = _new_words(piece.text, question)
        if new is None or ((new <= _NEW_WORDS or _is_no_answer(piece.text)) and not also_repeating):
            continue
        if shared >= _LEAST_WORDS or (meaning >= _LEAST_MEANING and (shared or not total)):
            found.append(Quoted(piece.uri, _quoted(piece.text, asked), round(shared + meaning, 4)))
    found.sort(key=lambda one: -one.worth)
    chosen: list[Quoted] = []
    for one in found:
        if len(chosen) == MOST_QUOTES or one.worth < _WORTH * found[0].worth:
            break
        if not any(one.text in other.text or other.text in one.text for other in chosen):
            chosen.append(one)
    return chosen


def written(quotes: Sequence[Quoted]) -> str:
    """The quotes as an answer: each under a mark, and below it where it stands."""
    parts: list[str] = []
    for quote in quotes:
        lines = "\n".join(f"> {line}".rstrip() for line in quote.text.splitlines())
        parts.append(f"{lines}\n— {quote.uri}" if quote.uri else lines)
    return "\n\n".join(parts)


def passages_in(text: str, uri: str) -> list[Passage]:
    """The passages of a text; what it quotes itself, as `written` does, keeps where that is from."""
    found: list[Passage] = []
    own: list[str] = []
    quote: list[str] = []
    for line in text.splitlines():
        if line.startswith(">"):
            quote.append(line.removeprefix(">").removeprefix(" "))
            continue
        if quote and line.startswith("— "):
            found.append(Passage(line.removeprefix("— ").strip(), "\n".join(quote)))
        else:
            own += [*quote, line]
        quote = []
    said = "\n".join([*own, *quote]).strip()
    # What stands beside quotes with their sources are headings.
    return [*found, *([Passage(uri, said)] if said and not (found and said.startswith("## ")) else [])]


def _new_words(text: str, question: str) -> float | None:
    """The share of a passage's words that the question does not have; None when it is the question itself."""
    said, asked = ({word for _, word in words_of(one)} for one in (text, question))
    return None if said == asked else len(said - asked) / max(1, len(said))


def _telling_of(passage: Passage, question: str) -> Passage:
    """A passage without what says that nothing was found; of what somebody said, without the lines that only ask.

    Nothing is left of a message one of whose lines is what is asked now: it is the task's own, or asks the same.
    """
    text = _NO_ANSWER.sub("", passage.text)
    if not _SAID.search(passage.uri):
        return Passage(passage.uri, text)
    asked = [words for line in question.splitlines() if (words := _words(line))]
    kept: list[str] = []
    for line in text.splitlines():
        said = _STEP.sub("", line, count=1)
        if _words(said) in asked or _words(line) in asked:
            return Passage(passage.uri, "")
        cuts = sentences_of(said)
        if not cuts or not all(asks(said[start:end]) for start, end in cuts):
            kept.append(line)
    return Passage(passage.uri, "\n".join(kept))


def _words(text: str) -> list[str]:
    return [word for _, word in words_of(text)]


def _is_no_answer(text: str) -> bool:
    """Whether a text only asks, as the title of a document does."""
    return bool(_ONLY_ASKS.fullmatch(text.strip()))


def _telling(question: str) -> dict[str, float]:
    """The words of a question that matter, by how rare they are; all of them where none is rare."""
    words = list(dict.fromkeys(word for _, word in words_of(question)))[:64]
    try:
        rarities = {word: rarity_of(word) for word in words}
    except Unsupported:
        return {word: float(len(word)) for word in words if len(word) > 3}
    return {word: rarity for word, rarity in rarities.items() if rarity >= _COMMON}


def _meanings(question: str, texts: Sequence[str]) -> list[float]:
    try:
        vectors = embed([question.lower(), *(text.lower() for text in texts)])
    except Unsupported:
        return [0.0] * len(texts)
    return [float(one) for one in np.asarray(vectors[1:] @ vectors[0])]


def _pieces(passage: Passage) -> list[Passage]:
    text = passage.text.strip()
    return [Passage(passage.uri, text[start:end]) for start, end in pieces_of(text, _PIECE)] if text else []


def _quoted(text: str, asked: dict[str, float]) -> str:
    """Of a long passage the sentences with most of the question's words, as they stand there."""
    if len(text) <= SHORT_QUOTE * 2:
        return text
    cuts = sentences_of(text)
    said = [{word for _, word in words_of(text[start:end])} & asked.keys() for start, end in cuts]
    telling = [at for at, words in enumerate(said) if words]
    if not telling:
        return text[:MOST_QUOTE].strip()
    return text[cuts[telling[0]][0] : cuts[telling[-1]][1]].strip()[:MOST_QUOTE]
