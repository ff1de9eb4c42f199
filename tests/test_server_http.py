"""Streamable HTTP: a token always, the Host header checked, and each caller their own principal."""

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import ElicitResult, ResourceUpdatedNotification
from server_world import MODES, call, fail

from cld.config import Http
from cld.errors import ConfigError
from cld.server import address
from cld.server.http import is_loopback, security

ROOT = Path(__file__).parent.parent
SERVER = str(ROOT / "server.py")
KEY = ed25519.Ed25519PrivateKey.generate()
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}
ROLES = 'roles_claim = "roles"\n'
ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


class Server:
    """A server process over a folder; `url`, and what it said on stderr while it started."""

    def __init__(self, process: subprocess.Popen[bytes], root: Path, said: str) -> None:
        self.process = process
        self.root = root
        self.said = said
        self.url = said.partition("listening on ")[2].split()[0]

    @property
    def made_token(self) -> str:
        return self.said.partition("until the server ends: ")[2].split()[0]


def command(folder: Path, *more: str) -> list[str]:
    policies = str(ROOT / "policies") if not (folder / "policies").exists() else str(folder / "policies")
    return [
        sys.executable, SERVER, "--root", str(folder / "tree"), "--policies", policies, "--http", "127.0.0.1:0", *more,
    ]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """With the settings in `folder`, if there are any, as the user's own."""
    file = folder / "cld.toml"
    return {**os.environ, "CLD_CONFIG": str(file)} if file.exists() else dict(os.environ)


@contextlib.contextmanager
def serving(folder: Path, *more: str) -> Generator[Server]:
    process = subprocess.Popen(
        command(folder, *more), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(folder)
    )
    assert process.stderr is not None
    said = b""
    try:
        end = time.monotonic() + 20
        while b"/mcp\n" not in said:
            ready, _, _ = select.select([process.stderr], [], [], max(0.0, end - time.monotonic()))
            data = os.read(process.stderr.fileno(), 65536) if ready else b""
            assert data, f"it did not start: {said.decode()}"
            said += data
        yield Server(process, folder / "tree", said.decode())
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=20)[1].decode()
        assert "Traceback" not in rest, rest


@asynccontextmanager
async def client(url: str, token: str, mode: str, **options: Any) -> AsyncGenerator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=20) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, **options) as connected,
    ):
        yield connected


def jwt_for(name: str, **more: Any) -> str:
    return jwt.encode({"sub": name, "aud": "cld", "exp": time.time() + 60, **more}, KEY, algorithm="EdDSA")


def configure(folder: Path) -> None:
    """Tokens signed with KEY, and two people with a room of their own each."""
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pem").write_bytes(pem)
    (folder / "cld.toml").write_text(f'[auth]\njwt_key_file = "{folder / "key.pem"}"\nalgorithms = ["EdDSA"]\n' + ROLES)
    policies = folder / "policies"
    policies.mkdir()
    for file in (ROOT / "policies").iterdir():
        if file.is_file():
            (policies / file.name).write_bytes(file.read_bytes())
    data = json.loads((policies / "data.json").read_text())
    for name in ("ada", "bob"):
        place = {"allow": ["read", "list", "subscribe", "write", "delete"], "types": ["*"]}
        data["grants"][f"user:{name}"] = {f"cld:my.Room.{name}": place}
    (policies / "data.json").write_text(json.dumps(data))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """A server without tokens configured."""
    with serving(tmp_path_factory.mktemp("local")) as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """A server for ada and bob, who bring tokens."""
    folder = tmp_path_factory.mktemp("shared")
    configure(folder)
    with serving(folder) as server:
        yield server


@pytest.mark.parametrize("mode", MODES)
async def test_the_token_made_at_start_lets_in_as_the_configured_principal(local: Server, mode: str) -> None:
    async with client(local.url, local.made_token, mode) as host:
        await call(host, "resource_put", uri="cld:common.Text.a", content={"text": "hi"}, if_version="*")
        assert (await call(host, "resource_get", uri="cld:common.Text.a"))["created_by"] == "user:local"


async def test_the_made_token_lies_where_only_its_user_finds_it_and_goes_with_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        (file,) = (server.root / ".cld").glob("http-*.token")
        assert file.read_text().strip() == server.made_token
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(server.made_token) >= 40
    assert not file.exists()


