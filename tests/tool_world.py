"""Folders of Python tools, called as the engine calls them, and processes looked at from outside."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from table_policy import ListJournal, Rule, TablePolicy

from cld.config import Tooling
from cld.guard import Guard
from cld.policy import Policy
from cld.principal import Principal, parse_principal
from cld.tools import Caller, Result
from cld.tools.calling import Calling
from cld.tools.python import Place, PythonTools

ADA = Caller(parse_principal("user:ada"))
HEAD = "import ctypes, os, subprocess, sys, time\nfrom cld.tools.declare import ToolContext, ToolError, tool\n\n"

# Starts a child and, behind a double fork and in a session of its own, a grandchild; writes their pids down.
FAMILY = """
@tool
def family(pids: str, then: str = "hang") -> str:
    "Start children."
    child = subprocess.Popen(["sleep", "600"])
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open(pids + ".new", "w") as file:
                print(os.getpid(), child.pid, os.getppid(), file=file)
                print(worker, file=file)
            os.rename(pids + ".new", pids)
            time.sleep(600)
        os._exit(0)
    if then == "crash":
        while not os.path.exists(pids): time.sleep(0.001)
        os._exit(5)
    time.sleep(600)
    return "never"

worker = os.getpid()
"""


class World:
    """One folder of tools, and the way to call them."""

    def __init__(self, folder: Path, source: PythonTools, calling: Calling, journal: ListJournal) -> None:
        self.folder = folder
        self.source = source
        self.calling = calling
        self.journal = journal
        self.progress: list[str] = []

    async def call(self, name: str, arguments: Mapping[str, Any] | None = None, caller: Caller = ADA) -> Result:
        async with asyncio.timeout(30):
            return await self.calling.call(name, arguments or {}, caller, self.progress.append)

    async def rewrite(self, name: str, text: str) -> None:
        """A file as an editor saves it, and a look at the folder."""
        write(self.folder, name, text)
        await self.source.look()


def write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{name}.new"
    new.write_text(HEAD + text)
    new.replace(folder / name)


def everything(*_: object) -> bool:
    return True


@asynccontextmanager
async def world(
    tmp_path: Path,
    files: Mapping[str, str],
    tooling: Tooling | None = None,
    *,
    rule: Rule = everything,
    policy: Policy | None = None,
    poll_seconds: float = 600.0,
    options: Mapping[str, Any] | None = None,
) -> AsyncGenerator[World]:
    folder = tmp_path / "tools"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        write(folder, name, text)
    tooling = tooling or Tooling()
    journal = ListJournal()
    asked = policy or TablePolicy(rule)

    def guard_of(principal: Principal) -> Guard:
        return Guard(principal, asked, journal)

    source = await PythonTools.open([Place(folder)], tooling, options, poll_seconds=poll_seconds)
    try:
        calling = Calling([source], guard_of, tooling)
        source.nest = calling.call
        yield World(folder, source, calling, journal)
    finally:
        await source.aclose()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of `what`."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        os.sched_yield()
        time.sleep(0.005)
    return found


async def eventually(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)
    return found
