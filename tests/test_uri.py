"""URIs: one text for one resource, and none that could reach outside the tree."""

import os.path
import re
import string
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cld import uri as module
from cld.errors import InvalidURI
from cld.uri import (
    MAX_DEPTH,
    MAX_ELEMENT_BYTES,
    MAX_PATH_BYTES,
    ROOT,
    SUFFIX,
    URI,
    depth_below,
    elements_of,
    from_host,
    id_of,
    is_type,
    is_within,
    make_uri,
    namespace_of,
    parent_of,
    parents_of,
    parse_prefix,
    parse_uri,
    sort_key,
    type_of,
    why_not,
)

_LETTERS = string.ascii_letters
_WORD = _LETTERS + string.digits + "_"
names = st.builds(str.__add__, st.sampled_from(_LETTERS), st.text(_WORD, max_size=8))
types = st.builds("{}.{}".format, names, names)
ids = st.text(_WORD + "-", min_size=1, max_size=12)
elements = st.builds("{}.{}".format, types, ids)
uris = st.lists(elements, min_size=1, max_size=5).map(lambda several: parse_uri("cld:" + "/".join(several)))

# Texts that look like URIs: mostly right, wrong somewhere.
_PIECES = [
    "cld:",
    "CLD:",
    "a.B.c",
    "a.B.c.json",
    "a.B",
    "a",
    ".cld",
    ".",
    "..",
    "/",
    "//",
    "%2F",
    "%",
    "?",
    "#",
    "-",
    "_",
    "0",
    ":",
    "~",
]
_TRAPS = ("\\", " ", "\x00", "\n", "\u00e9", "e\u0301", "\u202e", "\u200b", "\uff41", "\ud800", "\u2028")
near_misses = st.lists(st.sampled_from((*_PIECES, *_TRAPS)), max_size=8).map("".join)


def file_of(uri: str) -> str:
    """The path below the root at which design and stores keep a resource."""
    return uri + SUFFIX


@given(st.lists(elements, min_size=1, max_size=6))
def test_elements_make_a_uri_that_gives_the_elements_back(several: list[str]) -> None:
    uri = parse_uri("cld:" + "/".join(several))
    assert elements_of(uri) == tuple(several)
    built = ROOT
    for element in several:
        type, _, id = element.rpartition(".")
        built = make_uri(built, type, id)
        assert (type_of(built), id_of(built)) == (type, id)
    assert built == uri


@given(uris)
def test_a_path_is_the_uri_and_the_uri_is_the_path(uri: URI) -> None:
    assert parse_uri(file_of(uri).removesuffix(SUFFIX)) == uri


@given(uris)
def test_parsing_a_uri_changes_nothing(uri: URI) -> None:
    assert parse_uri(uri) == uri == parse_prefix(uri)
    assert parse_prefix("cld:") == ROOT


@given(st.one_of(st.text(), near_misses, st.builds("cld:{}".format, near_misses), uris))
@example("cld:a.B.c\n")
@example("cld:a.B.c/")
@example("cld:a.B.c\x00")
def test_a_text_is_refused_with_a_reason_or_taken_as_it_is(text: str) -> None:
    reason = why_not(text)
    if reason is None:
        assert parse_uri(text) == text
        assert from_host(text) == text
    else:
        with pytest.raises(InvalidURI, match=re.escape(reason)):
            parse_uri(text)


@given(st.one_of(uris, st.builds("cld:{}".format, near_misses), st.from_regex(module._URI)))
def test_the_fast_path_and_the_reasons_agree(text: str) -> None:
    assert (module._URI.fullmatch(text) is not None) == (why_not(text) is None) or len(text) > 240


@given(st.builds("cld:{}".format, st.one_of(near_misses, st.text(), uris.map(lambda uri: uri[4:]))))
def test_no_uri_leads_outside_the_root_or_to_another_place_when_normalised(text: str) -> None:
    assume(why_not(text) is None)
    joined = os.path.join("/root", file_of(text))
    assert os.path.normpath(joined) == joined
    assert joined.startswith("/root/cld:")
    assert not file_of(text).startswith(".")
    assert text.isascii() and unicodedata.is_normalized("NFC", text)


