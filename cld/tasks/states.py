"""The states of a task, and what takes it from one to another: `apply(task, event)`.

Owns what may happen to a task when, and what becomes of it; pure, so that one compare-and-swap write of the
result is the whole transition, and several events can be one write: `apply(apply(task, Assign(…)), Claim(…))`.
Never reads or writes the tree, and knows no clock: events bring the time along.

    pending ─ Assign ─▶ assigned ─ Claim ─▶ running ─ Supervise ─▶ supervising ⟲ Claim, Judge, Supervise
       ▲                   ▲ ▲                │ │ │                      │
       └───── Release ─────┴─┼────────────────┘ │ └─ Complete, Fail ─────┴─▶ completed, failed
                             └─ Wake ─ waiting ◀┘ Wait       Cancel: from any of them ─▶ cancelled

A lease is held by who works the task: always in `running`, in `supervising` while somebody judges, in `cancelled`
until its holder has shown that it stopped, and in no other state.
"""

from typing import Any, NoReturn, assert_never

from msgspec import Struct
from msgspec.structs import replace

from cld.errors import InvalidTransition, LeaseLost
from cld.tasks.budget import plus
from cld.tasks.instants import Instant, is_over, later, written
from cld.types import Elected, Failure, Judgement, Lease, Pause, Source, Status, Step, Task, Usage, Waiting

TERMINAL: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})
"""The states in which a task stays."""

NOTHING = Usage()


class Assign(Struct, frozen=True):
    """An assistant was elected, or another one; before anybody works the task."""

    assistant: str
    election: Elected | None = None


class Claim(Struct, frozen=True):
    """`holder` works the task from now on, for `seconds` unless renewed; nobody else may hold it.

    From pending and assigned, from supervising to judge, from waiting when it is `over` (for waiting till a time
    `now` decides), and from whoever let the lease expire. `attempts` grows with the first claim and with every
    one that takes over from a holder that did not come back; not with those that go on after a pause.
    """

    holder: str
    seconds: float
    now: Instant
    over: bool = False


class Renew(Struct, frozen=True):
    """The holder is still at it: the lease now ends `seconds` after `now`."""

    holder: str
    fence: int
    seconds: float
    now: Instant


class Release(Struct, frozen=True):
    """The holder stops and leaves the task to others, as far as it is."""

    holder: str
    fence: int
    usage: Usage = NOTHING


class Decide(Struct, frozen=True):
    """The holder knows that the task is to be worked, and as it is or in the steps it has; nobody decides it again."""

    holder: str
    fence: int
    usage: Usage = NOTHING


class Plan(Struct, frozen=True):
    """The holder knows the subtasks, and will make them now; who takes over makes those that are missing."""

    holder: str
    fence: int
    steps: tuple[Step, ...]
    usage: Usage = NOTHING


class Supervise(Struct, frozen=True):
    """The subtasks are there; nobody holds the task until they are done."""

    holder: str
    fence: int
    usage: Usage = NOTHING


class Wait(Struct, frozen=True):
    """The holder cannot go on before something has come; `until` is needed for `time`, else a deadline if any.

    From `now` on, where it is given, the task pauses if it waits for an approval.
    """

    holder: str
    fence: int
    waiting: Waiting
    until: Instant = ""
    usage: Usage = NOTHING
    now: Instant = ""


class Wake(Struct, frozen=True):
    """What the task waited for has come, or its deadline; it can be claimed again."""

    now: Instant


class Judge(Struct, frozen=True):
    """What the judging holder thinks of what came of the subtasks; `steps` are to put right what is lacking.

    In running, of what came of working the task as it is. Followed by Complete, or with steps by Supervise once they
    are made. How often is bounded by the caller.
    """

    holder: str
    fence: int
    judgement: Judgement
    steps: tuple[Step, ...] = ()
    usage: Usage = NOTHING


class Spend(Struct, frozen=True):
    """The holder has spent this on the task itself; also while it stops after a cancel."""

    holder: str
    fence: int
    usage: Usage


class Complete(Struct, frozen=True):
    """The task is done, with what came of it and what that rests on."""

    holder: str
    fence: int
    now: Instant
    output: Any = None
    sources: tuple[Source, ...] = ()
    usage: Usage = NOTHING


