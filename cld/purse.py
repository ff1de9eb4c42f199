"""What tasks may spend: ledgers kept in the tree, below the tasks whose budgets they keep.

A purse belongs to one task and draws on all ledgers from there up: something is set aside in each of them
before it is spent, and settled afterwards. Changes of one ledger by this process that come together are
written together, and what was settled may wait for them: until it is written, more counts as gone than is.
Owns reading and writing of ledgers; the arithmetic is `cld.tasks.budget`. `Metered` is a model that spends
from a purse, so that nobody who asks a model has to think of it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
from msgspec.structs import replace

from cld.errors import BudgetExceeded, CldError, Conflict, InvalidResource, ModelFailed, ResourceNotFound
from cld.guard import GuardedStore
from cld.models import Ask, Completion, Model, OnText
from cld.resource import Draft
from cld.tasks.budget import drop, hold, left, settle, tightest
from cld.types import Budget, Call, Ledger, Turn, Usage
from cld.uri import URI, make_uri

LEDGER = "plan.Ledger"

MOST_TRIES = 50
"""How often a change is tried again because other processes changed the ledger."""

SETTLED_WITHIN = 0.05
"""Seconds after which what was settled is written, if nothing was held meanwhile that it is written with."""

Change = Callable[[Ledger], Ledger]


def ledger_uri(task: URI) -> URI:
    """Where the ledger of a task's budget lies."""
    return make_uri(task, LEDGER, "budget")


@dataclass
class _Waiting:
    change: Change
    done: "asyncio.Future[None]"


@dataclass
class _Book:
    """One ledger as this process last knew it, and the changes that wait to be written."""

    uri: URI
    store: GuardedStore
    version: str = ""
    ledger: Ledger | None = None
    waiting: list[_Waiting] = field(default_factory=list[_Waiting])
    writing: "asyncio.Task[None] | None" = None
    soon: asyncio.TimerHandle | None = None


