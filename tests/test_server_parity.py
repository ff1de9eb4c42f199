"""One truth by every way: what may not be read is not listed, not told, not completed, not counted, not named.

The same questions are put to a policy written as a table, one that looks at meta, and the real rules.
"""

import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference
from server_world import ADA, BOB, MODES, World, call, client, nothing, world

from cld.config import Settings
from cld.policy import Action
from cld.principal import Principal
from cld.resource import Draft, Meta
from cld.runtime import Runtime
from cld.server import resources as resources_module
from cld.server.access import Identity
from cld.server.application import Application
from cld.server.prompts import name_of
from cld.store import Page, Revision, Stored
from cld.store.local import LocalStore
from cld.uri import ROOT, URI

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

TREE = [
    "cld:my.Room.ada",
    "cld:my.Room.ada/common.Prompt.of_ada",
    "cld:my.Room.ada/my.Note.n1",
    "cld:my.Room.bob",
    "cld:my.Room.bob/common.Prompt.of_bob",
    "cld:my.Room.bob/my.Note.n1",
    "cld:my.Room.bob/my.Note.n1/my.Note.shared",
    "cld:my.Room.shared",
    "cld:my.Room.shared/common.Prompt.of_both",
]
READABLE = {
    ADA.id: {uri for uri in TREE if "ada" in uri or "shared" in uri},
    BOB.id: {uri for uri in TREE if "bob" in uri or "shared" in uri},
    "user:eve": {uri for uri in TREE if "shared" in uri},
}
EVE = Principal("user:eve", "user")
TEMPLATE = ResourceTemplateReference(type="ref/resource", uri="cld:{+path}")
READING = ("read", "list", "subscribe")