async def test_without_the_right_token_nothing_is_answered(local: Server) -> None:
    async with httpx2.AsyncClient(timeout=20) as http:
        for authorization in (
            None,
            "",
            "Bearer",
            "Bearer wrong",
            f"Basic {local.made_token}",
            local.made_token,
            f"Bearer {local.made_token}x",
            f"Bearer {local.made_token[:-1]}",
        ):
            headers = dict(ACCEPT) if authorization is None else {**ACCEPT, "Authorization": authorization}
            for method in ("POST", "GET", "DELETE"):
                answer = await http.request(method, local.url, json=INITIALIZE, headers=headers)
                assert answer.status_code == 401, authorization
                assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="cld"')
                assert "jsonrpc" not in answer.text and local.made_token not in answer.text
        good = {**ACCEPT, "Authorization": f"bearer {local.made_token}"}
        assert (await http.post(local.url, json=INITIALIZE, headers=good)).status_code == 200
        twice = [*good.items(), ("Authorization", "Bearer other")]
        assert (await http.post(local.url, json=INITIALIZE, headers=twice)).status_code == 401


async def test_names_that_are_not_ours_and_pages_of_others_are_refused_before_the_token(local: Server) -> None:
    good = {**ACCEPT, "Authorization": f"Bearer {local.made_token}"}
    port = local.url.split(":")[2].split("/")[0]
    async with httpx2.AsyncClient(timeout=20) as http:
        for host in (
            "evil.example.com",
            f"evil.example.com:{port}",
            "127.0.0.1.evil.example.com",
            "localhost.evil",
            "localhost:1@evil.example.com",
            "127.0.0.1:1.evil.example.com",
            "localhost:",
            "localhost:123456",
        ):
            for headers in (good, ACCEPT):
                answer = await http.post(local.url, json=INITIALIZE, headers={**headers, "Host": host})
                assert answer.status_code == 421
                for path in ("/mcp/", "/", "/other"):
                    answer = await http.get(local.url.removesuffix("/mcp") + path, headers={**headers, "Host": host})
                    assert answer.status_code == 421 and "location" not in answer.headers
        for origin in (
            "http://evil.example.com",
            "https://localhost.evil.example.com",
            "null",
            "http://127.0.0.1:1.evil",
            f"http://localhost:{port}@evil",
        ):
            answer = await http.post(local.url, json=INITIALIZE, headers={**good, "Origin": origin})
            assert answer.status_code == 403
        for fine in ({"Host": f"localhost:{port}"}, {"Origin": f"http://127.0.0.1:{port}"}):
            assert (await http.post(local.url, json=INITIALIZE, headers={**good, **fine})).status_code == 200


@pytest.mark.parametrize("mode", MODES)
async def test_each_token_is_its_own_principal_whatever_the_client_says(shared: Server, mode: str) -> None:
    async with client(shared.url, jwt_for("ada"), mode) as ada, client(shared.url, jwt_for("bob"), mode) as bob:
        uri = "cld:my.Room.ada/my.Note.n"
        await call(ada, "resource_put", uri=uri, content={}, if_version="*")
        assert (await call(ada, "resource_get", uri=uri))["created_by"] == "user:ada"
        assert (await fail(bob, "resource_get", uri=uri))["code"] == "not_found"
        assert "ada" not in str((await call(bob, "resource_list", depth=9))["resources"])
        meta: Any = {"principal": "user:ada"}
        assert (await bob.call_tool("resource_get", {"uri": uri}, meta=meta)).is_error
    async with client(shared.url, jwt_for("eve", roles=["owner"]), mode) as eve:
        assert (await call(eve, "resource_get", uri=uri))["uri"] == uri


async def test_no_token_is_the_owner_of_the_default_data(shared: Server) -> None:
    async with httpx2.AsyncClient(timeout=20) as http:
        for name in ("local", "user:local"):
            headers = {**ACCEPT, "Authorization": f"Bearer {jwt_for(name)}"}
            assert (await http.post(shared.url, json=INITIALIZE, headers=headers)).status_code == 401


async def test_tokens_that_do_not_hold_are_refused_without_saying_why(shared: Server) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    assert "until the server ends" not in shared.said
    async with httpx2.AsyncClient(timeout=20) as http:
        bodies = set[str]()
        for token in (
            jwt_for("ada", exp=time.time() - 60),
            jwt_for("ada", aud="another"),
            jwt.encode({"sub": "ada", "aud": "cld", "exp": time.time() + 60}, other, algorithm="EdDSA"),
            "rubbish",
        ):
            headers = {**ACCEPT, "Authorization": f"Bearer {token}"}
            answer = await http.post(shared.url, json=INITIALIZE, headers=headers)
            assert answer.status_code == 401 and 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
            bodies.add(answer.text)
        assert len(bodies) == 1


async def test_a_session_belongs_to_who_began_it(shared: Server) -> None:
    async with httpx2.AsyncClient(timeout=20) as http:
        ada = {**ACCEPT, "Authorization": f"Bearer {jwt_for('ada')}"}
        begun = await http.post(shared.url, json=INITIALIZE, headers=ada)
        session = {"Mcp-Session-Id": begun.headers["Mcp-Session-Id"]}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        bob = {**ACCEPT, "Authorization": f"Bearer {jwt_for('bob')}", **session}
        assert (await http.post(shared.url, json=ping, headers=bob)).status_code == 404
        renewed = {**ACCEPT, "Authorization": f"Bearer {jwt_for('ada', jti='next')}", **session}
        assert (await http.post(shared.url, json=ping, headers=renewed)).status_code == 200


