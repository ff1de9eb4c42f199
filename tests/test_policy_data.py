"""The format of data.json: what is misspelt is refused, because a deny misspelt denies nothing."""

import json
import re
from typing import Any

import pytest
from policy_folder import FOLDER

from cld.errors import PolicyError
from cld.policy.data import check_data


def refused(data: Any, words: str) -> None:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(PolicyError, match=words) as caught:
        check_data(text)
    assert "data.json does not fit" in str(caught.value)


def test_what_ships_fits() -> None:
    assert check_data((FOLDER / "data.json").read_bytes()).members == {"user:local": ["owner"]}


def test_the_examples_of_the_manual_fit() -> None:
    manual = (FOLDER.parent / "docs" / "policy.md").read_text()
    examples = re.findall(r"```json\n(.*?)```", manual, re.DOTALL)
    examples += re.findall(r'`("\w+": \{.*?\})`(?=[.\n])', manual)
    assert len(examples) >= 12
    for example in examples:
        check_data(b"{" + example.encode() + b"}")


def test_every_key_may_be_left_out_and_comments_are_anywhere() -> None:
    assert check_data(b"{}").grants == {}
    check_data(
        b'{"//": "a", "grants": {"//": "b", "user:bob": {"//": "c", "cld:": {"//": "d", "allow": []}}},'
        b'"approvals": {"//": "e"}, "mine": {"any": ["thing"]}}'
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"grants": {"user:bob": {"cld:": {"alow": ["read"]}}}}, "alow|allow"),
        ({"grants": {"user:bob": {"cld:": {"allow": ["raed"]}}}}, "raed"),
        ({"denies": {"user:bob": {"cld:": {"deny": ["delet"]}}}}, "delet"),
        ({"denies": {"user:bob": {"cld:": {"allow": ["read"]}}}}, "allow|deny"),
        ({"grants": {"bob": {"cld:": {"allow": ["read"]}}}}, "regex|pattern|matching"),
        ({"grants": {"user:bob": {"cld:docs": {"allow": ["read"]}}}}, "grants.user:bob.*cld:docs"),
        ({"grants": {"user:bob": {"cld:a.B.c/": {"allow": ["read"]}}}}, "grants.user:bob"),
        ({"denies": {"user:bob": {"cld:a.B.*": {"deny": ["read"]}}}}, "denies.user:bob"),
        ({"denies": {"user:bob": {"cld:": {"deny": []}}}}, "deny"),
        ({"denies": {"user:bob": {"cld:": {"deny": ["read"], "types": []}}}}, "types"),
        ({"approvals": {"targets": {"cld:": {"actions": []}}}}, "actions"),
        ({"approvals": {"targets": {"cld:": {"actions": ["read"], "subjects": []}}}}, "subjects"),
        ({"members": {"user:ada": "owner"}}, "members"),
        ({"members": {"user:ada": ["ow ner"]}}, "members"),
        ({"members": {"role:x": ["owner"]}}, "members"),
        ({"owners_only": {"tool*": True}}, "owners_only"),
        ({"owners_only": {"tool.*": "yes"}}, "owners_only"),
        ({"namespaces": {"a/b": {}}}, "namespaces.a/b"),
        ({"namespaces": {"docs": {"tool": []}}}, "tool"),
        ({"limits": {"anyone": {"max_tokens": -1}}}, "limits"),
        ({"limits": {"anyone": {"max_tokens": 1.5}}}, "limits"),
        ({"approvals": {"confidence_below": 7}}, "approvals"),
        ({"approvals": {"tools": {"shell": True}}}, "approvals.tools.shell"),
        ({"approvals": {"targets": {"docs": {"actions": ["read"]}}}}, "approvals.targets"),
        (b'{"grants": {}, "grants": {}}', "'grants' is there twice"),
        (b'{"denies": {"user:b": {}, "user:b": {}}}', "'user:b' is there twice"),
        (b"{", "truncated"),
        (b'{"x": NaN}', "malformed"),
        (b"\xff\xfe", "malformed|invalid|decode"),
        (b"[" * 100_000, "recursion|truncated|data.json"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(data: Any, words: str) -> None:
    refused(data, words)
