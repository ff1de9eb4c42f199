"""Subscriptions: telling clients what changed, in both protocol eras.

Until 2025-11-25 a client subscribes by request, and is told on its connection; from 2026-07-28 it listens:
one request whose answer is the stream. Either way a `Feed` collects what there is to tell, each event
decided by the caller's guard when it happens, and repeats within it are told once: a notification says
"look again", and nothing else.

A URI ending in `/**` means everything below it (`cld:**` the whole tree); the notification names the
resource that changed.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import msgspec
from mcp.server.connection import Connection
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
    event_to_notification,
)
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from cld.errors import CldError, PolicyError, StoreError
from cld.events import Event
from cld.guard import Guard, GuardedStore, GuardedSubscription
from cld.policy import Context
from cld.runtime import Runtime
from cld.server.access import Access, RequestContext
from cld.server.feeds import Coalesced, Feed, Ready, Source, logged, stopped
from cld.server.prompts import TYPE as PROMPT
from cld.server.registry import Registry, Tool
from cld.uri import URI, from_host, is_within, parse_uri

log = logging.getLogger("cld.server")

Listed = Literal["tools", "prompts", "resources"]

BELOW = "**"
MOST_FEEDS = 1024
"""How many clients a server tells of changes at the same time."""

FEEDS_PER_PRINCIPAL = 128
"""How many of them may be one principal's, so that nobody takes all."""

RETRY_SECONDS = 1.0
"""How long after an event could not be decided on it is tried again."""

_CHANGED: dict[Listed, ServerEvent] = {
    "tools": ToolsListChanged(),
    "prompts": PromptsListChanged(),
    "resources": ResourcesListChanged(),
}


class Pattern(msgspec.Struct, frozen=True):
    """What one subscription is about: a resource, or all below one; `text` is as the client wrote it."""

    text: str
    prefix: URI
    below: bool

    def told_as(self, uri: URI) -> str | None:
        """The URI that a change of `uri` is told with, None when it is not to be told."""
        if self.below:
            return uri if uri != self.prefix and is_within(uri, self.prefix) else None
        # As the client wrote it, so that it knows it again.
        return self.text if uri == self.prefix else None


def pattern_of(text: str) -> Pattern:
    """The pattern that `text` is.

    Raises:
        InvalidURI: it is neither a URI nor one followed by `/**`.
    """
    if text.endswith(BELOW) and text[: -len(BELOW)].endswith((":", "/")):
        return Pattern(text, from_host(text[: -len(BELOW)].removesuffix("/")), below=True)
    return Pattern(text, parse_uri(from_host(text)), below=False)


