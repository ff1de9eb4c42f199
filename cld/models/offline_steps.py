"""Steps that a text says itself: lists, "first … then … finally", sentences that each ask for something.

Owns planning without a model. It is careful: what is not plainly several things stays one, and no word of the text is
lost, for what is no step itself (an introduction, a remark on the form) is told with every step. Steps run beside one
another unless the text says an order or speaks of an earlier result. Pure; sequences are known in English, German,
French and Spanish, lists and questions in any language.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from cld.models.offline_language import (
    ABBREVIATIONS,
    IMPERATIVES,
    IN_ORDER,
    ORDER,
    QUESTION_WORDS,
    REFERENCE,
    REMARKS,
    SEQUENCE,
    SUBJECTS,
)
from cld.resource import Meta
from cld.types import Step

MOST_CHARACTERS = 20_000
"""A longer text is no list of things to do, but a document."""

RESULT = "result"
"""The input that has an earlier step's output."""

_DEEPEST = 6
_LEAST_WORDS = 2
_LONGEST_ABBREVIATION = 12

_ITEM = re.compile(
    r"^(?P<indent>[ \t]*)(?P<mark>[-*+•‣\u2013]|\(?\d{1,3}[.)]|\(?[a-hA-H][.)]"
    r"|(?i:step|schritt|étape|paso)\s+\d{1,3}\s*[:.)-])"
    r"[ \t]+(?P<text>\S.*)$"
)
_NAMED_STEP = re.compile(r"(?i)\b(?:step|schritt|étape|paso|point|item|no\.|nr\.)\s+(\d{1,3})\b")
_QUOTED = re.compile(r"```.*?```|`[^`\n]*`|\"[^\"\n]*\"|“[^“”\n]*”|„[^„“”\n]*[“”]|«[^«»\n]*»|「[^「」\n]*」", re.DOTALL)
_END = re.compile(r"[.!?]+[\"'”)\]]*(?=\s)|[。\uff01\uff1f]|\n{2,}")


class _Piece(NamedTuple):
    """A step in the text's own words; `ordered` says that it comes after the one before, `sure` that it is one."""

    text: str
    ordered: bool = False
    below: str = ""
    sure: bool = False


def split(meta: Meta) -> tuple[Step, ...]:
    """The steps of what `meta` says is to be done; none when that is one thing.

    Only the purpose is split: the instructions say how, and are told with every step.
    """
    text = meta.purpose.strip()
    if len(text) > MOST_CHARACTERS:
        return ()
    return _steps(text, meta.instructions, 0)


def _steps(text: str, instructions: str, depth: int) -> tuple[Step, ...]:
    pieces, around = _listed(text) or _in_sequence(text) or _in_sentences(text) or ([], "")
    if len(pieces) < 2:
        return ()
    told = "\n\n".join(part for part in (around, instructions) if part)
    ids = [f"s{number}" for number in range(1, len(pieces) + 1)]
    steps: list[Step] = []
    for at, piece in enumerate(pieces):
        sources = _sources(piece.text, at)
        before = bool(at) and piece.ordered and at - 1 not in sources
        names = [RESULT] if len(sources) == 1 else [f"{RESULT}_{source + 1}" for source in sources]
        steps.append(
            Step(
                id=ids[at],
                purpose=piece.text,
                instructions=told,
                after=(ids[at - 1],) if before else (),
                inputs={name: {"from": ids[source]} for name, source in zip(names, sources, strict=True)},
                steps=_steps(piece.below, told, depth + 1) if piece.below and depth < _DEEPEST else (),
            )
        )
    return tuple(steps)


def _sources(text: str, at: int) -> list[int]:
    """Which earlier steps' results the step `at` speaks of: those it names, or else the one before."""
    masked = _masked(text)
    named = sorted({int(found[1]) - 1 for found in _NAMED_STEP.finditer(masked)} & set(range(at)))
    return named or ([at - 1] if at and REFERENCE.search(masked) else [])


def _listed(text: str) -> tuple[list[_Piece], str] | None:
    """The items of a list, and what stands around it."""
    lines = _masked(text).splitlines()
    whole = text.splitlines()
    found = [(at, match) for at, line in enumerate(lines) if (match := _ITEM.match(line)) is not None]
    if len(found) < 2:
        return None
    indent = min(len(match["indent"].expandtabs(4)) for _, match in found)
    # Deeper by less than two is not deeper: lists are written carelessly.
    tops = [(at, match) for at, match in found if len(match["indent"].expandtabs(4)) < indent + 2]
    if len(tops) < 2 or not _same_marks([match["mark"] for _, match in tops]):
        return None
    begins = [at for at, _ in tops]
    pieces: list[_Piece] = []
    after: list[str] = []
    introduction = "\n".join(whole[: begins[0]]).strip()
    in_order = bool(IN_ORDER.search(introduction)) or (tops[0][1]["mark"][0].isalpha() and len(tops[0][1]["mark"]) > 3)
    for number, (at, match) in enumerate(tops):
        end = begins[number + 1] if number + 1 < len(begins) else len(whole)
        body = whole[at + 1 : end]
        if number + 1 == len(begins):
            body, after = _until_blank(body, indent)
        below = "\n".join(body)
        own, nested = (below, "") if _listed(below) is None else _before_list(below)
        words = " ".join(part for part in (whole[at][match.start("text") :].strip(), own.strip()) if part)
        words, ordered = _without_order(words)
        pieces.append(_Piece(words, bool(number) and (ordered or in_order), nested, sure=True))
    around = "\n\n".join(part for part in (introduction, "\n".join(after).strip()) if part)
    return pieces, around


