"""The ids of passages: in order, kept where nothing changed, the same in every process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.ingest.sequence import ID, arrange, digest_of, positions

DIGESTS = [digest_of((), str(n)) for n in range(12)]
TEXTS = st.lists(st.sampled_from(DIGESTS), max_size=30)


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_ids_sort_in_order_and_name_their_digests_after_any_edits(versions: list[list[str]]) -> None:
    there: list[str] = []
    for wanted in versions:
        ids = arrange(there, wanted)
        assert ids == sorted(ids) and len(set(ids)) == len(ids)
        assert [id.partition("-")[2] for id in ids] == wanted
        assert all(ID.fullmatch(id) for id in ids)
        assert ids == arrange(there, wanted)
        there = ids


@given(TEXTS, st.integers(0, 29), TEXTS)
def test_what_is_put_in_between_leaves_the_rest_as_it_was(before: list[str], at: int, more: list[str]) -> None:
    ids = arrange((), before)
    at = min(at, len(before))
    fresh = [digest_of((), f"fresh{n}") for n in range(len(more))]
    after = arrange(ids, [*before[:at], *fresh, *before[at:]])
    assert [*after[:at], *after[at + len(more) :]] == ids
    without = arrange(after, before)
    assert without == ids


@given(st.integers(1, 500), st.text("0123456789abcdefghijklmnopqrstuvwxyz", max_size=4))
def test_positions_lie_between_their_neighbours(count: int, low: str) -> None:
    low = low.rstrip("0")
    (high,) = positions(low, "", 1)
    found = positions(low, high, count)
    assert found == sorted(set(found)) and len(found) == count
    assert all(f"{low}-" < f"{one}-" < f"{high}-" for one in found)


def test_ids_stay_short_when_text_is_put_in_at_one_place_for_ever() -> None:
    there: list[str] = []
    texts = ["first", "last"]
    for n in range(500):
        texts.insert(1, str(n))
        there = arrange(there, [digest_of((), text) for text in texts])
        assert max(map(len, there)) <= 48


@pytest.mark.timeout(20)
def test_a_document_of_one_passage_repeated_is_arranged_in_proportion() -> None:
    ids = arrange((), [DIGESTS[0]] * 20_000)
    assert arrange(ids, [DIGESTS[0]] * 20_001)[:20_000] == ids
    arrange(ids, [DIGESTS[n % 2] for n in range(20_000)])


def test_the_headings_belong_to_a_passage() -> None:
    assert digest_of(("a", "b"), "c") != digest_of(("a",), "c") != digest_of((), "c")
    assert digest_of(("a", "b"), "c") != digest_of(("a",), "b\x00\x00c")
