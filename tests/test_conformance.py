"""The public conformance suite passes in both protocol eras; every check it requires counts."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_packages import CONFORMANCE, NODE, environment, need_packages

TESTS = Path(__file__).parent
REQUIREMENTS = CONFORMANCE.parent.parent / "requirements"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    need_packages()
    command = [sys.executable, str(TESTS / "conformance_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stderr is not None
        try:
            line = server.stdout.readline().strip()
            assert line.startswith("http://127.0.0.1:"), server.stderr.read()
            yield line
        finally:
            server.terminate()
            server.communicate(timeout=20)


def required(revision: str) -> list[str]:
    """The server scenarios that conforming to `revision` requires, from the suite's own list."""
    text = (REQUIREMENTS / f"{revision}.yaml").read_text()
    section = re.search(r"^server:\n((?:  - .*\n)+)", text, re.MULTILINE)
    assert section is not None
    return [line.removeprefix("  - ") for line in section[1].splitlines()]


@pytest.mark.timeout(280)
@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_every_required_check_of_the_public_suite_passes(revision: str, url: str, tmp_path: Path) -> None:
    command = [str(NODE), str(CONFORMANCE), "server", "--url", url, "--requirements", revision, "-o", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=250, check=False)

    scenarios = required(revision)
    assert len(scenarios) >= 29
    passed = 0
    failures: list[str] = []
    for scenario in scenarios:
        stamped = re.compile(rf"server-{re.escape(scenario)}-\d{{4}}-\d\d-\d\dT.*")
        found = [folder for folder in tmp_path.iterdir() if stamped.fullmatch(folder.name)]
        assert len(found) == 1, f"{scenario} was not run: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        checks = json.loads((found[0] / "checks.json").read_text())
        assert checks, f"{scenario} checked nothing"
        passed += sum(check["status"] == "SUCCESS" for check in checks)
        failures += [
            f"{scenario} {check['id']}: {check['status']} {check.get('errorMessage', '')}"
            for check in checks
            if check["status"] not in ("SUCCESS", "INFO", "SKIPPED")
        ]
    print(f"{revision}: {len(scenarios)} scenarios required, {passed} checks passed, {len(failures)} failed")
    assert not failures, "\n".join(failures)
    assert done.returncode == 0, done.stdout[-3000:]
