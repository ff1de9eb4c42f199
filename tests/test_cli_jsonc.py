"""Settings files of hosts are edited in place: values as wanted, everything else as it was."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.cli.jsonc import CannotEdit, merge, parse

ENTRY = {"command": "/usr/bin/python", "args": ["server.py", "--root", "/tree"]}
PATH = ("mcpServers", "cld")


def edited(text: str, *, comments: bool = True) -> str:
    return merge(text, PATH, ENTRY, comments=comments)


def values(text: str) -> object:
    node = parse(text, comments=True)
    assert node is not None
    return node.data


@pytest.mark.parametrize("text", ["", "  \n", "{}", "{\n}\n", '{"mcpServers": {}}', '{"mcpServers":{}}\n'])
def test_an_empty_file_gets_the_entry(text: str) -> None:
    assert json.loads(edited(text)) == {"mcpServers": {"cld": ENTRY}}


def test_other_servers_and_settings_stay_as_they_were_written() -> None:
    text = '{\n    "theme": "dark",\n    "mcpServers": {\n        "git": {"command": "git-mcp", "args": []}\n    }\n}\n'
    new = edited(text)
    assert new.startswith(
        '{\n    "theme": "dark",\n    "mcpServers": {\n        "git": {"command": "git-mcp", "args": []}'
    )
    assert '\n        "cld": {\n            "command": "/usr/bin/python",' in new
    assert json.loads(new)["mcpServers"] == {"git": {"command": "git-mcp", "args": []}, "cld": ENTRY}


def test_comments_and_trailing_commas_stay() -> None:
    text = (
        '// mine\n{\n\t"theme": "a // b", // dark\n\t"mcpServers": {\n\t\t"git": {},  // git\n'
        '\t\t/* off: "x": {} */\n\t},\n\t// the end\n}\n'
    )
    new = edited(text)
    for kept in ("// mine\n", '"a // b", // dark', '"git": {},  // git', '/* off: "x": {} */', "// the end"):
        assert kept in new
    assert new.count(",\n\t}") == text.count(",\n\t}") or new.count("},\n\t},") == 1
    assert values(new) == {"theme": "a // b", "mcpServers": {"git": {}, "cld": ENTRY}}
    assert edited(new) == new


def test_a_comment_after_the_last_member_does_not_swallow_the_comma() -> None:
    new = edited('{\n  "mcpServers": {\n    "git": {} // the last\n  }\n}')
    assert '"git": {}, // the last\n    "cld": {' in new
    assert values(new) == {"mcpServers": {"git": {}, "cld": ENTRY}}


def test_merging_again_changes_nothing() -> None:
    once = edited('{"a": 1}')
    assert edited(once) == once


def test_what_a_person_added_to_the_entry_stays() -> None:
    text = json.dumps({"mcpServers": {"cld": {"command": "old", "args": [], "env": {"A": "1"}, "disabled": True}}})
    assert json.loads(edited(text))["mcpServers"]["cld"] == {**ENTRY, "env": {"A": "1"}, "disabled": True}


def test_line_endings_and_indentation_are_those_of_the_file() -> None:
    new = edited('{\r\n\t"a": 1\r\n}\r\n')
    assert "\n" not in new.replace("\r\n", "")
    assert '\r\n\t"mcpServers": {\r\n\t\t"cld": {\r\n' in new


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "the whole is an array"),
        ('{"mcpServers": []}', "mcpServers is an array"),
        ('{"mcpServers": {"cld": "x"}}', "mcpServers.cld is a string"),
        ('{"mcpServers": null}', "mcpServers is null"),
        ('{"mcpServers": {}, "mcpServers": {}}', "2 times"),
        ('{"a": 1', "line 1, column 8"),
        ('{\n"a" 1}', "line 2, column 5: a ':' is missing"),
        ('{"a": 01}', "line 1, column 8"),
        ('{"a": 1} {}', "after the end"),
        ('{"a": "b\nc"}', "double quotes"),
        ("{'a': 1}", "double quotes"),
        ("{,}", "double quotes"),
        ('{"a": 1 /* }', "without its end"),
        ('{"a":' * 2000, "nests too deep"),
        ('{"mcpServers": {"cld": {"args": [1 /* one */]}}}', "would be lost"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(CannotEdit, match=says.replace(".", r"\.")):
        edited(text)


@pytest.mark.parametrize("text", ['{"a": 1,}', "{} // x", '{"a": [1,]}'])
def test_a_host_that_reads_plain_json_gets_no_edit_of_more_than_that(text: str) -> None:
    edited(text)
    with pytest.raises(CannotEdit, match="this host does not read"):
        edited(text, comments=False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=8).filter(lambda name: name != "mcpServers"), json_values, max_size=4),
    st.dictionaries(st.text(max_size=8).filter(lambda name: name != "cld"), json_values, max_size=3),
    st.sampled_from([None, 1, 2, 4, "\t"]),
)
def test_any_settings_keep_every_value(settings: dict[str, object], servers: dict[str, object], indent: object) -> None:
    text = json.dumps({**settings, "mcpServers": servers}, indent=indent)  # type: ignore[arg-type]
    new = edited(text, comments=False)
    assert json.loads(new) == {**settings, "mcpServers": {**servers, "cld": ENTRY}}
    assert edited(new, comments=False) == new
