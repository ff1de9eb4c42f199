"""What a model writes is told to the host as it is written, where the host asked for progress."""

import os
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from openai_server import OpenAI, Reply
from test_server_stdio import POLICIES, SERVER

ANSWER = "The harbour crane was repaired in May by Ada, who had borrowed the tools from Bob for a week or so."


@pytest.mark.anyio
async def test_texts_are_told_while_they_are_written(tmp_path: Path) -> None:
    told: list[str] = []

    async def progress(number: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    with OpenAI(Reply(ANSWER), otherwise=lambda call: Reply(ANSWER)) as models:
        own = tmp_path / "own.toml"
        own.write_text(
            f'[[models.chain]]\nname = "local"\nmodel = "openai/local"\napi_base = "{models.url}"\n'
            "price_in = 0\nprice_out = 0\n"
        )
        server = StdioServerParameters(
            command=sys.executable,
            args=[SERVER, "--root", str(tmp_path / "tree"), "--policies", POLICIES],
            env={**os.environ, "CLD_CONFIG": str(own)},
        )
        with anyio.fail_after(60):
            async with Client(stdio_client(server)) as client:
                plan = {"tasks": [{"id": "a", "purpose": "Say when the crane was repaired"}], "wait_seconds": 30}
                await client.call_tool("plan", plan, progress_callback=progress)
    written = [message for message in told if ": …" in message]
    assert written, told
    assert any(message.rpartition(": …")[2] in ANSWER for message in written), told
