"""What a worker does: loads one file of tools, then runs them, one call at a time.

Runs in a process of its own, started by `cld.tools.worker`; it is the only place where tools' code runs. Whatever
that code does wrong becomes a message.
"""

import asyncio
import hashlib
import inspect
import os
import sys
import threading
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
from msgspec.structs import replace

from cld.tools import Result
from cld.tools.declare import MARK, Declaration, ToolContext, ToolError
from cld.tools.messages import (
    OUT_OF_MEMORY,
    Answered,
    Broken,
    Done,
    Failed,
    Load,
    Loaded,
    Message,
    Nested,
    Order,
    Progress,
    Run,
)
from cld.tools.output import limited
from cld.tools.schema_of import Function, NoTool, function_of

MAX_WORDS = 2000
"""How much of an exception's or a progress's words is told, in characters."""

_MODULE = "cld_tool_file"
_decoder: "msgspec.json.Decoder[Order]" = msgspec.json.Decoder(Order)


class Lines:
    """The socket to cld, as messages; it belongs to this process, and to none that a tool forks."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        # Not closed: their numbers would be given to files that the child opens.
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (self._incoming, self._outgoing):
            os.dup2(nothing, stream.fileno())
        os.close(nothing)
        self._lock = threading.Lock()  # whoever had it is not in the child

    def receive(self) -> Order | None:
        """The next order; None at the end."""
        line = self._incoming.readline()
        return _decoder.decode(line) if line else None

    def send(self, message: Message) -> None:
        data = msgspec.json.encode(message) + b"\n"
        with self._lock:
            self._outgoing.write(data)
            self._outgoing.flush()


def run_file(lines: Lines) -> None:
    """Answer the orders on `lines` until they end."""
    load = lines.receive()
    if not isinstance(load, Load):
        return
    try:
        functions, digest = load_file(Path(load.path), load.origin)
    except NoTool as refused:
        lines.send(Broken(str(refused), getattr(refused, "line", 0)))
        return
    lines.send(Loaded(tuple(function.tool for function in functions.values()), digest))
    # One event loop for all calls, so that what a tool keeps open can be used by the next call.
    with asyncio.Runner() as runner:
        while isinstance(order := lines.receive(), Run):
            call = _Call(lines, order.call)
            try:
                answer = _answer(functions[order.tool], order, ToolContext(call, load.options), runner)
            finally:
                call.end()
            try:
                lines.send(replace(answer, call=order.call))
            except UnicodeEncodeError:
                lines.send(Failed("failed", "what it gave has text that is no Unicode (lone surrogates)", order.call))


def load_file(path: Path, origin: str) -> tuple[dict[str, Function], str]:
    """The tools of a file by name, and the digest of what was loaded.

    Raises:
        NoTool: there are none, or one is at fault; `line` is where, when it is known.
    """
    # Read once, so that the digest is of what runs.
    try:
        source = path.read_bytes()
    except OSError as error:
        raise NoTool(f"it cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(source).hexdigest()[:32]
    # Behind everything else: files beside it can be imported, and shadow nothing.
    sys.path.append(str(path.parent))
    module = types.ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - the settings say that this is code to run
    except SyntaxError as error:
        raise _at(error.lineno if error.filename == str(path) else 0, f"{type(error).__name__}: {error.msg}") from error
    except BaseException as error:  # what a file does while it is loaded, sys.exit included
        raise _at(_line_in(error, str(path)), _words(error)) from error
    found: dict[str, Function] = {}
    for value in list(vars(module).values()):
        declaration = getattr(value, MARK, None)
        # What is imported from elsewhere is a tool there.
        if not isinstance(declaration, Declaration) or getattr(value, "__module__", "") != _MODULE:
            continue
        line = _first_line(value)
        try:
            function = function_of(value, declaration, origin=origin, digest=digest)
        except NoTool as refused:
            raise _at(line, str(refused)) from refused
        if function.tool.name in found and found[function.tool.name].run is not value:
            raise _at(line, f"there are two tools named {function.tool.name} in it")
        found[function.tool.name] = function
    if not found:
        raise NoTool("it has no function marked @tool; a file whose name begins with _ need not have any")
    return found, digest


class _Call:
    """The channel of one call; once that is over nothing comes through, however long threads of it live."""

    def __init__(self, lines: Lines, id: str) -> None:
        self._lines = lines
        self._id = id
        self._lock = threading.Lock()
        self._over = False

    def end(self) -> None:
        """Let nothing more through; waits for the answer to what a thread still calls, which is nobody else's."""
        with self._lock:
            self._over = True

    def progress(self, text: str) -> None:
        if not self._over:
            self._lines.send(Progress(str(text)[:MAX_WORDS], self._id))

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        # One at a time: the answer to one could not be told from that to another.
        with self._lock:
            if self._over:
                raise ToolError("the call is over; nothing can be called for it any more", code="over")
            given = cast("dict[str, Any]", msgspec.to_builtins(dict(arguments)))
            self._lines.send(Nested(str(name), given, self._id))
            answer = self._lines.receive()
        if not isinstance(answer, Answered) or answer.call != self._id:
            raise ToolError("cld has ended", code="over")
        if answer.code:
            raise ToolError(answer.text, code=answer.code)
        return answer.text if answer.data is None else answer.data

    async def acall(self, name: str, arguments: Mapping[str, Any]) -> Any:
        return await asyncio.to_thread(self.call, name, arguments)


def _answer(function: Function, order: Run, context: ToolContext, runner: asyncio.Runner) -> Done | Failed:
    try:
        arguments = msgspec.convert(order.arguments, function.arguments)
    except msgspec.ValidationError as error:
        return Failed("invalid_argument", f"the arguments do not fit: {error}")
    given = {name: getattr(arguments, name) for name in arguments.__struct_fields__}
    if function.context:
        given[function.context] = context
    try:
        value = function.run(**given)
        if inspect.isawaitable(value):
            value = runner.run(_awaited(value))
        return _done(value, order.output_bytes)
    except ToolError as error:
        return Failed(str(error.code), str(error)[:MAX_WORDS])
    except MemoryError:
        return Failed(OUT_OF_MEMORY, "it takes more memory than is allowed (tooling.memory_bytes)")
    except BaseException as error:  # a tool may raise anything, and sys.exit ends its call and not the worker
        traceback.print_exc()
        line = _line_in(error, str(sys.modules[_MODULE].__file__))
        where = f" (line {line} of {function.tool.origin})" if line else ""
        return Failed("failed", _words(error) + where)


async def _awaited(value: Any) -> Any:
    return await value


def _done(value: Any, most: int) -> Done | Failed:
    if value is None or isinstance(value, str):
        result = Result(None, value or "")
    else:
        data = msgspec.to_builtins(value, str_keys=True)
        result = Result(data, msgspec.json.encode(data).decode())
    result = limited(result, most)
    if result.error is not None:
        return Failed(result.error.code, result.error.message)
    return Done(result.data, result.text)


def _at(line: int | None, reason: str) -> NoTool:
    refused = NoTool(reason)
    refused.line = line or 0  # type: ignore[attr-defined]
    return refused


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_WORDS].removesuffix(": ")


def _line_in(error: BaseException, file: str) -> int:
    """The innermost line of `file` that the error came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] or 0 if lines else 0


def _first_line(function: Any) -> int:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_firstlineno if code else 0
