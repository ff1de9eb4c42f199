"""The command line: the same guarded store that hosts get, for a person and their scripts.

This module owns the way from arguments to a command and from an error to an exit code. Every
command acts as the principal of the settings and is decided by the policy like any host's call;
only `doctor` looks past it. A command's module is loaded when that command runs, because a shell
starts `cld` often and the MCP SDK alone takes longer to import than most commands to run.
"""

import importlib
import inspect
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from cld.cli.arguments import parser
from cld.cli.exits import BROKEN_PIPE, ERROR, INTERRUPTED, OK, exit_code
from cld.cli.terminal import Terminal, standard_terminal
from cld.config import Settings, load_settings
from cld.errors import ApprovalRequired, CldError

Command = Callable[[Namespace, Settings, Terminal], int | Coroutine[Any, Any, int]]

# Command → module and function, so that only the one that runs is imported.
_COMMANDS = {
    "get": ("cld.cli.reading", "get"),
    "ls": ("cld.cli.reading", "ls"),
    "tree": ("cld.cli.tree", "tree"),
    "history": ("cld.cli.versions", "history"),
    "diff": ("cld.cli.versions", "diff"),
    "restore": ("cld.cli.versions", "restore"),
    "elect": ("cld.cli.elect", "elect"),
    "watch": ("cld.cli.watch", "watch"),
    "search": ("cld.cli.search", "search"),
    "graph": ("cld.cli.graph", "graph"),
    "put": ("cld.cli.writing", "put"),
    "rm": ("cld.cli.writing", "rm"),
    "ingest": ("cld.cli.ingest", "ingest"),
    "ask": ("cld.cli.work", "ask"),
    "plan": ("cld.cli.work", "plan"),
    "task": ("cld.cli.tasks", "task"),
    "cancel": ("cld.cli.tasks", "cancel"),
    "approve": ("cld.cli.tasks", "approve"),
    "branch": ("cld.cli.work", "branch"),
    "compare": ("cld.cli.tasks", "compare"),
    "doctor": ("cld.cli.doctor", "doctor"),
    "policy": ("cld.cli.policy", "policy"),
    "serve": ("cld.cli.serve", "serve"),
    "install": ("cld.cli.install", "install"),
    "tour": ("cld.cli.tour", "tour"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`cld.cli.exits`)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    # Errors in the arguments come before the arguments are known.
    terminal = standard_terminal(json="--json" in argv, human=False, color=True, environment=os.environ)
    try:
        arguments = _parsed(argv, terminal)
        terminal = standard_terminal(
            json=arguments.json,
            # The tour is a story; it is told to people also where they read it later.
            human=arguments.human or (arguments.command == "tour" and not arguments.json),
            color=not arguments.no_color,
            environment=os.environ,
        )
        code = _run(arguments, terminal)
        terminal.flush()
        return code
    except BaseException as raised:
        return _ended(_innermost(raised), raised, terminal)


def _parsed(argv: Sequence[str], terminal: Terminal) -> Namespace:
    try:
        return parser().parse_args(argv)
    except SystemExit:  # --help and --version, printed but perhaps not yet written
        terminal.flush()
        raise


def _run(arguments: Namespace, terminal: Terminal) -> int:
    settings = load_settings(_flags(arguments))
    if settings.log != "warning":
        importlib.import_module("cld.logs").begin(settings.log)
    module, name = _COMMANDS[arguments.command]
    command: Command = getattr(importlib.import_module(module), name)
    result = command(arguments, settings, terminal)
    if not inspect.iscoroutine(result):
        assert isinstance(result, int)
        return result
    # Half of what starting costs, and install and help do without it.
    import asyncio  # noqa: PLC0415

    return asyncio.run(result)


def _flags(arguments: Namespace) -> dict[str, str | None]:
    names = ("root", "policies", "principal", "tools", "http")
    return {name: getattr(arguments, name, None) for name in names}


def _ended(error: BaseException, raised: BaseException, terminal: Terminal) -> int:
    """The exit code of a command that ended with `error`, told to the person; what is no such end goes on up."""
    match error:
        case BrokenPipeError():
            _drop_output()
            return BROKEN_PIPE
        case SystemExit():
            return OK
        case KeyboardInterrupt():
            return INTERRUPTED
        case CldError():
            terminal.flush()
            terminal.error(str(error), error.code, error.details())
            if isinstance(error, ApprovalRequired) and not terminal.can_ask and not terminal.json_errors:
                terminal.note("run it on a terminal to be asked; --yes does not stand for an approval")
            return exit_code(error)
        case OSError():
            # A full disk under standard output is not worth a traceback.
            _drop_output()
            terminal.error(str(error), "os_error", {})
            return ERROR
        case _:
            raise raised


def _drop_output() -> None:
    """Keep the interpreter from failing once more when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _innermost(error: BaseException) -> BaseException:
    """The one error within groups of one: task groups wrap what ends them."""
    while isinstance(error, BaseExceptionGroup):
        within = cast(BaseExceptionGroup[BaseException], error).exceptions
        if len(within) != 1:
            return cast(BaseException, error)
        error = within[0]
    return error
