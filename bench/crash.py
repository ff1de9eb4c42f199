"""Working processes killed with SIGKILL at random, two on one tree at any time, and what is then wrong in the tree.

    python bench/crash.py [kills] [seed]

Everything is looked at: every version of every task, call and ledger, and what the tools themselves wrote down.
Ends with 1 when anything is wrong: a task that is stuck or has two owners, a lease that is left, a finished call
that was made again, one that may not be repeated and was without being asked about, a budget that was exceeded.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from crash_world import crash


def main() -> int:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(crash(Path(folder), kills, seed))
    print(f"{report.kills} kills in {report.seconds:.0f} s: {report.trees} trees, {report.tasks} tasks,", end=" ")
    print(f"{report.takeovers} of them taken over from a dead process; {report.versions} versions looked at")
    print(f"{report.calls} calls, {report.repeated} begun more than once, {report.approvals} by approval;", end=" ")
    print(f"all at rest {report.slowest:.1f} s after the last kill")
    for fault in report.faults:
        print(f"WRONG {fault}")
    print(f"{len(report.faults)} things are wrong")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
