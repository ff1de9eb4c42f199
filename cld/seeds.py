"""Seeds: the resources that a tree without any of their kind begins with, as they come with cld."""

from collections.abc import Iterator
from pathlib import Path

from cld.resource import Resource, decode
from cld.uri import URI, parse_uri


def seeds(folder: Path, type: str) -> Iterator[tuple[URI, Resource]]:
    """The seeds of `type` in the folder, by name."""
    for file in sorted(folder.glob(f"cld:{type}.*.json")):
        uri = parse_uri(file.name.removesuffix(".json"))
        yield uri, decode(file.read_bytes(), uri)
