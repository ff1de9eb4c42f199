"""Schemas of types: what fits is taken, what does not is named, and nothing is ever fetched."""

import socket
import threading
from collections.abc import Mapping
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.errors import InvalidResource, InvalidURI
from cld.json_schema import MAX_SCHEMA_BYTES, Misfit, compile_schema
from cld.schema import Schemas, schema_type, schema_uri, shape_of
from cld.types import BUILT_IN, PLACEHOLDER
from cld.uri import URI, parse_uri

Object = dict[str, Any]


class Tree:
    """Schema resources by URI, each with a version, and a record of who asked for what."""

    def __init__(self, **schemas: Object) -> None:
        self.there: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self.asked: list[str] = []
        for name, schema in schemas.items():
            self.put(name.replace("_", "."), schema)

    def put(self, type: str, schema: Any, version: str = "v1") -> None:
        self.there[schema_uri(type)] = (version, {"schema": schema})

    async def lookup(self, uri: URI) -> tuple[str, Mapping[str, Any]] | None:
        self.asked.append(uri)
        return self.there.get(uri)


def check(type: str, content: Object, tree: Tree | None = None) -> None:
    anyio.run(Schemas((tree or Tree()).lookup).check, type, content)


def why_not(type: str, content: Object, tree: Tree | None = None) -> str:
    with pytest.raises(InvalidResource) as caught:
        check(type, content, tree)
    return str(caught.value)


TASK: Object = {
    "type": "object",
    "properties": {
        "priority": {"type": "integer", "minimum": 1},
        "after": {"type": "array", "items": {"type": "string"}},
        "needs": {"type": "object", "additionalProperties": {"$ref": "#/$defs/need"}},
    },
    "required": ["priority"],
    "$defs": {"need": {"enum": ["now", "later"]}},
}


@pytest.mark.parametrize(
    ("type", "content"),
    [
        ("common.Conversation", {}),
        ("common.Conversation", {"title": "Trip", "mine": {"a": 1}}),
        ("common.Message", {"role": "user", "text": "hi", "tokens": 3}),
        ("common.Message", {"text": "hi"}),
        ("common.Message", {"role": "assistant", "text": ""}),
        ("common.Message", {"role": "system", "text": "x"}),
        ("common.Message", {"role": "tool", "text": "x"}),
        ("common.Text", {"text": "x", "lang": "de"}),
        ("common.Document", {"title": "x", "source": "https://example.org", "pages": 3}),
        ("common.Schema", {"schema": {}}),
        ("common.Schema", {"schema": TASK, "title": "Tasks", "description": "what they hold"}),
        ("common.Prompt", {"template": "Summarise."}),
        ("common.Prompt", {"template": "Do {{ what }} {{what}}.", "arguments": [{"name": "what", "required": True}]}),
        ("common.Prompt", {"messages": [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}]}),
        ("common.Prompt", {"template": "JSON like {} and {a} and {{}} is no placeholder"}),
        ("cld.Namespace", {}),
        ("cld.Namespace", {"title": "Ada's", "tools": ["search", "resource_get"], "colour": "blue"}),
        ("event.Stream", {"title": "x", "keep": 3}),
        ("event.Event", {"data": None}),
        ("event.Event", {"name": "done", "data": [1, {"a": 2}], "mine": 1}),
        ("plan.Unknown", {"anything": [1, {"goes": None}]}),
    ],
)
def test_content_that_fits_is_taken(type: str, content: Object) -> None:
    check(type, content)


