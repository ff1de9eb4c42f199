"""The private cache of native code, the host's built-ins, and what is no policy at all."""

import hashlib
from pathlib import Path

import pytest
from policy_folder import FOLDER, LOCAL, Folder

from cld.errors import PolicyError
from cld.policy import Context
from cld.policy.builtins import parse_rfc3339_ns, sprintf
from cld.policy.cache import private_folder
from cld.policy.wasm import Instance, load_module
from cld.uri import parse_uri

NOTE = parse_uri("cld:a.B.c")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cld" / "wasm"


def reads(folder: Path) -> bool:
    return Folder.at(folder).open().decide(LOCAL, "read", NOTE, Context()).allow


def test_native_code_is_kept_privately_and_used_again(cache: Path) -> None:
    assert reads(FOLDER)
    (file,) = cache.iterdir()
    assert (cache.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    before = file.stat().st_ino
    assert reads(FOLDER)
    assert [one.stat().st_ino for one in cache.iterdir()] == [before]


def test_native_code_that_is_broken_is_made_again(cache: Path) -> None:
    assert reads(FOLDER)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(b"\0" * len(good))
    assert reads(FOLDER)
    assert file.read_bytes() == good


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_a_folder_that_others_may_touch_is_not_used(cache: Path, mode: int) -> None:
    cache.mkdir(parents=True)
    cache.parent.chmod(0o700)
    cache.chmod(mode)
    assert private_folder("wasm") is None
    assert reads(FOLDER)
    assert list(cache.iterdir()) == []


def test_a_link_in_place_of_the_folder_is_not_used(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    cache.parent.mkdir(parents=True, mode=0o700)
    cache.symlink_to(elsewhere)
    assert private_folder("wasm") is None
    assert reads(FOLDER)
    assert list(elsewhere.iterdir()) == []


def test_native_code_that_others_may_write_is_not_run(cache: Path) -> None:
    assert reads(FOLDER)
    (file,) = cache.iterdir()
    file.write_bytes(b"not what was compiled")
    file.chmod(0o666)
    assert reads(FOLDER)
    assert file.read_bytes() == b"not what was compiled"


def test_without_a_home_rules_are_compiled_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    assert private_folder("wasm") is None
    assert reads(FOLDER)


def module(wasm: bytes) -> object:
    return load_module(wasm, hashlib.sha256(wasm).hexdigest(), None)


def test_what_is_no_webassembly_is_told() -> None:
    with pytest.raises(PolicyError, match="no WebAssembly"):
        module(b"hello")


def test_webassembly_that_is_no_policy_is_told() -> None:
    empty = b"\0asm\1\0\0\0"
    with pytest.raises(PolicyError, match="opa build"):
        Instance(module(empty), b"{}", timeout_ms=100, memory_bytes=1 << 24)


def test_data_larger_than_the_memory_is_told() -> None:
    wasm = (FOLDER / "policy.wasm").read_bytes()
    data = b'{"x": "' + b"x" * (8 << 20) + b'"}'
    with pytest.raises(PolicyError, match="cannot be loaded"):
        Instance(module(wasm), data, timeout_ms=1000, memory_bytes=4 << 20)


def test_the_slow_way_to_call_gives_the_same_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(*_: object) -> None:
        raise AttributeError("wasmtime_func_call")

    fast = Folder(tmp_path / "fast").open().decide(LOCAL, "read", NOTE, Context())
    monkeypatch.setattr("cld.policy.wasm._through_bindings", unknown)
    monkeypatch.setattr("cld.policy.wasm._reach_through_bindings", unknown)
    slow = Folder(tmp_path / "slow").open().decide(LOCAL, "read", NOTE, Context())
    assert slow.allow is fast.allow is True


def test_an_instance_that_was_closed_is_not_asked() -> None:
    code = (FOLDER / "policy.wasm").read_bytes()
    instance = Instance(
        load_module(code, hashlib.sha256(code).hexdigest(), None), b"{}", timeout_ms=1000, memory_bytes=8 << 20
    )
    entrypoint = instance.entrypoints["cld/authz/decision"]
    assert instance.evaluate(entrypoint, b"{}")
    instance.close()
    with pytest.raises(AttributeError):  # and not a look at memory that is gone
        instance.evaluate(entrypoint, b"{}")


def test_sprintf_does_what_go_does_or_refuses() -> None:
    assert sprintf("%s is %d of %v, 100%%", ["a", 1, [1, "x"]]) == 'a is 1 of [1,"x"], 100%'
    for form, values in (("%x", [1]), ("%s", [1]), ("%d", ["a"]), ("%d", [True]), ("%s", []), ("", [1]), ("%", [1])):
        with pytest.raises(ValueError, match=r"%|verbs"):
            sprintf(form, values)


def test_times_are_read_exactly() -> None:
    assert parse_rfc3339_ns("1970-01-01T00:00:00.000001Z") == 1000
    assert parse_rfc3339_ns("2026-11-21T07:34:55.123456Z") == 1795246495123456000
    assert parse_rfc3339_ns("2026-11-21T08:34:55.123456+01:00") == 1795246495123456000
    for text in ("2026-11-21T07:34:55", "yesterday"):
        with pytest.raises(ValueError, match=r"offset|isoformat"):
            parse_rfc3339_ns(text)
