"""Resources: what is written is what is read, in bytes that suit git, an editor and a second reader."""

import datetime
import decimal
import json
import math
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.errors import InvalidResource
from cld.resource import (
    MAX_BYTES,
    MAX_NESTING,
    Meta,
    Resource,
    decode,
    describe,
    encode,
    new_id,
    nonce,
    timestamp,
    version_of,
)
from cld.uri import URI, id_of, parse_uri, type_of

M2 = parse_uri("cld:common.Conversation.c1/common.Message.m2")

# Everything JSON holds; surrogates are what text cannot hold.
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=-(10**300), max_value=10**300),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
contents = st.dictionaries(texts, values, max_size=4)


def resource(content: dict[str, Any], uri: URI = M2, **fields: Any) -> Resource:
    return Resource(uri=uri, type=type_of(uri), id=id_of(uri), content=content, **fields)


def same(one: object, other: object) -> bool:
    """Equal in value and in type, for True == 1 == 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other and (one != 0 or str(one) == str(other))


@given(contents, st.builds(Meta, texts, texts, texts, texts), st.integers(0, 2**62), texts)
def test_what_is_written_is_read_back_the_same(content: dict[str, Any], meta: Meta, revision: int, by: str) -> None:
    written = resource(content, meta=meta, revision=revision, created_by=by, updated_by=by, nonce=nonce())
    data = encode(written)
    read = decode(data, M2)
    assert read == written and same(read.content, content)
    assert encode(read) == data, "reading and writing again changes no byte"


@given(contents)
def test_pythons_own_parser_reads_the_same(content: dict[str, Any]) -> None:
    assert same(json.loads(encode(resource(content)))["content"], content)


def test_the_file_is_laid_out_for_git() -> None:
    written = resource(
        {"text": "Grüße\n", "list": [1, {"a": None}], "empty": {}, "none": []},
        revision=3,
        created_at="2026-11-21T07:34:55.123456Z",
        created_by="user:ada",
        updated_at="2026-11-21T07:34:55.123456Z",
        updated_by="assistant:writer",
        nonce="00",
    )
    assert encode(written).decode() == (
        """{
  "uri": "cld:common.Conversation.c1/common.Message.m2",
  "type": "common.Message",
  "id": "m2",
  "revision": 3,
  "meta": {
    "purpose": "",
    "instructions": "",
    "applicability": "",
    "evaluation": ""
  },
  "created_at": "2026-11-21T07:34:55.123456Z",
  "created_by": "user:ada",
  "updated_at": "2026-11-21T07:34:55.123456Z",
  "updated_by": "assistant:writer",
  "nonce": "00",
  "content": {
    "text": "Grüße\\n",
    "list": [
      1,
      {
        "a": null
      }
    ],
    "empty": {},
    "none": []
  }
}
"""
    )


def test_numbers_keep_their_exact_value() -> None:
    numbers = [2**64, -(2**63) - 1, 10**400, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 1e22, 1.0]
    assert same(decode(encode(resource({"n": numbers})), M2).content["n"], numbers)


def test_a_file_of_content_alone_is_enough() -> None:
    read = decode(b'{"content": {"text": "hi"}}', M2)
    assert read == resource({"text": "hi"})
    assert (read.uri, read.type, read.id, read.revision) == (M2, "common.Message", "m2", 0)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" \t\n\n"])
def test_white_space_and_windows_lines_are_no_fault(end: bytes) -> None:
    data = encode(resource({"a": [1, 2]})).replace(b"\n", b"\r\n")
    assert decode(data.strip() + end, M2).content == {"a": [1, 2]}


@pytest.mark.parametrize("field", ["uri", "type", "id"])
def test_what_contradicts_the_files_place_is_refused(field: str) -> None:
    written = {"uri": "cld:a.B.c", "type": "a.B", "id": "c"}[field]
    with pytest.raises(InvalidResource, match=rf"says {field} '{written}'; write '.*', or leave {field} out"):
        decode(msgspec.json.encode({field: written, "content": {}}), M2)
    right = {"uri": M2, "type": "common.Message", "id": "m2"}[field]
    assert decode(msgspec.json.encode({field: right, "content": {}}), M2).uri == M2


def test_a_key_written_twice_counts_as_its_last() -> None:
    # Documented at decode: there is one parser, so policy and readers cannot see different values.
    assert decode(b'{"content": {"a": 1, "a": 2}}', M2).content == {"a": 2}


@pytest.mark.parametrize(
    ("data", "line", "column", "said"),
    [
        (b"", 1, 1, "it is empty"),
        (b" \n", 1, 1, "it is empty"),
        (b"[]", 1, 1, "Expected `object`, got `array`"),
        (b"null", 1, 1, "Expected `object`, got `null`"),
        (b"{}", 1, 1, "missing required field `content`"),
        (b'{\n  "content": []\n}', 2, 3, "Expected `object`, got `array` at content"),
        (b'{\n  "content": {},\n  "contents": {}\n}', 3, 3, "unknown field `contents`"),
        (b'{"content": {"revision": "x"},\n "revision": "x"}', 2, 2, "Expected `int`, got `str` at revision"),
        (b'{"content": {}, "revision": -1}', 1, 17, "Expected `int` >= 0 at revision"),
        (b'{"content": {}, "revision": 1.5}', 1, 17, "Expected `int`, got `float` at revision"),
        (b'{"content": {},\n "meta": {"purpose": "",\n  "purpos": ""}}', 3, 3, "unknown field `purpos` at meta"),
        (b'{"content": {},\n "meta":\n {"purpose": 1}}', 3, 3, "Expected `str`, got `int` at meta.purpose"),
        (b'{"content": {"a": 1,}}', 1, 21, "trailing comma"),
        (b"{'content': {}}", 1, 2, "keys must be strings"),
        (b'{"content": {}} {}', 1, 17, "trailing characters"),
        (b'{"content": {}\n', 1, 15, "ends in the middle"),
        (b'{"content": {"a": "b', 1, 21, "ends in the middle"),
        (b'{\n"content": {"a": NaN}}', 2, 18, "invalid character"),
        (b'{"content": {"a": Infinity}}', 1, 19, "invalid character"),
        (b'{"content": {"a": -Infinity}}', 1, 20, "invalid character"),
        (b'{\n"content": {"a": 1e400}}', 2, 1, "Number out of range"),
        (b'{"content": {"a": ' + b"1" * 5000 + b"}}", 1, 2, "Integer value out of range"),
        (b'{"content": {"a": 01}}', 1, 20, "invalid number"),
        (b'{"content": {"a": "\n"}}', 1, 20, "invalid character"),
        (rb'{"content": {"a": "\ud800"}}', 1, 20, r"\ud800 is half of a surrogate pair"),
        (rb'{"content": {"a": "\ud800 and more text"}}', 1, 26, "surrogate pair"),
        (rb'{"content": {"a": "\udc00 and more text"}}', 1, 26, "surrogate pair"),
        (b'{"content": {"a": "\xed\xa0\x80"}}', 1, 20, "not UTF-8"),
        (b'{\n"content": {"\xc3\xa9": "\xff"}}', 2, 19, "not UTF-8"),
        (b'{"con\xfftent": {}}', 1, 6, "not UTF-8"),
        (b'\xef\xbb\xbf{"content": {}}', 1, 1, "byte order mark; save it as UTF-8 without one"),
        ('{"content": {}}'.encode("utf-16"), 1, 1, "byte order mark"),
        (b"\x00" * 10, 1, 1, "invalid character"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_line_and_column(data: bytes, line: int, column: int, said: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode(data, M2)
    error = caught.value
    assert said in str(error)
    assert str(error).startswith(f"{M2} is no valid resource: line {line}, column {column}: ")
    assert error.details() == {"line": line, "column": column}


@given(contents, st.data())
def test_a_file_cut_anywhere_is_refused_at_its_end(content: dict[str, Any], data: st.DataObject) -> None:
    whole = encode(resource(content)).rstrip()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InvalidResource) as caught:
        decode(whole[:cut], M2)
    assert caught.value.line is not None and caught.value.line <= whole[:cut].count(b"\n") + 1


@given(
    st.binary(max_size=40) | contents.map(lambda content: encode(resource(content))), st.binary(max_size=4), st.data()
)
def test_no_bytes_whatever_raise_anything_else(data: bytes, patch: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data)))
    try:
        read = decode(data[:at] + patch + data[at + len(patch) :], M2)
    except InvalidResource as error:
        assert error.line is None or (error.line >= 1 and (error.column or 0) >= 1)
    else:
        assert decode(encode(read), M2) == read


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": [0, {"b": math.nan}]}, "content.a[1].b is nan; write null or a text"),
        ({"a": math.inf}, "content.a is inf"),
        ({"a": -math.inf}, "content.a is -inf"),
        ({"a": "\ud800"}, "surrogates not allowed"),
        ({"\ud800": 1}, "surrogates not allowed"),
        ({"a": 10**4300}, "4300 digits"),
        ({1: 2}, "content has the key 1, no text"),
        ({"a": {None: 1}}, "content.a has the key None, no text"),
        ({"a": b"x"}, "content.a is of Python type bytes"),
        ({"a": {1}}, "content.a is of Python type set"),
        ({"a": decimal.Decimal(1)}, "content.a is of Python type Decimal"),
        ({"a": datetime.date(2026, 1, 1)}, "content.a is of Python type date"),
        ({"a": Meta()}, "content.a is of Python type Meta"),
        ({"a": msgspec.Raw(b"{")}, "content.a is of Python type Raw"),
    ],
)
def test_what_json_cannot_carry_is_refused_when_written(content: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        encode(resource(content))
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["object", "array"])
def test_reading_and_writing_agree_on_the_deepest_nesting(kind: str) -> None:
    opening, closing = ('{"a":', "}") if kind == "object" else ("[", "]")

    def text(levels: int) -> bytes:
        # The file itself is the first level, content the second.
        return ('{"content":{"x":' + opening * (levels - 2) + "1" + closing * (levels - 2) + "}}").encode()

    deepest = decode(text(MAX_NESTING), M2)
    assert decode(encode(deepest), M2) == deepest
    too_deep = msgspec.json.decode(text(MAX_NESTING + 1))["content"]
    for act in (lambda: decode(text(MAX_NESTING + 1), M2), lambda: encode(resource(too_deep))):
        with pytest.raises(InvalidResource, match="nests deeper than 64"):
            act()


def test_nesting_without_end_is_refused_and_breaks_nothing() -> None:
    for opening in (b"[", b'{"a":'):
        with pytest.raises(InvalidResource, match="nests deeper than 64"):
            decode(b'{"content":{"x":' + opening * 200_000, M2)
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(InvalidResource, match="nests deeper than 64"):
        encode(resource(endless))


@pytest.mark.parametrize("limit", [1000, MAX_BYTES])
def test_reading_and_writing_agree_on_the_largest_file(limit: int) -> None:
    frame = len(encode(resource({"text": ""})))
    largest = encode(resource({"text": "x" * (limit - frame)}), max_bytes=limit)
    assert len(largest) == limit
    assert decode(largest, M2, max_bytes=limit).content["text"][0] == "x"
    with pytest.raises(InvalidResource, match=rf"would have {limit + 1} bytes; at most {limit} .*limits.body_bytes"):
        encode(resource({"text": "x" * (limit - frame + 1)}), max_bytes=limit)
    with pytest.raises(InvalidResource, match=rf"has {limit + 1} bytes; at most {limit} .*limits.body_bytes"):
        decode(largest + b"\n", M2, max_bytes=limit)


def test_the_default_limits_of_reading_and_writing_are_the_same() -> None:
    with pytest.raises(InvalidResource, match=f"at most {MAX_BYTES}"):
        encode(resource({"text": "x" * MAX_BYTES}))


def test_a_version_is_of_the_bytes_alone() -> None:
    data = encode(resource({"a": 1}, nonce=nonce()))
    assert version_of(data) == version_of(bytes(data)) != version_of(data + b" ")
    assert version_of(b"") == "e3b0c44298fc1c149afbf4c8996fb924"
    again = encode(resource({"a": 1}, nonce=nonce()))
    assert version_of(again) != version_of(data), "the same content written twice is two versions"


def test_a_description_is_of_the_texts_that_are_there() -> None:
    assert describe(Meta()) == ""
    assert describe(Meta(purpose=" Plan. ", evaluation="All done")) == "Purpose: Plan.\nDone when: All done"
    assert describe(Meta("a", "b", "c", "d")) == "Purpose: a\nInstructions: b\nApplies to: c\nDone when: d"


def test_times_are_utc_and_sort_as_text() -> None:
    one, other = timestamp(), timestamp()
    assert len(one) == len("2026-11-21T07:34:55.123456Z") and one.endswith("Z")
    assert one <= other
    assert abs(datetime.datetime.fromisoformat(one) - datetime.datetime.now(datetime.UTC)).total_seconds() < 60


def test_new_ids_are_ids_that_grow_and_tell_their_time() -> None:
    before = datetime.datetime.now(datetime.UTC).timestamp()
    made = [new_id() for _ in range(5000)]
    assert made == sorted(made) and len(set(made)) == len(made)
    assert all(len(id) == 26 and parse_uri(f"cld:a.B.{id}") for id in made)
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    number = 0
    for char in made[0][:10]:
        number = number * 32 + alphabet.index(char)
    assert before - 1 <= number / 1000 <= before + 60


def test_new_ids_grow_within_each_thread_and_are_never_the_same(request: pytest.FixtureRequest) -> None:
    # Threads take turns as often as they can, so that a missing lock shows.
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)
    made: list[list[str]] = [[] for _ in range(4)]
    start = threading.Barrier(len(made))

    def make(mine: list[str]) -> None:
        start.wait(10)
        mine.extend(new_id() for _ in range(3000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(mine == sorted(mine) for mine in made)
    assert len({id for mine in made for id in mine}) == 4 * 3000


_FORKED = """
import os, sys
from cld import resource
resource.time.time_ns = lambda: 10**18  # one millisecond for all, so that each counts on from the last
resource.new_id()
children = 0
for _ in range(4):
    if os.fork() == 0:
        os.write(1, "".join(resource.new_id() + "\\n" for _ in range(100)).encode())
        os._exit(0)
    children += 1
for _ in range(children):
    assert os.wait()[1] == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_processes_forked_within_a_millisecond_make_different_ids() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", _FORKED], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    made = done.stdout.split()
    assert len(made) == 400 and len(set(made)) == 400


def test_new_ids_grow_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    monkeypatch.setattr("cld.resource.time.time_ns", lambda: 10**18)
    assert first < new_id() < new_id()
