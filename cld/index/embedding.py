"""Choosing an embedding: the one place that knows every embedder."""

from cld.index import DEFAULT_MODEL, Embedder, Model
from cld.index.litellm import LiteLLM
from cld.index.wordllama import WordLlama


def choose_embedder(model: Model) -> Embedder:
    """The embedder of `model`; nothing is loaded before it is used."""
    return WordLlama() if model.name == DEFAULT_MODEL else LiteLLM(model)
