"""The local store against the shared contract, by the way of Linux and by that of everything else."""

from pathlib import Path

import pytest
from store_contract import FolderBehind, NewPlace, Place, StoreContract

from cld.resource import new_id
from cld.store.local import LocalStore
from cld.store.local_paths import Features


class TestLocalStore(StoreContract):
    @pytest.fixture
    def new_place(self, tmp_path: Path) -> NewPlace:
        def make() -> Place:
            root = tmp_path / new_id()
            return Place(open=lambda: LocalStore.open(root, durability="none"), behind=FolderBehind(root))

        return make


class TestLocalStoreWithoutNewSystemCalls(StoreContract):
    """As on macOS, or on a file system that lacks `renameat2`: walked paths, linking and renaming."""

    @pytest.fixture
    def new_place(self, tmp_path: Path) -> NewPlace:
        features = Features(openat2=False, renameat2=False, ignores_case=False)

        def make() -> Place:
            root = tmp_path / new_id()
            return Place(
                open=lambda: LocalStore.open(root, durability="none", features=features), behind=FolderBehind(root)
            )

        return make