@pytest.mark.parametrize("mode", MODES)
async def test_changes_are_told_and_questions_asked_over_http_too(shared: Server, mode: str) -> None:
    top = f"cld:my.Room.ada/my.Folder.{mode}"
    told, hear = anyio.create_memory_object_stream[str](100)
    asked: list[str] = []

    async def handle(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            told.send_nowait(message.params.uri)

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={})

    with told, hear:
        token = jwt_for("ada")
        async with client(shared.url, token, mode, message_handler=handle, elicitation_callback=answer) as host:
            if mode == "legacy":
                await host.subscribe_resource(f"{top}/**")
                await call(host, "resource_put", uri=f"{top}/my.Note.n", content={})
                with anyio.fail_after(20):
                    assert await hear.receive() == f"{top}/my.Note.n"
            else:
                async with host.listen(resource_subscriptions=[f"{top}/**"]) as stream:
                    await call(host, "resource_put", uri=f"{top}/my.Note.n", content={})
                    with anyio.fail_after(20):
                        assert await anext(stream) == ResourceUpdated(f"{top}/my.Note.n")
            assert (await call(host, "resource_delete", uri=f"{top}/my.Note.n", recursive=True))["deleted"] == 1
            assert len(asked) == 1


async def test_no_number_or_text_that_json_does_not_have_gets_in(local: Server) -> None:
    async with httpx2.AsyncClient(timeout=20) as http:
        headers = {
            **ACCEPT,
            "Authorization": f"Bearer {local.made_token}",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "resource_put",
        }
        for value in ("NaN", "-Infinity", '"\\ud800"'):
            body = (
                '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "resource_put", "_meta": '
                '{"io.modelcontextprotocol/protocolVersion": "2026-07-28", '
                '"io.modelcontextprotocol/clientCapabilities": {}}, '
                f'"arguments": {{"uri": "cld:my.A.a", "content": {{"x": {value}}}}}}}}}'
            )
            answer = (await http.post(local.url, content=body.encode(), headers=headers)).json()
            error = answer.get("error") or answer["result"]["structuredContent"]["error"]
            assert error["code"] == "invalid_argument" and error["field"] == "content.x"
    assert not list(local.root.glob("cld:my.A.a*"))


@pytest.mark.parametrize(
    ("http", "said"),
    [("0.0.0.0:0", "jwt_key_file"), ("[::]:0", "jwt_key_file"), ("192.0.2.1:0", "jwt_key_file")],
)
async def test_what_other_machines_can_reach_is_not_served_without_tokens(tmp_path: Path, http: str, said: str) -> None:
    done = subprocess.run(
        command(tmp_path, "--http", http),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stderr and "other machines" in done.stderr and "Traceback" not in done.stderr


async def test_with_tokens_other_machines_must_be_told_the_names_to_use(tmp_path: Path) -> None:
    configure(tmp_path)
    arguments = command(tmp_path, "--http", "0.0.0.0:0")
    done = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=environment(tmp_path),
    )
    assert done.returncode != 0 and "allowed_hosts" in done.stderr


async def test_it_ends_on_sigterm_also_while_somebody_listens(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        headers = {
            **ACCEPT,
            "Authorization": f"Bearer {server.made_token}",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "subscriptions/listen",
        }
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params = {"_meta": meta, "notifications": {"toolsListChanged": True}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
        async with (
            httpx2.AsyncClient(timeout=20) as http,
            http.stream("POST", server.url, json=body, headers=headers) as stream,
        ):
            first = await anext(stream.aiter_text())
            assert "notifications/subscriptions/acknowledged" in first
            server.process.send_signal(signal.SIGTERM)
            await anyio.to_thread.run_sync(server.process.wait, 20)


def test_loopback_is_what_only_this_machine_reaches() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.com", "localhost.example.com", ""):
        assert not is_loopback(host)


def test_addresses_are_host_and_port() -> None:
    assert address("127.0.0.1:8000") == ("127.0.0.1", 8000)
    assert address("[::1]:0") == ("::1", 0)
    for wrong in ("127.0.0.1", "8000", ":8000", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            address(wrong)


def test_elsewhere_only_the_configured_names_are_let_in() -> None:
    checked = security("0.0.0.0", Http(allowed_hosts=("cld.example.com",)))
    assert checked.allowed_hosts == ["cld.example.com"] and checked.allowed_origins == []
    assert checked.enable_dns_rebinding_protection
