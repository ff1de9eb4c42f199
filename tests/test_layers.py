"""Layers: what imports what, and what is loaded when."""

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "cld").rglob("*.py"))

# Slow to import, and needed by some runs only.
HEAVY = (
    *("watchdog", "fsspec", "paramiko", "wasmtime", "opa_wasmtime", "jsonschema", "referencing", "jwt"),
    *("litellm", "lancedb", "pyarrow", "rdflib", "pyoxigraph", "wordllama", "numpy"),
)
# Of cld itself only these are loaded late: most servers are never asked to work or to look anything up, and that
# would double cld's own share of the start.
LATE = {
    "cld/runtime.py": {"cld.workshop", "cld.work.engine", "cld.knowledge", "cld.index.election"},
    "cld/server/knowledge_tools.py": {"cld.index.graph", "cld.index.window"},
    "cld/server/graph_tools.py": {"cld.index.graph"},
    "cld/server/context_tools.py": {"cld.index.window"},
    "cld/server/ingest_tools.py": {"cld.ingest"},
}
FOUNDATION = ("errors", "uri", "resource", "principal", "config")


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return run("-c", "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])", cwd=folder)


def layers() -> list[str]:
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [module.strip() for layer in contract["layers"] for module in layer.split("|")]


def imports(node: ast.AST, *, late: bool = False) -> Iterator[tuple[str, bool, int]]:
    """Every import below `node`: the module, whether it happens later than import time, and the line."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from ((name.name, late, child.lineno) for name in names)
            case ast.ImportFrom(module=module, level=level):
                yield ("." * level + (module or ""), late, child.lineno)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from imports(child, late=True)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from ((name, True, line) for name, _, line in imports(child))
            case _:
                yield from imports(child, late=late)


def is_of(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_each_layer_imports_only_from_those_below() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "above"),
    [("errors", "cld.uri"), ("uri", "cld.store"), ("schema", "cld.guard"), ("store/__init__", "cld.events")],
)
def test_an_import_from_above_or_beside_breaks_the_contract(tmp_path: Path, module: str, above: str) -> None:
    shutil.copytree(ROOT / "cld", tmp_path / "cld", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "cld" / f"{module}.py").open("a") as file:
        file.write(f"\nimport {above}\n")
    done = lint(tmp_path)
    assert done.returncode != 0 and f"-> {above}" in done.stdout, done.stdout + done.stderr


def test_every_module_is_in_a_layer() -> None:
    files = {path.stem for path in (ROOT / "cld").glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in (ROOT / "cld").glob("*/__init__.py")}
    assert {f"cld.{name}" for name in files | folders} == set(layers())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_import_of_cld_hides_in_a_function(path: Path) -> None:
    found = list(imports(ast.parse(path.read_text())))
    allowed = LATE.get(path.relative_to(ROOT).as_posix(), set())
    hidden = [(line, name) for name, late, line in found if late and is_of(name, "cld") and name not in allowed]
    assert hidden == []
    assert [f"line {line}" for name, _, line in found if name.startswith(".")] == [], "imports are absolute"


@pytest.mark.parametrize("library", HEAVY)
def test_a_heavy_library_is_imported_at_first_use_and_in_one_module(library: str) -> None:
    places = [
        (path.relative_to(ROOT).as_posix(), late, line)
        for path in SOURCES
        for name, late, line in imports(ast.parse(path.read_text()))
        if is_of(name, library)
    ]
    assert [f"{path}:{line}" for path, late, line in places if not late] == []
    assert len({path for path, *_ in places}) <= 1, places


@pytest.mark.parametrize("module", sorted(set(layers()) - {f"cld.{name}" for name in FOUNDATION}))
def test_importing_a_layer_loads_nothing_heavy(module: str) -> None:
    done = run("-c", f"import sys, {module}; print(*set({HEAVY!r}) & sys.modules.keys())")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == []


def test_the_foundation_knows_no_event_loop_and_no_protocol() -> None:
    modules = ", ".join(f"cld.{name}" for name in FOUNDATION)
    done = run("-c", f"import sys, {modules}; print(*{{'asyncio', 'anyio', 'mcp', 'mcp_types'}} & sys.modules.keys())")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == []
