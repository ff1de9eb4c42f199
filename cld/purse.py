"""What tasks may spend: ledgers kept in the tree, below the tasks whose budgets they keep.

A purse belongs to one task and draws on all ledgers from there up: something is set aside in each of them
before it is spent, and settled afterwards. What is not there only because others hold it is waited for, first come,
first served; who waits holds nothing that it could give back, so nobody waits for one who waits. Changes of one ledger
by this process that come together are written together, and what was settled may wait for them: until it is written,
more counts as gone than is. Owns reading and writing of ledgers; the arithmetic is `cld.tasks.budget`. `Metered` is a
model that spends from a purse, so that nobody who asks a model has to think of it.
"""

import asyncio
import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
from msgspec.structs import replace

from cld.errors import BudgetExceeded, CldError, ConfigError, Conflict, InvalidResource, ModelFailed, ResourceNotFound
from cld.guard import GuardedStore
from cld.models import Ask, Completion, Model, More, OnText
from cld.resource import Draft, timestamp
from cld.tasks.budget import NOTHING, beyond, costs, hold, in_reach, left, less, plus, settle, sink, tightest
from cld.tasks.instants import is_over
from cld.types import Budget, Call, Lease, Ledger, Turn, Usage
from cld.uri import URI, make_uri, parse_uri

LEDGER = "plan.Ledger"

MOST_TRIES = 50
"""How often a change is tried again because other processes changed the ledger."""

SETTLED_WITHIN = 0.05
"""Seconds after which what was settled is written, if nothing was held meanwhile that it is written with."""

LOOKS_AGAIN = 0.5
"""Seconds after which who waits looks again at what other processes have settled."""

PATIENCE = 15.0
"""Seconds that what is held for a task that nobody works is waited for."""

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
    being_written: Sequence[_Waiting] = ()
    writing: "asyncio.Task[None] | None" = None
    soon: asyncio.TimerHandle | None = None
    line: dict[int, asyncio.Event] = field(default_factory=dict[int, asyncio.Event])
    """Who waits for others to give back what they hold, by when they came; each is told when that may have been."""
    unworked: dict[str, float] = field(default_factory=dict[str, float])
    """What is held for tasks that nobody works, and since when that is known."""
    looked_at: float = -math.inf
    given: int = 0
    """How often somebody was told that something was given back."""

    def tell(self) -> None:
        """Something was given back, or somebody left the line."""
        self.given += 1
        for told in self.line.values():
            told.set()


