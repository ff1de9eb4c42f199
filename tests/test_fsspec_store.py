"""The fsspec store through the contract suite, on the drivers it is proven with."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from store_contract import FolderBehind, NewPlace, Place, StoreContract

from cld.resource import new_id
from cld.store.fsspec import FsspecStore


class MemoryBehind:
    """The files of a `memory://` root, past the store."""

    def __init__(self, root: str) -> None:
        self._fs = fsspec.filesystem("memory")
        self._root = root

    def read_bytes(self, uri: str) -> bytes:
        return self._fs.cat_file(f"{self._root}/{uri}.json")

    def write_bytes(self, uri: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{uri}.json", data)

    def remove(self, uri: str) -> None:
        self._fs.rm_file(f"{self._root}/{uri}.json")

    def names(self) -> set[str]:
        names = {path.removeprefix(f"/{self._root}/") for path in self._fs.find(self._root)}
        return {name for name in names if not name.startswith(".cld/")}


class TestMemory(StoreContract):
    @pytest.fixture
    def new_place(self) -> Iterator[NewPlace]:
        roots: list[str] = []

        def make() -> Place:
            roots.append(new_id())
            url = f"memory://{roots[-1]}"
            return Place(open=lambda: FsspecStore.open(url), behind=MemoryBehind(roots[-1]))

        yield make
        for root in roots:
            if (fs := fsspec.filesystem("memory")).exists(root):
                fs.rm(root, recursive=True)


class TestFile(StoreContract):
    @pytest.fixture
    def new_place(self, tmp_path: Path) -> NewPlace:
        def make() -> Place:
            root = tmp_path / new_id()
            return Place(open=lambda: FsspecStore.open(f"file://{root}"), behind=FolderBehind(root))

        return make
