"""The terminal: what is printed and how, and what a person is asked.

Owns colour, the choice between text for people and JSON for programs, and the promise that no
text from a resource reaches a terminal with control characters in it. Knows no resources.
"""

import shutil
import signal
import sys
import textwrap
import unicodedata
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

from cld.escape import safe, safe_line

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


class Terminal:
    """Standard output and error of one command.

    `human` says whether the command should write text for people; `json_errors` whether errors are
    JSON objects. On a terminal everything written is made safe; into a pipe or file it goes as it is.
    """

    def __init__(
        self,
        *,
        json: bool,
        human: bool,
        color: bool,
        environment: Mapping[str, str],
        out: TextIO,
        err: TextIO,
        stdin: TextIO,
    ) -> None:
        self._out = out
        self._err = err
        self._stdin = stdin
        self._out_is_tty = out.isatty()
        self._err_is_tty = err.isatty()
        self.human = human or (self._out_is_tty and not json)
        self.json_errors = json
        obeys = environment.get("TERM", "") not in ("", "dumb")
        # https://no-color.org: set and not empty.
        coloured = color and not environment.get("NO_COLOR") and obeys
        self._out_color = coloured and self._out_is_tty
        self._err_color = coloured and self._err_is_tty
        self.shows_passing = self.human and self._err_is_tty and obeys
        """Whether a person sees what `passing` shows."""
        self._is_passing = False

    @property
    def can_ask(self) -> bool:
        """Whether a person is there to answer: input and error output are both a terminal."""
        return self._stdin.isatty() and self._err_is_tty

    def style(self, text: str, *names: str) -> str:
        """`text`, made safe, in the named styles where standard output has colour."""
        return _styled(safe(text), names) if self._out_color else safe(text)

    def line(self, text: str = "") -> None:
        """Write a line for people, put together from `style` and texts of our own."""
        self._out.write(text + "\n")

    def raw(self, text: str) -> None:
        """Write stored text as it is, but made safe where a terminal shows it."""
        self._out.write(safe(text) if self._out_is_tty else text)

    def document(self, value: object) -> None:
        """Write `value` as one indented JSON document."""
        self.raw(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")

    def record(self, value: object) -> None:
        """Write `value` as one line of JSON, at once, so that a reader of a stream sees it."""
        self.raw(msgspec.json.encode(value).decode() + "\n")
        self._out.flush()

    def flush(self) -> None:
        self._out.flush()

    def note(self, text: str) -> None:
        """A remark for people, on standard error so that it never mixes with results."""
        text = safe_line(text)
        self.passing("")
        self._err.write((_styled(text, ("dim",)) if self._err_color else text) + "\n")
        self._err.flush()

    def passing(self, text: str, label: str = "") -> None:
        """Show the end of `text`, as much as fits a line, until something else is shown; an empty one takes it away.

        Only where `shows_passing`.
        """
        if text or self._is_passing:
            # One column stays free: in the last one terminals wrap.
            room = shutil.get_terminal_size().columns - len(label) - 1
            shown = f"{label}{_end_of(safe(' '.join(text.split())), room)}" if text else ""
            self._err.write(f"\r{_styled(shown, ('dim',)) if self._err_color else shown}\x1b[K")
            self._err.flush()
        self._is_passing = bool(text)

    def error(self, message: str, code: str, details: Mapping[str, Any]) -> None:
        """Say what went wrong on standard error, as a JSON object or a line; where a message has several
        (a compiler's), the further ones are indented, so that none can pass for a line of ours.
        """
        if self.json_errors:
            body = {"error": {"code": code, "message": message, **details}}
            text = msgspec.json.encode(body).decode() + "\n"
            self._err.write(safe(text) if self._err_is_tty else text)
        else:
            label = _styled("error:", ("bold", "red")) if self._err_color else "error:"
            self._err.write(f"{label} {textwrap.indent(safe(message), '  ').strip()}\n")
        self._err.flush()

    def confirm(self, question: str) -> bool:
        """Whether the person answers yes; anything but y or yes, and the end of input, is no.

        Only where `can_ask`.
        """
        # An event loop answers the first Ctrl-C by cancelling its task, which a read that blocks never notices.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.question(question)
            return self.answer()
        finally:
            signal.signal(signal.SIGINT, before)

    def question(self, question: str) -> None:
        """Write a question whose answer `answer` reads."""
        self._out.flush()
        self.passing("")
        self._err.write(f"{safe_line(question)} [y/N] ")
        self._err.flush()

    def answer(self) -> bool:
        """Whether the next line says yes."""
        return self._stdin.readline().strip().lower() in ("y", "yes")


def standard_terminal(*, json: bool, human: bool, color: bool, environment: Mapping[str, str]) -> Terminal:
    """The terminal of this process."""
    return Terminal(
        json=json,
        human=human,
        color=color,
        environment=environment,
        out=sys.stdout,
        err=sys.stderr,
        stdin=sys.stdin,
    )


def _end_of(text: str, columns: int) -> str:
    """As much of the end of `text` as has room in so many columns; some characters take two."""
    at = len(text)
    while at and (columns := columns - (2 if unicodedata.east_asian_width(text[at - 1]) in "WF" else 1)) >= 0:
        at -= 1
    return text[at:]


def _styled(text: str, names: tuple[str, ...]) -> str:
    if not names or not text:
        return text
    return f"\x1b[{';'.join(_STYLES[name] for name in names)}m{text}\x1b[0m"
