"""Passages: a section cut along its paragraphs and sentences into pieces that stand for themselves."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Protocol

from cld.ingest.failed import ConversionFailed
from cld.ingest.kinds import Form
from cld.ingest.linked import data_fences
from cld.ingest.messages import Passage
from cld.ingest.sections import Section, line_numbers, number_of

CHARACTERS = (500, 1200)
"""How long a passage is to be: about a paragraph or two, which an embedding still holds."""

WINDOW_CHARACTERS = 16 * 1024
"""How much the splitter gets at once: its time grows with the square of a text that has no sentences
(semantic-text-splitter 0.33: 1 MB of one letter took 19 s, four times as much 183 s)."""


class Splitter(Protocol):
    def chunk_indices(self, text: str, /) -> list[tuple[int, str]]: ...


def passages_of(
    text: str, form: Form, sections: Sequence[Section], title: str, pages: Sequence[int], most: int
) -> list[Passage]:
    """The passages of all sections in order; those under no heading are under the document's title.

    Raises:
        ConversionFailed: there are more than `most`.
    """
    starts = pages or line_numbers(text)
    made: list[Passage] = []
    for section in sections:
        for start, words in _pieces(text, section, form):
            if len(made) >= most:
                raise ConversionFailed(f"it has more than {most} passages (ingest.passages)")
            number = number_of(starts, start)
            made.append(
                Passage(
                    titles=section.titles or (title,),
                    start=start,
                    end=start + len(words),
                    text=words,
                    line=None if pages else number,
                    page=number if pages else None,
                )
            )
    return made


def _pieces(text: str, section: Section, form: Form) -> Iterator[tuple[int, str]]:
    words = text[section.start : section.end].strip()
    if len(words) <= CHARACTERS[1]:
        if words:
            yield text.index(words, section.start), words
        return
    start = section.start
    # A block of data says nothing once it is cut.
    for first, end in data_fences(text, section.start, section.end) if form == "markdown" else ():
        yield from _cut(text, start, first, form)
        yield first, text[first:end]
        start = end
    yield from _cut(text, start, section.end, form)


def _cut(text: str, start: int, end: int, form: Form) -> Iterator[tuple[int, str]]:
    for first, last in _windows(text, start, end):
        window = text[first:last]
        words = window.strip()
        if not words:
            continue
        if len(words) <= CHARACTERS[1]:
            yield first + window.index(words), words
            continue
        for offset, piece in _splitter(form == "markdown").chunk_indices(window):
            if piece.strip():
                yield first + offset, piece


def _windows(text: str, start: int, most: int) -> Iterator[tuple[int, int]]:
    """Parts that are not too long, cut where a paragraph, a line or a word ends."""
    while most - start > WINDOW_CHARACTERS:
        least, limit = start + WINDOW_CHARACTERS // 2, start + WINDOW_CHARACTERS
        end = next(
            (at + len(mark) for mark in ("\n\n", "\n", ". ", " ") if (at := text.rfind(mark, least, limit)) >= 0),
            limit,
        )
        yield start, end
        start = end
    yield start, most


@cache
def _splitter(is_markdown: bool) -> Splitter:
    import semantic_text_splitter  # noqa: PLC0415 - only where a section is longer than a passage

    if is_markdown:
        return semantic_text_splitter.MarkdownSplitter(CHARACTERS)
    return semantic_text_splitter.TextSplitter(CHARACTERS)
