"""Principals: who acts, and for whom."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.errors import ConfigError
from cld.principal import Principal, parse_principal


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("user:local", "user"),
        ("user:ada", "user"),
        ("user:ada.lovelace+test@example.org", "user"),
        ("assistant:writer", "assistant"),
        ("service:indexer-2", "service"),
        ("user:" + "a" * 257, "user"),
    ],
)
def test_a_principal_is_its_kind_and_name(text: str, kind: str) -> None:
    assert parse_principal(text) == Principal(id=text, kind=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    (
        *(
            "",
            "ada",
            "user",
            "user:",
            ":ada",
            "User:ada",
            "root:ada",
            "user:ada\n",
            " user:ada",
            "user:a b",
            "user:a/b",
        ),
        *(
            "user:-a",
            "user:@a",
            "user:a:b",
            "user:*",
            "user:\u00e9",
            "user:a\x00",
            "user:a,user:b",
            "user:" + "a" * 258,
        ),
    ),
)
def test_what_is_no_principal_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no principal; write user:<name>, assistant:<name> or service:<name>"):
        parse_principal(text)


@given(st.text())
def test_no_other_text_is_a_principal(text: str) -> None:
    try:
        principal = parse_principal(text)
    except ConfigError:
        return
    assert principal.id == text and text.startswith(f"{principal.kind}:")


def test_the_chain_is_everyone_who_must_be_allowed_from_the_actor_up() -> None:
    ada = parse_principal("user:ada", roles=("editor",))
    writer = parse_principal("assistant:writer", on_behalf_of=ada)
    critic = parse_principal("assistant:critic", on_behalf_of=writer)
    assert critic.chain() == (critic, writer, ada)
    assert ada.chain() == (ada,)
    assert ada.roles == ("editor",) and writer.roles == (), "roles are not inherited"


def test_a_principal_cannot_be_changed() -> None:
    ada = parse_principal("user:ada")
    with pytest.raises(AttributeError):
        ada.roles = ("owner",)  # type: ignore[misc]
    assert hash(ada) == hash(parse_principal("user:ada"))
    assert msgspec.structs.replace(ada, roles=("owner",)) != ada
