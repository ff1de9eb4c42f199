"""JSON as models write it: what is repaired, and what is refused because it could be read in two ways."""

import contextlib
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.models.repair import read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Here it is:\n```\n{"a": "```"}\n```\nHope it helps!', {"a": "```"}),
        ('Sure! {"a": [1, 2]} is what you asked for.', {"a": [1, 2]}),
        ('{"a": 1, "b": [1, 2,],}', {"a": 1, "b": [1, 2]}),
        ('{"a": True, "b": None, "c": False}', {"a": True, "b": None, "c": False}),
        ('{"a": 1, // one\n "b": 2 /* two */}', {"a": 1, "b": 2}),
        ('{"a": "two\nlines,}"}', {"a": "two\nlines,}"}),
        ('<think>a {brace} in thought</think>\n{"a": 1}', {"a": 1}),
        ('{"a": "// no comment, True"}', {"a": "// no comment, True"}),
        ("```\n42\n```", 42),
        ("None", None),
        ('{"n": 18446744073709551617}', {"n": 2**64 + 1}),
    ],
)
def test_small_faults_are_repaired(written: str, value: object) -> None:
    assert read_json(written) == value


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"a": [1, 2', "cut off"),
        ('{"a": "never closed', "cut off|does not belong"),
        ("I would rather not.", "no JSON"),
        ("", "no JSON"),
        ("{'a': 1}", "does not belong"),
        ('```\n{"a": 1}\n```\nor\n```\n{"a": 2}\n```', "2 fenced blocks"),
        ('{"a": NaN}', "no JSON"),
        ('{"a" 1}', "no JSON"),
        ("[" * 100_000, "cut off"),
    ],
)
def test_what_has_no_one_reading_is_refused(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_json(written)


@given(VALUES)
def test_any_value_comes_through_fence_and_prose(value: object) -> None:
    text = msgspec.json.encode(value).decode()
    assert read_json(text) == value
    assert read_json(f"```json\n{text}\n```") == value
    if isinstance(value, dict | list):
        assert read_json(f"Of course:\n\n{text}\n\nAnything else?") == value


@given(st.text())
def test_no_text_does_more_than_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        read_json(text)


@pytest.mark.parametrize(
    "written",
    [
        'First: {"a": 1}. Corrected: {"a": 2}',
        '{"a": 1,}\n{"a": 2}',
        "[1] or rather [2]",
        'so {"a": 1} for {names} and {"a": 2}',
    ],
)
def test_two_values_where_one_was_to_be_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match="more than one JSON value"):
        read_json(written)


@pytest.mark.parametrize("more", ["", " as [1] says", ' where {a} is free {"a": 1', ' again: {"a": 1}'])
def test_prose_behind_a_value_that_is_no_other_value_leaves_one_reading(more: str) -> None:
    assert read_json('so {"a": 1,}' + more) == {"a": 1}


@pytest.mark.parametrize("piece", ["```a\n", "{", '{"a": {}} {', "[1] [", '"'])
def test_ten_times_the_text_takes_about_ten_times_as_long(piece: str) -> None:
    def steps(times: int) -> float:
        begun = time.process_time()
        with contextlib.suppress(ValueError):
            read_json("{x} " + piece * times)
        return time.process_time() - begun

    few = min(steps(2000) for _ in range(3))
    assert steps(40_000) < 100 * max(few, 1e-3), "four hundred times, were it quadratic"
