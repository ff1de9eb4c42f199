"""How long a command takes from start to end, against a bare interpreter that imports what every command needs.

`python bench/start.py` prints medians and their ratio; single figures are of the machine, ratios of the code.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parent.parent
ROUNDS = 15
YARDSTICK = [sys.executable, "-c", "import argparse, asyncio, msgspec"]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        commands = {
            "--version": ["--version"],
            "--help": ["--help"],
            "install zed": ["install", "zed"],
            "put": ["put", "cld:common.Text.a", '{"text": ""}', "--if-version", "*"],
            "get": ["get", "cld:common.Text.a"],
            "ls": ["ls"],
            "policy explain": ["policy", "explain", "read", "cld:common.Text.a"],
        }
        seconds: dict[str, list[float]] = {"bare": []} | {title: [] for title in commands}
        run(["put", "cld:common.Text.a", '{"text": ""}'], tree)
        for _ in range(ROUNDS):  # in turn, so that a noisy moment is everybody's
            began = time.perf_counter()
            subprocess.run(YARDSTICK, check=True)
            seconds["bare"].append(time.perf_counter() - began)
            for title, arguments in commands.items():
                seconds[title].append(run(arguments, tree))
    bare = statistics.median(seconds["bare"])
    for title, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{title:<16} {median * 1000:6.0f} ms  {median / bare:5.2f}x a bare interpreter")
    slowest = max(statistics.median(seconds[title]) for title in ("--version", "--help", "get", "ls"))
    sys.exit(0 if slowest < 0.3 else 1)


def run(arguments: list[str], tree: Path) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cld.cli", *arguments],
        cwd=tree,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tree), "PYTHONPATH": str(PROJECT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
