"""How far a call is, written into its resource while it runs, so that whoever watches the tree sees it."""

import asyncio
import logging
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from cld.errors import CldError
from cld.escape import safe_line
from cld.journal import Journal, KeptCall
from cld.tools.process import to_the_end

log = logging.getLogger("cld.work")

EVERY_SECONDS = 1.0
"""How often at most; a call that is over sooner costs no write."""

MOST_CHARACTERS = 500


class Watched:
    """A block in which a call is made. Afterwards `kept` is the call as it was written last."""

    def __init__(self, journal: Journal, kept: KeptCall) -> None:
        self.kept = kept
        self._journal = journal
        self._said = ""
        self._over = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def say(self, text: str) -> None:
        """The call said how far it is."""
        self._said = safe_line(text)[:MOST_CHARACTERS]
        if self._writing is None and not self._over.is_set():
            self._writing = asyncio.create_task(self._write())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._writing is not None:
            # To the end: who finishes the call has to know which version it finishes.
            await to_the_end(self._writing)

    async def _write(self) -> None:
        while not self._over.is_set():
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._over.wait()
                    return
            except TimeoutError:
                pass
            if (said := self._said) == self.kept.call.progress:
                continue
            try:
                self.kept = await self._journal.change(self.kept, replace(self.kept.call, progress=said))
            except CldError as lost:  # who wants to finish the call is told the same
                log.info("%s: how far it is cannot be written: %s", self.kept.uri, lost)
                return
