"""Conversion: the bytes of one file become text, its headings, and passages. Pure; runs in a process of its own.

The libraries, each tried against others on the same files: kreuzberg makes Markdown of HTML (10 times as fast
as markitdown and without its escapes) and of PDF (with headings and pages; pdfminer runs words together).
mammoth reads DOCX, because kreuzberg 4 loses every `&` and `<` in it. E-mail is the standard library's.
"""

import html
import io
import re
import zipfile
from collections.abc import Sequence
from html.parser import HTMLParser
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from cld.ingest.encoding import decode
from cld.ingest.failed import ConversionFailed
from cld.ingest.kinds import Form
from cld.ingest.linked import MEDIA_TYPES, Linked, bounded, linked_of_page
from cld.ingest.mail import read_mail
from cld.ingest.messages import Converted, Order
from cld.ingest.pages import page_starts
from cld.ingest.passages import passages_of
from cld.ingest.sections import Section, front_matter, plain_title, sections_of

if TYPE_CHECKING:
    from kreuzberg import ExtractionResult

__all__ = ["ConversionFailed", "convert"]

HEAD_CHARACTERS = 64 * 1024
ABSTRACT_CHARACTERS = 240
TITLE_CHARACTERS = 200
UNPACKED_BYTES = 256 * 1024 * 1024

# None of these looks past the next "<", so that a page of nothing but beginnings takes linear time.
_TITLE = re.compile(r"<title\b[^<>]{0,1000}>([^<]{0,2000})</title\s*>", re.I)
_HEAD = re.compile(r"<head\b[^<>]{0,1000}>", re.I)
_HEAD_END = re.compile(r"</head\s*>|<body\b", re.I)
_ESCAPE = re.compile(r"\\([!\"#$%&'()*+,./:;<=>?@\[\]^_`{|}~-])")
_DATA_URI = re.compile(r"!\[([^\]\n]{0,500})\]\(data:[^)\s]*\)")
_DRAWN = re.compile(r"^[\s|:#>*=~`+-]+|[\s|]+$|\*\*|__|`", re.M)
_LINK = re.compile(r"!?\[([^\]\n]{0,300})\]\([^)\n]{0,1000}\)")
_SPACE = re.compile(r"\s+")


class _Text(msgspec.Struct, frozen=True):
    """What a converter makes of a file; `pages` are where each begins in `text`."""

    text: str
    form: Form
    converter: str = "cld"
    title: str = ""
    head: str = ""
    linked: Sequence[tuple[str, Linked]] = ()
    encoding: str = ""
    pages: Sequence[int] = ()
    is_text_expected: bool = False


def convert(order: Order) -> Converted:
    """The text of the file, cut into passages along its headings.

    Raises:
        ConversionFailed: there is no text in it, or more than is allowed, or it is broken; says which.
        Exception: what a parser raises at a file it does not understand.
    """
    made = _text_of(order.form, order.data)
    if len(made.text) > order.text_characters:
        raise ConversionFailed(
            f"its text has {len(made.text)} characters; at most {order.text_characters} are taken"
            " (ingest.text_characters)"
        )
    sections = sections_of(made.text, made.form, order.name)
    title = made.title or _first_title(made.form, sections) or order.name
    passages = passages_of(made.text, made.form, sections, title, made.pages, order.passages)
    if not made.text.strip() and made.is_text_expected:
        raise ConversionFailed("no text can be taken out of it; it is a scan, perhaps, or nests too deep")
    linked, notes = bounded(made.linked)
    return Converted(
        title=title[:TITLE_CHARACTERS],
        abstract=_abstract(passages[0].text) if passages else "",
        head=made.head,
        linked=linked,
        notes=notes,
        converter=made.converter,
        encoding=made.encoding,
        passages=tuple(passages),
    )


def _text_of(form: Form, data: bytes) -> _Text:
    match form:
        case "html":
            text, encoding = decode(data, is_html=True)
            return msgspec.structs.replace(_of_html(text), encoding=encoding)
        case "pdf":
            return _of_pdf(data)
        case "docx":
            return _of_docx(data)
        case "mail":
            return _of_mail(data)
        case "markdown":
            text, encoding = decode(data)
            head, title = front_matter(text)
            return _Text(text, form, head=head[:HEAD_CHARACTERS], title=title, encoding=encoding)
        case "turtle" | "n-triples" | "json-ld":
            text, encoding = decode(data)
            return _Text(text, form, linked=[("all of it", Linked(MEDIA_TYPES[form], text))], encoding=encoding)
        case _:
            text, encoding = decode(data)
            return _Text(text, form, encoding=encoding)


def _of_html(source: str) -> _Text:
    found = _TITLE.search(source)
    title = "" if found is None else plain_title(html.unescape(found[1]))
    page = _without_head(source).encode()
    text = _extract(page, "text/html")[0]
    if not text.strip():  # all of it is what is passed over elsewhere, such as navigation
        text = _extract(page, "text/html", keep_all=True)[0]
    return _Text(
        _DATA_URI.sub(r"\1", text),
        "markdown",
        _version("kreuzberg"),
        title,
        linked=linked_of_page(source),
        # A page that a script fills is empty and no fault; one with words of which none arrive is.
        is_text_expected=not text.strip() and _has_words(source),
    )


