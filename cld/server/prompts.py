"""Prompts: the `common.Prompt` resources the caller may read, each under a name that is its own.

A prompt's name follows from its URI alone: nobody who may write somewhere in the tree can put a prompt
there that takes the name of another. Those on the first level, `cld:common.Prompt.<id>`, have their id;
one that lies deeper is named after itself, what it lies in, and a digest of its URI.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from mcp_types import GetPromptRequestParams, PaginatedRequestParams

from cld.errors import InvalidResource, ResourceNotFound
from cld.guard import GuardedStore
from cld.server.access import Access, RequestContext
from cld.server.failures import invalid_params, no_such_prompt
from cld.store import MAX_LIMIT
from cld.types import PLACEHOLDER, Prompt, PromptMessage
from cld.uri import MAX_DEPTH, ROOT, URI, id_of, parent_of

TYPE = "common.Prompt"

MOST_NAME = 64
"""How long a name may be: hosts make commands of them."""

_ID_CHARS, _PARENT_CHARS, _DIGEST_CHARS = 24, 20, 16
_LIKE_PLACED = re.compile(rf".*-[0-9a-f]{{{_DIGEST_CHARS}}}", re.ASCII)


def name_of(uri: URI) -> str:
    """The name of the prompt at `uri`; no other prompt has it, whatever else is in the tree."""
    id, parent = id_of(uri), parent_of(uri)
    if parent == ROOT and len(id) <= MOST_NAME and not _LIKE_PLACED.fullmatch(id):
        return id
    digest = hashlib.sha256(uri.encode()).hexdigest()[:_DIGEST_CHARS]
    where = [] if parent == ROOT else [id_of(parent)[:_PARENT_CHARS]]
    return "-".join([id[:_ID_CHARS], *where, digest])


class Prompts:
    """The handlers of `prompts/*`."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def list(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        """The prompts that are valid; in one page, as hosts make a menu of them."""
        if params is not None and params.cursor is not None:
            raise invalid_params("prompts/list has one page only; leave cursor out")
        store = self._access.store(ctx, "prompts/list")
        shown = [
            _shown(name, uri, prompt)
            for name, uri in (await _places(store)).items()
            if (prompt := await _read(store, uri)) is not None
        ]
        return {"resultType": "complete", "prompts": shown}

    async def get(self, ctx: RequestContext, params: GetPromptRequestParams) -> dict[str, Any]:
        """The prompt with its arguments filled in."""
        prompt = await self.find(ctx, params.name)
        if prompt is None:
            self._access.require_policy()
            raise no_such_prompt(params.name)
        given = params.arguments or {}
        known = {argument.name for argument in prompt.arguments}
        if missing := [one.name for one in prompt.arguments if one.required and one.name not in given]:
            raise invalid_params(f"prompt {params.name} needs {', '.join(missing)}", {"missing": missing})
        if unknown := sorted(given.keys() - known):
            raise invalid_params(f"prompt {params.name} has no {', '.join(unknown)}", {"unknown": unknown})
        messages = prompt.messages or (PromptMessage("user", prompt.template),)
        return {
            "resultType": "complete",
            "description": prompt.description,
            "messages": [
                {"role": message.role, "content": {"type": "text", "text": _filled(message.text, given)}}
                for message in messages
            ],
        }

    async def find(self, ctx: RequestContext, name: str) -> Prompt | None:
        """The prompt the caller may read under `name`, None if there is none or it is not valid."""
        store = self._access.store(ctx, "prompts/get")
        uri = (await _places(store)).get(name)
        return None if uri is None else await _read(store, uri)


async def _places(store: GuardedStore) -> dict[str, URI]:
    """Where the prompt of each name is."""
    places: dict[str, URI] = {}
    cursor = None
    while True:
        page = await store.list(ROOT, type=TYPE, depth=MAX_DEPTH, cursor=cursor, limit=MAX_LIMIT)
        for uri in page.uris:
            places.setdefault(name_of(uri), uri)
        if page.cursor is None:
            return places
        cursor = page.cursor


async def _read(store: GuardedStore, uri: URI) -> Prompt | None:
    """The prompt at `uri`; None for one that is gone or not as the schema says, which doctor reports."""
    try:
        return msgspec.convert((await store.get(uri)).resource.content, Prompt)
    except (ResourceNotFound, InvalidResource, msgspec.ValidationError):
        return None


def _shown(name: str, uri: URI, prompt: Prompt) -> dict[str, Any]:
    described = prompt.description or prompt.title or id_of(uri)
    # What a prompt says of itself is its writer's word; where it lies is not.
    placed = described if parent_of(uri) == ROOT else f"{described} (in {parent_of(uri)})"
    shown: dict[str, Any] = {"name": name, "description": placed}
    if prompt.title:
        shown["title"] = prompt.title
    if prompt.arguments:
        shown["arguments"] = [
            {key: value for key, value in msgspec.structs.asdict(argument).items() if value != ""}
            for argument in prompt.arguments
        ]
    return shown


def _filled(text: str, given: Mapping[str, str]) -> str:
    """The text with each `{{argument}}` replaced once; what is filled in is not looked at again."""
    return PLACEHOLDER.sub(lambda found: given.get(found[1], ""), text)
