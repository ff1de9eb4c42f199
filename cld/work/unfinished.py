"""The trees of tasks that there are, and whether somebody left work undone in one; servers look at once they start.

Loads nothing of the engine, so that a server without anything to do stays as small as it started.
"""

from collections.abc import AsyncGenerator

from cld.errors import InvalidResource, ResourceNotFound
from cld.guard import GuardedStore
from cld.uri import MAX_DEPTH, URI, parent_of, type_of

TASK = "plan.Task"
_OVER = ("completed", "failed", "cancelled")


async def is_unfinished(store: GuardedStore) -> bool:
    """Whether some tree of tasks, asked for by the store's principal, is not over and could be gone on with.

    Looks at the outermost tasks only: when they are over so is everything below them.
    """
    async for uri in outermost(store):
        try:
            resource = (await store.get(uri)).resource
        except (ResourceNotFound, InvalidResource):
            continue
        # What was cancelled and has a lease is still to be stopped.
        over = resource.content.get("status") in _OVER and not resource.content.get("lease")
        if resource.created_by in ("", store.guard.principal.id) and not over:
            return True
    return False


async def outermost(store: GuardedStore) -> AsyncGenerator[URI]:
    """The tasks that are part of no other, as far as `store` may list them."""
    async for uri in store.every(type=TASK, depth=MAX_DEPTH):
        if type_of(parent_of(uri)) != TASK:
            yield uri