def _same_marks(marks: Sequence[str]) -> bool:
    """Whether these are the marks of one list: bullets, or numbers that count up."""
    numbers = [int(digits[0]) for mark in marks if (digits := re.findall(r"\d+", mark))]
    return not numbers or numbers == list(range(numbers[0], numbers[0] + len(marks)))


def _until_blank(lines: list[str], indent: int) -> tuple[list[str], list[str]]:
    """What belongs to the last item, and what comes after the list."""
    for at, line in enumerate(lines):
        if not line.strip():
            rest = [other for other in lines[at:] if other.strip()]
            if rest and len(rest[0]) - len(rest[0].lstrip()) <= indent:
                return lines[:at], lines[at:]
    return lines, []


def _before_list(text: str) -> tuple[str, str]:
    lines = text.splitlines()
    first = next(at for at, line in enumerate(lines) if _ITEM.match(line))
    return "\n".join(lines[:first]), "\n".join(lines[first:])


def _in_sequence(text: str) -> tuple[list[_Piece], str] | None:
    """Clauses joined by words of sequence."""
    sentences = _sentences(text)
    pieces: list[_Piece] = []
    said = False
    for sentence in sentences:
        clauses = _clauses(sentence)
        first, ordered = _without_order(clauses[0])
        several = len(clauses) > 1
        said = said or ordered or several
        pieces.append(_Piece(first, ordered and bool(pieces), sure=ordered or several))
        pieces += [_Piece(_without_order(clause)[0], True, sure=True) for clause in clauses[1:]]
    if not said:
        return None
    return _with_remarks(pieces)


def _clauses(sentence: str) -> list[str]:
    """A sentence cut before each word of sequence; whole when it is a question or has a condition."""
    masked = _masked(sentence)
    if _is_question(masked) or re.match(r"(?i)\s*(?:if|when|wenn|falls|si|cuando)\b", masked):
        return [sentence]
    cuts = [0]
    for found in SEQUENCE.finditer(masked):
        if masked[cuts[-1] : found.start()].strip(" ,;") and _goes_on(masked[found.end() :], found["english"]):
            cuts.append(found.start())
    parts = [sentence[start:end] for start, end in zip(cuts, [*cuts[1:], len(sentence)], strict=True)]
    return [part.strip(" ,;\n") for part in parts]


def _goes_on(rest: str, english: str | None) -> bool:
    """Whether what follows a word of sequence says what to do, and does not go on telling."""
    following = re.match(r"(?:please\s+)?([^\W\d_][\w'\u2019-]*)", rest, re.IGNORECASE)
    if following is None:
        return False
    word = following[1].lower()
    # Of English the verbs are known; of other languages only what cannot be one.
    return word in IMPERATIVES if english else word not in SUBJECTS


def _without_order(clause: str) -> tuple[str, bool]:
    """The clause without its words of sequence at the beginning, and whether they say that others come before."""
    text, ordered = clause.strip(" ,;\n"), False
    while (found := ORDER.match(text)) is not None:
        english = found["english"] or found["counted"] or found["count"]
        if not found["comma"] and not _goes_on(text[found.end() :], english):
            break
        ordered = ordered or found["first"] is None
        text = text[found.end() :]
        text = text[:1].upper() + text[1:]
    return (text, ordered) if text else (clause.strip(), False)


def _in_sentences(text: str) -> tuple[list[_Piece], str] | None:
    """Sentences that are each an imperative or a question."""
    sentences = _sentences(text)
    if len(sentences) < 2:
        return None
    return _with_remarks([_Piece(sentence) for sentence in sentences])


def _with_remarks(pieces: list[_Piece]) -> tuple[list[_Piece], str] | None:
    """The pieces that ask for something; what comes before them or says how goes with all, the rest with its own."""
    steps: list[_Piece] = []
    around: list[str] = []
    for piece in pieces:
        if REMARKS.match(piece.text):
            around.append(piece.text)
        elif piece.sure or asks(piece.text):
            steps.append(piece)
        elif steps:
            steps[-1] = steps[-1]._replace(text=f"{steps[-1].text} {piece.text}")
        else:
            around.append(piece.text)
    return (steps, " ".join(around)) if len(steps) > 1 else None


def asks(text: str) -> bool:
    """Whether a sentence by itself asks for something."""
    masked = _masked(text)
    words = re.findall(r"[^\W_][\w'\u2019-]*", masked)
    if _is_question(masked):
        # Without spaces between words a question is one word.
        return len(words) > _LEAST_WORDS or (not masked.isascii() and len(masked) > 6)
    if len(words) < _LEAST_WORDS:
        return False
    first = words[1] if words[0].lower() in {"please", "bitte", "also", "and", "now"} else words[0]
    return first.lower() in IMPERATIVES


def _is_question(masked: str) -> bool:
    stripped = masked.rstrip(" \n\"'”)")
    return stripped.endswith(("?", "\uff1f", "؟")) or bool(QUESTION_WORDS.match(stripped))


def _sentences(text: str) -> list[str]:
    masked = _masked(text)
    ends = [0]
    for found in _END.finditer(masked):
        before = masked[max(ends[-1], found.end() - _LONGEST_ABBREVIATION) : found.end()]
        if not ABBREVIATIONS.search(before):
            ends.append(found.end())
    ends.append(len(text))
    return [part for start, end in pairwise(ends) if (part := text[start:end].strip())]


def _masked(text: str) -> str:
    """The text with everything quoted made one letter, so that nothing in it is taken for the text's own words."""
    return _QUOTED.sub(lambda found: re.sub(r"[^\n]", "x", found[0]), text)
