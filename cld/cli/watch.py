"""`cld watch`: changes as they happen, by whomever they are made."""

from argparse import Namespace

from cld.cli.exits import ERROR, OK
from cld.cli.session import existing, store
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.events import Change, Event

_STYLE = {"put": "green", "delete": "red"}


async def watch(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print changes below a prefix; one JSON object a line, or a line for people.

    Ends after --count changes, or with exit code 1 when none came for --timeout seconds.
    """
    types: frozenset[str] | None = frozenset(arguments.type) if arguments.type else None
    changes: frozenset[Change] | None = frozenset((arguments.change,)) if arguments.change else None
    seen = 0
    async with existing(settings) as runtime:
        reader = store(runtime, "events_wait", prefix=arguments.prefix)
        async with runtime.hear(reader, arguments.prefix, types, changes) as heard:
            terminal.note(f"watching {arguments.prefix}; Ctrl-C ends")
            while arguments.count is None or seen < arguments.count:
                event = await heard.next(arguments.timeout)
                if event is None:
                    return ERROR
                seen += 1
                _print(event, terminal)
    return OK


def _print(event: Event, terminal: Terminal) -> None:
    if not terminal.human:
        terminal.record(event)
        return
    clock = terminal.style(safe_line(event.time)[11:23], "dim")
    version = terminal.style((event.version or "")[:12], "dim")
    terminal.line(
        f"{clock}  {terminal.style(f'{event.change:<6}', _STYLE[event.change])}  {terminal.style(event.uri)}  {version}"
    )
    terminal.flush()