class Skip(Struct, frozen=True):
    """The task is completed without being worked, because of `reason`; by its holder, or by anyone without one."""

    reason: str
    now: Instant
    holder: str = ""
    fence: int = 0
    usage: Usage = NOTHING


class Fail(Struct, frozen=True):
    """The task is given up; by its holder, or by anyone while it has none or the lease has expired."""

    error: Failure
    now: Instant
    holder: str = ""
    fence: int = 0
    usage: Usage = NOTHING


class Cancel(Struct, frozen=True):
    """The task is no longer wanted; who holds it keeps the lease until it has stopped."""

    reason: str
    now: Instant


class Stopped(Struct, frozen=True):
    """Nothing of a cancelled task runs any more; its holder says so, or its lease has expired."""

    now: Instant
    holder: str = ""
    fence: int = 0


class Reopen(Struct, frozen=True):
    """A task that is over is to be done again, from the start; what it spent stays spent."""


Event = (
    Assign
    | Claim
    | Renew
    | Release
    | Decide
    | Plan
    | Supervise
    | Wait
    | Wake
    | Judge
    | Spend
    | Complete
    | Skip
    | Fail
    | Cancel
    | Stopped
    | Reopen
)


def apply(task: Task, event: Event) -> Task:
    """The task after `event`. Terminal states are left by Reopen only, and fences only grow.

    Raises:
        InvalidTransition: naming the state and the event, when the one does not allow the other.
        LeaseLost: when the event is by somebody who does not hold the task, or it was cancelled meanwhile.
    """
    match event:
        case Assign():
            _in(task, event, "pending", "assigned")
            return replace(task, status="assigned", assistant=event.assistant, election=event.election)
        case Claim():
            return _claimed(task, event)
        case Renew():
            lease = _held(task, event)
            ends = later(event.now, event.seconds)
            # Never back: of two renewals the longer one counts, whichever is written last.
            return replace(task, lease=replace(lease, expires_at=ends)) if is_over(lease.expires_at, ends) else task
        case Release():
            _held(task, event)
            status = task.status if task.status == "supervising" else _claimable(task)
            return replace(task, status=status, lease=None, usage=plus(task.usage, event.usage))
        case Decide():
            _held(task, event)
            _in(task, event, "running")
            usage = plus(task.usage, event.usage)
            return replace(task, decided=usage, usage=usage)
        case Plan():
            _held(task, event)
            _in(task, event, "running")
            usage = plus(task.usage, event.usage)
            return replace(task, plan=event.steps, decided=usage, usage=usage)
        case Supervise():
            _held(task, event)
            return replace(task, status="supervising", lease=None, plan=(), usage=plus(task.usage, event.usage))
        case Wait():
            _held(task, event)
            _in(task, event, "running")
            if event.waiting == "time" and not event.until:
                _refuse(task, event, "say until when")
            until = written(event.until) if event.until else ""
            usage = plus(task.usage, event.usage)
            pauses = task.pauses
            if event.waiting == "approval" and event.now:
                pauses = (*pauses, Pause(written(event.now)))
            waiting = replace(task, status="waiting", waiting=event.waiting, until=until, lease=None, usage=usage)
            return replace(waiting, pauses=pauses)
        case Wake():
            _in(task, event, "waiting")
            if task.waiting == "time" and not is_over(task.until, event.now):
                _refuse(task, event, f"it waits until {task.until}")
            return replace(task, status=_claimable(task), waiting=None, until="", pauses=_ended(task, event.now))
        case Judge():
            _held(task, event)
            _in(task, event, "running", "supervising")
            judgements = (*task.judgements, event.judgement)
            return replace(task, judgements=judgements, plan=event.steps, usage=plus(task.usage, event.usage))
        case Spend():
            _held(task, event, stopping=True)
            return replace(task, usage=plus(task.usage, event.usage))
        case Complete():
            _held(task, event)
            done = _over(task, "completed", event.now, event.usage)
            return replace(done, output=event.output, sources=event.sources)
        case Skip():
            _held_or_free(task, event)
            _in(task, event, "pending", "assigned", "running")
            return replace(_over(task, "completed", event.now, event.usage), skipped=event.reason)
        case Fail():
            _held_or_free(task, event)
            return replace(_over(task, "failed", event.now, event.usage), error=event.error)
        case Cancel():
            if task.status in TERMINAL:
                _refuse(task, event, "it is over")
            error = Failure("cancelled", event.reason)
            return replace(_over(task, "cancelled", event.now, NOTHING), lease=task.lease, error=error)
        case Stopped():
            _in(task, event, "cancelled")
            if task.lease is not None and not is_over(task.lease.expires_at, event.now):
                _held(task, event, stopping=True)
            return replace(task, lease=None)
        case Reopen():
            return _reopened(task, event)
        case _:
            assert_never(event)


