"""Segments: what is written is what is read, merging changes nothing, and a score depends on its own passage alone."""

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from cld.index import BrokenIndex, Model
from cld.index.passages import passages_of
from cld.index.scoring import Question, question_of, score
from cld.index.segment import (
    SCALE,
    Entry,
    Segment,
    merge_segments,
    open_segment,
    quantise,
    words_in,
    write_segment,
)
from cld.index.wordllama import embed
from cld.resource import Resource
from cld.uri import URI

RNG = random.Random(5)
WORDS = "the of lock kernel process file version zebra bread rye install machine queue index policy rule"


def entry(name: str, text: str) -> Entry:
    uri = f"cld:common.Text.{name}"
    passages = passages_of(Resource(uri=uri, type="common.Text", id=name, content={"text": text}))
    words = [words_in(passage) for passage in passages]
    vectors = quantise(embed([passage.titled for passage in passages]))
    return Entry(URI(uri), f"version-{name}", vectors, [(h, p) for h, p, _ in words], [n for *_, n in words])


def entries(count: int) -> list[Entry]:
    return [
        entry(f"n{n:03d}", " ".join(RNG.choices(WORDS.split(), k=RNG.choice([0, 1, 30, 400])))) for n in range(count)
    ]


def question(text: str) -> Question:
    return question_of(text, quantise(embed([text]))[0].astype(np.float32), 0.03, Model())


def scores(segment: Segment, text: str) -> dict[tuple[str, int], tuple[float, float, float]]:
    found = score(segment, question(text), "hybrid")
    return {
        (segment.uris[segment.documents[row]], segment.part_of(row)): (
            float(found.score[row]),
            float(found.words[row]),
            float(found.meaning[row]),
        )
        for row in range(segment.rows)
    }


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    written = [entry("b", "zebra and lock"), entry("a", "the zebra"), entry("c", "")]
    write_segment(tmp_path, "s", written, [URI("cld:common.Text.x")], 256)
    segment = open_segment(tmp_path, "s")
    assert list(segment.uris) == [f"cld:common.Text.{name}" for name in "abc"]
    assert [segment.version_of(n) for n in range(3)] == ["version-a", "version-b", "version-c"]
    assert list(segment.removed) == ["cld:common.Text.x"] and segment.rows == 2
    assert np.array_equal(segment.vectors[0], written[1].vectors[0])
    assert len(segment.keys_of(written[0].words[0][0][0])) == 2  # zebra, in both
    assert len(segment.keys_of(12345)) == 0


def test_a_score_is_the_same_bits_wherever_the_passage_lies(tmp_path: Path) -> None:
    many = entries(700)
    write_segment(tmp_path, "all", many, [], 256)
    asked = ["zebra", "the lock of the kernel process", "rye bread machine queue policy rule zebra file"]
    whole = [scores(open_segment(tmp_path, "all"), text) for text in asked]
    for number in range(6):
        some = RNG.sample(many, 100)
        write_segment(tmp_path, f"part{number}", some, [], 256)
        part = open_segment(tmp_path, f"part{number}")
        for text, expected in zip(asked, whole, strict=True):
            for place, value in scores(part, text).items():
                assert value == expected[place]


def test_dot_products_are_exact_at_the_longest_vectors_there_can_be() -> None:
    rng = np.random.default_rng(3)
    for dimensions in (256, 3072):
        vectors = rng.standard_normal((600, dimensions)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        kept = quantise(vectors)
        assert (kept.astype(np.int64) ** 2).sum(axis=1).max() < 2**24
        exact = kept.astype(np.int64) @ kept[0].astype(np.int64)
        assert np.array_equal(exact, kept.astype(np.float32) @ kept[0].astype(np.float32))
        assert np.abs(exact / SCALE**2 - vectors @ vectors[0]).max() < 1e-3


def test_merging_says_what_its_parts_said(tmp_path: Path) -> None:
    many = entries(300)
    parts = []
    for number in range(3):
        write_segment(tmp_path, f"p{number}", many[number * 100 : number * 100 + 100], [], 256)
        parts.append((open_segment(tmp_path, f"p{number}"), np.ones(100, np.bool_)))
    parts[1][1][10:60] = False
    kept = many[:110] + many[160:]
    write_segment(tmp_path, "direct", kept, [], 256)
    merge_segments(tmp_path, "merged", parts, [], 256)
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "direct").read_bytes()


@pytest.mark.parametrize("harm", ["cut", "longer", "magic", "header", "missing", "empty"])
def test_a_file_that_is_not_as_it_was_written_is_refused(tmp_path: Path, harm: str) -> None:
    write_segment(tmp_path, "s", [entry("a", "zebra")], [], 256)
    data = (tmp_path / "s").read_bytes()
    harmed = {
        "cut": data[:-1],
        "longer": data + b"x",
        "magic": b"x" + data[1:],
        "header": data[:30] + b"\0" + data[31:],
        "empty": b"",
    }
    if harm == "missing":
        (tmp_path / "s").unlink()
    else:
        (tmp_path / "s").write_bytes(harmed[harm])
    with pytest.raises(BrokenIndex, match="s "):
        open_segment(tmp_path, "s")


def test_a_file_in_which_any_bit_changed_is_refused(tmp_path: Path) -> None:
    write_segment(tmp_path, "s", [entry("a", "zebra"), entry("b", "bread")], [], 256)
    whole = (tmp_path / "s").read_bytes()
    before = _said(open_segment(tmp_path, "s"))
    for at in range(0, len(whole), 7):
        harmed = bytearray(whole)
        harmed[at] ^= 1 << at % 8
        (tmp_path / "s").write_bytes(harmed)
        with suppress(BrokenIndex):
            assert _said(open_segment(tmp_path, "s")) == before  # only filling between the arrays


def _said(segment: Segment) -> list[object]:
    names = ("versions", "starts", "vectors", "lengths", "terms", "postings", "keys")
    return [segment.uris, segment.removed, *(getattr(segment, name).tobytes() for name in names)]


def test_a_phrase_counts_more_than_its_words_apart(tmp_path: Path) -> None:
    near, far = (
        entry("near", "a queue policy for it " + "grass " * 20),
        entry("far", "a policy for it queue " + "grass " * 20),
    )
    write_segment(tmp_path, "s", [near, far], [], 256)
    found = scores(open_segment(tmp_path, "s"), "queue policy")
    assert found["cld:common.Text.near", 0][1] > found["cld:common.Text.far", 0][1]


def test_the_rarer_word_decides(tmp_path: Path) -> None:
    write_segment(tmp_path, "s", [entry("a", "the the the the"), entry("b", "zebra lies here now")], [], 256)
    found = scores(open_segment(tmp_path, "s"), "the zebra")
    assert found["cld:common.Text.b", 0][1] > found["cld:common.Text.a", 0][1]
