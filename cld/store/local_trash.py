"""Recursive delete: a whole subtree goes into `.cld/trash` by one rename, however large it is."""

import os
import shutil
import time
from contextlib import suppress

from cld.errors import InvalidResource
from cld.resource import version_of
from cld.store.local_history import Displaced, History, key_of_time
from cld.store.local_paths import Layout, place_of
from cld.store.local_write import Writer
from cld.uri import SUFFIX, URI

_DAY_NS = 24 * 3600 * 1_000_000_000


def trash_tree(layout: Layout, history: History, writer: Writer, uri: URI, *, expected: str | None) -> str:
    """Move the resource and all below it into the trash, durably; the path of its folder there.

    Every lock must be held: a writer below would otherwise write into the trash.

    Raises:
        Displaced: the resource is not `expected` (None: whatever it is); nothing was moved.
        OSError: the storage failed.
    """
    path, name = place_of(uri)
    bare = name.removesuffix(SUFFIX)
    folder = layout.open_folder(layout.root, path)
    trash, into = history.open_trash(uri)
    try:
        try:
            os.rename(name, name, src_dir_fd=folder, dst_dir_fd=trash)
        except FileNotFoundError:
            if expected is not None:
                raise Displaced from None
        else:
            if expected is not None and _version(layout, f"{into}{uri}{SUFFIX}", uri) != expected:
                # If an editor saved again meanwhile, that one stays, and this one is where history finds it.
                with suppress(FileExistsError):
                    writer.link(trash, name, folder, name)
                raise Displaced
        with suppress(FileNotFoundError):
            os.rename(bare, bare, src_dir_fd=folder, dst_dir_fd=trash)
        layout.sync_folder(folder)
    finally:
        os.close(trash)
        os.close(folder)
    return f"{into}{uri}"


def _version(layout: Layout, path: str, uri: URI) -> str | None:
    try:
        return version_of(layout.read(layout.trash, path, uri))
    except InvalidResource:
        return None


def expire_trash(layout: Layout, *, days: int) -> list[str]:
    """Remove what lies in the trash for longer than `days`; which entries went."""
    oldest = key_of_time(time.time_ns() - days * _DAY_NS)
    gone: list[str] = []
    for name in sorted(os.listdir(layout.trash)):
        if name < oldest:
            # By handles, without following links: `shutil.rmtree.avoids_symlink_attacks`.
            shutil.rmtree(name, dir_fd=layout.trash, ignore_errors=True)
            gone.append(name)
    return gone
