"""Choosing an embedding: the one place that knows every embedder."""

from collections.abc import Sequence

from cld.index import DEFAULT_MODEL, WORDS, Embedder, Model
from cld.index.arrays import Floats, np
from cld.index.litellm import LiteLLM
from cld.index.wordllama import WordLlama


def choose_embedder(model: Model) -> Embedder:
    """The embedder of `model`; nothing is loaded before it is used."""
    if model == WORDS:
        return _Wordless()
    return WordLlama() if model.name == DEFAULT_MODEL else LiteLLM(model)


class _Wordless:
    """An `Embedder` to which no text says anything."""

    model = WORDS

    async def embed(self, texts: Sequence[str]) -> Floats:
        return np.zeros((len(texts), 1), np.float32)
