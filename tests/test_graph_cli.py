"""`cld graph`, as a script and a person see it, under the real rules."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyoxigraph
from cli_process import PROJECT, cld

NOTE = "cld:common.Text.note"


def policies(folder: Path, **grants: Any) -> None:
    """The rules of this project, with more grants."""
    shutil.copytree(PROJECT / "policies", folder / "policies")
    file = folder / "policies" / "data.json"
    data = json.loads(file.read_bytes())
    data["grants"]["service:index"] = {
        "cld:": {"allow": ["read", "list", "subscribe"], "types": ["*"], "namespaces": True}
    }
    data["grants"] |= grants
    file.write_text(json.dumps(data))


def ok(*args: str, cwd: Path) -> bytes:
    done = cld(*args, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


def test_a_query_is_answered_as_json_and_as_a_table(tmp_path: Path) -> None:
    policies(tmp_path)
    ok("put", NOTE, '{"text": "see cld:common.Text.other", "title": "A\\u001b[31m note"}', cwd=tmp_path)
    query = "SELECT ?s ?t ?x { ?s vocab:title ?t OPTIONAL { ?s <x:y> ?x } }"
    assert json.loads(ok("graph", query, cwd=tmp_path)) == {
        "columns": ["s", "t", "x"],
        "rows": [[NOTE, "A\x1b[31m note", None]],
        "truncated": False,
        "incomplete": False,
        "notes": [],
    }
    shown = ok("graph", query, "--human", cwd=tmp_path).decode()
    assert [line.split("  ")[0] for line in shown.splitlines()] == ["s", NOTE]
    assert shown.splitlines()[1] == f"{NOTE}  A\\u001b[31m note"
    linked = json.loads(ok("graph", "SELECT ?o { ?s vocab:linksTo ?o }", cwd=tmp_path))
    assert linked["rows"] == [["cld:common.Text.other"]]


def test_mistakes_have_an_exit_code_and_a_place(tmp_path: Path) -> None:
    policies(tmp_path)
    ok("put", NOTE, '{"text": ""}', cwd=tmp_path)
    done = cld("--json", "graph", "SELECT * {\n ?s ?p }", cwd=tmp_path)
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["code"], error["line"], error["column"]) == (2, "invalid_query", 2, 8)
    for args in (("graph",), ("graph", "ASK {}", "--export", "x.ttl"), ("graph", "--export", "x.doc")):
        assert cld(*args, cwd=tmp_path).returncode == 2


def test_an_export_holds_what_the_principal_may_read_in_each_format(tmp_path: Path) -> None:
    policies(tmp_path, **{"user:bob": {NOTE: {"allow": ["read", "list"], "types": ["*"]}}})
    ok("put", NOTE, '{"text": "", "title": "shown"}', cwd=tmp_path)
    ok("put", "cld:common.Text.secret", '{"text": "", "title": "hidden"}', cwd=tmp_path)
    for name, format in (
        ("all.ttl", pyoxigraph.RdfFormat.TURTLE),
        ("all.trig", pyoxigraph.RdfFormat.TRIG),
        ("all.nq", pyoxigraph.RdfFormat.N_QUADS),
    ):
        ok("graph", "--export", name, cwd=tmp_path)
        mine = list(pyoxigraph.parse((tmp_path / name).read_bytes(), format=format))
        assert {quad.subject.value for quad in mine} == {NOTE, "cld:common.Text.secret"}
        ok("graph", "--export", name, "--principal", "user:bob", cwd=tmp_path)
        bobs = list(pyoxigraph.parse((tmp_path / name).read_bytes(), format=format))
        assert {quad.subject.value for quad in bobs} == {NOTE}
        assert name == "all.ttl" or {quad.graph_name.value for quad in bobs} == {NOTE}
    assert b"shown" in ok("graph", "--export", "-", cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir() if "all" in path.name} == {"all.ttl", "all.trig", "all.nq"}