def _has_words(source: str) -> bool:
    seen = _Seen()
    seen.feed(source[: 1 << 20])
    return seen.has_words


class _Seen(HTMLParser):
    """Whether a page shows a letter without its scripts."""

    _UNSEEN = frozenset({"title", "script", "style", "noscript", "template", "svg"})

    def __init__(self) -> None:
        super().__init__()
        self.has_words = False
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in self._UNSEEN

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self._UNSEEN and self._hidden > 0

    def handle_data(self, data: str) -> None:
        self.has_words |= not self._hidden and any(map(str.isalnum, data))


def _without_head(source: str) -> str:
    """The page without its head, of which kreuzberg would make a heading."""
    if (start := _HEAD.search(source, 0, 1 << 20)) and (end := _HEAD_END.search(source, start.end())):
        return source[: start.start()] + source[end.start() :]
    return _TITLE.sub("", source, count=1)


def _of_pdf(data: bytes) -> _Text:
    text, result = _extract(data, "application/pdf")
    # The words of the page, not Markdown's escapes of them, are what is searched and quoted.
    text = _unescaped(text)
    pages = [str(page["content"]) for page in result.pages or ()]
    title = plain_title(str(result.metadata.get("title") or ""))
    starts = page_starts(text, pages)
    return _Text(text, "markdown", _version("kreuzberg"), title, pages=starts, is_text_expected=True)


def _of_docx(data: bytes) -> _Text:
    import mammoth  # noqa: PLC0415 - only where a DOCX is met # pyright: ignore[reportMissingTypeStubs]

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            unpacked = sum(one.file_size for one in packed.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ConversionFailed(f"it is no DOCX: {error}") from None
    if unpacked > UNPACKED_BYTES:
        raise ConversionFailed(f"it unpacks to {unpacked} bytes; at most {UNPACKED_BYTES} are taken")
    page: str = mammoth.convert_to_html(io.BytesIO(data)).value  # pyright: ignore
    made = _of_html(f"<html><body>{page}</body></html>")
    return msgspec.structs.replace(made, linked=(), converter=f"{_version('mammoth')}, {made.converter}")


def _of_mail(data: bytes) -> _Text:
    mail = read_mail(data)
    body = mail.body
    if mail.is_html:
        body = _of_html(body).text
    text = "\n".join([*mail.headers, "", body])
    return _Text(text, "markdown" if mail.is_html else "text", title=plain_title(mail.subject))


def _extract(data: bytes, media_type: str, *, keep_all: bool = False) -> "tuple[str, ExtractionResult]":
    """What kreuzberg makes of it: Markdown, and all it knows."""
    import kreuzberg  # noqa: PLC0415 - 40 MB that a process that reads plain text never needs

    config = kreuzberg.ExtractionConfig(
        output_format="markdown",
        use_cache=False,
        disable_ocr=True,  # pyright: ignore[reportCallIssue] - its stubs lag behind
        pages=kreuzberg.PageConfig(extract_pages=media_type == "application/pdf"),
        # Whole pages lie in a form where they are made with ASP.NET.
        html_options={
            "extract_metadata": False,
            "preprocessing": {"enabled": not keep_all, "remove_navigation": True, "remove_forms": False},
        },
        # What it takes for headers and footers may be the title.
        content_filter=kreuzberg.ContentFilterConfig(
            include_headers=True, include_footers=True, strip_repeating_text=False
        ),
        concurrency=kreuzberg.ConcurrencyConfig(max_threads=1),
    )
    try:
        result = kreuzberg.extract_bytes_sync(data, media_type, config)
    except kreuzberg.KreuzbergError as error:
        # It says the same thing at every level it passes.
        said = ": ".join(dict.fromkeys(str(error).split(": ")))
        raise ConversionFailed(f"it cannot be read as {media_type}: {said[:300]}") from None
    return result.content.replace("\r\n", "\n"), result


def _unescaped(text: str) -> str:
    return "\n".join(
        # An escaped # at the start of a line would become a heading.
        line if line.lstrip().startswith("\\#") else _ESCAPE.sub(r"\1", line)
        for line in text.split("\n")
    )


def _first_title(form: Form, sections: Sequence[Section]) -> str:
    if form not in ("markdown", "rst"):
        return ""
    return next((section.titles[0] for section in sections if section.titles), "")


def _abstract(text: str) -> str:
    """The first words of a text, without what draws it, cut after a sentence or a word."""
    plain = _SPACE.sub(" ", _DRAWN.sub(" ", _LINK.sub(r"\1", text[: 4 * ABSTRACT_CHARACTERS]))).strip()
    if len(plain) <= ABSTRACT_CHARACTERS:
        return plain
    cut = plain[:ABSTRACT_CHARACTERS]
    end = max(cut.rfind(mark) for mark in (". ", "! ", "? ", "。"))
    return cut[: end + 1] if end > ABSTRACT_CHARACTERS // 3 else f"{cut.rpartition(' ')[0] or cut}…"


def _version(library: str) -> str:
    return f"{library} {version(library)}"
