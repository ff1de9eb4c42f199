"""Prompts: the `common.Prompt` resources the caller may read, under their ids.

Where several have one id, the first in tree order among those the caller may read has it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from mcp_types import GetPromptRequestParams, PaginatedRequestParams

from cld.errors import InvalidResource, ResourceNotFound
from cld.guard import GuardedStore
from cld.schema import PLACEHOLDER, Prompt, PromptMessage
from cld.server.access import Access, RequestContext
from cld.server.failures import invalid_params, no_such_prompt
from cld.store import MAX_LIMIT
from cld.uri import MAX_DEPTH, ROOT, URI, id_of

TYPE = "common.Prompt"


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
            _shown(name, prompt)
            for name, uri in (await _places(store)).items()
            if (prompt := await _read(store, uri)) is not None
        ]
        return {"resultType": "complete", "prompts": shown}

    async def get(self, ctx: RequestContext, params: GetPromptRequestParams) -> dict[str, Any]:
        """The prompt with its arguments filled in."""
        prompt = await self.find(ctx, params.name)
        if prompt is None:
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
            places.setdefault(id_of(uri), uri)
        if page.cursor is None:
            return places
        cursor = page.cursor


async def _read(store: GuardedStore, uri: URI) -> Prompt | None:
    """The prompt at `uri`; None for one that is gone or not as the schema says, which doctor reports."""
    try:
        return msgspec.convert((await store.get(uri)).resource.content, Prompt)
    except (ResourceNotFound, InvalidResource, msgspec.ValidationError):
        return None


def _shown(name: str, prompt: Prompt) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": name, "description": prompt.description or prompt.title or name}
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
