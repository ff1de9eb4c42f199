"""What a run says: how far it is, and in the end what it did."""

import msgspec

from cld.uri import URI


class Progress(msgspec.Struct, frozen=True):
    """`done` of `total` files; `path` is the one that was looked at last."""

    done: int
    total: int
    path: str


class Failure(msgspec.Struct, frozen=True):
    """A file that could not be taken in, and why; `uri` is its document, which says so too."""

    path: str
    reason: str
    uri: URI | None = None


class Report(msgspec.Struct, frozen=True):
    """What one run did. Counts are of files, but `passages_*`, which are of passages.

    `skipped` counts by reason what was left out on purpose; a folder that is left out counts once.
    `remaining` is how many files were not looked at because the time was up: run again to go on.
    `moved` are those of `added` whose content was known under another path.
    """

    roots: tuple[URI, ...] = ()
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    moved: int = 0
    remaining: int = 0
    passages_put: int = 0
    passages_deleted: int = 0
    bytes_read: int = 0
    skipped: dict[str, int] = {}
    failed: tuple[Failure, ...] = ()
