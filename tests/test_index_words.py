"""Words: what is stored and what is asked come out the same, whatever the script, in every process."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.index.wordllama import rarity_of
from cld.index.words import hash_of, stem, words_of


def words(text: str) -> list[str]:
    return [word for _, word in words_of(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cats' policies, boxes and buses", "the cat policy boxe and buse"),
        ("class news status series", "class new status sery"),
        ("don't can\u2019t", "dont cant"),
        ("Straße STRASSE", "strasse strasse"),
        ("naïve \uff21\uff42\uff43 \ufb01nd", "naive abc find"),
        ("get_many fooBar", "get many foobar foo bar"),
        ("HTTPServer", "httpserver http server"),
        ("2^64 x86_64 3.11", "2 64 x86 64 3 11"),
        ("東京タワー", "東京 京タ タワ ワー"),
        ("犬", "犬"),
        ("Go言語 now", "go 言語 now"),
        ("हिन्दी", "हिन्दी"),
        ("한국어", "한국어"),
        ("", ""),
        ("\x00\u202e🦓", ""),
    ],
)
def test_texts_come_apart_into_words(text: str, expected: str) -> None:
    assert words(text) == expected.split()


def test_composed_and_decomposed_are_the_same_words() -> None:
    assert words("caf\u00e9 \ud55c") == words("cafe\u0301 \u1112\u1161\u11ab")


def test_a_name_in_one_stands_at_the_place_of_its_first_part() -> None:
    assert list(words_of("a getMany b")) == [(0, "a"), (1, "getmany"), (1, "get"), (2, "many"), (3, "b")]


@given(st.text(max_size=200))
def test_any_text_has_words_at_places_that_do_not_go_back(text: str) -> None:
    found = list(words_of(text))
    places = [place for place, _ in found]
    assert places == sorted(places) and len(set(places)) >= len(places) / 2
    assert all(word and len(word) <= 64 and not word.isspace() for _, word in found)
    assert [word for _, word in words_of(text)] == [word for _, word in found]


@given(st.from_regex(r"[a-z]{1,12}", fullmatch=True))
def test_the_plural_is_found_by_the_singular(word: str) -> None:
    if len(word) > 2 and word[-1] not in "sexyiou":
        assert stem(f"{word}s") == stem(word)


def test_a_hash_is_the_same_in_every_process() -> None:
    code = "from cld.index.words import hash_of; print(hash_of('zebra'))"
    told = set[str]()
    for seed in ("1", "2"):
        command, environment = [sys.executable, "-c", code], {"PYTHONHASHSEED": seed}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
        told.add(done.stdout.strip())
    assert told == {str(hash_of("zebra"))}


def test_rare_words_weigh_more_than_common_ones_without_any_tree() -> None:
    assert rarity_of("the") < rarity_of("which") < rarity_of("query") < rarity_of("quantum") < rarity_of("idempotent")
    assert rarity_of("a") > 0 and rarity_of("zzzqqqxyz") < 10