class Ledgers:
    """All ledgers that this process draws on.

    What is held for a task that nobody works is waited for `patience` seconds: its process died, and whoever takes it
    over settles that.
    """

    def __init__(self, patience: float = PATIENCE, *, looks_again: float = LOOKS_AGAIN) -> None:
        self._books: dict[URI, _Book] = {}
        self._patience = patience
        self.looks_again = looks_again
        self.numbers = itertools.count()
        self.own: set[str] = set()
        """The keys by which this process holds something that it will settle."""

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
        """Apply `change`, together with others that wait to be written.

        Raises:
            BudgetExceeded: by `change` itself; the ledger stays as it is then.
        """
        waiting = _Waiting(change, asyncio.get_running_loop().create_future())
        book.waiting.append(waiting)
        self._begin(book)
        await asyncio.shield(waiting.done)

    def change_soon(self, book: _Book, change: Change) -> None:
        """Apply `change`, which gives something back, with the next one, or after `SETTLED_WITHIN`."""
        loop = asyncio.get_running_loop()
        book.waiting.append(_Waiting(change, loop.create_future()))
        book.tell()
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
        for one in (*book.being_written, *book.waiting):
            with contextlib.suppress(CldError):
                ledger = one.change(ledger)
        return ledger

    async def lost(self, book: _Book) -> frozenset[str]:
        """What is held for tasks that nobody has worked for so long that it is not waited for any more, by its keys."""
        now = asyncio.get_running_loop().time()
        held = (await self.expected(book)).held
        others = [key for key, amount in held.items() if key not in self.own and (amount.tokens or amount.money)]
        if now >= book.looked_at + self.looks_again:
            book.looked_at = now
            unworked = [key for key in others if not await _is_worked(book.store, key)]
            book.unworked = {key: book.unworked.get(key, now) for key in unworked}
        return frozenset(key for key, since in book.unworked.items() if key in others and now >= since + self._patience)

    async def _write(self, book: _Book) -> None:
        while book.waiting:
            together, book.waiting = book.waiting, []
            book.being_written = together
            try:
                await self._write_once(book, together)
            except Exception as error:  # a task boundary: whoever waits is told
                book.ledger = None
                for one in together:
                    if not one.done.done():
                        one.done.set_exception(error)
                        one.done.exception()  # it may have been given up meanwhile
            finally:
                book.being_written = ()
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

    async def hold(self, step: str, amount: Usage, sunk: Usage = NOTHING, *, shorter: bool = False) -> Usage:
        """Set `amount` aside for one step, in all ledgers or in none; how much it is.

        It replaces what the step held; `sunk` is what of it was spent by then. With `shorter` it is less where less
        is left. What is not there only because others hold it is waited for, and meanwhile the step holds what it
        has sunk and nothing more.

        Raises:
            BudgetExceeded: it is not there, whatever others give back; the step holds what it has sunk at least.
        """
        if not costs(amount) or not self._books:
            return amount
        key, books, wanted = f"{self._key} {step}", self._books, amount
        can_wait, has_let_go = bool(amount.tokens or amount.money), False
        if can_wait:
            self._ledgers.own.add(key)
        place = _Place(next(self._ledgers.numbers), books)
        try:
            while True:
                before = {book.uri: book.given for book in books}
                if can_wait and (busy := place.behind):
                    place.join(busy)
                    seconds = None
                elif (refused := await self._hold(key, wanted, sunk, books)) is None:
                    return wanted
                else:
                    book, error = refused
                    place.join([book])
                    possible = await self._possible(key, amount, sunk, error, shorter=shorter)
                    if possible != wanted:
                        wanted = possible
                        continue
                    # Next time it is first: what it refuses need not be taken back from the others.
                    books = [book, *(other for other in books if other is not book)]
                    seconds = self._ledgers.looks_again
                if not has_let_go:
                    await self._let_go(key, sunk, self._books)
                    has_let_go = True
                await place.come(before, seconds)
        finally:
            place.leave()

    async def _hold(
        self, key: str, amount: Usage, sunk: Usage, books: Sequence[_Book]
    ) -> tuple[_Book, BudgetExceeded] | None:
        """Set aside in all ledgers or in none: which of them refused, and why."""
        for number, book in enumerate(books):
            try:
                await self._ledgers.change(book, partial(hold, key=key, amount=amount, sunk=sunk))
            except BudgetExceeded as error:
                await self._let_go(key, sunk, books[:number])
                return book, BudgetExceeded(str(error), what=error.what, uri=error.uri or book.uri)
        return None

    async def _let_go(self, key: str, sunk: Usage, books: Sequence[_Book]) -> None:
        """Hold no more than what is spent already."""
        for book in books:
            await self._ledgers.change(book, partial(sink, key=key, spent=sunk))
            book.tell()

    async def _possible(self, key: str, amount: Usage, sunk: Usage, refused: BudgetExceeded, *, shorter: bool) -> Usage:
        """How much there will be of `amount` at most, when others have given back what they can.

        Raises:
            BudgetExceeded: not enough, where it may not be shorter; nothing; or only because of what nobody settles.
        """
        ledgers = [await self._ledgers.expected(book) for book in self._books]
        lost = [await self._ledgers.lost(book) for book in self._books]
        most = tightest(in_reach(ledger, key) for ledger in ledgers)
        found = tightest(in_reach(ledger, key, keys) for ledger, keys in zip(ledgers, lost, strict=True))
        if beyond(found, amount) is None:
            return amount
        if beyond(most, amount) is None:
            raise BudgetExceeded(f"{refused}; {_lost(ledgers, lost)}", what=refused.what, uri=refused.uri)
        if not shorter:
            raise refused
        tokens, money = amount.tokens, amount.money
        for what in ("tokens", "money"):
            bound: float | None = getattr(found, what)
            if bound is not None and getattr(amount, what) > bound and getattr(sunk, what) >= bound:
                raise BudgetExceeded(f"there is no budget left for another turn: no {what}", what=what, uri=refused.uri)
        if found.tokens is not None:
            tokens = min(tokens, found.tokens)
        if found.money is not None:
            money = min(money, found.money)
        return replace(amount, tokens=tokens, money=money)

    async def settle(self, step: str, spent: Usage) -> None:
        """Say what a step cost in the end, and give back the rest; nothing happens where nothing was set aside.

        It is written with what is held next, or soon: `flush` waits for that.
        """
        key = f"{self._key} {step}"
        try:
            for book in self._books:
                if key in (await self._ledgers.expected(book)).held:
                    self._ledgers.change_soon(book, partial(settle, key=key, spent=spent))
        finally:
            self._ledgers.own.discard(key)

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
    """A model whose every request is set aside and settled.

    `key` names who asks among others of the purse; `fair` is whose work it is, where that is not said with the request.
    """

    def __init__(self, model: Model, purse: Purse, key: str, fair: str = "") -> None:
        self._model = model
        self._purse = purse
        self._key = key
        self._fair = fair
        self._number = 0
        self.spent = NOTHING
        """What all requests so far cost, or may have cost where nobody knows."""

    @property
    def step(self) -> str:
        """What was set aside last, as `take_over` is told of it."""
        return f"{self._key}.{self._number}"

    @property
    def generates(self) -> bool:
        return self._model.generates

    async def bound(self, ask: Ask) -> Usage:
        return await self._model.bound(ask)

    async def complete(
        self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None, more: More | None = None
    ) -> Completion:
        """As `Model.complete`, for what is in the purse at most; before each try it is set aside.

        Raises:
            BudgetExceeded: there is nothing left.
            ModelFailed: as `Model.complete`.
        """
        self._number += 1
        step = self.step
        ask = replace(ask, fair=ask.fair or self._fair)
        gone = spent = NOTHING

        async def hold(sunk: Usage, next: Usage) -> Usage:
            nonlocal gone, spent
            # While it is waited for, no try is made.
            gone = spent = sunk
            gone = await self._purse.hold(step, plus(sunk, _at_most(next, left, sunk)), sunk, shorter=True)
            return gone

        try:
            held = await hold(NOTHING, await self._model.bound(ask))
            completion = await self._model.complete(ask, on_text, left=held, more=hold)
        except ModelFailed as failed:
            await self._settle(step, Usage(tokens=failed.tokens, money=failed.money))
            raise
        except (BudgetExceeded, ConfigError, InvalidResource):
            # Before a try was made, or another one.
            await self._settle(step, spent)
            raise
        except BaseException:
            # Cancelled, or fails as nobody expected: what it cost is not known, and all of it counts as gone.
            await self._settle(step, gone)
            raise
        await self._settle(step, completion.usage)
        return completion

    async def _settle(self, step: str, spent: Usage) -> None:
        self.spent = plus(self.spent, spent)
        await self._purse.settle(step, spent)


