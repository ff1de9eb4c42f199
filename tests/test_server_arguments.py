"""Arguments: one struct is both the schema that hosts see and the check that calls get."""

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.errors import CldError, InvalidArgument
from cld.server.arguments import InvalidURIArgument, check_json, parser, schema_of
from cld.server.events_tools import Publish, Wait
from cld.server.policy_tools import Explain
from cld.server.resources_tools import Delete, Get, History, List, Put, Restore

STRUCTS = [Get, Put, List, Delete, History, Restore, Wait, Publish, Explain]
URI = "cld:common.Text.a"

GOOD: dict[type[msgspec.Struct], list[dict[str, Any]]] = {
    Get: [{"uri": URI}, {"uri": URI, "version": "v"}],
    Put: [
        {"uri": URI, "content": {}},
        {"uri": URI, "content": {"a": [1]}, "meta": {"purpose": "p"}, "if_version": "*"},
    ],
    List: [{}, {"prefix": "cld:", "type": "common.Text", "depth": 64, "limit": 1000, "cursor": URI}],
    Delete: [{"uri": URI, "recursive": True}],
    History: [{"uri": URI}],
    Restore: [{"uri": URI, "version": "v"}],
    Wait: [{}, {"types": ["common.Text"], "changes": ["put"], "timeout_seconds": 55}],
    Publish: [{"stream": "s", "name": "n"}, {"stream": "s", "name": "n", "data": None}],
    Explain: [{"uri": URI, "action": "read", "arguments": {}}],
}

BAD: list[tuple[type[msgspec.Struct], dict[str, Any], str, str]] = [
    (Get, {}, "uri", "missing"),
    (Get, {"uri": 1}, "uri", "expected `str`"),
    (Get, {"uri": URI, "url": 1}, "url", "no such argument; there are uri, version"),
    (Get, {"uri": URI, "version": None}, "version", "expected `str`, got `null`"),
    (Put, {"uri": URI, "content": []}, "content", "expected `object`"),
    (Put, {"uri": URI, "content": {}, "meta": {"aim": ""}}, "meta.aim", "no such argument"),
    (Put, {"uri": URI, "content": {}, "meta": {"purpose": 1}}, "meta.purpose", "expected `str`"),
    (List, {"depth": 0}, "depth", ">= 1"),
    (List, {"limit": 1001}, "limit", "<= 1000"),
    (List, {"limit": "5"}, "limit", "expected `int`, got `str`"),
    (List, {"limit": True}, "limit", "expected `int`, got `bool`"),
    (List, {"type": "Text"}, "type", "matching regex"),
    (Delete, {"uri": URI, "recursive": "yes"}, "recursive", "expected `bool`"),
    (Wait, {"types": ["common.Text", 2]}, "types[1]", "expected `str`"),
    (Wait, {"changes": ["move"]}, "changes[0]", "invalid enum value 'move'"),
    (Wait, {"timeout_seconds": 56}, "timeout_seconds", "<= 55"),
    (Explain, {"uri": URI, "action": "fly"}, "action", "invalid enum value 'fly'"),
]


@pytest.mark.parametrize("struct", STRUCTS)
def test_what_the_schema_allows_the_check_allows(struct: type[msgspec.Struct]) -> None:
    schema = schema_of(struct)
    jsonschema.Draft202012Validator.check_schema(schema)
    for arguments in GOOD[struct]:
        jsonschema.validate(arguments, schema)
        parser(struct)(arguments)


@pytest.mark.parametrize(("struct", "arguments", "field", "said"), BAD)
def test_what_does_not_fit_is_named_by_its_path_and_what_was_expected(
    struct: type[msgspec.Struct], arguments: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(arguments, schema_of(struct))
    with pytest.raises(InvalidArgument) as caught:
        parser(struct)(arguments)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert said in str(caught.value)


def test_schemas_are_in_one_piece_and_describe_what_is_not_plain() -> None:
    for struct in STRUCTS:
        text = json.dumps(schema := schema_of(struct))
        assert "$defs" not in text and "$ref" not in text and '"title"' not in text
        assert schema["additionalProperties"] is False
        for name in ("uri", "prefix", "cursor", "if_version"):
            assert name not in schema["properties"] or schema["properties"][name]["description"]


@pytest.mark.parametrize(
    "written", ["cld:common.Text.a", "cld:/common.Text.a", "cld:///common.Text.a", "cld://dylo78gypcommon.Text.a"]
)
def test_uris_are_read_as_hosts_write_them(written: str) -> None:
    assert parser(Get)({"uri": written}).uri == "cld:common.Text.a"
    assert parser(List)({"prefix": written}).prefix == "cld:common.Text.a"
    assert parser(List)({"prefix": "cld:/"}).prefix == "cld:"


@pytest.mark.parametrize("written", ["cld:", "cld:../etc", "cld:a", "cld:common.Text.%61", "/etc/passwd", ""])
def test_a_wrong_uri_is_an_invalid_uri_with_its_field(written: str) -> None:
    with pytest.raises(InvalidURIArgument) as caught:
        parser(Get)({"uri": written})
    assert caught.value.code == "invalid_uri"
    assert caught.value.details() == {"field": "uri"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "\ud800", {"\udfff": 1}, [["\ud800"]]])
def test_what_is_no_json_is_refused_wherever_it_is(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="JSON"):
        parser(Put)({"uri": URI, "content": {"here": value}})


def test_where_it_is_no_json_is_said() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parser(Put)({"uri": URI, "content": {"a": [0, {"b": float("nan")}]}})
    assert caught.value.field == "content.a[1].b"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_all_json_is_content_and_stays_as_it_is(content: Mapping[str, Any]) -> None:
    check_json(content)
    assert parser(Put)({"uri": URI, "content": content}).content == content


@given(
    st.sampled_from(STRUCTS),
    st.dictionaries(
        st.sampled_from(["uri", "content", "limit", "prefix", "types", "changes", "depth", "data", "x"]) | st.text(),
        json_values | st.just(URI),
    ),
)
def test_any_arguments_are_read_or_refused_on_purpose(struct: type[msgspec.Struct], arguments: dict[str, Any]) -> None:
    try:
        parser(struct)(arguments)
    except CldError as error:
        assert "field" in error.details()
    else:
        jsonschema.validate(arguments, schema_of(struct))
