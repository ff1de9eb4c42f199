"""litellm itself: imported at the first question, quiet, and closed with the last user of a loop.

The one place that changes its settings. Must not ask anything.
"""

import asyncio
import contextlib
import functools
import importlib
import logging
import os
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cld.errors import Unsupported

_LATE = (
    "httpcore",
    "litellm.litellm_core_utils.default_encoding",
    "litellm.proxy.openai_files_endpoints.common_utils",
)
"""What it imports only when it is asked."""


@functools.cache
def load() -> Any:
    """litellm, which takes seconds the first time; quiet, and without a word to the network.

    Raises:
        Unsupported: it is not installed.
    """
    # Else its import asks the network for a list of prices.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    # Else it takes whatever a file `.env` above its own folder says into the environment: keys, and where they go.
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    try:
        litellm: Any = importlib.import_module("litellm")
    except ImportError as error:
        raise Unsupported(f"asking a model needs the package litellm; install cld[models] ({error})") from error
    # Of OpenAI's own client, half of what a turn costs is looking for what to rename in the messages; this is the
    # path that most other providers take.
    os.environ.setdefault("EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER", "True")
    http: Any = importlib.import_module("litellm.llms.custom_httpx.http_handler")
    handler = http.AsyncHTTPHandler
    handler.single_connection_post_request = _once(handler.single_connection_post_request)
    # It brings the ranks of tokenizers, but says so only to its own counting; else they would be fetched.
    ranks = Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(ranks))
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.set_verbose = False
    litellm.disable_streaming_logging = True
    # Its other transport leaves sessions open that nobody closes.
    litellm.disable_aiohttp_transport = True
    # After each answer that comes whole it counts and describes all of it for loggers, of which there are none here.
    utils: Any = importlib.import_module("litellm.utils")
    utils._schedule_async_success_logging = _nothing
    # They would write requests and addresses, and keys among them.
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).disabled = True
    for name in ("httpx", "httpcore", "openai", "openai._base_client"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What it loads and builds for its first answer takes a while, and comes out of nobody's time here.
    hush()
    said = os.environ["TIKTOKEN_CACHE_DIR"]
    for name in _LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # One of these has set it to its own, whatever a person had said.
    os.environ["TIKTOKEN_CACHE_DIR"] = said
    kinds: Any = importlib.import_module("litellm.types.utils")
    for kind in (kinds.Message, kinds.Delta, kinds.ModelResponse, kinds.ModelResponseStream, kinds.Usage):
        kind.model_rebuild()
    return litellm


def _once(again: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """`again`, by which a request is sent once more, for those only of which nothing had been sent.

    One whose connection broke later may have been answered, and be paid for.
    """

    async def sent(*args: Any, **more: Any) -> Any:
        broke = sys.exception()
        if broke is not None and type(broke).__name__ != "ConnectError":
            raise broke
        return await again(*args, **more)

    return sent


def _nothing(*_: Any, **__: Any) -> None:
    pass


def hush() -> None:
    """Ignore the warnings that litellm ignores when it is imported: filters can have been set anew since then.

    Where warnings are errors, they would end its streams. And it begins a request in a thread: one that is cancelled
    by then is never sent.
    """
    for message in (
        ".*`ReadOnly` qualifier.*",
        ".*Accessing the.*attribute on the instance is deprecated.*",
        "coroutine '.*completion' was never awaited",
    ):
        warnings.filterwarnings("ignore", message=message)


_users: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, int] = weakref.WeakKeyDictionary()


def enter(loop: asyncio.AbstractEventLoop) -> None:
    """Count one more user of this loop's connections."""
    _users[loop] = _users.get(loop, 0) + 1


async def leave(loop: asyncio.AbstractEventLoop) -> None:
    """One user less; the last one closes the connections, and stops what litellm left running."""
    _users[loop] -= 1
    if _users[loop]:
        return
    del _users[loop]
    if not load.cache_info().currsize:
        return
    litellm = load()
    kept: dict[str, Any] = litellm.in_memory_llm_clients_cache.cache_dict
    # Its own closing takes the clients of all loops, and forgets those of OpenAI.
    for key in [key for key in kept if key.endswith(f"-{id(loop)}")]:
        client = kept.pop(key)
        with contextlib.suppress(Exception):  # a boundary: what cannot be closed is gone all the same
            await client.close()
    worker: Any = importlib.import_module("litellm.litellm_core_utils.logging_worker").GLOBAL_LOGGING_WORKER
    await worker.stop()