@pytest.mark.parametrize(
    ("type", "content", "field", "expected"),
    [
        ("common.Conversation", {"title": 1}, "content.title", "Expected `str`, got `int`"),
        ("common.Conversation", {"title": None}, "content.title", "Expected `str`, got `null`"),
        ("common.Message", {"role": "user"}, "content.text", "is missing"),
        ("common.Message", {"role": "robot", "text": "x"}, "content.role", "role?: assistant|system|tool|user,"),
        ("common.Message", {"role": "user", "text": ["x"]}, "content.text", "Expected `str`, got `array`"),
        ("common.Text", {}, "content.text", "is missing"),
        ("common.Document", {"source": {}}, "content.source", "Expected `str`, got `object`"),
        ("common.Schema", {}, "content.schema", "is missing"),
        ("common.Schema", {"schema": True}, "content.schema", "Expected `object`, got `bool`"),
        ("common.Schema", {"schema": {}, "required": ["a"]}, "content.required", "is no field of it"),
        ("common.Schema", {"schema": {"type": "strin"}}, "content.schema.type", "'string'"),
        ("common.Prompt", {}, "content.messages", "exactly one of messages and template"),
        ("common.Prompt", {"template": "x", "arguement": []}, "content.arguement", "is no field of it"),
        ("common.Prompt", {"template": "{{x}}"}, "content.template", "{{x}} is not among arguments"),
        ("common.Prompt", {"messages": [{"role": "user", "text": "{{x}}"}]}, "content.messages[0].text", "{{x}}"),
        ("common.Prompt", {"template": "x", "arguments": [{"name": "a b"}]}, "content.arguments[0].name", "'a b'"),
        ("common.Prompt", {"template": "x", "arguments": [{"name": "a"}] * 2}, "content.arguments[1].name", "twice"),
        ("common.Prompt", {"template": "x", "arguments": [{"nam": "a"}]}, "content.arguments[0].nam", "no field"),
        ("cld.Namespace", {"title": 1}, "content.title", "Expected `str`, got `int`"),
        ("event.Stream", {"title": []}, "content.title", "Expected `str`"),
        ("event.Event", {"name": "x"}, "content.data", "is missing"),
    ],
)
def test_content_that_does_not_fit_is_refused_with_field_and_expectation(
    type: str, content: Object, field: str, expected: str
) -> None:
    said = why_not(type, content)
    assert said.startswith(f"{field}: ")
    assert expected in said


def test_the_field_is_named_deep_inside_lists() -> None:
    messages = [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}, {"role": "robot", "text": "c"}]
    assert why_not("common.Prompt", {"messages": messages}).startswith("content.messages[2].role: ")


def test_a_prompt_has_messages_or_a_template_and_not_both() -> None:
    both = {"template": "x", "messages": [{"role": "user", "text": "x"}]}
    assert "exactly one" in why_not("common.Prompt", both)


def test_every_built_in_type_is_told_in_words() -> None:
    for type, struct in BUILT_IN.items():
        assert schema_type(schema_uri(type)) == type
        assert shape_of(struct).startswith("{")
    assert shape_of(BUILT_IN["common.Message"]) == "{text: string, role?: assistant|system|tool|user, …}"
    assert "arguments?: [{name: string, " in shape_of(BUILT_IN["common.Prompt"])


def test_placeholders_are_names_in_double_braces() -> None:
    assert PLACEHOLDER.findall("{{a}} {{ b_2 }} {c} {{}} {{1}} {{a b}}") == ["a", "b_2"]


def test_a_schema_lies_at_the_root_under_its_types_name() -> None:
    assert schema_uri("work.Job") == "cld:common.Schema.work-Job"
    assert schema_type(parse_uri("cld:common.Schema.work-Job")) == "work.Job"
    for other in ("cld:common.Schema.plan", "cld:common.Schema.a-b-c", "cld:common.Schema.1-B", "cld:common.Text.a-B"):
        assert schema_type(parse_uri(other)) is None
    assert schema_type(parse_uri("cld:cld.Namespace.n/common.Schema.work-Job")) is None, "not at the root"
    for text in ("work-Job", "plan", "", "a.B.c", "work.Job/x"):
        with pytest.raises(InvalidURI):
            schema_uri(text)


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}\.[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True))
def test_every_type_has_its_own_schema_uri(type: str) -> None:
    assert schema_type(schema_uri(type)) == type


def test_a_type_too_long_to_have_a_schema_is_free() -> None:
    tree = Tree()
    check("a." + "B" * 200, {"x": 1}, tree)
    assert tree.asked == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"priority": "high"}, "content.priority: 'high' is not of type 'integer'"),
        ({"priority": 0}, "content.priority: 0 is less than the minimum of 1"),
        ({"priority": True}, "content.priority: True is not of type 'integer'"),
        ({}, "content: 'priority' is a required property"),
        ({"priority": 1, "after": ["a", 2]}, "content.after[1]: 2 is not of type 'string'"),
        ({"priority": 1, "needs": {"x y": "never"}}, "content.needs['x y']: 'never' is not one of ['now', 'later']"),
    ],
)
def test_a_schema_in_the_tree_is_checked_and_named(content: Object, said: str) -> None:
    tree = Tree(work_Job=TASK)
    check("work.Job", {"priority": 1, "after": ["a"], "needs": {"x": "now"}, "more": 1}, tree)
    assert why_not("work.Job", content, tree) == f"{said}; see cld:common.Schema.work-Job"
    check("plan.Other", content, tree)


