"""litellm: embeddings by any provider that it knows, imported when the first text is embedded."""

import asyncio
import importlib
import os
from collections.abc import Sequence
from typing import Any

from cld.errors import Unsupported
from cld.index import EmbeddingFailed, Model
from cld.index.arrays import Floats, np

BATCH = 96
"""Texts sent at a time; the smallest bound among the usual providers."""

TIMEOUT_SECONDS = 60.0
RETRIES = 1


class LiteLLM:
    """An `Embedder` that asks a provider; keys come from the environment variables litellm names."""

    def __init__(self, model: Model) -> None:
        self.model = model

    async def embed(self, texts: Sequence[str]) -> Floats:
        """As `Embedder.embed`.

        Raises:
            EmbeddingFailed: the provider did not answer, or answered something else.
            Unsupported: litellm is not installed.
        """
        litellm = await asyncio.to_thread(_load)
        rows: list[Any] = []
        for first in range(0, len(texts), BATCH):
            rows += await self._ask(litellm, [text or " " for text in texts[first : first + BATCH]])
        try:
            with np.errstate(over="ignore"):  # too large becomes infinite, and is refused
                found = np.array(rows, np.float32)
            norms = np.sqrt(np.square(found, dtype=np.float64).sum(axis=1, keepdims=True))
        except (ValueError, TypeError) as error:
            raise EmbeddingFailed(f"{self.model.name} gave vectors of different lengths, or none: {error}") from error
        if found.ndim != 2 or not found.shape[1]:
            raise EmbeddingFailed(f"{self.model.name} gave something else than vectors")
        if not np.isfinite(norms).all():
            raise EmbeddingFailed(f"{self.model.name} gave vectors with infinities in them")
        return (found / np.maximum(norms, 1e-30)).astype(np.float32)

    async def _ask(self, litellm: Any, texts: list[str]) -> list[Any]:
        more: dict[str, Any] = {}
        if self.model.api_base:
            more["api_base"] = self.model.api_base
        if self.model.dimensions:
            # Models that litellm has not heard of may have them too; those that have not will say so.
            more |= {"dimensions": self.model.dimensions, "allowed_openai_params": ["dimensions"]}
        try:
            answer = await litellm.aembedding(
                model=self.model.name, input=texts, timeout=TIMEOUT_SECONDS, max_retries=RETRIES, **more
            )
            rows = sorted(answer.data, key=lambda row: row["index"])
            vectors = [row["embedding"] for row in rows]
        except Exception as error:  # a boundary: litellm raises what its providers' libraries raise
            raise EmbeddingFailed(f"{self.model.name} did not embed {len(texts)} texts: {error}") from error
        if len(vectors) != len(texts):
            raise EmbeddingFailed(f"{self.model.name} gave {len(vectors)} vectors for {len(texts)} texts")
        return vectors


def _load() -> Any:
    # Else its import asks the network for a list of prices.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        # By name, for it need not be installed; some four seconds.
        litellm: Any = importlib.import_module("litellm")
    except ImportError as error:
        raise Unsupported(
            f"embedding with a model of litellm needs that package; install cld[models] ({error})"
        ) from error
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm
