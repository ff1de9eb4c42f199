"""Getting the compiler: from a release with its checksum, over a real HTTP server; and finding it."""

import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from policy_folder import FOLDER, find_compiler, needs_opa

from cld.errors import PolicyError
from cld.policy import build as compiler
from cld.policy.build import find_opa, opa_version
from cld.policy.install import find_go, install_opa, release_name

VERSION = "1.22.0"
FAKE = f"#!/bin/sh\necho 'Version: {VERSION}'\n".encode()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server of releases, and the folder of the one of `VERSION`."""
    root = tmp_path / "releases"
    place = root / f"v{VERSION}"
    place.mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", place
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


def publish(place: Path, binary: bytes, checksum: str | None) -> None:
    name = release_name()
    assert name is not None
    (place / name).write_bytes(binary)
    if checksum is not None:
        (place / f"{name}.sha256").write_text(f"{checksum}  {name}\n")


def test_a_release_with_its_checksum_is_installed_and_kept(releases: tuple[str, Path], tmp_path: Path) -> None:
    address, place = releases
    publish(place, FAKE, hashlib.sha256(FAKE).hexdigest())
    installed = install_opa(tmp_path / "bin", releases=address, allow_go=False)
    assert installed.read_bytes() == FAKE
    assert opa_version(installed) == VERSION
    # What is there is not fetched again: now nothing could be.
    assert install_opa(tmp_path / "bin", releases="http://127.0.0.1:1", allow_go=False) == installed


def test_a_release_that_is_not_what_was_published_is_not_installed(releases: tuple[str, Path], tmp_path: Path) -> None:
    address, place = releases
    publish(place, FAKE, hashlib.sha256(b"other").hexdigest())
    with pytest.raises(PolicyError, match="nothing was installed"):
        install_opa(tmp_path / "bin", releases=address)
    assert list((tmp_path / "bin").iterdir()) == []


@pytest.mark.parametrize("checksum", ["", "abc", "z" * 64])
def test_a_checksum_that_is_none_installs_nothing(releases: tuple[str, Path], tmp_path: Path, checksum: str) -> None:
    address, place = releases
    publish(place, FAKE, checksum)
    with pytest.raises(PolicyError, match="holds no SHA-256"):
        install_opa(tmp_path / "bin", releases=address)
    assert list((tmp_path / "bin").iterdir()) == []


@pytest.mark.parametrize("checksum", [None, hashlib.sha256(FAKE).hexdigest()])
def test_a_release_that_is_missing_is_told(releases: tuple[str, Path], tmp_path: Path, checksum: str | None) -> None:
    address, place = releases
    if checksum is None:
        publish(place, FAKE, None)
    with pytest.raises(PolicyError, match="404"):
        install_opa(tmp_path / "bin", releases=address, allow_go=False)


def test_a_binary_that_says_another_version_is_not_kept(releases: tuple[str, Path], tmp_path: Path) -> None:
    address, place = releases
    other = FAKE.replace(VERSION.encode(), b"0.9.9")
    publish(place, other, hashlib.sha256(other).hexdigest())
    with pytest.raises(PolicyError, match="nothing was kept"):
        install_opa(tmp_path / "bin", releases=address)
    assert list((tmp_path / "bin").iterdir()) == []


def test_only_https_is_fetched_from(tmp_path: Path) -> None:
    for address in ("http://example.com", "file:///etc", "ftp://127.0.0.1"):
        with pytest.raises(PolicyError, match="is not https"):
            install_opa(tmp_path / "bin", releases=address, allow_go=False)


RECORD = """#!/bin/sh
echo "$@" > "{asked}"
mkdir -p "$GOBIN"
printf '#!/bin/sh\\necho "Version: 1.22.0"\\n' > "$GOBIN/opa"
"""


def test_where_there_is_no_release_it_is_built_from_the_official_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "path" / "go"
    go.parent.mkdir()
    go.write_text(RECORD.format(asked=tmp_path / "asked"))
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}{os.pathsep}{os.environ['PATH']}")
    assert find_go() == go
    installed = install_opa(tmp_path / "bin", releases="http://127.0.0.1:1")
    assert opa_version(installed) == VERSION
    assert (tmp_path / "asked").read_text() == "install github.com/open-policy-agent/opa@v1.22.0\n"


def test_a_go_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "path" / "go"
    go.parent.mkdir()
    go.write_text("#!/bin/sh\necho 'go: no such module' >&2\nexit 1\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(PolicyError, match="go: no such module"):
        install_opa(tmp_path / "bin", releases="http://127.0.0.1:1")


def executable(file: Path, mode: int = 0o755) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(FAKE)
    file.chmod(mode)
    return file


def test_the_compiler_is_found_by_setting_then_path_then_tools_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    policies = tmp_path / "project" / "policies"
    monkeypatch.setattr(compiler, "CHECKOUT", policies.parent)
    assert find_opa("", policies) is None
    project = executable(tmp_path / "project" / ".cache" / "bin" / "opa")
    assert find_opa("", policies) == project
    nearer = executable(tmp_path / "project" / ".cld" / "bin" / "opa")
    assert find_opa("", policies) == nearer
    own = executable(tmp_path / "cache" / "cld" / "bin" / "opa")
    assert find_opa("", policies) == own
    on_path = executable(tmp_path / "path" / "opa")
    assert find_opa("", policies) == on_path
    chosen = executable(tmp_path / "chosen")
    assert find_opa(str(chosen), policies) == chosen
    with pytest.raises(PolicyError, match="no executable"):
        find_opa(str(tmp_path / "nothing"), policies)


def test_a_compiler_that_others_may_change_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(compiler, "CHECKOUT", tmp_path / "project")
    executable(tmp_path / "project" / ".cld" / "bin" / "opa", 0o777)
    assert find_opa("", tmp_path / "project" / "policies") is None


def test_a_program_that_lies_beside_somebody_elses_rules_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    for folder in (".cld", ".cache"):
        executable(tmp_path / "cloned" / folder / "bin" / "opa")
    assert find_opa("", tmp_path / "cloned" / "policies") is None


@needs_opa
def test_check_test_and_build_speak_in_the_words_of_opa(tmp_path: Path) -> None:
    opa = find_compiler()
    assert opa is not None
    compiler.check(FOLDER, opa)
    assert "PASS" in compiler.test(FOLDER, opa)
    (tmp_path / "data.json").write_text("{}")
    (tmp_path / "authz.rego").write_text("package cld.authz\n\nallow if x\n")
    with pytest.raises(PolicyError, match="rego_unsafe_var_error"):
        compiler.check(tmp_path, opa)
    with pytest.raises(PolicyError, match="opa check says"):
        compiler.build(tmp_path, opa)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["authz.rego", "data.json"]
