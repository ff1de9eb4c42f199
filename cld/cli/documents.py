"""This project's own documents as resources: what the tour fills its namespace with.

Splits Markdown at its headings; a reader of a section has a whole thought. Pure but for reading files.
"""

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cld
from cld.uri import URI, make_uri


@dataclass(frozen=True)
class Section:
    """A heading and the text below it, up to the next heading."""

    title: str
    text: str


def own_documents() -> list[tuple[str, str]]:
    """Name and Markdown of each document of this project that is here; at least its README."""
    project = Path(cld.__file__).absolute().parent.parent
    files = [project / "README.md", *sorted((project / "docs").glob("*.md"))]
    found = [
        (file.relative_to(project).as_posix(), file.read_text(encoding="utf-8")) for file in files if file.is_file()
    ]
    if found:
        return found
    # Installed without its sources: the README is in the package's metadata.
    return [("README.md", str(importlib.metadata.metadata("cld").json["description"]))]


def resources_of(parent: URI, source: str, markdown: str) -> Iterator[tuple[URI, dict[str, Any]]]:
    """The document's resource and, below it, one for each section, in order."""
    sections = split(markdown)
    document = make_uri(parent, "common.Document", slug(source.removesuffix(".md")))
    title = sections[0].title if sections else source
    yield document, {"title": title, "source": source, "media_type": "text/markdown"}
    for number, section in enumerate(sections, 1):
        uri = make_uri(document, "common.Text", f"{number:02}-{slug(section.title)}")
        yield uri, {"title": section.title, "text": section.text}


def split(markdown: str) -> Sequence[Section]:
    """The sections of a Markdown text; a '#' within a fence of code is no heading."""
    sections: list[Section] = []
    title, lines, fenced = "", list[str](), False
    for line in [*markdown.splitlines(), "# "]:
        fenced ^= line.startswith("```")
        if fenced or not re.match(r"#{1,3} ", line):
            lines.append(line)
            continue
        if text := "\n".join(lines).strip():
            sections.append(Section(title, text))
        elif title:
            sections.append(Section(title, title))
        title, lines = line.lstrip("#").strip(), []
    return sections


def slug(text: str) -> str:
    """`text` as an id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].strip("-") or "text"
