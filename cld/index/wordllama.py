"""WordLlama: the embedding that needs no network, and the table of how common words are.

Reads the weights and the tokenizer that the `wordllama` package ships, without importing it: its
import sets up logging for the whole process, and its own look-up misses the tokenizer. A vector is
the mean of the vectors of a text's tokens, as there.
"""

import asyncio
import importlib.util
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cld.errors import Unsupported
from cld.index import DEFAULT_MODEL, Model
from cld.index.arrays import Floats, np

_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_FIRST_MERGE = 259  # before it in the vocabulary: markers and single bytes
_BATCH = 256
_PASSAGE_WORDS = 150

_lock = threading.Lock()
_loaded: "tuple[Any, Floats] | None" = None


class WordLlama:
    """An `Embedder` of 256 dimensions, some 20,000 short texts a second."""

    def __init__(self) -> None:
        self.model = Model(DEFAULT_MODEL)

    async def embed(self, texts: Sequence[str]) -> Floats:
        """As `Embedder.embed`.

        Raises:
            Unsupported: the package is not installed.
        """
        if len(texts) == 1 and _loaded is not None:
            return embed(texts)  # a question: less than the hop to a thread
        return await asyncio.to_thread(embed, texts)


def embed(texts: Sequence[str]) -> Floats:
    """The vectors of `texts`, each computed by itself, token after token."""
    tokenizer, weights = _load()
    found = np.zeros((len(texts), weights.shape[1]), np.float32)
    for first in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch_fast(list(texts[first : first + _BATCH]), add_special_tokens=False)
        ids = [encoded.ids for encoded in batch]
        for row, tokens in enumerate(ids, first):
            if tokens:
                # Summed one text at a time: sums over a padded batch would depend on its other texts.
                found[row] = weights[tokens].sum(axis=0, dtype=np.float64)
    norms = np.sqrt(np.square(found, dtype=np.float64).sum(axis=1, keepdims=True))
    return (found / np.maximum(norms, 1e-30)).astype(np.float32)


def rarity_of(word: str) -> float:
    """How much it says that a text has `word`: its inverse document frequency by Zipf's law, from 0 to about 9.

    The tokenizer's pieces were merged in the order of how often they occur, so a piece's place in the
    vocabulary is about its rank among words; the frequency of the word of rank r is about 1/(12 r)
    (Zipf 1949), and a passage of n words has it with probability 1-(1-f)^n. A word of several pieces is
    rarer than all that have one. Nothing here depends on what is in the tree.
    """
    tokenizer, _ = _load()
    ids = tokenizer.encode(word, add_special_tokens=False).ids
    rank = 1.0 if not ids else float(max(1, ids[0] - _FIRST_MERGE))
    if len(ids) > 1:
        rank = float(tokenizer.get_vocab_size())
    return -math.log(1.0 - (1.0 - 1.0 / (12.0 * rank)) ** _PASSAGE_WORDS)


def require_package() -> Path:
    """Where the package lies.

    Raises:
        Unsupported: it, or what it needs, is not installed.
    """
    for name in ("numpy", "safetensors", "tokenizers", "wordllama"):
        if importlib.util.find_spec(name) is None:
            raise Unsupported(f"search needs the package {name}; install cld[knowledge]")
    found = importlib.util.find_spec("wordllama")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def _load() -> "tuple[Any, Floats]":
    """The tokenizer and the table of its tokens' vectors."""
    global _loaded
    with _lock:
        if _loaded is None:
            folder = require_package()
            from safetensors import safe_open  # noqa: PLC0415 - not needed by those who never search
            from tokenizers import Tokenizer  # noqa: PLC0415 - likewise

            tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            opened: Any = safe_open(folder / _WEIGHTS, "np")
            with opened as file:
                weights: Floats = file.get_tensor("embedding.weight").astype(np.float32)
            _loaded = tokenizer, weights
        return _loaded


def count_tokens(texts: Sequence[str]) -> list[int]:
    """How many tokens each text has for this model's tokenizer (Llama 2's, of 32,000 pieces).

    Newer models have larger vocabularies and so, of the same text, seldom more tokens.

    Raises:
        Unsupported: the package is not installed.
    """
    tokenizer, _ = _load()
    batch = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [len(encoded.ids) for encoded in batch]
