"""Files in the formats that ingest reads, made by code, and a world to take them into."""

import io
import zipfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from server_world import ADA, World, world

from cld.guard import GuardedStore
from cld.policy import Context
from cld.uri import MAX_DEPTH, ROOT, URI

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
_RELATIONS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type='
    '"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/>'
    "</Relationships>"
)
_STYLES = "".join(
    f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/></w:style>' for n in (1, 2)
)


def docx(paragraphs: Sequence[tuple[int, str]], *, bomb_bytes: int = 0, nested: int = 0, before: str = "") -> bytes:
    """A DOCX of (heading level or 0, XML text); with `bomb_bytes` it unpacks to at least so many.

    `nested` is how many tables they are in, `before` XML put before the document.
    """
    out = io.BytesIO()
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="Heading{level}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'
        if level
        else f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"
        for level, text in paragraphs
    )
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("[Content_Types].xml", _TYPES)
        packed.writestr("_rels/.rels", _RELATIONS)
        packed.writestr("word/styles.xml", f"<w:styles {_W}>{_STYLES}</w:styles>")
        with packed.open("word/document.xml", "w", force_zip64=True) as file:
            inner = "<w:tbl><w:tr><w:tc>" * nested + body + "</w:tc></w:tr></w:tbl>" * nested
            file.write(f"{before}<w:document {_W}><w:body>{inner}".encode())
            for _ in range(bomb_bytes >> 20):
                file.write(b"<w:p><w:r><w:t>aaaaaaa</w:t></w:r></w:p>".ljust(1 << 20))
            file.write(b"</w:body></w:document>")
    return out.getvalue()


def pdf(pages: Sequence[Sequence[tuple[int, str]]]) -> bytes:
    """A PDF of pages of (font size, line)."""
    objects: list[bytes] = [b"<</Type/Catalog/Pages 2 0 R>>", b""]
    kids: list[str] = []
    for lines in pages:
        drawn, y = "", 760
        for size, line in lines:
            drawn += f"BT /F1 {size} Tf 72 {y} Td ({line}) Tj ET\n"
            y -= 2 * size
        stream = drawn.encode()
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents %d 0 R/Resources<</Font<</F1<</Type/Font"
            b"/Subtype/Type1/BaseFont/Helvetica>>>>>>>>" % len(objects)
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<</Type/Pages/Count {len(kids)}/Kids[{' '.join(kids)}]>>".encode()
    out, offsets = b"%PDF-1.7\n", []
    for number, one in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return out + b"xref\n0 %d\n0000000000 65535 f \n%strailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1,
        table,
        len(objects) + 1,
        len(out),
    )


def mail(subject: str, text: str = "", page: str = "", attachments: Sequence[str] = ()) -> bytes:
    message = EmailMessage()
    message["From"] = "Ada <ada@example.org>"
    message["To"] = "bob@example.org"
    message["Date"] = "Sat, 21 Nov 2026 08:00:00 +0000"
    message["Subject"] = subject
    if text:
        message.set_content(text)
    if page and text:
        message.add_alternative(page, subtype="html")
    elif page:
        message.set_content(page, subtype="html")
    for name in attachments:
        message.add_attachment(b"\x00\x01", maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


class Tree:
    """A tree to take files into, and what lies in it."""

    def __init__(self, made: World) -> None:
        self.made = made

    @property
    def store(self) -> GuardedStore:
        return self.made.runtime.store(ADA, Context(tool="ingest", host="test"))

    async def uris(self, below: URI = ROOT, type: str | None = None) -> list[URI]:
        found: list[URI] = []
        cursor = None
        while True:
            page = await self.made.store.list(below, type=type, depth=MAX_DEPTH, limit=1000, cursor=cursor)
            found += page.uris
            if (cursor := page.cursor) is None:
                return found

    async def versions(self) -> dict[URI, str]:
        return {uri: (await self.made.store.get(uri)).version for uri in await self.uris()}

    async def content(self, uri: URI) -> dict[str, Any]:
        return (await self.made.store.get(uri)).resource.content

    async def records(self) -> dict[str, tuple[URI, dict[str, Any]]]:
        """Every file's document by its source."""
        found: dict[str, tuple[URI, dict[str, Any]]] = {}
        for uri in await self.uris(type="common.Document"):
            content = await self.content(uri)
            if content.get("format"):
                assert content["source"] not in found, "a file has one document"
                found[content["source"]] = (uri, content)
        return found

    async def passages(self, source: str) -> list[dict[str, Any]]:
        """The passages of a file in the order they are listed, each with where it stands."""
        uri, content = (await self.records())[source]
        uris = await self.uris(uri, "common.Text")
        assert [one.rpartition(".")[2] for one in uris] == list(content.get("parts", {}))
        return [{**await self.content(one), **content["parts"][one.rpartition(".")[2]]} for one in uris]


@asynccontextmanager
async def tree(folder: Path, **options: Any) -> AsyncGenerator[Tree]:
    async with world(folder, **options) as made:
        yield Tree(made)


__all__ = ["Tree", "docx", "mail", "pdf", "tree"]