def test_big_integers_are_compared_exactly() -> None:
    tree = Tree(a_B={"properties": {"n": {"maximum": 2**64}}})
    check("a.B", {"n": 2**64}, tree)
    assert "greater than the maximum" in why_not("a.B", {"n": 2**64 + 1}, tree)


def test_a_schema_adds_to_a_built_in_type_and_cannot_replace_it() -> None:
    tree = Tree(common_Message={"required": ["lang"]})
    assert "'lang' is a required property" in why_not("common.Message", {"role": "user", "text": "x"}, tree)
    assert why_not("common.Message", {"lang": "de", "role": "user"}, tree).startswith("content.text: is missing")
    check("common.Message", {"role": "user", "text": "x", "lang": "de"}, tree)
    permissive = Tree(common_Message={}, common_Schema={})
    assert "content.text" in why_not("common.Message", {"role": "user"}, permissive)
    assert "content.schema.type" in why_not("common.Schema", {"schema": {"type": "x"}}, permissive)


def test_a_changed_schema_counts_at_once_and_a_deleted_one_no_more() -> None:
    tree = Tree(work_Job=TASK)
    schemas = Schemas(tree.lookup)

    async def main() -> None:
        with pytest.raises(InvalidResource):
            await schemas.check("work.Job", {})
        tree.put("work.Job", {}, version="v2")
        await schemas.check("work.Job", {})
        tree.put("work.Job", TASK, version="v3")
        with pytest.raises(InvalidResource):
            await schemas.check("work.Job", {})
        tree.there.clear()
        await schemas.check("work.Job", {})

    anyio.run(main)


def test_a_schema_is_compiled_once_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def counting(schema: Object, *, where: str) -> Any:
        compiled.append(schema)
        return compile_schema(schema, where=where)

    monkeypatch.setattr("cld.schema.compile_schema", counting)
    tree = Tree(work_Job=TASK)
    schemas = Schemas(tree.lookup)

    async def main() -> None:
        for _ in range(3):
            await schemas.check("work.Job", {"priority": 1})
        assert len(compiled) == 1
        tree.put("work.Job", TASK, version="v2")
        await schemas.check("work.Job", {"priority": 1})
        assert len(compiled) == 2

    anyio.run(main)


@pytest.mark.parametrize("content", [{"schema": {"type": 5}}, {}, {"schema": {"$ref": "#/nowhere"}}, {"schema": []}])
def test_an_unusable_schema_in_the_tree_lets_nothing_of_its_type_through(content: Object) -> None:
    tree = Tree()
    tree.there[schema_uri("work.Job")] = ("v1", content)
    said = why_not("work.Job", {"priority": 1}, tree)
    assert "nothing of type work.Job can be written, because cld:common.Schema.work-Job is unusable" in said
    assert "mend or delete it" in said
    check("plan.Other", {"priority": 1}, tree)


def test_a_lookup_that_fails_lets_nothing_through() -> None:
    async def failing(uri: URI) -> None:
        raise InvalidResource(f"{uri} is no valid resource")

    with pytest.raises(InvalidResource, match="work-Job is no valid resource"):
        anyio.run(Schemas(failing).check, "work.Job", {})


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strin"}, "schema.type: 'strin' is not valid"),
        ({"properties": {"a": {"type": 5}}}, "schema.properties.a.type: 5 is not valid"),
        ({"required": "a"}, "schema.required: 'a' is not of type 'array'"),
        ({"pattern": "("}, "schema.pattern: '(' is not a 'regex'"),
        ({"patternProperties": {"(": {}}}, "is not a 'regex'"),
        ({"multipleOf": 0}, "schema.multipleOf: 0 is less than or equal to the minimum of 0"),
        ({"$id": 5}, "schema.$id: 5 is not of type 'string'"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "only https://json-schema.org/draft/2020-12/schema"),
        ({"properties": {"a": {"$id": "b", "$schema": "urn:other"}}}, "$schema is 'urn:other'"),
        ({"$ref": "#/nowhere"}, "the reference '#/nowhere' leads nowhere within it, and nothing is fetched"),
        ({"$ref": "#anchor"}, "the reference '#anchor' leads nowhere"),
        ({"$dynamicRef": "#anchor"}, "the reference '#anchor' leads nowhere"),
        ({"items": {"anyOf": [{"$ref": "other.json"}]}}, "the reference 'other.json' leads nowhere"),
        ({"$ref": "cld:common.Schema.work-Job"}, "leads nowhere"),
        ({"$ref": "#/here", "here": {"type": "strin"}}, "'strin' is not valid"),
        ({"$ref": "#/enum/0", "enum": [5]}, "5 is not of type 'object', 'boolean'"),
        ({"$id": "http://[bad", "properties": {"a": {"$ref": "x"}}}, "an $id, $schema or reference in it is unusable"),
        ({"description": "x" * MAX_SCHEMA_BYTES}, f"at most {MAX_SCHEMA_BYTES} are allowed"),
    ],
)
def test_what_is_no_usable_schema_is_refused_when_it_is_written(schema: Object, said: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        compile_schema(schema)
    assert said in str(caught.value)
    assert said in why_not("common.Schema", {"schema": schema})


def test_references_within_a_schema_are_followed() -> None:
    tree = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.org/tree",
        "$defs": {
            "leaf": {"$anchor": "leaf", "type": "integer"},
            "branch": {"$id": "branch", "items": {"$ref": "https://example.org/tree"}, "type": "array"},
        },
        "anyOf": [{"$ref": "#leaf"}, {"$ref": "branch"}],
    }
    fits = compile_schema(tree)
    assert fits([1, [2, [[]]]]) is None
    misfit = fits([1, ["x"]])
    assert misfit is not None and "'x'" in misfit.reason


