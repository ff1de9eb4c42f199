"""The router: one question to a chain of models, until one gives an answer that can be used.

Owns the order of tries, what they may cost, who waits for whom, and the counters. Speaks to no provider itself
(`cld.models.litellm` does), and must not make a try that could cost more than is left.
"""

import asyncio
import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from cld.config import Models, Tier
from cld.errors import BudgetExceeded, ConfigError, ModelFailed, Unsupported
from cld.json_schema import Check, compile_schema
from cld.models import Ask, Completion, More, OnText
from cld.models.allowance import LEAST_ANSWER, Allowance
from cld.models.answers import Misfits, correction, judged
from cld.models.counters import Counters, Standing, standing
from cld.models.failures import Failed
from cld.models.library import enter, leave, load
from cld.models.litellm import Answer, Provider, Request
from cld.models.prices import Price
from cld.models.queue import Queue
from cld.types import Usage

log = logging.getLogger("cld.models")

_BYTES_A_TOKEN = 3
"""About, in prose and code; only to judge whether a prompt fits where no tokenizer is known."""


class _Lane:
    """A tier, who waits for it, and what came of it."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.provider = Provider(tier)
        self.queue = Queue(tier.at_once, tier.per_minute)
        self.counters = Counters(tier.name, tier.model)

    def price(self) -> Price:
        price = self.provider.facts.price
        if price is None:
            # A budget of money could not hold.
            raise Failed("price", "nobody knows its price: set price_in and price_out, 0 where it is free")
        return price

    def longest(self, ask: Ask, request: Request) -> int:
        """How many tokens the answer may have at most, whatever is left."""
        facts = self.provider.facts
        wanted = min(ask.max_tokens, facts.answer) if facts.answer else ask.max_tokens
        if facts.context:
            prompt = request.prompt if facts.exact else request.prompt // _BYTES_A_TOKEN
            room = facts.context - prompt
            if room < min(LEAST_ANSWER, wanted):
                raise Failed("context", f"the question has about {prompt} tokens, and its context {facts.context}")
            wanted = min(wanted, room)
        return wanted


class _Telling:
    """Passes pieces on, and takes them back before another try."""

    def __init__(self, on_text: OnText | None) -> None:
        self._on_text = on_text
        self._told = False
        self.piece = None if on_text is None else self._pass

    def _pass(self, piece: str) -> None:
        if piece and self._on_text is not None:
            self._told = True
            self._on_text(piece)

    def begin(self) -> None:
        """Another try begins."""
        if self._told and self._on_text is not None:
            self._told = False
            self._on_text("")


class Router:
    """A `Model` that is a chain of others, and for planning and judging begins with the reasoning model.

    May be asked many at once, by one event loop. `aclose` when done.
    """

    def __init__(self, settings: Models) -> None:
        self._chain = tuple(map(_Lane, settings.chain))
        self._reasoning = _Lane(settings.reasoning) if settings.reasoning else None
        self._lanes = (*((self._reasoning,) if self._reasoning else ()), *self._chain)
        self._keep = settings.cache
        self._kept: OrderedDict[bytes, Completion] = OrderedDict()
        self._preparing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.remembered = 0
        """How many answers came from the cache."""

    @property
    def available(self) -> bool:
        """Whether any model is configured."""
        return bool(self._lanes)

    @property
    def generates(self) -> bool:
        """Whether any has what it takes to be asked, as far as that can be told without asking."""
        return _is_installed() and any(not _lacks(lane.tier) for lane in self._lanes)

    @property
    def counters(self) -> tuple[Counters, ...]:
        """What each tier did so far, the reasoning model's first."""
        return tuple(msgspec.structs.replace(c, failures=dict(c.failures)) for c in (n.counters for n in self._lanes))

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How each tier stands, in the same order; only within an event loop."""
        return tuple(standing(n.counters, _lacks(n.tier), n.queue.resting) for n in self._lanes)

    @property
    def problems(self) -> list[str]:
        """What is wrong with the settings, as far as it can be known without asking anyone."""
        if not self._lanes:
            return []
        if not _is_installed():
            return ["models are configured, but litellm is not installed; install cld[models]"]
        return [f"models: tier {lane.tier.name} has {lacks}" for lane in self._lanes if (lacks := _lacks(lane.tier))]

    async def prepare(self) -> None:
        """Load what asking needs, which takes seconds the first time, without holding up the loop."""
        if self._lanes:
            if self._preparing is None:
                self._preparing = asyncio.create_task(asyncio.to_thread(self._learn))
            # Whoever waits may be cancelled; the thread goes on, and is the only one.
            await asyncio.shield(self._preparing)

    async def bound(self, ask: Ask) -> Usage:
        """As `Model.bound`, of the dearest tier that may be asked; prepares for that where nobody has.

        Raises:
            ConfigError: there is no such tier.
        """
        await self.prepare()
        tokens, money = 0, 0.0
        for lane in self._line(ask):
            try:
                request = lane.provider.request(ask)
                longest, price = lane.longest(ask, request), lane.price()
            except Failed:
                continue  # it will not be asked either
            tokens = max(tokens, request.prompt + longest)
            money = max(money, price.of(request.prompt, longest))
        return Usage(tokens=tokens, money=money, requests=1)

    async def complete(
        self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None, more: More | None = None
    ) -> Completion:
        """As `Model.complete`; an answer out of the cache costs nothing.

        Where some tries were made and what is left does not do for the next, that is a `ModelFailed`, which says
        what they cost.

        Raises:
            ModelFailed, BudgetExceeded: as `Model.complete`.
            ConfigError: there is no such tier.
            InvalidResource: the schema asked for is none.
        """
        line = self._line(ask)
        if not line:
            raise ModelFailed("no model is configured; name one under [[models.chain]] in your own settings")
        key = self._key(ask, line)
        if key in self._kept:
            return self._remember(key, on_text)
        check = None
        if ask.schema is not None:
            check = await asyncio.to_thread(compile_schema, ask.schema)
        await self.prepare()
        self._enter()
        allowance, telling = Allowance(left, more), _Telling(on_text)
        failures: list[tuple[_Lane, Failed]] = []
        for lane in line:
            try:
                completion = await self._ask(lane, ask, check, allowance, telling, last=lane is line[-1])
            except Failed as failed:
                failures.append((lane, failed))
                continue
            completion = msgspec.structs.replace(completion, usage=allowance.spent)
            self._keep_good(key, completion)
            if failures:
                passed = ", ".join(f"{before.tier.name}: {failed.kind}" for before, failed in failures)
                log.info("model %s answered after %s", lane.tier.name, passed)
            return completion
        raise _gave_up(failures, allowance)

    async def aclose(self) -> None:
        """Close the connections; nobody may be asked any more."""
        for lane in self._lanes:
            lane.queue.close()
            if lane.counters.tries or lane.counters.failures:
                log.info("%s", lane.counters.summary())
        if self._loop is not None:
            loop, self._loop = self._loop, None
            await leave(loop)

    async def _ask(
        self, lane: _Lane, ask: Ask, check: Check | None, allowance: Allowance, telling: _Telling, *, last: bool
    ) -> Completion:
        """The answer of one tier, which is told once what does not fit, and waited for once where it asks for that."""
        told = waited = False
        while True:
            try:
                if not last and (seconds := lane.queue.resting):
                    raise Failed("resting", f"it asked to be left alone for {seconds:.1f} s more")
                request = lane.provider.request(ask)
                answer = await self._try(lane, ask, request, allowance, telling)
                completion = await judged(answer, [tool.name for tool in ask.tools], check, lane.tier.model)
            except Misfits as misfits:
                lane.counters.fail("schema", misfits.reason if told else "")
                if told:
                    raise Failed("schema", f"twice it did not fit the schema: {misfits.reason}") from None
                told = True
                ask = msgspec.structs.replace(ask, messages=(*ask.messages, *correction(misfits)))
            except Failed as failed:
                lane.counters.fail(failed.kind, failed.reason)
                if failed.kind != "rate_limited":
                    raise
                lane.queue.rest(failed.after)
                if waited or not last or failed.after > lane.tier.timeout:
                    raise
                waited = True
            else:
                lane.counters.answer(repaired=told)
                return completion

    async def _try(self, lane: _Lane, ask: Ask, request: Request, allowance: Allowance, telling: _Telling) -> Answer:
        """One request, and what it cost."""
        price, longest = lane.price(), lane.longest(ask, request)
        # What is left is mostly what one try was thought to cost, and another may have spent it.
        await allowance.extend(request.prompt, longest, price)
        most = allowance.affords(request.prompt, longest, price)
        tokens, money = request.prompt + most, price.of(request.prompt, most)
        async with lane.queue.place(ask.fair):
            telling.begin()
            begun = time.perf_counter()
            try:
                answer = await lane.provider.ask(request, most, telling.piece)
                tokens_in = request.prompt if answer.tokens_in is None else answer.tokens_in
                tokens_out = most if answer.tokens_out is None else answer.tokens_out
                tokens, money = tokens_in + tokens_out, price.of(tokens_in, tokens_out)
            except Failed as failed:
                if not failed.spent:
                    tokens, money = 0, 0.0
                raise
            except BaseException:
                lane.counters.cancelled += 1
                raise
            finally:
                # What is not known is taken to be the most it can be.
                lane.counters.spend(tokens, money, time.perf_counter() - begun)
                allowance.spend(tokens, money)
        return answer

    def _line(self, ask: Ask) -> Sequence[_Lane]:
        """Who is asked, in order."""
        chain = self._chain
        if ask.tier:
            names = [lane.tier.name for lane in self._lanes]
            if ask.tier not in names:
                known = ", ".join(names) or "none"
                raise ConfigError(f"there is no tier {ask.tier!r} of models; those in the settings are: {known}")
            begin = [lane.tier.name for lane in chain]
            if ask.tier in begin:
                chain = chain[begin.index(ask.tier) :]
        if self._reasoning and (ask.reasoning or ask.tier == self._reasoning.tier.name or not chain):
            return (self._reasoning, *chain)
        return chain

    def _key(self, ask: Ask, line: Sequence[_Lane]) -> bytes:
        """The exact request as a digest: what it was cannot be read out of it."""
        if not self._keep:
            return b""
        who = [lane.tier for lane in line]
        asked = msgspec.structs.replace(ask, fair="")
        return hashlib.sha256(msgspec.json.encode((who, asked), order="deterministic")).digest()

    def _remember(self, key: bytes, on_text: OnText | None) -> Completion:
        self._kept.move_to_end(key)
        self.remembered += 1
        kept = self._kept[key]
        if on_text is not None and kept.text:
            on_text(kept.text)
        return msgspec.structs.replace(kept, usage=Usage())

    def _keep_good(self, key: bytes, completion: Completion) -> None:
        if key and completion.finish != "length" and not any(wish.problem for wish in completion.wishes):
            self._kept[key] = completion
            if len(self._kept) > self._keep:
                self._kept.popitem(last=False)

    def _learn(self) -> None:
        with contextlib.suppress(Unsupported):  # every try says so
            load()
        for lane in self._lanes:
            with contextlib.suppress(Failed):  # likewise
                _ = lane.provider.facts

    def _enter(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            enter(self._loop)


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("litellm") is not None


def _lacks(tier: Tier) -> str:
    """What a tier lacks to be asked, as far as that can be told; empty for nothing."""
    if tier.api_key and not os.environ.get(tier.api_key):
        return f"its key in {tier.api_key}, which is not set"
    return ""


def _gave_up(failures: Sequence[tuple[_Lane, Failed]], allowance: Allowance) -> ModelFailed | BudgetExceeded:
    reasons = [f"{lane.tier.name} ({lane.tier.model}): {failed.kind}: {failed.reason}" for lane, failed in failures]
    if not allowance.requests and all(failed.kind == "budget" for _, failed in failures):
        return BudgetExceeded(
            f"what is left of the budget does not do for a question to a model: {'; '.join(reasons)}",
            what=failures[-1][1].reason.partition(":")[0],
        )
    return ModelFailed(
        f"no model gave an answer: {'; '.join(reasons)}",
        reasons=reasons,
        kinds=[failed.kind for _, failed in failures],
        tokens=allowance.tokens,
        money=allowance.money,
    )
