"""The search index: which resources a text is about, found by words and by meaning. This module is the contract.

The index is derived and disposable: made from the tree, never the truth. Delete its folder and it
comes back the same. It names resources and nothing else: what a hit quotes is read from the tree
when it is asked for, through the caller's own guard.

What it promises, and `tests/test_index_*.py` checks:

- *The same answer as over a tree that never held what the caller may not read*: hits, order,
  scores, quotes, count. Every score is computed from the question and one passage alone, with
  arithmetic that is exact, so that no other text can move it, not even in the last bit; what may
  not be read is taken out before anything is counted.
- *Fresh*: what was put is found within a second, from events, in batches. Whatever events missed is
  found by comparing with the tree, when a process takes over and now and then.
- *One maintainer*: a lock says who writes; it goes with its process, and another takes over.
  Readers, in any process, wait for nobody.
- *Never broken*: killed at any moment, the index opens as it was after some batch; if it
  cannot be opened it is made anew.
- *A change of the model* makes a second index beside the first, which answers until the second is whole.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from cld.errors import CldError
from cld.index.arrays import Floats
from cld.uri import URI

DEFAULT_MODEL = "wordllama"
"""The embedding that needs no network: its weights come with the package of that name."""

Signal = Literal["words", "meaning"]
Mode = Literal["hybrid", "words", "meaning"]


class EmbeddingFailed(CldError):
    """The embedding model did not answer; what needs it is tried again later."""

    code = "embedding_failed"


class BrokenIndex(CldError):
    """A file of an index that is not as it was written; who keeps the index makes it anew."""

    code = "broken_index"


class IndexUnavailable(CldError):
    """A file of an index cannot be read or written now: the disk is full or fails, or another is at it for long."""

    code = "index_unavailable"


class Model(msgspec.Struct, frozen=True):
    """Which embedding: `wordllama`, or any name litellm knows, as in `ollama/nomic-embed-text`.

    `api_base` is where such a model is served, if not at its provider's usual place; `dimensions`
    asks it for shorter vectors than its own, where it can. Keys come from the environment.
    """

    name: str = DEFAULT_MODEL
    api_base: str = ""
    dimensions: int = 0


WORDS = Model("")
"""No model: of an index that answers by words alone, until the model asked for can be had."""


class Embedder(Protocol):
    """Turns texts into vectors; the same text always into the same one, whatever it is sent along with."""

    @property
    def model(self) -> Model: ...

    async def embed(self, texts: Sequence[str]) -> Floats:
        """One row for each text, of length one, or all zeros for a text that says nothing.

        Raises:
            EmbeddingFailed: it cannot be had now.
        """
        ...


class Why(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which part of the resource matched, and by what.

    The quote is `field[start:end]`, counted in characters; `field` is a path such as
    `content.text` or `meta.purpose`. `words` are those of the question that stand in the
    passage, `similarity` is the cosine of question and passage.
    """

    field: str
    start: int
    end: int
    signals: tuple[Signal, ...]
    words: tuple[str, ...] = ()
    similarity: float = 0.0


class Hit(msgspec.Struct, frozen=True):
    """A resource that answers; `score` is between 0 and 1, comparable between questions of one model."""

    uri: URI
    score: float
    quote: str
    why: Why
