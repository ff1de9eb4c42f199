"""Whether values fit the schemas of tools: each schema is compiled once, and every check runs in a thread.

Schemas of tools are written by whoever made the tool, another server's people included; one can take any
amount of time to be checked, and the event loop must not wait for it. (One thing a thread does not help against:
a regular expression that backtracks holds Python's lock until it is through. Who brings a tool in trusts its schema.)
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import anyio.to_thread
import msgspec

from cld.errors import InvalidResource
from cld.json_schema import Check, Misfit, compile_schema

MOST_SCHEMAS = 1024


class Checks:
    """Compiled schemas, the most recently used kept."""

    def __init__(self) -> None:
        self._checks: OrderedDict[bytes, Check | InvalidResource] = OrderedDict()

    async def misfit(self, schema: Mapping[str, Any], value: Any) -> Misfit | None:
        """What of `value` does not fit, None when all does.

        Raises:
            InvalidResource: the schema itself is at fault.
        """
        key = msgspec.json.encode(schema)
        check = self._checks.get(key)
        if check is None:
            check = await anyio.to_thread.run_sync(_compiled, schema)
            self._checks[key] = check
            while len(self._checks) > MOST_SCHEMAS:
                self._checks.popitem(last=False)
        else:
            self._checks.move_to_end(key)
        if isinstance(check, InvalidResource):
            raise check
        # Given up when cancelled: a check that does not end must not hold up who waits for it.
        return await anyio.to_thread.run_sync(check, value, abandon_on_cancel=True)


def _compiled(schema: Mapping[str, Any]) -> Check | InvalidResource:
    try:
        return compile_schema(schema)
    except InvalidResource as error:
        # Without what pins the frames of this compilation in memory.
        return InvalidResource(str(error))
