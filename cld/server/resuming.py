"""Going on with work that some process left undone, by a server that nobody has asked to work yet."""

import asyncio
import logging

from cld.errors import CldError
from cld.policy import Context
from cld.runtime import Runtime
from cld.work.unfinished import is_unfinished

log = logging.getLogger("cld.server")

FIRST_SECONDS = 2.0
"""When it is first looked for: a host that starts a server waits for its first answers, not for this."""

AGAIN_SECONDS = 300.0


async def resume(runtime: Runtime) -> None:
    """Look for unfinished work of this machine's principal, and begin to work when there is some.

    From then on the engine notices by itself, and this ends.
    """
    seconds = FIRST_SECONDS
    while runtime.settings.work.resume and not runtime.is_working:
        await asyncio.sleep(seconds)
        seconds = AGAIN_SECONDS
        try:
            if await is_unfinished(runtime.store(runtime.principal, Context(tool="plan"))):
                await runtime.work(runtime.principal)
        except CldError as error:
            log.warning("looking for unfinished work failed: %s", error)
