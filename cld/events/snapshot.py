"""Snapshot: what the bus last knew to be there, small enough to keep for every file (some 200 bytes).

A record is 8 bytes of stamp and, once the file was read, 16 bytes that stand for its version.
"""

import hashlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from cld.events import UNTRUSTED, Listing, Look
from cld.uri import ROOT, URI, elements_of, id_of, parent_of, type_of

_STAMP = len(UNTRUSTED)


class Folder:
    """What is known of one folder."""

    __slots__ = ("files", "folders")

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.folders: dict[str, Folder] = {}


class Snapshot:
    """Records by URI. Generators yield None now and then, where the caller may rest."""

    def __init__(self) -> None:
        self._root = Folder()

    def get(self, uri: URI) -> bytes | None:
        folder = self._folder(parent_of(uri))
        return None if folder is None else folder.files.get(_name(uri))

    def set(self, uri: URI, record: bytes) -> None:
        self._make(parent_of(uri)).files[_name(uri)] = record

    def drop(self, uri: URI) -> None:
        if (folder := self._folder(parent_of(uri))) is not None:
            folder.files.pop(_name(uri), None)
            self._trim(parent_of(uri))

    def forget(self, prefix: URI, keep: Sequence[URI]) -> None:
        """Drop all at and below `prefix`, except at and below those of `keep`. Costs what is kept, not what goes."""
        kept = [(uri, self.get(uri), self._folder(uri)) for uri in keep]
        self._detach(prefix)
        for uri, record, folder in kept:
            if record is not None:
                self.set(uri, record)
            if folder is not None:
                self._make(parent_of(uri)).folders[_name(uri)] = folder

    def absorb(self, listing: Listing, newer: AbstractSet[URI]) -> Iterator[URI | None]:
        """Take over what was not known; yields those whose stamp cannot be trusted, to be looked at."""
        if not listing.files:
            return
        known = self._make(listing.folder).files
        for count, (element, stamp) in enumerate(listing.files.items()):
            if count % 256 == 255:
                yield None
            if element in known or (newer and _join(listing.folder, element) in newer):
                continue
            if stamp == UNTRUSTED:
                yield _join(listing.folder, element)
            else:
                known[element] = stamp

    def differences(self, listing: Listing) -> Iterator[URI | None]:
        """What is not as known: new, changed or gone, in this folder and in folders that went."""
        folder = self._folder(listing.folder)
        known = {} if folder is None else folder.files
        for count, (element, stamp) in enumerate(listing.files.items()):
            if count % 256 == 255:
                yield None
            record = known.get(element)
            if record is None or stamp == UNTRUSTED or not record.startswith(stamp):
                yield _join(listing.folder, element)
        if folder is None:
            return
        # Copies, here and below: between two steps the bus goes on changing what is known.
        for count, element in enumerate(list(known)):
            if count % 256 == 255:
                yield None
            if element not in listing.files:
                yield _join(listing.folder, element)
        for element in [element for element in folder.folders if element not in listing.folders]:
            yield from self.below(_join(listing.folder, element))

    def below(self, uri: URI) -> Iterator[URI | None]:
        """Every resource known below `uri`."""
        if (folder := self._folder(uri)) is None:
            return
        for element in list(folder.files):
            yield _join(uri, element)
        yield None
        for element in list(folder.folders):
            yield from self.below(_join(uri, element))

    def _detach(self, prefix: URI) -> None:
        if prefix == ROOT:
            self._root = Folder()
        elif (folder := self._folder(parent_of(prefix))) is not None:
            folder.folders.pop(_name(prefix), None)
            self.drop(prefix)

    def _folder(self, uri: URI) -> Folder | None:
        folder = self._root
        for element in elements_of(uri):
            if (below := folder.folders.get(element)) is None:
                return None
            folder = below
        return folder

    def _make(self, uri: URI) -> Folder:
        folder = self._root
        for element in elements_of(uri):
            if (below := folder.folders.get(element)) is None:
                below = folder.folders[element] = Folder()
            folder = below
        return folder

    def _trim(self, uri: URI) -> None:
        """Drop the folder and those above it as far as they hold nothing."""
        while uri != ROOT and (folder := self._folder(uri)) is not None and not folder.files and not folder.folders:
            above = self._folder(parent_of(uri))
            assert above is not None
            del above.folders[_name(uri)]
            uri = parent_of(uri)


def record_of(look: Look) -> bytes:
    """The record of what was seen."""
    return look.stamp if look.version is None else look.stamp + _digest(look.version)


def is_same(record: bytes, look: Look) -> bool:
    """Whether what was seen is what was known: the same version, or, where none is known, the same stamp."""
    if len(record) > _STAMP and look.version is not None:
        return record[_STAMP:] == _digest(look.version)
    return look.stamp != UNTRUSTED and record.startswith(look.stamp) and (len(record) == _STAMP)


def _digest(version: str) -> bytes:
    return hashlib.blake2b(version.encode(), digest_size=16).digest()


def _name(uri: URI) -> str:
    return f"{type_of(uri)}.{id_of(uri)}"


def _join(folder: URI, element: str) -> URI:
    return URI(f"{folder}{element}" if folder == ROOT else f"{folder}/{element}")