def by_name(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
    return action not in READING or uri not in TREE or uri in READABLE[principal.id]


def by_meta(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
    purpose = (meta or {}).get("purpose", "")
    return action not in READING or purpose == "" or principal.id in purpose.split()


def content_of(uri: str) -> dict[str, Any]:
    return {"template": "x", "arguments": [{"name": "uri"}]} if ".Prompt." in uri else {"of": uri}


async def plant(made: World) -> None:
    for uri in TREE:
        readers = " ".join(sorted(who for who, uris in READABLE.items() if uri in uris))
        await made.store.put(Draft(URI(uri), content_of(uri), Meta(purpose=readers)), by="user:root", if_version="*")


async def listed(host: Client) -> set[str]:
    found: set[str] = set()
    cursor: dict[str, str] = {}
    while True:
        page = await call(host, "resource_list", depth=64, limit=1, **cursor)
        found |= {row["uri"] for row in page["resources"]}
        if page["next_cursor"] is None:
            return found
        assert page["next_cursor"] in found
        cursor = {"cursor": page["next_cursor"]}


async def offered(host: Client) -> set[str]:
    found: set[str] = set()
    cursor = None
    while True:
        page = await host.list_resources(cursor=cursor)
        found |= {resource.uri for resource in page.resources}
        if (cursor := page.next_cursor) is None:
            return found
        assert base64.urlsafe_b64decode(cursor + "==").decode() in found


async def gotten(host: Client) -> set[str]:
    return {uri for uri in TREE if not (await host.call_tool("resource_get", {"uri": uri})).is_error}


async def read(host: Client) -> set[str]:
    found: set[str] = set()
    for uri in TREE:
        try:
            await host.read_resource(uri)
        except MCPError:
            continue
        found.add(uri)
    return found


async def with_history(host: Client) -> set[str]:
    return {uri for uri in TREE if not (await host.call_tool("resource_history", {"uri": uri})).is_error}


async def completed(host: Client) -> set[str]:
    found: set[str] = set()
    for uri in TREE:
        typed = uri.removeprefix("cld:")
        below = typed[: typed.rfind("/") + 1]
        answer = (await host.complete(TEMPLATE, {"name": "path", "value": below})).completion
        assert answer.total == len(answer.values)
        found |= {f"cld:{value}" for value in answer.values}
    return found


async def heard(made: World, host: Client) -> set[str]:
    """What is told of when everything changes, the last of it being readable to all."""
    cursor = (await call(host, "events_wait", timeout_seconds=0))["cursor"]
    await plant(made)
    end = "cld:my.Room.shared/my.End.shared"
    await made.store.put(Draft(URI(end), {}), by="user:root", if_version="*")
    found: set[str] = set()
    with anyio.fail_after(20):
        while end not in found:
            answer = await call(host, "events_wait", timeout_seconds=20, cursor=cursor)
            found |= {event["uri"] for event in answer["events"]}
            cursor = answer["cursor"]
    await made.store.delete(URI(end))
    return found - {end}


async def prompts(host: Client) -> set[str]:
    return {prompt.name for prompt in (await host.list_prompts()).prompts}


@asynccontextmanager
async def real(folder: Path) -> AsyncGenerator[World]:
    """A world under the real rules, with grants for the same three people."""
    rules = Path(__file__).parent.parent / "policies"
    policies = folder / "policies"
    policies.mkdir()
    for file in rules.iterdir():
        if file.is_file():
            (policies / file.name).write_bytes(file.read_bytes())
    data = json.loads((policies / "data.json").read_text())
    for who, uris in READABLE.items():
        given: dict[str, Any] = {}
        for uri in uris:
            given[uri] = {"allow": [*READING], "types": ["*"]}
        data["grants"][who] = given
        end = "cld:my.Room.shared/my.End.shared"
        given[end] = {"allow": [*READING], "types": ["*"]}
    (policies / "data.json").write_text(json.dumps(data))
    settings = Settings(root=str(folder / "tree"), policies=str(policies), durability="none", tools="all")
    async with Runtime.open(settings) as runtime:
        made = World.__new__(World)
        made.runtime, made.store = runtime, runtime._store
        made.who = ADA
        made.application = Application(runtime, lambda _: Identity(made.who))
        yield made


@asynccontextmanager
async def worlds(kind: str, folder: Path) -> AsyncGenerator[World]:
    if kind == "real":
        async with real(folder) as made:
            yield made
    else:
        rule = by_name if kind == "table" else by_meta
        async with world(folder, rule, needs_meta=kind == "meta") as made:
            yield made


@pytest.mark.parametrize("kind", ["table", "meta", "real"])
@pytest.mark.parametrize("mode", MODES)
async def test_readable_listed_told_and_completed_are_the_same(
    tmp_path: Path, mode: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources_module, "PAGE", 1)
    async with worlds(kind, tmp_path) as made:
        await plant(made)
        for principal in (ADA, BOB, EVE):
            made.who = principal
            async with client(made, mode) as host:
                expected = READABLE[principal.id]
                # A grant reaches what lies below it too, in the real rules.
                if kind == "real":
                    expected = {uri for uri in TREE if any(uri == one or uri.startswith(f"{one}/") for one in expected)}
                assert await gotten(host) == expected
                assert await read(host) == expected
                assert await listed(host) == expected
                assert await offered(host) == expected
                assert await with_history(host) == expected
                assert await completed(host) == expected
                assert await heard(made, host) == expected
                assert await prompts(host) == {name_of(URI(uri)) for uri in expected if ".Prompt." in uri}


async def said(host: Client, uri: str) -> list[str]:
    """All that is said of `uri` by every way there is, with the URI itself blanked out."""
    answers: list[Any] = []
    for tool, arguments in (
        ("resource_get", {"uri": uri}),
        ("resource_get", {"uri": uri, "version": "0" * 32}),
        ("resource_delete", {"uri": uri}),
        ("resource_delete", {"uri": uri, "if_version": "0" * 32}),
        ("resource_delete", {"uri": uri, "recursive": True}),
        ("resource_history", {"uri": uri}),
        ("resource_restore", {"uri": uri, "version": "0" * 32}),
        ("resource_list", {"prefix": uri, "depth": 64}),
        ("events_wait", {"prefix": uri, "timeout_seconds": 0}),
    ):
        answer = (await host.call_tool(tool, arguments)).model_dump(mode="json")
        if tool == "events_wait":
            answer["structured_content"].pop("cursor")
            answer["content"] = []
        answers.append(answer)
    with pytest.raises(MCPError) as caught:
        await host.read_resource(uri)
    answers.append(caught.value.error.model_dump(mode="json"))
    with pytest.raises(MCPError) as caught:
        await host.get_prompt(name_of(URI(uri)))
    answers.append(json.dumps(caught.value.error.model_dump(mode="json")).replace(name_of(URI(uri)), "ID"))
    answers += [
        (await host.complete(TEMPLATE, {"name": "path", "value": path})).model_dump(mode="json")
        for path in (uri, f"{uri}/")
    ]
    reference = PromptReference(type="ref/prompt", name=name_of(URI(uri)))
    answers.append((await host.complete(reference, {"name": "uri", "value": ""})).model_dump(mode="json"))
    return [json.dumps(answer, sort_keys=True).replace(uri, "URI") for answer in answers]


@pytest.mark.parametrize("kind", ["table", "meta", "real"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_denied_resource_is_spoken_of_like_a_missing_one(tmp_path: Path, mode: str, kind: str) -> None:
    hidden = "cld:my.Room.bob/common.Prompt.of_bob"
    missing = "cld:my.Room.bob/common.Prompt.of_xyz"

    def rule(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
        return action not in READING or (uri not in (hidden, missing) and by_name(principal, action, URI(uri), meta))

    context = world(tmp_path, rule) if kind == "table" else worlds(kind, tmp_path)
    async with context as made:
        await plant(made)
        made.who = EVE
        async with client(made, mode) as host:
            assert await said(host, hidden) == await said(host, missing)
        if kind != "real":
            assert (await made.store.get(URI(hidden))).resource.revision == 1


class RecordingStore:
    """A store that remembers what it was asked."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.asked: list[tuple[str, str]] = []

    @property
    def capabilities(self) -> Any:
        return self._store.capabilities

    async def get(self, uri: URI, version: str | None = None) -> Stored:
        self.asked.append(("get", uri))
        return await self._store.get(uri, version)

    async def put(self, draft: Draft, *, by: str, if_version: str | None = None) -> Stored:
        self.asked.append(("put", draft.uri))
        return await self._store.put(draft, by=by, if_version=if_version)

    async def delete(self, uri: URI, *, if_version: str | None = None, recursive: bool = False) -> int:
        self.asked.append(("delete", uri))
        return await self._store.delete(uri, if_version=if_version, recursive=recursive)

    async def list(self, prefix: URI = ROOT, **more: Any) -> Page:
        self.asked.append(("list", prefix))
        return await self._store.list(prefix, **more)

    async def history(self, uri: URI) -> Sequence[Revision]:
        self.asked.append(("history", uri))
        return await self._store.history(uri)

    async def restore(self, uri: URI, version: str, *, by: str, if_version: str | None = None) -> Stored:
        self.asked.append(("restore", uri))
        return await self._store.restore(uri, version, by=by, if_version=if_version)

    async def aclose(self) -> None:
        await self._store.aclose()


def calls_only(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
    return action == "call"


@pytest.mark.parametrize("rule", [nothing, calls_only])
@pytest.mark.parametrize("mode", MODES)
async def test_where_nothing_is_allowed_nothing_is_opened_written_or_told(tmp_path: Path, mode: str, rule: Any) -> None:
    store = RecordingStore(await LocalStore.open(tmp_path, durability="none"))
    async with world(tmp_path, rule, store=store) as made:  # type: ignore[arg-type]
        await plant(made)
        version = (await store.get(URI(TREE[0]))).version
        files = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
        store.asked.clear()
        answers: list[Any] = []
        async with client(made, mode) as host:

            async def tried(answer: Any) -> None:
                try:
                    answers.append((await answer).model_dump(mode="json"))
                except MCPError as error:
                    answers.append(error.error.model_dump(mode="json"))

            await tried(host.list_tools())
            await tried(host.list_resources())
            await tried(host.list_resource_templates())
            await tried(host.list_prompts())
            for uri in TREE:
                for tool, arguments in (
                    ("resource_get", {"uri": uri}),
                    ("resource_get", {"uri": uri, "version": version}),
                    ("resource_put", {"uri": uri, "content": {"x": 1}}),
                    ("resource_put", {"uri": uri, "content": {"x": 1}, "if_version": "*"}),
                    ("resource_put", {"uri": f"{uri}/my.New.n", "content": {}}),
                    ("resource_list", {"prefix": uri, "depth": 64}),
                    ("resource_delete", {"uri": uri, "recursive": True}),
                    ("resource_history", {"uri": uri}),
                    ("resource_restore", {"uri": uri, "version": version}),
                    ("events_wait", {"prefix": uri, "timeout_seconds": 0}),
                    ("policy_explain", {"uri": uri, "action": "fly"}),
                ):
                    await tried(host.call_tool(tool, arguments))
                await tried(host.read_resource(uri))
                await tried(host.get_prompt(name_of(URI(uri))))
                await tried(host.complete(TEMPLATE, {"name": "path", "value": uri.removeprefix("cld:")}))
            await tried(host.call_tool("resource_list", {"depth": 64}))
            await tried(host.call_tool("event_publish", {"stream": "s", "name": "n"}))
            await tried(host.complete(TEMPLATE, {"name": "path", "value": ""}))
            if mode == "legacy":
                for uri in (*TREE, "cld:**"):
                    await tried(host.subscribe_resource(uri))
                    await tried(host.unsubscribe_resource(uri))
            else:
                async with host.listen(
                    tools_list_changed=True,
                    prompts_list_changed=True,
                    resources_list_changed=True,
                    resource_subscriptions=[*TREE, "cld:**"],
                ) as stream:
                    (tmp_path / f"{TREE[0]}.json").touch()
                    (tmp_path / "cld:my.Room.new.json").write_text('{"content": {}}')
                    with anyio.move_on_after(0.5):
                        async for event in stream:
                            raise AssertionError(event)
                    (tmp_path / "cld:my.Room.new.json").unlink()
        # Names are what policy is asked about, so they are looked at; nothing else is.
        assert {verb for verb, _ in store.asked} <= {"list"}
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == files
        assert "user:root" not in json.dumps(answers)  # who wrote it all
        for answer in answers:
            data = answer.get("structured_content") or {}
            assert data.get("resources", []) == [] and data.get("events", []) == []
            assert answer.get("resources", []) == [] and answer.get("prompts", []) == []
            assert (answer.get("completion") or {}).get("values", []) == []
        if rule is nothing:
            assert answers[0]["tools"] == []


async def test_a_version_is_not_told_to_who_may_write_and_not_read(tmp_path: Path) -> None:
    async with world(tmp_path, lambda who, action, uri, meta: action not in READING) as made:
        await plant(made)
        async with client(made, "legacy") as host:
            result = await host.call_tool("resource_put", {"uri": TREE[0], "content": {}})
            assert result.is_error and result.structured_content["error"]["current_version"] is None


@pytest.mark.parametrize("mode", MODES)
async def test_why_is_explained_for_who_is_asking_only(tmp_path: Path, mode: str) -> None:
    async with real(tmp_path) as made, client(made, mode) as host:
        room = "cld:my.Room.ada"
        allowed = await call(host, "policy_explain", uri=room, action="read")
        assert allowed["allow"] is True
        refused = await call(host, "policy_explain", uri="cld:///my.Room.bob", action="read")
        assert refused["allow"] is False and refused["reasons"]
        assert BOB.id not in json.dumps(refused)
        tool = await call(
            host, "policy_explain", uri="cld:tool.Tool.resource_get", action="call", arguments={"uri": room}
        )
        assert tool["allow"] is True
        made.who = EVE
        assert (await call(host, "policy_explain", uri=room, action="read"))["allow"] is False
