"""What tells whether a file changed: the quick way sees all that `stat` sees."""

import os
import sys
from pathlib import Path

import pytest

from cld.policy.facts import look_at, look_by_stat
from cld.policy.seen import Seen


def test_the_quick_look_says_what_stat_says_after_every_kind_of_change(tmp_path: Path) -> None:
    file = tmp_path / "dätä.json"
    quick, slow = look_at(str(file)), look_by_stat(str(file))
    assert quick() is None and slow() is None
    seen: list[object] = []
    for change in (
        lambda: file.write_text("{}"),
        lambda: file.write_text("{ }"),
        lambda: os.utime(file, ns=(1, 1)),
        lambda: file.chmod(0o600),
        lambda: (file.with_suffix(".new").write_text("{ }"), file.with_suffix(".new").replace(file)),
        lambda: os.utime(file, ns=(1, 9_000_000_000_123_456_789)),
    ):
        change()
        assert quick() == slow() is not None
        assert quick() not in seen
        seen.append(quick())
    file.unlink()
    assert quick() is None and slow() is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one way only")
def test_on_linux_the_quick_way_is_in_use() -> None:
    assert look_at is not look_by_stat


def test_what_comes_goes_or_is_replaced_is_not_current(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    absent = Seen(file)
    assert absent.is_current()
    file.write_text("{}")
    assert not absent.is_current()
    there = Seen(file)
    assert there.is_current()
    file.write_text("[]")  # of the same size and within one tick of the clock, perhaps
    assert not there.is_current()
    replaced = Seen(file)
    file.unlink()
    assert not replaced.is_current()
