"""Python files as a source of tools: found in folders, loaded in processes of their own, and looked at again.

cld's own process never runs their code. A file that cannot be loaded gives no tools, also when it could before:
what runs is what is written there, and `problems` says what is wrong. A name that two files give belongs to
neither, so that no file can take another's place.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, assert_never

from msgspec import structs

from cld.config import Tooling
from cld.errors import ApprovalRequired, CldError, ToolFailed
from cld.tools import Caller, NestedApprovalRequired, OnProgress, Result
from cld.tools.listings import Listings
from cld.tools.messages import OUT_OF_MEMORY, Answered, Broken, Done, Failed, Loaded, Nested, Progress, Run
from cld.tools.pool import NotLoaded, Pool, Worker
from cld.types import Failure, Made, Tool

log = logging.getLogger("cld.tools")

POLL_SECONDS = 1.0
"""How often the folders are looked at; that costs one listing and one stat a file."""

PATIENCE_SECONDS = 5.0
"""How long the tools of other files wait for a file that is slow to load."""

MAX_FILES = 500

Nest = Callable[[str, Mapping[str, Any], Caller, OnProgress], Awaitable[Result]]
"""How a tool's own calls are made: `Calling.call`."""


@dataclass(frozen=True)
class Place:
    """A folder of tool files; `files` names those that count, None for all that do not begin with `_`."""

    folder: Path
    files: frozenset[str] | None = None


@dataclass(frozen=True)
class _File:
    path: Path
    stamp: object
    origin: str
    loaded: Loaded | None = None
    problem: str = ""