class Ledgers:
    """All ledgers that this process draws on."""

    def __init__(self) -> None:
        self._books: dict[URI, _Book] = {}

    def __len__(self) -> int:
        """How many are known of."""
        return len(self._books)

    async def create(self, store: GuardedStore, task: URI, budget: Budget) -> None:
        """Open a ledger for `budget` below `task`, unless there is one."""
        uri = ledger_uri(task)
        with contextlib.suppress(Conflict):
            await store.put(Draft(uri, msgspec.to_builtins(Ledger(budget))))

    def purse(self, store: GuardedStore, tasks: Sequence[URI], key: str) -> "Purse":
        """The purse of a task whose budget and those above it are kept below `tasks`; `key` names it among others."""
        books = [self._books.setdefault(uri, _Book(uri, store)) for uri in map(ledger_uri, tasks)]
        return Purse(self, books, key)

    def forget(self, task: URI) -> None:
        """Let go of what is known of a ledger whose task is over."""
        self._books.pop(ledger_uri(task), None)

    async def known(self, book: _Book) -> Ledger:
        """The ledger, read if it has not been.

        Raises:
            BudgetExceeded: it is not there or cannot be read: what has no ledger has no budget.
        """
        if book.ledger is None:
            try:
                stored = await book.store.get(book.uri)
                book.ledger, book.version = msgspec.convert(stored.resource.content, Ledger), stored.version
            except (ResourceNotFound, InvalidResource, msgspec.ValidationError) as error:
                message = f"{book.uri} cannot be read, so that nothing may be spent: {error}; restore it"
                raise BudgetExceeded(message, what="ledger", uri=book.uri) from error
        return book.ledger

    async def change(self, book: _Book, change: Change) -> None:
        """Apply `change`, together with others that wait.

        Raises:
            BudgetExceeded: by `change` itself; the ledger stays as it is then.
        """
        waiting = _Waiting(change, asyncio.get_running_loop().create_future())
        book.waiting.append(waiting)
        self._begin(book)
        await asyncio.shield(waiting.done)

    def change_soon(self, book: _Book, change: Change) -> None:
        """Apply `change` with the next one, or after `SETTLED_WITHIN`."""
        loop = asyncio.get_running_loop()
        book.waiting.append(_Waiting(change, loop.create_future()))
        if book.writing is None and book.soon is None:
            book.soon = loop.call_later(SETTLED_WITHIN, self._begin, book)

    async def flush(self, book: _Book) -> None:
        """Return once all that waits is written, or could not be."""
        if pending := [one.done for one in book.waiting]:
            self._begin(book)
            await asyncio.wait(pending)
        elif book.writing is not None:
            await asyncio.shield(book.writing)

    def _begin(self, book: _Book) -> None:
        if book.soon is not None:
            book.soon.cancel()
            book.soon = None
        if book.writing is None:
            # Of its own, so that who is cancelled while it waits does not take the others' changes along.
            book.writing = asyncio.create_task(self._write(book))

    async def expected(self, book: _Book) -> Ledger:
        """The ledger as it will be with what waits to be written.

        Raises:
            BudgetExceeded: as `known`.
        """
        ledger = await self.known(book)
        for one in book.waiting:
            with contextlib.suppress(CldError):
                ledger = one.change(ledger)
        return ledger

    async def _write(self, book: _Book) -> None:
        while book.waiting:
            together, book.waiting = book.waiting, []
            try:
                await self._write_once(book, together)
            except Exception as error:  # a task boundary: whoever waits is told
                book.ledger = None
                for one in together:
                    if not one.done.done():
                        one.done.set_exception(error)
                        one.done.exception()  # it may have been given up meanwhile
        book.writing = None

    async def _write_once(self, book: _Book, together: Sequence[_Waiting]) -> None:
        for _ in range(MOST_TRIES):
            before = after = await self.known(book)
            refused: dict[int, CldError] = {}
            for number, one in enumerate(together):
                try:
                    after = one.change(after)
                except CldError as error:
                    refused[number] = error
            if after != before:
                try:
                    stored = await book.store.put(Draft(book.uri, msgspec.to_builtins(after)), if_version=book.version)
                except Conflict:
                    book.ledger = None
                    continue
                book.ledger, book.version = after, stored.version
            elif refused and book.ledger is not None:
                # Refused by what was known: another process may have given something back since.
                book.ledger = None
                if await self.known(book) != before:
                    continue
            for number, one in enumerate(together):
                if one.done.done():
                    continue
                if number in refused:
                    one.done.set_exception(refused[number])
                    one.done.exception()
                else:
                    one.done.set_result(None)
            return
        raise Conflict(f"{book.uri} changes all the time; try again later", uri=book.uri, current=None)