def is_held(task: Task, now: Instant) -> bool:
    """Whether somebody holds the task at `now`, so that nobody else can claim it."""
    return task.lease is not None and not is_over(task.lease.expires_at, now)


def is_late(task: Task, now: Instant) -> bool:
    """Whether the task waits for its client in vain: what that still has to say comes too late."""
    return task.waiting == "client" and bool(task.until) and is_over(task.until, now)


def _claimed(task: Task, event: Claim) -> Task:
    if task.status in TERMINAL:
        _refuse(task, event, "it is over")
    if task.lease is not None and not is_over(task.lease.expires_at, event.now):
        _refuse(task, event, f"{task.lease.holder} holds it until {task.lease.expires_at}")
    if is_late(task, event.now):
        _refuse(task, event, f"its client had time until {task.until}")
    over = event.over or (task.waiting == "time" and is_over(task.until, event.now))
    if task.status == "waiting" and not over:
        _refuse(task, event, f"it waits for {task.waiting}")
    fence = task.fence + 1
    return replace(
        task,
        status="supervising" if task.status == "supervising" else "running",
        waiting=None,
        until="",
        lease=Lease(event.holder, fence, later(event.now, event.seconds)),
        fence=fence,
        attempts=task.attempts + (task.lease is not None or task.attempts == 0),
        started_at=task.started_at or written(event.now),
        pauses=_ended(task, event.now),
    )


def _ended(task: Task, now: Instant) -> tuple[Pause, ...]:
    """The pauses, none of which lasts any more."""
    return tuple(pause if pause.until else replace(pause, until=written(now)) for pause in task.pauses)


def _over(task: Task, status: Status, now: Instant, usage: Usage) -> Task:
    return replace(
        task,
        status=status,
        waiting=None,
        until="",
        lease=None,
        # What is still to be made is not made any more.
        plan=task.plan and (),
        usage=plus(task.usage, usage),
        completed_at=written(now),
        pauses=_ended(task, now),
    )


def _reopened(task: Task, event: Reopen) -> Task:
    if task.status not in TERMINAL:
        _refuse(task, event, "it is not over")
    if task.lease is not None:
        _refuse(task, event, f"{task.lease.holder} has not stopped yet")
    return replace(
        task,
        status=_claimable(task),
        decided=None,
        plan=None,
        skipped="",
        output=None,
        sources=(),
        judgements=(),
        attempts=0,
        started_at="",
        pauses=(),
        completed_at="",
        error=None,
    )


def _claimable(task: Task) -> Status:
    return "assigned" if task.assistant else "pending"


def _in(task: Task, event: Event, *states: Status) -> None:
    if task.status not in states:
        _refuse(task, event, f"only what is {' or '.join(states)}")


def _held(task: Task, event: Event, *, stopping: bool = False) -> Lease:
    """The task's lease, when `event` is by its holder; `stopping` says that a cancelled task will do."""
    holder, fence = getattr(event, "holder", ""), getattr(event, "fence", 0)
    lease = task.lease
    if lease is None or (lease.holder, lease.fence) != (holder, fence):
        who = "nobody holds it" if lease is None else f"{lease.holder} holds it with fence {lease.fence}"
        raise LeaseLost(
            f"{_name(event)} by {holder or 'nobody'} with fence {fence}: the task is {task.status} and {who}; "
            "stop working it"
        )
    if task.status == "cancelled" and not stopping:
        raise LeaseLost(f"{_name(event)} by {holder}: the task was cancelled; stop working it and say Stopped")
    return lease


def _held_or_free(task: Task, event: Skip | Fail) -> None:
    if task.status in TERMINAL:
        if event.holder:
            _held(task, event)
        _refuse(task, event, "it is over")
    if event.holder or is_held(task, event.now):
        _held(task, event)


def _refuse(task: Task, event: Event, why: str) -> NoReturn:
    raise InvalidTransition(f"a task that is {task.status} cannot take {_name(event)}: {why}")


def _name(event: Event) -> str:
    return type(event).__name__