class _Place:
    """The place of a hold among those of this process that wait for the same ledgers: first come, first served."""

    def __init__(self, number: int, books: Sequence[_Book]) -> None:
        self._number = number
        self._books = books
        self._in: Sequence[_Book] = ()
        self._told = asyncio.Event()

    @property
    def behind(self) -> list[_Book]:
        """The ledgers for which somebody waits who came before."""
        return [book for book in self._books if any(other < self._number for other in book.line)]

    def join(self, books: Sequence[_Book]) -> None:
        """Wait for these ledgers and no others."""
        left = [book for book in self._in if book not in books]
        self._in = books
        for book in books:
            book.line[self._number] = self._told
        for book in left:
            del book.line[self._number]
            book.tell()

    async def come(self, before: Mapping[URI, int], seconds: float | None) -> None:
        """Return when something was given back since `before`, or somebody has left, or after `seconds`."""
        self._told.clear()
        if all(book.given == before[book.uri] for book in self._in):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._told.wait()

    def leave(self) -> None:
        """Wait for nothing any more."""
        self.join(())


def _at_most(next: Usage, left: Usage | None, spent: Usage) -> Usage:
    """What of `next` is within `left`, after what was spent of it."""
    if left is None:
        return next
    rest = less(left, spent)
    return replace(next, tokens=min(next.tokens, rest.tokens), money=min(next.money, rest.money))


async def _is_worked(store: GuardedStore, key: str) -> bool:
    """Whether somebody has the lease of the task that something is held for."""
    try:
        task = await store.get(parse_uri(key.partition(" ")[0]))
        lease = msgspec.convert(task.resource.content.get("lease"), Lease | None)
    except (CldError, msgspec.ValidationError):
        return False
    return lease is not None and not is_over(lease.expires_at, timestamp())


def _lost(ledgers: Sequence[Ledger], lost: Sequence[Iterable[str]]) -> str:
    held = {key: ledger.held[key] for ledger, keys in zip(ledgers, lost, strict=True) for key in keys}
    named = ", ".join(f"{amount.tokens} tokens and ${amount.money:g} by {key}" for key, amount in sorted(held.items()))
    return f"some is held for tasks that nobody works, until they are taken over: {named}"


def _mine(key: str, ledger: Ledger, fence: int) -> list[str]:
    """The steps of one task for which something is held, without the requests of its holder with `fence`."""
    mine = [one.removeprefix(f"{key} ") for one in ledger.held if one.startswith(f"{key} ")]
    return [step for step in mine if not step.startswith(f"{fence}.")]


def _is_request(step: str) -> bool:
    return step.partition(".")[0].isdigit()
