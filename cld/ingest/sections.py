"""Sections: a text's headings, and what stands under each. Pure; every pass is linear in the text.

A section's body is without its heading line, which is in its titles instead; in source code a section begins
with the line that declares it.
"""

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import msgspec

from cld.ingest.kinds import Form


class Section(msgspec.Struct, frozen=True):
    """Characters `start` to `end` of the text, under the headings `titles`, outermost first."""

    titles: tuple[str, ...]
    start: int
    end: int


class _Line(msgspec.Struct, frozen=True):
    start: int
    end: int
    text: str


_MOST_TITLE = 200
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_ATX_END = re.compile(r"(?:^|[ \t])#+[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_NO_PARAGRAPH = re.compile(r"\s*(?:$|[>|#]|[-*+][ \t]|\d{1,9}[.)][ \t]|<)|.*\|")
_UNDERLINE = re.compile(r"([=\-`:.'\"~^_*+#])\1{2,}[ \t]*$")
_ANCHOR = re.compile(r"\s*\{[#.:][^{}]{0,100}\}\s*$")
_LINK = re.compile(r"!?\[([^\[\]]{0,300})\](?:\([^()]{0,500}\)|\[[^\[\]]{0,100}\])")
_EMPHASIS = re.compile(r"[`*]+|(?<!\w)_+|_+(?!\w)")
_TAG = re.compile(r"<[^<>]{0,300}>")
_ROLE = re.compile(r":[a-zA-Z:+-]{1,40}:(?=`)")
_FRONT = re.compile(r"(---|\+\+\+)[ \t]*\n(?:(.*?)\n)??\1[ \t]*(?:\n|\Z)", re.S)
_FRONT_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*(.+?)[ \t]*$", re.M)
_DECLARATION = re.compile(
    r"(?:(?:export|default|pub(?:\([a-z]{1,10}\))?|public|private|protected|internal|static|abstract|final|async|"
    r"declare|unsafe|data|sealed|partial|const|inline|extern|open|override)[ \t]+){0,6}"
    r"(?:function\*?|class|interface|struct|trait|impl|enum|namespace|module|mod|fn|func|fun|def|defmodule|type|"
    r"object|protocol|extension|union|macro_rules!|sub|proc)\b[^\n{;=]{0,160}"
    r"|(?:export[ \t]+)?(?:const|let|var)[ \t]+[\w$]{1,80}[ \t]*=[ \t]*"
    r"(?:async[ \t]*)?(?:function|\([^()\n]{0,160}\)[ \t]*=>)"
)
_COMMENT = re.compile(r"\s*(?://|/?\*|#|--|;;|@)")


def sections_of(text: str, form: Form, name: str) -> list[Section]:
    """The sections of `text`, in order, together all of it but headings and blanks."""
    match form:
        case "markdown":
            return list(_closed(_markdown(text), text))
        case "rst":
            return list(_closed(_rst(text), text))
        case "python":
            return _python(text, name)
        case "code":
            return _code(text, name)
        case _:
            return [Section((), 0, len(text))]


def front_matter(text: str) -> tuple[str, str]:
    """The front matter of a Markdown text with its fences, and the title in it; empty where there is none."""
    found = _FRONT.match(text, 0, 1 << 17)
    if found is None:
        return "", ""
    title = _FRONT_TITLE.search(found[2] or "")
    return found[0], "" if title is None else plain_title(_unquoted(title[1]))


def _unquoted(text: str) -> str:
    """Without the quotes around all of it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def plain_title(text: str) -> str:
    """A heading as a reader sees it: no markup, one line."""
    text = _LINK.sub(r"\1", _ROLE.sub("", _ANCHOR.sub("", text[:2000])))
    return " ".join(_EMPHASIS.sub("", _TAG.sub("", text)).replace("\\", "").split())[:_MOST_TITLE]


_Heading = tuple[int, int, int, str]
"""Level, where its lines start and end, and its title; level 0 is no heading but where the text begins."""


def _closed(headings: Iterator[_Heading], text: str) -> Iterator[Section]:
    """The sections between the headings; a heading with nothing under it is its own section."""
    open_: list[tuple[int, str]] = []
    head = body = 0
    for level, start, end, title in headings:
        is_bare = bool(open_) and level <= open_[-1][0] and not text[body:start].strip()
        if is_bare or start > body:
            yield Section(tuple(one for _, one in open_), head if is_bare else body, start)
        head, body = start, end
        if level:
            while open_ and open_[-1][0] >= level:
                open_.pop()
            open_.append((level, title))
    is_bare = bool(open_) and not text[body:].strip()
    if is_bare or len(text) > body:
        yield Section(tuple(one for _, one in open_), head if is_bare else body, len(text))


def _lines(text: str, start: int = 0) -> Iterator[_Line]:
    while start < len(text):
        cut = text.find("\n", start)
        end = len(text) if cut < 0 else cut + 1
        # A heading has no thousand characters; the rest of a longer line need not be looked at.
        yield _Line(start, end, text[start : min(end, start + 1000)].rstrip("\n"))
        start = end


def _markdown(text: str) -> Iterator[_Heading]:
    front = _FRONT.match(text, 0, 1 << 17)
    begin = 0 if front is None else front.end()
    if begin:
        yield 0, 0, begin, ""
    fence = ""
    before: _Line | None = None
    for line in _lines(text, begin):
        if found := _FENCE.match(line.text):
            mark = found[1]
            if not fence:
                fence = mark
            elif mark[0] == fence[0] and len(mark) >= len(fence) and line.text.strip() == mark:
                fence = ""
            before = None
        elif fence:
            continue
        elif found := _ATX.match(line.text):
            title = plain_title(_ATX_END.sub("", found[2] or ""))
            if title:
                yield len(found[1]), line.start, line.end, title
            before = None
        elif before is not None and (found := _SETEXT.match(line.text)):
            yield (1 if found[1][0] == "=" else 2), before.start, line.end, plain_title(before.text)
            before = None
        else:
            before = None if _NO_PARAGRAPH.match(line.text) else line


def _rst(text: str) -> Iterator[_Heading]:
    levels: dict[tuple[str, bool], int] = {}
    before, above = None, None
    for line in _lines(text):
        found = _UNDERLINE.match(line.text)
        if (
            found is not None
            and before is not None
            and before.text.strip()
            and not _UNDERLINE.match(before.text)
            and len(line.text.rstrip()) >= len(before.text.rstrip())
            # What is indented without a line above it is quoted, not a title.
            and (above is not None or not before.text[0].isspace())
        ):
            start = before.start if above is None else above.start
            level = levels.setdefault((found[1], above is not None), len(levels) + 1)
            yield level, start, line.end, plain_title(before.text)
            before, above = None, None
        else:
            above = before if before is not None and _UNDERLINE.match(before.text) else None
            before = line


def _python(text: str, name: str) -> list[Section]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _code(text, name)
    lines = list(_lines(text))
    marks: list[tuple[int, tuple[str, ...]]] = [(0, (name,))]
    _mark(tree.body, (name,), lines, marks)
    return _between(marks, len(text))


def _mark(
    body: Sequence[ast.stmt], titles: tuple[str, ...], lines: Sequence[_Line], marks: list[tuple[int, tuple[str, ...]]]
) -> None:
    """Note where each declaration in `body` begins, and where what follows one that is none does."""
    inside = False
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                word = "class" if isinstance(statement, ast.ClassDef) else "def"
                first = min([statement.lineno, *(one.lineno for one in statement.decorator_list)]) - 1
                below = (*titles, f"{word} {statement.name}")
                marks.append((_with_comments(lines, first), below))
                if isinstance(statement, ast.ClassDef) and len(titles) < 8:
                    _mark(statement.body, below, lines, marks)
                inside = True
            case _ if inside:
                marks.append((_with_comments(lines, statement.lineno - 1), titles))
                inside = False
            case _:
                pass


def _code(text: str, name: str) -> list[Section]:
    """Sections at the declarations that stand at the start of a line."""
    lines = list(_lines(text))
    marks: list[tuple[int, tuple[str, ...]]] = [(0, (name,))]
    for index, line in enumerate(lines):
        if line.text[:1].isalpha() and (found := _DECLARATION.match(line.text)):
            marks.append((_with_comments(lines, index), (name, " ".join(found[0].split())[:_MOST_TITLE])))
    return _between(marks, len(text))


def _between(marks: Sequence[tuple[int, tuple[str, ...]]], length: int) -> list[Section]:
    ends = [*(start for start, _ in marks[1:]), length]
    return [Section(titles, start, end) for (start, titles), end in zip(marks, ends, strict=True) if end > start]


def _with_comments(lines: Sequence[_Line], index: int) -> int:
    """Where the declaration on this line begins with the comments directly above it."""
    first = min(index, len(lines) - 1)
    while first > 0 and index - first < 50 and _COMMENT.match(lines[first - 1].text):
        first -= 1
    return lines[first].start


def line_numbers(text: str) -> list[int]:
    """Where each line begins; `bisect_right` of an offset in it is the number of its line."""
    starts = [0]
    at = text.find("\n")
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return starts


def number_of(starts: Sequence[int], offset: int) -> int:
    return max(1, bisect_right(starts, offset))
