"""The tools that read and write resources."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from cld.errors import AccessDenied, InvalidArgument, InvalidResource, InvalidURI, ResourceNotFound
from cld.escape import safe_line
from cld.resource import Draft, Meta
from cld.server.arguments import HostPrefix, HostURI
from cld.server.call import DECLINED, Call, Reply
from cld.server.registry import READS, Annotations, Tool, tool_of
from cld.store import DEFAULT_LIMIT, MAX_LIMIT, Stored
from cld.uri import MAX_DEPTH, ROOT, URI, parse_uri

TEXT = {"type": "string"}
COUNT = {"type": "integer"}
TYPE_PATTERN = r"^[A-Za-z][A-Za-z0-9_]*\.[A-Za-z][A-Za-z0-9_]*$"


def described(text: str, **bounds: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **bounds)


AnyUri = Annotated[HostURI, described("cld:<package>.<Name>.<id>/…")]
IfVersion = Annotated[str, described('The version read before, or "*" to replace whatever is there')]


class Get(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: AnyUri
    version: Annotated[str, described("An older version")] | UnsetType = UNSET


class Put(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: AnyUri
    content: dict[str, Any]
    meta: Annotated[Meta, described("What it is for; left out, stays as it is")] | UnsetType = UNSET
    if_version: (
        Annotated[str, described('To replace: the version read, or "*" for any. Left out, creates')] | UnsetType
    ) = UNSET


class List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prefix: Annotated[HostPrefix, described("List what is below this URI")] = HostPrefix(ROOT)
    type: Annotated[str, described("Only of this type, as common.Message", pattern=TYPE_PATTERN)] | UnsetType = UNSET
    depth: Annotated[int, described("How many levels down", ge=1, le=MAX_DEPTH)] = 1
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    cursor: Annotated[str, described("next_cursor of the page before")] | UnsetType = UNSET


class Delete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: AnyUri
    if_version: Annotated[str, described("Only if this is its version")] | UnsetType = UNSET
    recursive: Annotated[bool, described("Also all that is below it")] = False


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: AnyUri
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT


class Restore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: AnyUri
    version: Annotated[str, described("The version to bring back")]
    if_version: IfVersion | UnsetType = UNSET


async def get(call: Call, args: Get) -> Reply:
    stored = await call.store.get(args.uri, _or_none(args.version))
    resource = stored.resource
    data = msgspec.structs.asdict(resource)
    data["meta"] = msgspec.structs.asdict(resource.meta)
    data["version"] = stored.version
    return Reply(data, msgspec.json.encode(resource.content).decode())


async def put(call: Call, args: Put) -> Reply:
    draft = Draft(args.uri, args.content, None if args.meta is UNSET else args.meta)
    return _written(await call.store.put(draft, if_version=_or_none(args.if_version)))


async def list_(call: Call, args: List) -> Reply:
    cursor = None if args.cursor is UNSET else _position(args.cursor)
    async with call.progressing(f"listing {args.prefix}"):
        page = await call.store.entries(
            args.prefix, type=_or_none(args.type), depth=args.depth, cursor=cursor, limit=args.limit
        )
    rows = [msgspec.to_builtins(entry) for entry in page.entries]
    text = "\n".join([*(row["uri"] for row in rows), *([f"next_cursor: {page.cursor}"] if page.cursor else [])])
    return Reply({"resources": rows, "next_cursor": page.cursor}, text or f"nothing below {args.prefix}")


async def delete(call: Call, args: Delete) -> Reply:
    async with call.progressing(f"deleting {args.uri}"):
        if args.recursive and call.can_ask:
            count = await _count(call, args.uri)
            lines = [f"Delete {args.uri} and all below it, {count} resources that you can see?"]
            if reasons := await call.store.approvals_to_delete(args.uri):
                lines += ["Policy asks because:", *(f"- {safe_line(reason)}" for reason in reasons)]
            if await call.agreed("\n".join(lines)) is False:
                raise AccessDenied("delete", args.uri, [DECLINED])
        deleted = await call.store.delete(args.uri, if_version=_or_none(args.if_version), recursive=args.recursive)
    return Reply({"uri": args.uri, "deleted": deleted}, f"deleted {deleted} at {args.uri}")


async def history(call: Call, args: History) -> Reply:
    revisions = (await call.store.history(args.uri))[: args.limit]
    rows = [msgspec.structs.asdict(revision) for revision in revisions]
    lines = (f"{row['version']} revision {row['revision']} {row['at']} {row['by']}" for row in rows)
    return Reply({"uri": args.uri, "versions": rows}, "\n".join(lines))


async def restore(call: Call, args: Restore) -> Reply:
    return _written(await call.store.restore(args.uri, args.version, if_version=_or_none(args.if_version)))


async def _count(call: Call, uri: URI) -> int:
    """How many resources the caller sees at and below `uri`.

    Raises:
        ResourceNotFound: none, so that nobody is asked about what is not there.
    """
    store = call.store
    try:
        await store.get(uri)
        count = 1
    except InvalidResource:
        count = 1
    except ResourceNotFound:
        count = 0
    cursor = None
    while True:
        page = await store.list(uri, depth=MAX_DEPTH, cursor=cursor, limit=MAX_LIMIT)
        count += len(page.uris)
        if page.cursor is None:
            break
        cursor = page.cursor
    if count == 0:
        raise ResourceNotFound(uri)
    return count


def _written(stored: Stored) -> Reply:
    resource = stored.resource
    data = {"uri": resource.uri, "version": stored.version, "revision": resource.revision}
    return Reply(data, f"wrote {resource.uri}, revision {resource.revision}, version {stored.version}")


def _position(cursor: str) -> str:
    """The cursor, which is the URI of the last resource of the page before."""
    try:
        return parse_uri(cursor)
    except InvalidURI:
        message = "cursor: expected next_cursor of the page before, unchanged; leave it out to begin anew"
        raise InvalidArgument(message, field="cursor") from None


def _or_none(text: str | UnsetType) -> str | None:
    return None if text is UNSET else text


WRITTEN = {"uri": TEXT, "version": TEXT, "revision": COUNT}

GET = tool_of(
    Get,
    get,
    name="resource_get",
    title="Read a resource",
    description="Read one resource: its content, what it is for (meta), and the version needed to replace it.",
    annotations=READS,
    returns={"uri": TEXT, "type": TEXT, "content": {"type": "object"}, "meta": {"type": "object"}, "version": TEXT},
    required=["uri", "content", "version"],
)
PUT = tool_of(
    Put,
    put,
    name="resource_put",
    title="Write a resource",
    description=(
        "Create a resource, or replace its content. Without if_version it must not exist yet; to replace, give the "
        "version you read. On a conflict read again and redo your change."
    ),
    annotations=Annotations(read_only=False, destructive=True, idempotent=False),
    returns=WRITTEN,
    required=list(WRITTEN),
)
LIST = tool_of(
    List,
    list_,
    name="resource_list",
    title="List resources",
    description="List resources below a URI, in tree order, those you may read. Go on with next_cursor.",
    annotations=READS,
    returns={
        "resources": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"uri": TEXT, "type": TEXT, "version": TEXT, "updated_at": TEXT, "invalid": TEXT},
            },
        },
        "next_cursor": {"type": ["string", "null"]},
    },
    required=["resources", "next_cursor"],
)
DELETE = tool_of(
    Delete,
    delete,
    name="resource_delete",
    title="Delete a resource",
    description="Delete a resource, with recursive all below it too. It stays in the history.",
    annotations=Annotations(read_only=False, destructive=True, idempotent=True),
    returns={"uri": TEXT, "deleted": COUNT},
    required=["uri", "deleted"],
)
HISTORY = tool_of(
    History,
    history,
    name="resource_history",
    title="Versions of a resource",
    description="All kept versions of a resource, newest first, also of a deleted one.",
    annotations=READS,
    returns={
        "uri": TEXT,
        "versions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "version": TEXT,
                    "revision": {"type": ["integer", "null"]},
                    "at": {"type": ["string", "null"]},
                    "by": {"type": ["string", "null"]},
                    "size": COUNT,
                    "current": {"type": "boolean"},
                },
            },
        },
    },
    required=["uri", "versions"],
)
RESTORE = tool_of(
    Restore,
    restore,
    name="resource_restore",
    title="Bring back a version",
    description="Write an older version of a resource as its new revision.",
    annotations=Annotations(read_only=False, destructive=True, idempotent=False),
    returns=WRITTEN,
    required=list(WRITTEN),
)

CORE: tuple[Tool, ...] = (GET, PUT, LIST, DELETE)
MORE: tuple[Tool, ...] = (HISTORY, RESTORE)