def test_a_schema_may_ask_for_a_schema() -> None:
    fits = compile_schema({"properties": {"a": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}})
    assert fits({"a": {"type": "string"}}) is None
    assert fits({"a": {"type": 5}}) is not None


def test_nothing_is_ever_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for reference in ("http://127.0.0.1:9/x", "https://example.org/x.json#/a", "file:///etc/passwd", "//example.org/x"):
        for schema in ({"$ref": reference}, {"$dynamicRef": reference}, {"$id": "http://127.0.0.1:9/a", "$ref": "b"}):
            with pytest.raises(InvalidResource, match="nothing is fetched"):
                compile_schema(schema)


def test_an_endless_schema_and_a_monstrous_number_are_misfits_and_no_crash() -> None:
    endless = compile_schema({"$ref": "#"})({})
    assert endless is not None and "refers to itself without end" in endless.reason
    huge = compile_schema({"multipleOf": 0.1})(10**400)
    assert huge is not None and "number too large" in huge.reason


def test_the_deepest_schema_and_content_a_file_can_hold_are_checked() -> None:
    deep: Object = {"type": "integer"}
    for _ in range(30):  # two levels each in the schema's file, 64 in all
        deep = {"properties": {"a": deep}}
    assert compile_schema(deep)({}) is None
    recursive = compile_schema({"properties": {"a": {"$ref": "#"}}, "type": "object"})
    value: Any = 5
    for _ in range(61):
        value = {"a": value}
    assert recursive(value) == Misfit(".".join("a" * 61), "5 is not of type 'object'")


def test_a_misfit_about_a_huge_value_is_short() -> None:
    misfit = compile_schema({"properties": {"a": {"type": "string"}}})({"a": list(range(100_000))})
    assert misfit == Misfit("a", "does not satisfy type: string")


def test_the_alternatives_that_do_not_fit_are_told() -> None:
    misfit = compile_schema({"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}})({"a": 5})
    assert misfit is not None and "'string'" in misfit.reason and "'null'" in misfit.reason


def test_checks_of_schemas_in_the_tree_do_not_hold_up_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop_thread = threading.get_ident()
    where: list[int] = []
    real = compile_schema

    def noting(schema: Object, **options: Any) -> Any:
        where.append(threading.get_ident())
        fits = real(schema, **options)

        def check(value: Any) -> Misfit | None:
            where.append(threading.get_ident())
            return fits(value)

        return check

    monkeypatch.setattr("cld.schema.compile_schema", noting)
    check("work.Job", {"priority": 1}, Tree(work_Job=TASK))
    check("common.Schema", {"schema": TASK})
    assert len(where) == 3 and loop_thread not in where


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
keys = st.sampled_from(
    ["role", "text", "title", "schema", "messages", "arguments", "template", "tools", "data", "name"]
)


@given(st.sampled_from(sorted(BUILT_IN)), st.dictionaries(keys, values, max_size=4))
def test_a_built_in_check_says_yes_or_names_a_field_and_changes_nothing(type: str, content: Object) -> None:
    before = msgspec.json.encode(content)
    try:
        check(type, content)
    except InvalidResource as error:
        assert str(error).startswith("content")
    else:
        assert isinstance(msgspec.convert(content, BUILT_IN[type]), BUILT_IN[type])
    assert msgspec.json.encode(content) == before