class Subscriptions:
    """The handlers of `resources/subscribe`, `resources/unsubscribe` and `subscriptions/listen`."""

    def __init__(self, access: Access, registry: Registry) -> None:
        self._access = access
        self._registry = registry
        self._feeds: Counter[str] = Counter()

    async def subscribe(self, ctx: RequestContext, params: SubscribeRequestParams) -> EmptyResult:
        """Tell the client of changes from now on, also of a resource that is not there yet."""
        pattern = pattern_of(str(params.uri))
        store = self._access.store(ctx, "resources/subscribe")
        feed = await self._feed_of(ctx)
        source = self._until_expiry(ctx, partial(self._updates, store, pattern, feed))
        await feed.follow(_key(pattern), source, self._access.identity_of(ctx))
        return EmptyResult()

    async def unsubscribe(self, ctx: RequestContext, params: UnsubscribeRequestParams) -> EmptyResult:
        await (await self._feed_of(ctx)).leave(_key(pattern_of(str(params.uri))))
        return EmptyResult()

    async def list_told(self, ctx: RequestContext, listed: Listed) -> None:
        """From now on tell the client when the list it is about to get changes; for those who do not listen."""
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return
        try:
            await self._follow_list(ctx, listed, await self._feed_of(ctx))
        except MCPError as error:
            # The list itself is what was asked for.
            log.warning("%s is not told of changed lists: %s", self._access.principal_of(ctx).id, error)

    async def listen(self, ctx: RequestContext, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """One stream: first what it will tell, then that, until the client ends it or its token does."""
        if ctx.request_id is None:
            raise MCPError(code=INVALID_REQUEST, message="subscriptions/listen is a request")
        wanted = params.notifications
        patterns = [pattern_of(text) for text in wanted.resource_subscriptions or ()]
        store = self._access.store(ctx, "subscriptions/listen")
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}

        async def send(event: ServerEvent) -> None:
            await ctx.session.send_notification(event_to_notification(event, meta), ctx.request_id)

        async with self._new_feed(ctx) as feed:
            for pattern in patterns:
                await feed.follow(_key(pattern), partial(self._updates, store, pattern, feed))
            lists: list[tuple[Listed, bool | None]] = [
                ("tools", wanted.tools_list_changed),
                ("prompts", wanted.prompts_list_changed),
                ("resources", wanted.resources_list_changed),
            ]
            for listed, asked in lists:
                if asked:
                    await self._follow_list(ctx, listed, feed)
            honored = SubscriptionFilter(
                tools_list_changed=wanted.tools_list_changed or None,
                prompts_list_changed=wanted.prompts_list_changed or None,
                resources_list_changed=wanted.resources_list_changed or None,
                resource_subscriptions=wanted.resource_subscriptions or None,
            )
            acknowledged = SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=meta)
            await ctx.session.send_notification(
                SubscriptionsAcknowledgedNotification(params=acknowledged), ctx.request_id
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._access.seconds_left(ctx)):
                    await feed.send(send)
        return SubscriptionsListenResult(_meta=meta)

    async def _feed_of(self, ctx: RequestContext) -> Feed:
        """The feed of the client's connection, closed with it."""
        # The connection has no public way to it from a handler, but is where its end can be known.
        connection: Connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]
        feed = connection.state.get("cld.feed")
        if not isinstance(feed, Feed):
            feed = await connection.exit_stack.enter_async_context(self._new_feed(ctx))
            connection.state["cld.feed"] = feed
            sending = asyncio.create_task(logged(feed.send(partial(_send_on, connection)), "notifications"))
            connection.exit_stack.push_async_callback(stopped, sending)
        return feed

    @asynccontextmanager
    async def _new_feed(self, ctx: RequestContext) -> AsyncGenerator[Feed]:
        whose = self._access.principal_of(ctx).id
        if self._feeds[whose] >= FEEDS_PER_PRINCIPAL:
            raise MCPError(
                code=INVALID_REQUEST,
                message=f"more than {FEEDS_PER_PRINCIPAL} clients of {whose} are being told of changes; end some first",
            )
        if self._feeds.total() >= MOST_FEEDS:
            raise MCPError(code=INTERNAL_ERROR, message=f"more than {MOST_FEEDS} clients are being told of changes")
        self._feeds[whose] += 1
        feed = Feed()
        try:
            yield feed
        finally:
            self._feeds[whose] -= 1
            self._feeds += Counter()  # drops who has none
            await feed.aclose()

    async def _follow_list(self, ctx: RequestContext, listed: Listed, feed: Feed) -> None:
        tell = Coalesced(partial(feed.tell, _CHANGED[listed]))
        if listed == "tools":
            guard = self._runtime.guard(self._access.principal_of(ctx))
            callable_now = partial(self._callable, guard, self._access.context(ctx, "tools/list", {}))
            source = partial(self._tool_changes, callable_now, tell)
        else:
            types = frozenset({PROMPT}) if listed == "prompts" else None
            source = partial(self._list_changes, self._access.store(ctx, f"{listed}/list"), types, tell)
        await feed.follow(listed, self._until_expiry(ctx, source), self._access.identity_of(ctx))

    def _callable(self, guard: Guard, context: Context) -> Sequence[Tool] | None:
        """The tools that may be called now; None when that cannot be told."""
        try:
            return self._registry.shown(guard, context)
        except PolicyError:
            return None

    async def _tool_changes(
        self, callable_now: Callable[[], Sequence[Tool] | None], tell: Callable[[], None], ready: Ready
    ) -> None:
        """Tell when other tools may be called, be it that there are others or that the rules say otherwise."""
        changed = asyncio.Event()
        ends = [self._registry.on_change(changed.set), self._runtime.on_policy_change(changed.set)]
        try:
            known = callable_now()
            ready()
            while True:
                await changed.wait()
                changed.clear()
                now = callable_now()
                if now is None or now != known:
                    tell()
                known = now
        finally:
            for end in ends:
                end()

    async def _updates(self, store: GuardedStore, pattern: Pattern, feed: Feed, ready: Ready) -> None:
        async with self._runtime.hear(store, pattern.prefix) as heard:
            ready()
            async for event in _each(heard):
                if (uri := pattern.told_as(event.uri)) is not None:
                    feed.tell(ResourceUpdated(uri=uri))

    async def _list_changes(
        self, store: GuardedStore, types: frozenset[str] | None, tell: Callable[[], None], ready: Ready
    ) -> None:
        async with self._runtime.hear(store, types=types) as heard:
            ready()
            async for event in _each(heard):
                # A prompt's entry in the list tells its content; a resource's only that it is there.
                if types is not None or await _comes_or_goes(store, event):
                    tell()

    def _until_expiry(self, ctx: RequestContext, source: Source) -> Source:
        """`source`, ended with the token that allowed it."""
        seconds = self._access.seconds_left(ctx)

        async def bounded(ready: Ready) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await source(ready)

        return bounded

    @property
    def _runtime(self) -> Runtime:
        return self._access.runtime


async def _each(heard: GuardedSubscription) -> AsyncGenerator[Event]:
    """The events that may be heard; one that cannot be decided on now is waited for, not passed over."""
    failing = False
    while True:
        try:
            event = await heard.next()
        except (PolicyError, StoreError) as error:
            if not failing:
                log.warning("changes cannot be told for now: %s", error)
            failing = True
            await asyncio.sleep(RETRY_SECONDS)
            continue
        failing = False
        if event is None:
            return
        yield event


async def _comes_or_goes(store: GuardedStore, event: Event) -> bool:
    """Whether the resource is new, or gone; in doubt it is."""
    if event.change == "delete":
        return True
    try:
        resource = (await store.get(event.uri)).resource
    except CldError:
        return True
    return resource.created_at == resource.updated_at


async def _send_on(connection: Connection, event: ServerEvent) -> None:
    match event:
        case ResourceUpdated(uri=uri):
            await connection.send_resource_updated(uri)
        case ToolsListChanged():
            await connection.send_tool_list_changed()
        case PromptsListChanged():
            await connection.send_prompt_list_changed()
        case ResourcesListChanged():
            await connection.send_resource_list_changed()


def _key(pattern: Pattern) -> str:
    return f"{pattern.prefix}{BELOW if pattern.below else ''}"
