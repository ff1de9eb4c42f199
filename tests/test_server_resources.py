"""Resources, prompts and completions as hosts see them, in both protocol eras."""

import json
import re
from pathlib import Path

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference
from server_world import MODES, call, client, world

from cld.server import resources as resources_module
from cld.server.prompts import name_of
from cld.uri import URI

pytestmark = pytest.mark.anyio

TEMPLATE = ResourceTemplateReference(type="ref/resource", uri="cld:{+path}")


async def put(host: Client, uri: str, **content: object) -> None:
    await call(host, "resource_put", uri=uri, content=content)


@pytest.mark.parametrize("mode", MODES)
async def test_every_resource_is_listed_page_by_page_in_tree_order(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources_module, "PAGE", 2)
    async with world(tmp_path) as made, client(made, mode) as host:
        expected = ["cld:my.A.a", "cld:my.A.a/my.B.b", "cld:my.A.a/my.B.b/my.C.c", "cld:my.A.d", "cld:my.Z.z"]
        for uri in reversed(expected):
            await put(host, uri)
        found: list[str] = []
        cursor = None
        while True:
            page = await host.list_resources(cursor=cursor)
            assert len(page.resources) <= 2
            found += [resource.uri for resource in page.resources]
            assert all(resource.mime_type == "application/json" for resource in page.resources)
            if (cursor := page.next_cursor) is None:
                break
            assert "cld:" not in cursor
        assert found == expected
        with pytest.raises(MCPError, match="cursor"):
            await host.list_resources(cursor="made up")


