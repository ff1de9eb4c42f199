"""The names in `.cld/tmp`, which say what recovery has to do with a file whose writer died.

A name is `<ulid>.<version>.<uri>.<stage>`, the slashes of the URI written as `+`; a URI too long for a
file name is the text of the link `<ulid>.uri`, and its digest stands in its place.

    new   being written, or complete but never in the tree   remove
    copy  the same, meant for the history                    remove
    swap  this very version: never in the tree               remove
          any other: displaced from the tree                 move to the history
    gone  being deleted                                      move to the history

A file in `.cld/tmp` is made and moved only with the lock of its URI held: whoever gets that lock knows
that the writer is gone.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from cld.errors import InvalidResource
from cld.resource import new_id, version_of
from cld.store.local_paths import Layout
from cld.uri import URI, parse_uri

_NAME = re.compile(r"([0-9a-z]{26})\.([0-9a-f]{32})\.([^.].*)\.(new|copy|swap|gone)")
_LONG = "~"
_ROOM = 255 - len(".swap")


@dataclass(frozen=True)
class Temporary:
    """A name in `.cld/tmp`, read back."""

    id: str
    version: str
    uri: URI
    stage: str

    def never_in_tree(self, layout: Layout, name: str) -> bool:
        """Whether what is at `name` never was the resource, so that nothing is lost with it."""
        if self.stage in ("new", "copy"):
            return True
        try:
            return version_of(layout.read(layout.tmp, name, self.uri)) == self.version
        except InvalidResource:
            return False


def new_stem(layout: Layout, uri: URI, version: str) -> str:
    """The name in `.cld/tmp` up to its stage; a long URI goes into a link beside."""
    stem = f"{new_id()}.{version}.{uri.replace('/', '+')}"
    if len(stem) <= _ROOM:
        return stem
    id = stem[:26]
    # A link is made whole or not at all, text included; it is read as text and never followed.
    os.symlink(uri, f"{id}.uri", dir_fd=layout.tmp)
    return f"{id}.{version}.{_LONG}{hashlib.sha256(uri.encode()).hexdigest()[:32]}"


def forget(layout: Layout, stem: str) -> None:
    """Remove the link with the long URI, if there is one and nothing needs it any more."""
    if _LONG not in stem:
        return
    tmp = layout.tmp
    if not any(name.startswith(stem[:26]) and not name.endswith(".uri") for name in os.listdir(tmp)):
        with suppress(FileNotFoundError):
            os.unlink(f"{stem[:26]}.uri", dir_fd=tmp)


def temporaries(layout: Layout) -> Iterator[tuple[str, Temporary | None]]:
    """Every name in `.cld/tmp` and what it says; None for one that cld did not make."""
    tmp = layout.tmp
    names = os.listdir(tmp)
    ids = {name[:26] for name in names if not name.endswith(".uri")}
    for name in names:
        if name.endswith(".uri"):
            # Only as good as what it names; alone it is a leftover of a writer that died early.
            if name[:26] not in ids and (uri := _long_uri(layout, name[:26])) is not None:
                yield name, Temporary(name[:26], "", uri, "new")
            continue
        found = _NAME.fullmatch(name)
        uri = None
        if found is not None:
            long = found[3].startswith(_LONG)
            with suppress(ValueError):
                uri = _long_uri(layout, found[1]) if long else parse_uri(found[3].replace("+", "/"))
        yield name, Temporary(found[1], found[2], uri, found[4]) if found and uri else None


def _long_uri(layout: Layout, id: str) -> URI | None:
    try:
        return parse_uri(os.readlink(f"{id}.uri", dir_fd=layout.tmp))
    except (OSError, ValueError):
        return None
