"""The settings of models: only the user's own, and what does not fit is named."""

from pathlib import Path

import pytest

from cld.config import Models, Tier, load_settings
from cld.errors import ConfigError

WRITTEN = """
[models]
cache = 100
[[models.chain]]
name = "local"
model = "ollama_chat/qwen3:8b"
context = 16384
[[models.chain]]
name = "large"
model = "anthropic/claude-sonnet-4-5"
api_key = "ANTHROPIC_API_KEY"
timeout = 300
at_once = 2
per_minute = 50
price_in = 3.0
price_out = 15.0
max_tokens = 8192
schema = "words"
temperature = 0.2
[models.reasoning]
name = "thinker"
model = "openai/o4-mini"
reasoning_effort = "high"
"""


def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> Models:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.toml"
    file.write_text(written)
    return load_settings({}, {"CLD_CONFIG": str(file)}).models


def test_a_chain_and_a_reasoning_model_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = own(tmp_path, monkeypatch, WRITTEN)
    assert [tier.name for tier in models.chain] == ["local", "large"] and models.cache == 100
    assert models.chain[0] == Tier("local", "ollama_chat/qwen3:8b", context=16384)
    large = models.chain[1]
    assert (large.timeout, large.at_once, large.per_minute, large.max_tokens) == (300, 2, 50, 8192)
    assert (large.price_in, large.price_out, large.schema, large.temperature) == (3.0, 15.0, "words", 0.2)
    assert models.reasoning == Tier("thinker", "openai/o4-mini", reasoning_effort="high")


def test_without_any_the_chain_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own(tmp_path, monkeypatch, "") == Models()


def test_a_file_that_came_with_a_tree_cannot_send_texts_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cld.toml").write_text("[models]\ncache = 1\n")
    with pytest.raises(ConfigError, match="sets models, which a file that may have come with a tree cannot"):
        load_settings({}, {})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[[models.chain]]\nname = 'a'", "missing required field `model`"),
        ("[[models.chain]]\nname = 'a b'\nmodel = 'x/y'", r"matching regex .* at `\$.models.chain\[0\].name`"),
        ("[[models.chain]]\nname = 'a'\nmodel = 'x/y'\napi_key = 'sk-123'", "api_key"),
        ("[[models.chain]]\nname = 'a'\nmodel = 'x/y'\nprice_in = 1.0", "price_in and price_out belong together"),
        ("[[models.chain]]\nname = 'a'\nmodel = 'x/y'\nprice_in = inf\nprice_out = 1.0", "price_in"),
        ("[[models.chain]]\nname = 'a'\nmodel = 'x/y'\n" * 2, "two tiers are named 'a'"),
        ("[[models.chain]]\nname = 'a'\nmodel = 'x/y'\nkey = 'x'", "unknown field `key`"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        own(tmp_path, monkeypatch, written)
