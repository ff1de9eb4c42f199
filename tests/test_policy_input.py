"""What rules get to see: shape, redaction, shortening."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cld.errors import InvalidArgument
from cld.policy import Context
from cld.policy.input import MAX_TEXT, MAX_VALUES, REDACTED, build_input, shown
from cld.principal import Principal, parse_principal
from cld.uri import ROOT, parse_uri

NOTE = parse_uri("cld:cld.Namespace.docs/common.Conversation.c1/common.Message.m1")
ADA = parse_principal("user:ada", roles=("editor",))


def test_the_input_has_the_documented_shape() -> None:
    who = Principal("assistant:w", "assistant", on_behalf_of=ADA)
    context = Context(tool="resource_get", arguments={"uri": NOTE}, task="cld:plan.Task.t", host="h", destructive=True)
    found = msgspec.json.decode(build_input(who, "read", NOTE, context, {"purpose": "p"}))
    assert found["context"].pop("time").endswith("Z")
    assert found == {
        "principal": {"id": "assistant:w", "kind": "assistant", "roles": [], "on_behalf_of": "user:ada"},
        "action": "read",
        "resource": {
            "uri": NOTE,
            "type": "common.Message",
            "namespace": "docs",
            "parents": ["cld:", "cld:cld.Namespace.docs", "cld:cld.Namespace.docs/common.Conversation.c1"],
            "meta": {"purpose": "p"},
        },
        "context": {
            "tool": "resource_get",
            "arguments": {"uri": NOTE},
            "task": "cld:plan.Task.t",
            "host": "h",
            "destructive": True,
            "shortened": False,
        },
    }


def test_several_resources_look_each_like_one() -> None:
    uris = [ROOT, NOTE, parse_uri("cld:a.B.c"), parse_uri("cld:a.B.d")]
    many = msgspec.json.decode(build_input(ADA, "list", uris, Context()))
    assert "resource" not in many
    each = [msgspec.json.decode(build_input(ADA, "list", uri, Context()))["resource"] for uri in uris]
    assert many["resources"] == each
    assert each[0] == {"uri": "cld:", "type": "", "namespace": "", "parents": [], "meta": {}}


@pytest.mark.parametrize(
    "name", ["password", "Password", "db_password", "token", "access-token", "accessToken", "api_key", "apiKey",
             "secret", "client_secret", "Authorization", "cookie", "credentials", "private_key"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["hunter2", 1234, ["hunter2"], {"x": "hunter2"}])
def test_secrets_never_reach_rules_or_logs(name: str, value: object) -> None:
    for arguments in ({name: value}, {"headers": {name: value}}, {"list": [{name: value}]}):
        question = build_input(ADA, "call", NOTE, Context(arguments=arguments))
        if isinstance(value, int) and "token" in name.lower():
            continue  # a number of tokens
        assert b"hunter2" not in question and b"1234" not in question
        assert REDACTED.encode() in question


def test_numbers_of_tokens_are_no_secret() -> None:
    assert shown({"max_tokens": 500, "token": True})[0] == {"max_tokens": 500, "token": True}


def test_a_long_text_stays_a_text_with_its_beginning() -> None:
    text = "/etc/passwd" + "/." * 400
    found, shortened = shown({"path": text, "short": "x"})
    assert shortened
    assert found["path"].startswith(text[:MAX_TEXT])
    assert "sha256" in found["path"] and len(found["path"]) < 400
    assert found["short"] == "x"
    assert found["path"] != shown({"path": text + "x"})[0]["path"]


def test_bodies_do_not_go_into_rules_whole() -> None:
    body = {"content": {f"field{n}": {"text": "x" * 10_000, "list": list(range(1000))} for n in range(500)}}
    question = build_input(ADA, "write", NOTE, Context(arguments=body))
    assert len(question) < 60_000
    assert msgspec.json.decode(question)["context"]["shortened"] is True


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=600),
    lambda inner: st.lists(inner, max_size=50) | st.dictionaries(st.text(max_size=10), inner, max_size=50),
    max_leaves=60,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=300), json_values, max_size=50))
def test_any_arguments_become_bounded_json(arguments: dict[str, object]) -> None:
    found, shortened = shown(arguments)
    data = msgspec.json.encode(found)
    assert len(data) < MAX_VALUES * MAX_TEXT * 8
    if not shortened and REDACTED.encode() not in data:
        assert msgspec.json.decode(data) == msgspec.json.decode(msgspec.json.encode(arguments))


def test_what_is_no_json_is_refused() -> None:
    for value in (b"bytes", object(), {1: 2}, {"a": {2: 3}}, "\ud800"):
        with pytest.raises(InvalidArgument):
            build_input(ADA, "call", NOTE, Context(arguments={"x": value}))


def test_a_meta_that_is_not_all_texts_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="not all texts"):
        build_input(ADA, "read", NOTE, Context(), {"purpose": 1})


def test_large_arguments_do_not_hide_single_ones() -> None:
    large = [[0] * 31] * 31
    found, shortened = shown({"content": {"rows": large}, "more": large, "confidence": 0.1, "uri": NOTE})
    assert shortened
    assert found["confidence"] == 0.1
    assert found["uri"] == NOTE
