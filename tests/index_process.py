"""One process that maintains a tree's index, for tests that kill it: `python index_process.py ROOT`.

Prints "holds" when it has the lock and "ready" when all of the tree is indexed.
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from index_world import a_world


async def main(root: Path) -> None:
    async with a_world(root) as world, world.maintained(wait=False) as maintainer:
        await maintainer.keeping.holds.wait()
        print("holds", flush=True)
        await maintainer.keeping.ready.wait()
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
