"""The tools for events: waiting for changes in the tree, and announcing something to others."""

import contextlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from cld.errors import Conflict, ResourceNotFound
from cld.events import Change
from cld.resource import Draft, new_id
from cld.server.arguments import HostPrefix
from cld.server.call import Call, Reply
from cld.server.inboxes import Inboxes, Wanted
from cld.server.registry import Annotations, Tool, tool_of
from cld.server.resources_tools import TEXT, TYPE_PATTERN, described
from cld.uri import ROOT, make_uri

MAX_WAIT_SECONDS = 55.0
"""Some hosts drop a call at 60 seconds."""

TypeName = Annotated[str, msgspec.Meta(pattern=TYPE_PATTERN)]


class Wait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prefix: Annotated[HostPrefix, described("Changes of this resource and all below it")] = HostPrefix(ROOT)
    types: Annotated[list[TypeName], described("Only of these types")] | UnsetType = UNSET
    changes: Annotated[list[Change], described("Only these changes")] | UnsetType = UNSET
    timeout_seconds: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT_SECONDS)] = 25.0
    cursor: Annotated[str, described("cursor of the answer before; repeat the other arguments")] | UnsetType = UNSET


class Publish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stream: Annotated[str, described("The stream's id", pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    name: Annotated[str, described("What happened")]
    data: Annotated[Any, described("Anything to tell with it")] = None


def events_tools(inboxes: Inboxes) -> Sequence[Tool]:
    """The tools, with the inboxes that `events_wait` keeps between calls."""

    async def wait(call: Call, args: Wait) -> Reply:
        wanted = Wanted(
            prefix=args.prefix,
            types=None if args.types is UNSET else frozenset(args.types),
            changes=None if args.changes is UNSET else frozenset(args.changes),
        )
        cursor = None if args.cursor is UNSET else args.cursor
        async with call.progressing(f"waiting for changes of {args.prefix}"):
            batch = await inboxes.wait(call.store, wanted, cursor, args.timeout_seconds)
        rows = [{"change": e.change, "uri": e.uri, "version": e.version, "time": e.time} for e in batch.events]
        data = {"events": rows, "cursor": batch.cursor, **({"missed": True} if batch.missed else {})}
        lines = [f"{event.change} {event.uri}" for event in batch.events]
        if batch.missed:
            lines.append("changes may have been missed: that cursor is not known any more; read again what you need")
        return Reply(data, "\n".join([*(lines or ["nothing changed"]), f"cursor: {batch.cursor}"]))

    return (
        tool_of(
            Wait,
            wait,
            name="events_wait",
            title="Wait for changes",
            description=(
                "Wait until a resource below prefix is put or deleted. Call again with the cursor to lose nothing in "
                "between; it is good for 10 minutes. missed: true means read again what you need."
            ),
            annotations=Annotations(read_only=True, destructive=False, idempotent=False),
            returns={
                "events": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "change": TEXT,
                            "uri": TEXT,
                            "version": {"type": ["string", "null"]},
                            "time": TEXT,
                        },
                    },
                },
                "cursor": TEXT,
                "missed": {"type": "boolean"},
            },
            required=["events", "cursor"],
        ),
        tool_of(
            Publish,
            publish,
            name="event_publish",
            title="Publish an event",
            description="Announce something to whoever waits for changes of event.Stream.<stream>.",
            annotations=Annotations(read_only=False, destructive=False, idempotent=False),
            returns={"uri": TEXT, "version": TEXT},
            required=["uri", "version"],
        ),
    )


async def publish(call: Call, args: Publish) -> Reply:
    store = call.store
    stream = make_uri(ROOT, "event.Stream", args.stream)
    try:
        await store.get(stream)
    except ResourceNotFound:
        # A conflict: another process was first, or it is there and may not be read.
        with contextlib.suppress(Conflict):
            await store.put(Draft(stream, {}))
    event = Draft(make_uri(stream, "event.Event", new_id()), {"name": args.name, "data": args.data})
    stored = await store.put(event)
    return Reply({"uri": event.uri, "version": stored.version}, f"published {event.uri}")