class PythonTools:
    """Implements `cld.tools.Source`. Made by `open`; processes and a poll run until `aclose`.

    `nest` is how calls that tools make are made; without it they cannot make any.
    """

    def __init__(
        self,
        places: Sequence[Place],
        tooling: Tooling,
        options: Mapping[str, Any] | None = None,
        listings: Path | None = None,
    ) -> None:
        self.nest: Nest | None = None
        self._listings = Listings(listings, tooling)
        self._once = self._listings.once()
        self._places = tuple(places)
        self._tooling = tooling
        self._pool = Pool(tooling, options or {})
        self._files: dict[Path, _File] = {}
        self._tools: dict[str, tuple[Tool, Path]] = {}
        self._problems: tuple[str, ...] = ()
        self._listeners: dict[object, Callable[[], None]] = {}
        self._looking = asyncio.Lock()
        self._looked = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        places: Sequence[Place],
        tooling: Tooling,
        options: Mapping[str, Any] | None = None,
        *,
        poll_seconds: float = POLL_SECONDS,
        listings: Path | None = None,
    ) -> Self:
        """The tools of the files in `places`, followed from here on; those of slow files come later.

        With `listings`, a file of this process's own, those that did not change since are not loaded for that.
        """
        source = cls(places, tooling, options, listings)
        source._watching = asyncio.create_task(source._watch(poll_seconds))
        try:
            await source._looked.wait()
        except BaseException:
            await source.aclose()
            raise
        return source

    def tools(self) -> Sequence[Tool]:
        return tuple(tool for tool, _ in self._tools.values())

    def problems(self) -> Sequence[str]:
        return self._problems

    def missing(self) -> Sequence[Tool]:
        """Tools that there were, also for an earlier process, and that no file gives any more.

        Those of a file or folder that cannot be read right now, or that two files give, are not among them.
        """
        unsure = {file.origin for file in self._files.values() if file.loaded is None}
        unread = {place.folder.name for place in self._places if not place.folder.is_dir()}
        given = {tool.name for file in self._files.values() if file.loaded is not None for tool in file.loaded.tools}
        return [
            tool
            for name, tool in self._once.items()
            if name not in given and tool.origin not in unsure and tool.origin.partition("/")[0] not in unread
        ]

    async def forget(self, tools: Sequence[Tool]) -> None:
        """They are not `missing` any more."""
        for tool in tools:
            self._once.pop(tool.name, None)
        async with self._looking:
            await self._keep()

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        token = object()
        self._listeners[token] = tell

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._pool.aclose()

    async def call(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Result:
        _, path = self._tools.get(tool.name, (tool, None))
        if path is None:
            raise ToolFailed(f"the tool {tool.name} is gone: its file was changed or removed", kind="changed")
        try:
            async with self._pool.borrow(path, self._files[path].origin, nested=caller.depth > 0) as worker:
                if tool not in worker.loaded.tools:
                    # What it imports changed, or a kept listing was wrong.
                    if (file := self._files.get(path)) is not None and file.stamp == worker.stamp:
                        self._files[path] = replace(file, loaded=worker.loaded)
                        self._publish([])
                    raise ToolFailed(f"the tool {tool.name} was changed just now; look at it again", kind="changed")
                return await self._run(worker, tool, arguments, caller, progress)
        except NotLoaded as error:
            raise ToolFailed(f"the tool {tool.name} cannot be loaded: {error}", kind="crashed") from error
        except ToolFailed as failed:
            raise ToolFailed(f"the tool {tool.name} failed: {failed}", kind=failed.kind) from failed

    async def _run(
        self, worker: Worker, tool: Tool, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress
    ) -> Result:
        process, call = worker.process, secrets.token_hex(8)
        await process.send(Run(tool.name, dict(arguments), self._tooling.output_bytes, call))
        while True:
            match message := await process.receive():
                case Progress() | Nested() | Done() | Failed() if message.call != call:
                    raise ToolFailed("something of an earlier call was still in its channel to cld", kind="crashed")
                case Progress(text):
                    progress(text)
                case Nested(name, given):
                    answered = await self._nested(name, given, caller, progress)
                    await process.send(structs.replace(answered, call=call))
                case Done(data, text):
                    return Result(data, text)
                case Failed(code, words) if code == OUT_OF_MEMORY:
                    raise ToolFailed(words, kind=code)
                case Failed(code, words):
                    return Result(error=Failure(code, words))
                case Loaded() | Broken():
                    raise ToolFailed("it wrote into its channel to cld", kind="crashed")
                case _:
                    assert_never(message)

    async def _nested(self, name: str, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Answered:
        """A call that a tool makes, as the same caller; what a person approved of was the call around it only.

        Raises:
            NestedApprovalRequired: it needs approval of its own, and the caller can begin again with that.
        """
        if self.nest is None:
            return Answered(code="unsupported", text="tools cannot call tools here")
        depth, begun, grant = caller.depth + 1, caller.begun, None
        if begun is not None:
            if (made := begun.before(name, arguments, depth)) is not None:
                return _answered(Result(made.result, made.text, made.error))
            grant = begun.grant(name, arguments)
        given = arguments if grant is None or grant.edited is None else grant.edited
        within = replace(caller, approved=grant is not None, depth=depth)
        try:
            result = await self.nest(name, given, within, progress)
        except NestedApprovalRequired:
            raise
        except ApprovalRequired as needed:
            if begun is None:
                return Answered(code=needed.code, text=str(needed))
            if not begun.is_small:
                words = f"{needed}; too much came of earlier calls to stop and ask; make this call before them"
                return Answered(code=needed.code, text=words)
            raise NestedApprovalRequired(needed, name, arguments, begun) from needed
        except CldError as error:
            return Answered(code=error.code, text=str(error))
        if begun is not None:
            made = Made(name, dict(arguments), depth, None, result.data, result.text, result.error)
            begun.over(made if grant is None else structs.replace(made, edited=grant.edited, approved_by=grant.by))
        return _answered(result)

    async def look(self) -> None:
        """Look at the folders now; returns when `tools` and `problems` are as the files are."""
        async with self._looking:
            problems: list[str] = []
            found = {file.path: file for place in self._places for file in _files_of(place, problems)}
            changed = [
                file for path, file in found.items() if path not in self._files or self._files[path].stamp != file.stamp
            ]
            gone = self._files.keys() - found.keys()
            for path in gone:
                self._pool.forget(path)
            # A file that is not loaded yet has no state that another look could find unchanged.
            waiting = {
                file.path: replace(file, stamp=None, problem=f"{file.path}: it has not been loaded yet")
                for file in changed
            }
            self._files = {path: self._files.get(path) or waiting[path] for path in found}
            await self._load_all(changed, problems)
            if changed or gone:
                await self._keep()

    async def _load_all(self, files: Sequence[_File], problems: Sequence[str]) -> None:
        """Load `files`; what most give is published at once, what those give that take long as each comes."""

        async def load(file: _File) -> None:
            self._files[file.path] = await self._load(file)

        loads = [asyncio.create_task(load(file)) for file in files]
        left = set(loads)
        try:
            if left:
                _, left = await asyncio.wait(left, timeout=PATIENCE_SECONDS)
            self._publish(problems)
            self._looked.set()
            while left:
                _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                self._publish(problems)
        finally:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        for task in loads:
            task.result()

    async def _keep(self) -> None:
        files = {path: (file.stamp, file.loaded) for path, file in self._files.items() if file.loaded is not None}
        await asyncio.to_thread(self._listings.save, files, self.missing())

    async def _load(self, file: _File) -> _File:
        if (known := self._listings.find(file.path, file.stamp)) is not None:
            self._pool.expect(file.path, file.stamp)
            return replace(file, loaded=known)
        try:
            return replace(file, loaded=await self._pool.load(file.path, file.origin, file.stamp))
        except NotLoaded as error:
            where = f"{file.path}, line {error.line}" if error.line else str(file.path)
            return replace(file, problem=f"{where}: {error}")

    def _publish(self, beside: Sequence[str]) -> None:
        """Make what the files give the tools; `beside` are problems of folders."""
        problems = [*beside]
        by_name: dict[str, list[tuple[Tool, Path]]] = {}
        for path, file in self._files.items():
            if file.problem:
                problems.append(file.problem)
            for tool in file.loaded.tools if file.loaded is not None else ():
                self._once[tool.name] = tool
                by_name.setdefault(tool.name, []).append((tool, path))
        for name, several in by_name.items():
            if len(several) > 1:
                places = " and ".join(str(path) for _, path in several)
                problems.append(f"the tool {name} is in {places}; neither is used, rename one")
        tools = {name: several[0] for name, several in sorted(by_name.items()) if len(several) == 1}
        before, self._tools = (self._tools, self._problems), tools
        for problem in set(problems) - set(self._problems):
            log.warning("tools: %s", problem)
        self._problems = tuple(problems)
        if before != (self._tools, self._problems):
            for tell in list(self._listeners.values()):
                tell()

    async def _watch(self, seconds: float) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # whatever one look met, the next is due
                log.exception("tools: the folders cannot be looked at")
            self._looked.set()
            await asyncio.sleep(seconds)


def _answered(result: Result) -> Answered:
    if result.error is not None:
        return Answered(code=result.error.code, text=result.error.message)
    return Answered(result.data, result.text)


def _files_of(place: Place, problems: list[str]) -> list[_File]:
    """The tool files of a folder, each with a stamp that changes when it, or what it may import there, does."""
    shared: list[object] = []
    files: list[_File] = []
    try:
        names = sorted(path for path in place.folder.iterdir() if path.suffix == ".py")
    except OSError as error:
        problems.append(f"the folder of tools {place.folder} cannot be read: {error.strerror}")
        return []
    for path in names:
        with contextlib.suppress(OSError):  # it went away just now
            facts = path.stat()
            stamp = (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino)
            if path.name.startswith("_"):
                shared.append((path.name, stamp))
            elif place.files is None or path.name in place.files:
                files.append(_File(path, stamp, f"{place.folder.name}/{path.name}"))
    if len(files) > MAX_FILES:
        problems.append(f"the folder of tools {place.folder} has {len(files)} files; the first {MAX_FILES} are used")
    return [replace(file, stamp=(file.stamp, *shared)) for file in files[:MAX_FILES]]