class Purse:
    """What one task may draw on; without ledgers it has no bounds."""

    def __init__(self, ledgers: Ledgers, books: Sequence[_Book], key: str) -> None:
        self._ledgers = ledgers
        self._books = books
        self._key = key

    async def left(self) -> Budget:
        """What can be set aside now."""
        return tightest([left(await self._ledgers.expected(book)) for book in self._books])

    async def hold(self, step: str, amount: Usage) -> None:
        """Set `amount` aside for one step, in all ledgers or in none.

        Raises:
            BudgetExceeded: it is not there; nothing was set aside.
        """
        if not _costs(amount):
            return
        key = f"{self._key} {step}"
        for number, book in enumerate(self._books):
            try:
                await self._ledgers.change(book, lambda ledger: hold(ledger, key, amount))
            except BudgetExceeded as error:
                for before in self._books[:number]:
                    await self._ledgers.change(before, lambda ledger: drop(ledger, key))
                raise BudgetExceeded(str(error), what=error.what, uri=error.uri or book.uri) from None

    async def settle(self, step: str, spent: Usage) -> None:
        """Say what a step cost in the end, and give back the rest; nothing happens where nothing was set aside.

        It is written with what is held next, or soon: `flush` waits for that.
        """
        key = f"{self._key} {step}"
        for book in self._books:
            if key in (await self._ledgers.expected(book)).held:
                self._ledgers.change_soon(book, lambda ledger: settle(ledger, key, spent))

    async def flush(self) -> None:
        """Return once all that was settled is written, as far as it can be."""
        for book in self._books:
            await self._ledgers.flush(book)

    async def left_behind(self, fence: int) -> bool:
        """Whether those who held the task before `fence` had set something aside when they died."""
        return any([_mine(self._key, await self._ledgers.expected(book), fence) for book in self._books])

    async def take_over(self, fence: int, turns: Sequence[Turn], calls: Mapping[str, Call]) -> None:
        """Settle what was left behind, as far as it can be known.

        A request whose answer is among `turns`, and a call of `calls` that is over, at what it cost. What else was
        asked of a model may have been answered and paid for, and counts in full; a call that is open is settled by
        whoever ends it.
        """
        cost = {turn.held: turn.usage for turn in turns if turn.held}
        cost |= {id: Usage(calls=one.attempts) for id, one in calls.items() if one.state not in ("started", "waiting")}
        for book in self._books:
            ledger = await self._ledgers.expected(book)
            for step in _mine(self._key, ledger, fence):
                key = f"{self._key} {step}"
                spent = cost.get(step, ledger.held[key] if _is_request(step) else None)
                if spent is not None:
                    self._ledgers.change_soon(book, partial(settle, key=key, spent=spent))


class Metered:
    """A model whose every request is set aside and settled; `key` names who asks among others of the purse."""

    def __init__(self, model: Model, purse: Purse, key: str) -> None:
        self._model = model
        self._purse = purse
        self._key = key
        self._number = 0

    @property
    def step(self) -> str:
        """What was set aside last, as `take_over` is told of it."""
        return f"{self._key}.{self._number}"

    @property
    def generates(self) -> bool:
        return self._model.generates

    def bound(self, ask: Ask) -> Usage:
        return self._model.bound(ask)

    async def complete(self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None) -> Completion:
        """As `Model.complete`, for what is in the purse at most.

        Raises:
            BudgetExceeded: there is nothing left.
            ModelFailed: as `Model.complete`.
        """
        self._number += 1
        step = self.step
        held = await self._hold(step, self._model.bound(ask), left)
        try:
            completion = await self._model.complete(ask, on_text, left=held)
        except ModelFailed as failed:
            await self._purse.settle(step, Usage(tokens=failed.tokens, money=failed.money))
            raise
        except BudgetExceeded:
            await self._purse.settle(step, Usage())
            raise
        # Not when it is cancelled or dies: what it cost is not known then, and all of it counts as gone.
        await self._purse.settle(step, completion.usage)
        return completion

    async def _hold(self, step: str, bound: Usage, most: Usage | None) -> Usage:
        """Set aside what a request may cost, or what is left where that is less; how much it is."""
        left = await self._purse.left()
        tokens, money = bound.tokens, bound.money
        for what in ("tokens", "money"):
            if getattr(bound, what) and getattr(left, what) == 0:
                raise BudgetExceeded(f"there is no budget left for another turn: no {what}", what=what)
        if left.tokens is not None:
            tokens = min(tokens, left.tokens)
        if left.money is not None:
            money = min(money, left.money)
        if most is not None:
            tokens, money = min(tokens, most.tokens), min(money, most.money)
        held = replace(bound, tokens=tokens, money=money)
        await self._purse.hold(step, held)
        return held


def _costs(amount: Usage) -> bool:
    return bool(amount.tokens or amount.money or amount.calls)


def _mine(key: str, ledger: Ledger, fence: int) -> list[str]:
    """The steps of one task for which something is held, without the requests of its holder with `fence`."""
    mine = [one.removeprefix(f"{key} ") for one in ledger.held if one.startswith(f"{key} ")]
    return [step for step in mine if not step.startswith(f"{fence}.")]


def _is_request(step: str) -> bool:
    return step.partition(".")[0].isdigit()
