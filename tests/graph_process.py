"""A process that keeps the graph of the tree given, for tests that kill it."""

import asyncio
import sys
from pathlib import Path

from graph_world import a_world


async def main() -> None:
    async with a_world(Path(sys.argv[1])) as world, world.kept():
        print("kept", flush=True)
        await asyncio.sleep(3600)


asyncio.run(main())