@pytest.mark.parametrize("mode", MODES)
async def test_reading_gives_the_json_of_the_resource_under_the_uri_it_was_asked_by(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        await put(host, "cld:common.Text.a", text="hi")
        for written in (
            "cld:common.Text.a",
            "cld:/common.Text.a",
            "cld:///common.Text.a",
            "cld://dylo78gypcommon.Text.a",
        ):
            (content,) = (await host.read_resource(written)).contents
            assert content.uri == written and content.mime_type == "application/json"
            read = json.loads(content.text)  # type: ignore[union-attr]
            assert read["uri"] == "cld:common.Text.a" and read["content"] == {"text": "hi"}
            version = (await call(host, "resource_get", uri="cld:common.Text.a"))["version"]
            assert content.meta == {"cld/version": version}


@pytest.mark.parametrize(("mode", "code"), [("legacy", -32002), ("2026-07-28", -32602)])
async def test_a_missing_resource_is_told_as_the_protocol_says(tmp_path: Path, mode: str, code: int) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        with pytest.raises(MCPError) as caught:
            await host.read_resource("cld:common.Text.none")
        assert caught.value.error.code == code
        assert caught.value.error.data["uri"] == "cld:common.Text.none"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "uri", ["cld:org/../etc/passwd", "cld:a%2Fb", "file:///etc/passwd", "cld:", "cld:common.Text.a/"]
)
async def test_what_is_no_uri_is_refused(tmp_path: Path, mode: str, uri: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        with pytest.raises(MCPError) as caught:
            await host.read_resource(uri)
        assert caught.value.error.code == -32602
        assert caught.value.error.data["code"] == "invalid_uri"


@pytest.mark.parametrize("mode", MODES)
async def test_there_is_one_template_for_everything(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        (template,) = (await host.list_resource_templates()).resource_templates
        assert template.uri_template == "cld:{+path}"


@pytest.mark.parametrize("mode", MODES)
async def test_prompts_are_resources_with_their_arguments_filled_in(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        argument = {"name": "topic", "description": "What about", "required": True}
        await put(
            host,
            "cld:common.Prompt.review",
            title="Review",
            description="Reviews a text",
            arguments=[argument, {"name": "tone"}],
            messages=[
                {"role": "user", "text": "Review {{topic}} {{ tone }}."},
                {"role": "assistant", "text": "About {{topic}}:"},
            ],
        )
        await put(host, "cld:common.Prompt.hello", template="Say hello")
        prompts = {prompt.name: prompt for prompt in (await host.list_prompts()).prompts}
        assert list(prompts) == ["hello", "review"]
        assert prompts["review"].title == "Review" and prompts["review"].description == "Reviews a text"
        assert [one.model_dump(exclude_none=True) for one in prompts["review"].arguments or []] == [
            {"name": "topic", "description": "What about", "required": True},
            {"name": "tone", "required": False},
        ]

        filled = await host.get_prompt("review", {"topic": "{{tone}}", "tone": "kindly"})
        assert [(one.role, one.content.text) for one in filled.messages] == [  # type: ignore[union-attr]
            ("user", "Review {{tone}} kindly."),
            ("assistant", "About {{tone}}:"),
        ]
        hello = await host.get_prompt("hello")
        assert [one.content.text for one in hello.messages] == ["Say hello"]  # type: ignore[union-attr]

        for name, arguments, said in (
            ("review", {"tone": "x"}, "needs topic"),
            ("hello", {"loud": "yes"}, "has no loud"),
            ("none", {}, "Unknown prompt: none"),
        ):
            with pytest.raises(MCPError, match=said) as caught:
                await host.get_prompt(name, arguments)
            assert caught.value.error.code == -32602


@pytest.mark.parametrize("mode", MODES)
async def test_no_prompt_takes_the_name_of_another(tmp_path: Path, mode: str) -> None:
    deeper = ["cld:a.A.a/common.Prompt.same", "cld:a.A.a/b.B.b/common.Prompt.same", "cld:my.F.f/common.Prompt.same"]
    async with world(tmp_path) as made, client(made, mode) as host:
        for uri in deeper:
            await put(host, uri, template=uri)
        with pytest.raises(MCPError, match="Unknown prompt: same"):
            await host.get_prompt("same")
        before = {prompt.name for prompt in (await host.list_prompts()).prompts}
        # One whose id is what another one is called, one whose id is too long for a name, and the plain one.
        first = [f"cld:common.Prompt.{name_of(URI(deeper[0]))}", f"cld:common.Prompt.{'x' * 128}"]
        for uri in (*first, "cld:common.Prompt.same"):
            await put(host, uri, template=uri)
        prompts = {prompt.name: prompt for prompt in (await host.list_prompts()).prompts}
        assert len(prompts) == 6 and before < prompts.keys()
        for uri in (*deeper, *first, "cld:common.Prompt.same"):
            name = name_of(URI(uri))
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) and name in prompts
            assert (await host.get_prompt(name)).messages[0].content.text == uri  # type: ignore[union-attr]
        assert name_of(URI("cld:common.Prompt.same")) == "same"
        assert name_of(URI(deeper[0])).startswith("same-a-")
        assert "(in cld:a.A.a/b.B.b)" in (prompts[name_of(URI(deeper[1]))].description or "")


async def test_a_prompt_that_is_not_valid_harms_no_other(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "legacy") as host:
        await put(host, "cld:common.Prompt.good", template="x")
        (tmp_path / "cld:common.Prompt.bad.json").write_text('{"content": {"tempalte": "x"}}')
        (tmp_path / "cld:common.Prompt.broken.json").write_text("{")
        assert [prompt.name for prompt in (await host.list_prompts()).prompts] == ["good"]
        with pytest.raises(MCPError, match="Unknown prompt"):
            await host.get_prompt("bad")


@pytest.mark.parametrize("mode", MODES)
async def test_uris_are_completed_level_by_level(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        for uri in ("cld:my.A.one", "cld:my.A.one/my.B.x", "cld:my.A.one/my.B.y", "cld:my.A.only", "cld:my.C.c"):
            await put(host, uri)

        async def completed(typed: str, name: str = "path") -> list[str]:
            answer = (await host.complete(TEMPLATE, {"name": name, "value": typed})).completion
            assert answer.total == len(answer.values) and not answer.has_more
            return answer.values

        assert await completed("") == ["my.A.one", "my.A.only", "my.C.c"]
        assert await completed("my.A.on") == ["my.A.one", "my.A.only"]
        assert await completed("my.A.one/") == ["my.A.one/my.B.x", "my.A.one/my.B.y"]
        assert await completed("my.A.one/my.B.y") == ["my.A.one/my.B.y"]
        assert await completed("cld:my.C") == ["my.C.c"]
        assert await completed("../") == await completed("my.A.none/") == []
        assert await completed("", name="other") == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_prompts_argument_that_holds_a_uri_is_completed(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        arguments = [{"name": "uri"}, {"name": "message_uri"}, {"name": "tone"}]
        await put(host, "cld:common.Prompt.p", template="x", arguments=arguments)
        await put(host, "cld:my.A.one")
        reference = PromptReference(type="ref/prompt", name="p")
        for name, values in (("uri", ["cld:my.A.one"]), ("message_uri", ["cld:my.A.one"]), ("tone", []), ("a_uri", [])):
            answer = await host.complete(reference, {"name": name, "value": "cld:my.A"})
            assert answer.completion.values == values


async def test_more_than_a_hundred_completions_are_counted(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "legacy") as host:
        for number in range(101):
            (tmp_path / f"cld:my.A.n{number:03}.json").write_text('{"content": {}}')
        answer = (await host.complete(TEMPLATE, {"name": "path", "value": "my.A."})).completion
        assert len(answer.values) == 100 and answer.total == 101 and answer.has_more


async def test_capabilities_are_told_as_they_are_in_both_eras(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        for mode in ("legacy", "auto"):
            async with client(made, mode) as host:
                told = host.server_capabilities.model_dump(by_alias=True, exclude_none=True)
                assert told == {
                    "tools": {"listChanged": True},
                    "prompts": {"listChanged": True},
                    "resources": {"subscribe": True, "listChanged": True},
                    "completions": {},
                }
                assert host.server_info is not None and host.server_info.name == "cld"
                assert "resource_list" in (host.instructions or "")
