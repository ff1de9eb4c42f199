"""Passages: every text of a resource is in one, with its place, and nothing that is no text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.index.passages import MAX_CHARACTERS, Passage, passages_of, pieces_of, sentences_of
from cld.index.quotes import MAX_QUOTE, quote_of
from cld.index.scoring import Word
from cld.index.words import hash_of, words_of
from cld.resource import Meta, Resource

URI = "cld:plan.Task.write-notes"


def passages(content: dict[str, Any], meta: Meta | None = None, uri: str = URI) -> list[Passage]:
    type, _, id = uri.removeprefix("cld:").rpartition(".")
    return passages_of(Resource(uri=uri, type=type, id=id, meta=meta or Meta(), content=content))


def fields(content: dict[str, Any]) -> list[str]:
    return [part.field for passage in passages(content) for part in passage.parts]


def test_description_and_content_are_passages_of_their_own() -> None:
    first, second = passages({"text": "What it says."}, Meta(purpose="What for.", evaluation="When done."))
    assert [(part.field, part.text) for part in first.parts] == [
        ("meta.purpose", "What for."),
        ("meta.evaluation", "When done."),
    ]
    assert [(part.field, part.text) for part in second.parts] == [("content.text", "What it says.")]


def test_short_fields_share_a_passage_and_keep_their_paths() -> None:
    (only,) = passages({"a": "one thing", "b": [{"c": "another"}, "third"], "n": 3})
    assert [part.field for part in only.parts] == ["content.a", "content.b[0].c", "content.b[1]"]
    assert only.text == "one thing\nanother\nthird"


def test_the_title_goes_with_every_passage() -> None:
    found = passages({"title": "Locks", "title_path": ["Store", "Locks"], "text": "They go with their holder. " * 200})
    assert len(found) > 3
    assert {passage.title for passage in found} == {"Store \u203a Locks"}
    assert all(passage.titled.startswith("Store \u203a Locks\n") for passage in found)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("cld:plan.Task.write-notes", "Task write-notes"),
        ("cld:common.Text.01jd8x3k5m7n9p1q2r3s4t5v6w", "Text"),
        ("cld:common.Text.t0042", "Text"),
        ("cld:common.Text.0f3a9c0f3a9c0f3a9c", "Text"),
    ],
)
def test_an_id_says_something_unless_it_is_random(uri: str, name: str) -> None:
    assert passages({"text": "x y"}, uri=uri)[0].name == name


@pytest.mark.parametrize(
    "text",
    ["", "cld:common.Text.x/plan.Task.t", "2026-11-21T07:34:55.123456Z", "0f3a9c0f3a9c0f3a9c", "12.50", "QUJD" * 100],
)
def test_what_is_no_text_is_no_passage(text: str) -> None:
    assert passages({"field": text}) == []


def test_a_long_text_without_spaces_is_a_text_in_scripts_that_have_none() -> None:
    assert fields({"text": "東京" * 2000}) == ["content.text"] * 4


def test_texts_are_cut_between_paragraphs_before_sentences_before_words() -> None:
    sentence = "Each of these sentences has about sixty characters in it. "
    text = "\n\n".join(sentence * 12 for _ in range(4))
    assert [text[a:b] for a, b in pieces_of(text)] == [(sentence * 12).strip()] * 4
    running = sentence * 60
    assert all(running[a:b].endswith("it.") for a, b in pieces_of(running))
    words = "word " * 1000
    assert all(words[a:b].endswith("word") and words[a:b].startswith("word") for a, b in pieces_of(words))


@given(st.text(alphabet="ab .\n\u3002\u202f\u4e00", max_size=4000), st.integers(2, 300))
def test_pieces_leave_out_blanks_only(text: str, size: int) -> None:
    ends = list(pieces_of(text, size))
    assert all(0 < end - start <= size for start, end in ends)
    left = text
    for start, end in reversed(ends):
        left = left[:start] + left[end:]
    assert not left.strip()


_keys = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=300) | st.text("ab .\n", max_size=3000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_keys, _json, max_size=5))
def test_every_part_is_an_exact_slice_of_its_field(content: dict[str, Any]) -> None:
    for passage in passages(content):
        assert 0 < len(passage.text) <= MAX_CHARACTERS + 1
        for part in passage.parts:
            assert look_up({"content": content}, part.field)[part.start : part.start + len(part.text)] == part.text
        quote = quote_of(passage, [Word("ab", hash_of("ab"), 1.0, 0)])
        assert look_up({"content": content}, quote.field)[quote.start : quote.end] == quote.text
        assert 0 < len(quote.text) <= MAX_QUOTE


def look_up(value: Any, path: str) -> str:
    for step in path.replace("[", ".[").split("."):
        value = value[int(step[1:-1])] if step.startswith("[") else value[step]
    return value


@given(st.text(alphabet="ab. \n\u3002!", max_size=300))
def test_sentences_are_all_of_the_text(text: str) -> None:
    assert "".join(text[start:end] for start, end in sentences_of(text)) == text


def test_a_quote_is_where_most_of_the_question_is() -> None:
    text = "Grass grows. " * 30 + "The zebra crossed the river. It was tired. " + "Grass grows. " * 30
    (passage,) = passages({"text": text})
    words = [Word(word, hash_of(word), 1.0, at) for at, word in words_of("tired zebra river")]
    quote = quote_of(passage, words)
    assert quote.text == "The zebra crossed the river. It was tired."
    assert quote.words == ("tired", "zebra", "river")


def test_a_quote_of_what_matched_by_meaning_only_is_the_beginning() -> None:
    (passage,) = passages({"text": "The kitten slept on the rug. It purred."})
    assert quote_of(passage, []).text == "The kitten slept on the rug. It purred."