@given(uris, uris)
def test_two_uris_never_share_a_file_and_a_folder_is_never_a_file(one: URI, other: URI) -> None:
    assert (file_of(one) == file_of(other)) == (one == other)
    # A resource's children lie in the folder named by its URI without ".json".
    assert one != file_of(other)
    assert not any(step.endswith(SUFFIX) for step in one.split("/"))


@given(ids)
def test_uris_that_differ_only_in_case_are_two_uris_with_one_name_where_case_is_ignored(id: str) -> None:
    # The grammar cannot refuse this, since one of the two alone is fine: stores on such file systems do.
    lower, upper = f"cld:a.B.{id.lower()}", f"cld:a.B.{id.upper()}"
    assert file_of(parse_uri(lower)).casefold() == file_of(parse_uri(upper)).casefold()
    assert (parse_uri(lower) == parse_uri(upper)) == (id.lower() == id.upper())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not start with 'cld:'"),
        ("CLD:a.B.c", "does not start with 'cld:'"),
        (" cld:a.B.c", "does not start with 'cld:'"),
        ("file:///etc/passwd", "does not start with 'cld:'"),
        ("cld:", "prefix of everything"),
        ("cld:/a.B.c", "element 1 ('') is empty"),
        ("cld:a.B.c/", "element 2 ('') is empty"),
        ("cld:a.B.c//a.B.d", "element 2 ('') is empty"),
        ("cld:.", "relative path step"),
        ("cld:a.B.c/../a.B.d", "element 2 ('..') is a relative path step"),
        ("cld:a.B.c/.", "relative path step"),
        ("cld:a.B.c%2Fa.B.d", "'%' escapes are not decoded"),
        ("cld:a.B.%2e%2e", "'%' escapes are not decoded"),
        ("cld:a.B.c?x=1", "'?' starts a query or fragment"),
        ("cld:a.B.c#x", "'#' starts a query or fragment"),
        ("cld:a.B.c\\a.B.d", "a backslash is no separator"),
        ("cld:a.B.c\x00", "not U+0000 (a control character) at position 9"),
        ("cld:a.B.c\n", "not U+000A (a control character)"),
        ("cld:a.B.c\x7f", "not U+007F (a control character)"),
        ("cld:a.B.c\x85", "not U+0085 (a control character)"),
        ("cld:a.B.e\u0301", "COMBINING ACUTE ACCENT"),
        ("cld:a.B.\u00e9", "LATIN SMALL LETTER E WITH ACUTE"),
        ("cld:a.B.c\u202e", "RIGHT-TO-LEFT OVERRIDE"),
        ("cld:a.B.c\u2066", "LEFT-TO-RIGHT ISOLATE"),
        ("cld:a.B.c\u200b", "ZERO WIDTH SPACE"),
        ("cld:a.B.c\ufeff", "ZERO WIDTH NO-BREAK SPACE"),
        ("cld:a.B.\uff41", "FULLWIDTH LATIN SMALL LETTER A"),
        ("cld:a.B.\u0430", "CYRILLIC SMALL LETTER A"),
        ("cld:a.B.\u0661", "ARABIC-INDIC DIGIT ONE"),
        ("cld:a.B.\ud800", "U+D800"),
        ("cld:.cld/locks", "is not <package>.<Name>.<id>"),
        ("cld:a.B", "is not <package>.<Name>.<id>"),
        ("cld:a.B.", "has an id that is not"),
        ("cld:a.B.c d", "has an id that is not"),
        ("cld:a.B.c:d", "has an id that is not"),
        ("cld:a.B.c.json", "is not <package>.<Name>.<id>"),
        ("cld:1a.B.c", "is not <package>.<Name>.<id>"),
        ("cld:a.B." + "x" * 129, "has an id that is not 1 to 128"),
    ],
)
def test_what_is_refused_is_named(text: str, said: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    assert said in str(caught.value)


def test_no_character_but_the_grammars_own_is_taken() -> None:
    for code in range(0x11_000):
        char = chr(code)
        taken = why_not(f"cld:a.B.x{char}") is None
        assert taken == (char in _WORD + "-"), hex(code)


def test_an_element_with_its_suffix_fills_a_file_name_and_no_more() -> None:
    room = MAX_ELEMENT_BYTES - len(SUFFIX)
    below = lambda size: f"cld:a.B.c/{'p' * (size - len('.B.' + 'i' * 100))}.B.{'i' * 100}"  # noqa: E731
    assert len((elements_of(parse_uri(below(room)))[1] + SUFFIX).encode()) == MAX_ELEMENT_BYTES
    with pytest.raises(InvalidURI, match="longer than 250 bytes"):
        parse_uri(below(room + 1))
    # A first element carries the scheme, written with three bytes for its colon on Windows.
    first = lambda size: f"cld:{'p' * (size - len('.B.' + 'i' * 100))}.B.{'i' * 100}"  # noqa: E731
    longest = parse_uri(first(room - len("cld%3A")))
    assert len((longest + SUFFIX).replace(":", "%3A").encode()) == MAX_ELEMENT_BYTES
    with pytest.raises(InvalidURI, match=r"element 1 .* longer than 244 bytes"):
        parse_uri(first(room - len("cld%3A") + 1))


def test_a_path_of_4096_bytes_is_the_longest() -> None:
    def of_length(size: int) -> str:
        text = "cld:" + "/".join(["a.B." + "x" * 124] * 31)
        text += "/a.B." + "y" * (size - len(text) - len("/a.B."))
        assert len(text) == size
        return text

    longest = MAX_PATH_BYTES - len(SUFFIX)
    assert len(file_of(parse_uri(of_length(longest)))) == MAX_PATH_BYTES
    with pytest.raises(InvalidURI, match="longer than 4096 bytes"):
        parse_uri(of_length(longest + 1))


def test_64_elements_are_the_deepest() -> None:
    deepest = parse_uri("cld:" + "/".join(["a.B.c"] * MAX_DEPTH))
    assert len(elements_of(deepest)) == 64
    with pytest.raises(InvalidURI, match="65 elements; at most 64"):
        make_uri(deepest, "a.B", "c")


def test_an_error_about_a_huge_text_is_short() -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri("cld:" + "x" * 1_000_000)
    assert len(str(caught.value)) < 500


@given(uris, uris)
def test_being_within_is_decided_by_elements(one: URI, other: URI) -> None:
    mine, theirs = elements_of(one), elements_of(other)
    assert is_within(one, other) == (mine[: len(theirs)] == theirs)
    assert is_within(one, ROOT) and is_within(one, one)
    assert not is_within(ROOT, one)
    assert not is_within(URI(one + "2"), one)


def test_alice_is_no_prefix_of_alice2() -> None:
    assert not is_within(parse_uri("cld:cld.Namespace.alice2"), parse_uri("cld:cld.Namespace.alice"))
    assert is_within(parse_uri("cld:cld.Namespace.alice/a.B.c"), parse_uri("cld:cld.Namespace.alice"))


@given(uris)
def test_parents_are_the_prefixes_from_the_root_down(uri: URI) -> None:
    parents = parents_of(uri)
    steps = elements_of(uri)
    assert [elements_of(parent) for parent in parents] == [steps[:count] for count in range(len(steps))]
    assert parents[-1] == parent_of(uri)
    for count, parent in enumerate(parents):
        assert is_within(uri, parent) and depth_below(uri, parent) == len(steps) - count
        assert parse_prefix(parent) == parent
    assert depth_below(uri, uri) == 0 and parents_of(ROOT) == []


@given(st.lists(uris, max_size=6))
def test_tree_order_puts_a_resource_before_all_below_it_and_keeps_subtrees_together(several: list[URI]) -> None:
    everything = sorted({*several, *(parent for uri in several for parent in parents_of(uri))}, key=sort_key)
    for uri in everything:
        place = everything.index(uri)
        below = [other for other in everything if other != uri and is_within(other, uri)]
        assert everything[place + 1 : place + 1 + len(below)] == below
    assert all(sort_key(one) < sort_key(other) for one, other in pairwise(everything))


def test_siblings_are_ordered_by_element_not_by_text() -> None:
    # As text "cld:a.B.c-1" sorts before "cld:a.B.c/a.B.x", which belongs right below "cld:a.B.c".
    expected = [URI("cld:a.B.c"), URI("cld:a.B.c/a.B.x"), URI("cld:a.B.c-1"), URI("cld:a.B.c1")]
    assert sorted(set(expected), key=sort_key) == expected != sorted(expected)


@given(uris)
@example(parse_uri("cld:dylo78gypA.B.c"))
def test_what_hosts_mangle_is_put_right_and_stays_so(uri: URI) -> None:
    rest = uri.removeprefix("cld:")
    for mangled in (uri, f"cld:/{rest}", f"cld:///{rest}", f"cld://dylo78gyp{rest}", f"cld://dylo78gyp/{rest}"):
        assert from_host(mangled) == uri
        assert from_host(from_host(mangled)) == uri
        assert (why_not(mangled) is None) == (mangled == uri), "only the edge repairs"


@pytest.mark.parametrize("text", ["cld:", "cld:/", "cld:///", "cld://dylo78gyp"])
def test_the_root_may_be_mangled_too(text: str) -> None:
    assert from_host(text) == ROOT


@pytest.mark.parametrize(
    "text",
    (
        *("cld:////a.B.c", "cld:/../a.B.c", "cld://dylo78gyp//a.B.c", "cld:///etc/passwd", "cld:/%2e%2e/x", "/a.B.c"),
        *("cld:/cld:a.B.c", "cld:///cld:/a.B.c", "http://dylo78gypa.B.c", "CLD:/a.B.c", "cld:/.cld/tmp"),
    ),
)
def test_a_host_cannot_reach_what_a_uri_cannot(text: str) -> None:
    with pytest.raises(InvalidURI):
        from_host(text)


@given(st.one_of(st.text(), st.builds("cld:{}{}".format, st.sampled_from(["/", "//", "///", ""]), near_misses)))
def test_from_host_gives_a_canonical_uri_or_refuses(text: str) -> None:
    try:
        uri = from_host(text)
    except InvalidURI:
        return
    assert parse_prefix(uri) == uri == from_host(uri)


@pytest.mark.parametrize(
    ("text", "namespace"),
    [
        ("cld:cld.Namespace.ada", "ada"),
        ("cld:cld.Namespace.ada/a.B.c", "ada"),
        ("cld:cld.Namespaces.ada", ""),
        ("cld:a.B.c/cld.Namespace.ada", ""),
        ("cld:a.B.c", ""),
    ],
)
def test_only_a_first_element_is_a_namespace(text: str, namespace: str) -> None:
    assert namespace_of(parse_uri(text)) == namespace


@given(st.one_of(types, st.text(max_size=6), near_misses))
def test_a_type_is_what_can_stand_before_an_id(text: str) -> None:
    assert is_type(text) == (why_not(f"cld:{text}.x") is None and "/" not in text)


@pytest.mark.parametrize(
    ("type", "id"), [("a", "b"), ("a.B", ""), ("a.B", "c/d"), ("a.B", ".."), ("a/b.C", "d"), ("", ""), ("a.B.c", "d")]
)
def test_make_uri_takes_a_type_and_an_id_only(type: str, id: str) -> None:
    with pytest.raises(InvalidURI):
        make_uri(ROOT, type, id)


def test_neither_type_nor_id_can_smuggle_in_an_element() -> None:
    for type, id in (("a.B", "d/e.F.g"), ("a.B.d/e.F", "g"), ("a", "B.c")):
        with pytest.raises(InvalidURI):
            make_uri(URI("cld:a.B.c"), type, id)
