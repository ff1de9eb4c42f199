"""Compiling rules with OPA: check, test, build. The only compiler is `opa` itself, run as a process.

Owns how it is found and called. Every run works on a copy of the sources, so that what was
checked, what was tested, what was compiled and what the lock names are the same bytes. Data is not
compiled in, and tests do not see it: they bring their own with `with data.… as …`.
"""

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import msgspec

from cld.errors import PolicyError
from cld.policy.cache import private_folder
from cld.policy.data import check_data
from cld.policy.lock import (
    DATA,
    ENTRYPOINTS,
    LOCK,
    WASM,
    Lock,
    digest,
    digests,
    encode_lock,
    is_test,
    looks_at_meta,
    read_sources,
    replace_file,
)

SECONDS = 120
"""How long one run of `opa` may take."""

CHECKOUT = Path(__file__).absolute().parents[2]
"""Where cld's own sources are, or whatever is above an installed package."""

EXECUTABLE = "opa.exe" if sys.platform == "win32" else "opa"


class Compiled(msgspec.Struct, frozen=True):
    """Rules compiled in memory: nothing on disk has changed yet."""

    wasm: bytes
    lock: Lock


def find_opa(setting: str = "", folder: Path | None = None) -> Path | None:
    """The compiler: as set, else on PATH, else where `install_opa` puts it, else, for cld's own rules, in its checkout.

    In the checkout means in `.cld/bin` or `.cache/bin`, and only a file of this user or root that nobody else
    can write. Beside other rules nothing is looked for: who looks at somebody's tree must not run their programs.

    Raises:
        PolicyError: the setting names no executable file.
    """
    if setting:
        chosen = Path(setting).expanduser()
        if not _is_executable(chosen):
            raise PolicyError(f"CLD_OPA is set to {setting}, which is no executable file; correct or remove it")
        return chosen.absolute()
    if found := shutil.which("opa"):
        return Path(found)
    own = private_folder("bin")
    candidates = [own / EXECUTABLE] if own else []
    if folder is not None and folder.absolute().parent == CHECKOUT:
        candidates += [CHECKOUT / ".cld" / "bin" / EXECUTABLE, CHECKOUT / ".cache" / "bin" / EXECUTABLE]
    return next((one for one in candidates if _is_executable(one) and _is_safe(one)), None)


def require_opa(setting: str = "", folder: Path | None = None) -> Path:
    """As `find_opa`.

    Raises:
        PolicyError: there is none.
    """
    if (found := find_opa(setting, folder)) is None:
        raise PolicyError("there is no opa to compile the rules with; run `cld policy install-opa`, or set CLD_OPA")
    return found


def check(folder: Path, opa: Path) -> None:
    """`opa check --strict` on the rules, and cld's own check of `data.json`.

    Raises:
        PolicyError: with opa's own words.
    """
    check_data(_data(folder))
    with _copy(read_sources(folder)) as place:
        _check(place, opa)


def test(folder: Path, opa: Path) -> str:
    """Run the rules' own tests; opa's summary.

    Raises:
        PolicyError: one failed, with opa's own words.
    """
    with _copy(read_sources(folder)) as place:
        return _test(place, opa)


def compile_rules(folder: Path, opa: Path) -> Compiled:
    """Check, test and compile the rules of `folder`, changing nothing in it.

    Raises:
        PolicyError: with opa's own words.
    """
    sources = read_sources(folder)
    with _copy(sources) as place:
        _check(place, opa)
        if any(is_test(name) for name in sources):
            _test(place, opa)
        wasm = _compile(place, opa, [name for name in sources if not is_test(name)])
    lock = Lock(
        opa=opa_version(opa),
        entrypoints=ENTRYPOINTS,
        needs_meta=looks_at_meta(sources),
        wasm=digest(wasm),
        sources=digests(sources),
    )
    return Compiled(wasm=wasm, lock=lock)


def write_compiled(folder: Path, compiled: Compiled) -> None:
    """Put rules and lock in place, each whole; the lock last, since it is what makes the rules valid.

    Raises:
        PolicyError: they cannot be written.
    """
    try:
        replace_file(folder / WASM, compiled.wasm)
        replace_file(folder / LOCK, encode_lock(compiled.lock))
    except OSError as error:
        raise PolicyError(f"the compiled rules cannot be written to {folder}: {error}") from error


def build(folder: Path, opa: Path) -> Lock:
    """Check, test, compile and put in place; the lock that was written.

    Raises:
        PolicyError: with opa's own words; nothing has changed then.
    """
    check_data(_data(folder))
    with one_at_a_time(folder):
        compiled = compile_rules(folder, opa)
        write_compiled(folder, compiled)
    return compiled.lock


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Generator[None]:
    """Only one process at a time builds the rules of a folder, where the system has such locks."""
    if sys.platform == "win32":
        yield
        return
    import fcntl  # noqa: PLC0415 - only where it exists

    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def opa_version(opa: Path) -> str:
    """The version the compiler says it is.

    Raises:
        PolicyError: it says none.
    """
    said = _run(opa, ["version"], opa.parent)
    if found := re.search(r"^Version:\s*v?(\S+)", said, re.MULTILINE):
        return found[1]
    raise PolicyError(f"{opa} does not say which version of opa it is: {said[:200]}")


def _data(folder: Path) -> bytes:
    try:
        return (folder / DATA).read_bytes()
    except OSError as error:
        raise PolicyError(f"{folder / DATA} cannot be read: {error.strerror}") from error


def _check(place: Path, opa: Path) -> None:
    _run(opa, ["check", "--strict", "."], place)


def _test(place: Path, opa: Path) -> str:
    return _run(opa, ["test", "."], place)


def _compile(place: Path, opa: Path, names: Sequence[str]) -> bytes:
    if not names:
        raise PolicyError("there are no rules (*.rego) to compile")
    bundle = place / "bundle.tar.gz"
    entrypoints = [word for entrypoint in ENTRYPOINTS for word in ("-e", entrypoint)]
    _run(opa, ["build", "-t", "wasm", *entrypoints, "-o", bundle.name, *names], place)
    with tarfile.open(bundle) as archive:
        for member in archive:
            if member.name.lstrip("/") == WASM and (content := archive.extractfile(member)) is not None:
                return content.read()
    raise PolicyError(f"opa compiled no {WASM}")


@contextlib.contextmanager
def _copy(sources: Mapping[str, bytes]) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="cld-policy-") as name:
        place = Path(name)
        for path, text in sources.items():
            file = place / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
        yield place


def _run(opa: Path, arguments: Sequence[str], place: Path) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a compiler found in trusted places, fixed arguments
            [opa, *arguments], check=False, cwd=place, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PolicyError(f"{opa} {arguments[0]} did not run: {error}") from error
    said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    if done.returncode != 0:
        raise PolicyError(f"opa {arguments[0]} says:\n{said or f'exit code {done.returncode}'}")
    return said


def _is_executable(file: Path) -> bool:
    return file.is_file() and os.access(file, os.X_OK)


def _is_safe(file: Path) -> bool:
    if not hasattr(os, "geteuid"):
        return True
    status = file.stat()
    return status.st_uid in {0, os.geteuid()} and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
