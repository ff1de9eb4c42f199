"""What tokens cost, by the settings or by the list that litellm brings. In US dollars; no discount is counted on."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

MILLION = 1_000_000

_STEP = re.compile(r"(input|output)_cost_per_token(?:_above_(\d+)k_tokens)?")


class Rate(NamedTuple):
    """Dollars for a token in and out, for prompts of more than `above` tokens."""

    above: int
    tokens_in: float
    tokens_out: float


class Price(NamedTuple):
    """Rates by the length of the prompt, shortest first."""

    rates: tuple[Rate, ...]

    def rate(self, prompt: int) -> Rate:
        """What holds for a prompt of so many tokens; never less than for a shorter one."""
        return [rate for rate in self.rates if prompt > rate.above or not rate.above][-1]

    def of(self, prompt: int, answer: int) -> float:
        """What so many tokens cost."""
        rate = self.rate(prompt)
        return prompt * rate.tokens_in + answer * rate.tokens_out


FREE = Price((Rate(0, 0.0, 0.0),))


def flat(in_million: float, out_million: float) -> Price:
    """So much for a million tokens, whatever the prompt."""
    return Price((Rate(0, in_million / MILLION, out_million / MILLION),))


def listed(entry: Mapping[str, Any]) -> Price | None:
    """What litellm's list says of a model; None where it says nothing of tokens."""
    costs: dict[int, dict[str, float]] = {}
    for key, value in entry.items():
        if (step := _STEP.fullmatch(key)) and isinstance(value, int | float):
            costs.setdefault(int(step[2] or 0) * 1000, {})[step[1]] = float(value)
    if costs.get(0, {}).keys() != {"input", "output"}:
        return None
    rates: list[Rate] = []
    dearest_in, dearest_out = 0.0, float(entry.get("output_cost_per_reasoning_token") or 0.0)
    for above in sorted(costs):
        dearest_in = max(dearest_in, costs[above].get("input", 0.0))
        dearest_out = max(dearest_out, costs[above].get("output", 0.0))
        rates.append(Rate(above, dearest_in, dearest_out))
    return Price(tuple(rates))
