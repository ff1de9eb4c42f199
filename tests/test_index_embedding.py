"""Embeddings: the one that ships with its package, and any provider's through litellm."""

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cld.errors import Unsupported
from cld.index import EmbeddingFailed, Model
from cld.index import litellm as adapter
from cld.index.embedding import choose_embedder
from cld.index.wordllama import WordLlama, embed

pytestmark = pytest.mark.anyio

TEXTS = ["The cat sat on the mat.", "", "東京タワー", "word " * 300, "\x00 \u202e 🦓"]
NO_LITELLM = importlib.util.find_spec("litellm") is None


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PARITY = """
import json, sys, wordllama
from pathlib import Path
model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
texts = json.loads(sys.argv[1])
print(json.dumps(model.embed(texts, norm=True).tolist()))
"""


def test_vectors_are_those_that_the_package_itself_gives() -> None:
    texts = [text for text in TEXTS if text]
    theirs = np.array(json.loads(run(PARITY, json.dumps(texts))))
    assert np.abs(embed(texts) - theirs).max() < 1e-5


def test_a_text_has_the_same_vector_in_any_company() -> None:
    together = embed(TEXTS * 70)
    for row, text in enumerate(TEXTS):
        assert np.array_equal(embed([text])[0], together[row])
        assert np.array_equal(together[row], together[row + 5 * 69])


async def test_vectors_have_length_one_and_a_text_that_says_nothing_none() -> None:
    found = await WordLlama().embed(TEXTS)
    assert found.shape == (5, 256) and found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 0, 1, 1, 1], abs=1e-6)
    assert (await WordLlama().embed([])).shape == (0, 256)


def test_loading_it_leaves_logging_alone_and_the_package_unimported() -> None:
    code = (
        "import logging, sys; from cld.index.wordllama import embed; embed(['x']);"
        "print(logging.root.handlers, logging.root.level, 'wordllama' in sys.modules)"
    )
    assert run(code).strip() == "[] 30 False"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, cld.index.search, cld.index.maintainer, cld.index.check;"
        "print({'numpy', 'tokenizers', 'safetensors', 'wordllama', 'litellm'} & sys.modules.keys())"
    )
    assert run(code).strip() == "set()"


class Provider(BaseHTTPRequestHandler):
    """Speaks the embeddings protocol of OpenAI, answering out of order as it may."""

    requests: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(body)
        status, answer = 200, self.answer(body)
        if body["model"] == "broken":
            status, answer = 500, {"error": {"message": "out of order"}}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    @staticmethod
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        texts = body["input"] if body["model"] != "short" else body["input"][1:]
        rows = [
            {"object": "embedding", "index": at, "embedding": [float(len(text)), 3.0 if at % 2 else 4.0, 0.0]}
            for at, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return {"object": "list", "model": body["model"], "data": rows[::-1], "usage": usage}

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[str]:
    Provider.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


ASK = """
import asyncio, json, sys
from cld.index import EmbeddingFailed, Model
from cld.index.litellm import LiteLLM
async def main():
    said = {}
    for name in ("openai/tiny", "openai/broken", "openai/short"):
        try:
            texts = ["a" * n for n in range(100)]
            found = await LiteLLM(Model(name, sys.argv[1], dimensions=3)).embed(texts)
            said[name] = found.tolist()
        except EmbeddingFailed as error:
            said[name] = str(error)
    print("ANSWER" + json.dumps(said))
asyncio.run(main())
"""


@pytest.mark.skipif(NO_LITELLM, reason="litellm is optional, and not installed")
def test_a_provider_is_asked_in_batches_and_its_failures_are_told(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP", raising=False)
    said = json.loads(run(ASK, provider).partition("ANSWER")[2])
    rows = np.array(said["openai/tiny"])
    lengths = np.array([max(n, 1) for n in range(100)], float)
    second = np.array([3.0 if n % 96 % 2 else 4.0 for n in range(100)])
    expected = np.stack([lengths, second, 0 * second], axis=1)
    assert np.abs(rows - expected / np.linalg.norm(expected, axis=1, keepdims=True)).max() < 1e-6
    tiny = [request for request in Provider.requests if request["model"] == "tiny"]
    assert [len(request["input"]) for request in tiny] == [96, 4]
    assert {request["dimensions"] for request in tiny} == {3}
    assert "openai/broken did not embed 96 texts" in said["openai/broken"]
    assert "95 vectors for 96 texts" in said["openai/short"]


async def test_without_litellm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(Unsupported, match=r"cld\[models\]"):
        await choose_embedder(Model("openai/tiny")).embed(["x"])


class Played:
    """litellm as far as it is used here, for answers that no provider should give."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    async def aembedding(self, **_: Any) -> Any:
        return type("Answer", (), {"data": [{"index": at, "embedding": row} for at, row in enumerate(self.rows)]})()


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[1.0, 2.0], [1.0]], "different lengths"),
        ([[1.0, float("nan")], [1.0, 0.0]], "infinities"),
        ([[1.0]], "1 vectors"),
        ([[], []], "something else"),
        ([[[1.0]], [[1.0]]], "something else"),
        ([1.0, 2.0], "gave"),
        ([["a"], ["b"]], "gave"),
        ([{"a": 1}, {}], "gave"),
        ([[1e300], [1.0]], "infinities"),
    ],
)
async def test_answers_that_are_no_vectors_are_refused(
    monkeypatch: pytest.MonkeyPatch, rows: list[Any], reason: str
) -> None:
    monkeypatch.setattr(adapter, "_load", lambda: Played(rows))
    with pytest.raises(EmbeddingFailed, match=reason):
        await choose_embedder(Model("openai/tiny")).embed(["x", "y"])
