"""The state machine of tasks: every sequence of events, up to a length, and the promises one by one."""

from collections.abc import Iterator

import msgspec
import pytest

from cld.errors import InvalidTransition, LeaseLost
from cld.tasks.instants import later
from cld.tasks.states import (
    TERMINAL,
    Assign,
    Cancel,
    Claim,
    Complete,
    Decide,
    Event,
    Fail,
    Judge,
    Plan,
    Release,
    Renew,
    Reopen,
    Skip,
    Spend,
    Stopped,
    Supervise,
    Wait,
    Wake,
    apply,
    is_held,
    is_late,
)
from cld.types import Failure, Judgement, Pause, Step, Task, Usage

T0 = "2026-11-21T11:00:00.000000Z"
LATE = later(T0, 100)
MUCH_LATER = later(T0, 10_000)
BROKEN = Failure("broken", "it broke")
STEPS = (Step("a", "do it"),)


def holders_events(holder: str, fence: int) -> Iterator[Event]:
    yield Renew(holder, fence, 30, T0)
    yield Release(holder, fence)
    yield Decide(holder, fence, Usage(tokens=1))
    yield Plan(holder, fence, STEPS)
    yield Supervise(holder, fence)
    yield Wait(holder, fence, "approval")
    yield Wait(holder, fence, "time", LATE)
    yield Wait(holder, fence, "client", LATE)
    yield Judge(holder, fence, Judgement(enough=False), STEPS)
    yield Complete(holder, fence, T0, output=1)
    yield Skip("no need", T0, holder, fence)
    yield Fail(BROKEN, T0, holder, fence)


def anyones_events() -> Iterator[Event]:
    yield Assign("writer")
    for now in (T0, LATE):
        yield Claim("a", 30, now)
        yield Claim("b", 30, now, over=True)
        yield Wake(now)
        yield Fail(BROKEN, now)
        yield Stopped(now)
    yield Skip("no need", T0)
    yield Cancel("unwanted", T0)
    yield Reopen()


def events(task: Task) -> Iterator[Event]:
    yield from anyones_events()
    for holder in ("a", "b"):
        for fence in {task.fence, task.fence - 1}:
            yield from holders_events(holder, fence)


def walk(length: int) -> Iterator[tuple[Task, Event, Task]]:
    """Each transition that any sequence of up to `length` events takes."""
    seen = {repr(Task())}
    level = [Task()]
    for _ in range(length):
        following: list[Task] = []
        for task in level:
            for event in events(task):
                try:
                    after = apply(task, event)
                except (InvalidTransition, LeaseLost):
                    continue
                yield task, event, after
                if repr(after) not in seen:
                    seen.add(repr(after))
                    following.append(after)
        level = following


def inconsistent(task: Task) -> str:
    checks = {
        "running without a lease": task.status == "running" and task.lease is None,
        "a lease that fits no state": task.lease is not None
        and task.status not in ("running", "supervising", "cancelled"),
        "a lease with another fence": task.lease is not None and task.lease.fence != task.fence,
        "waiting for nothing, or something without waiting": (task.waiting is None) != (task.status != "waiting"),
        "a time to wait until, without waiting": bool(task.until) and task.status != "waiting",
        "a time it was over, or none": bool(task.completed_at) != (task.status in TERMINAL),
        "an error that fits no state": (task.error is None) != (task.status not in ("failed", "cancelled")),
        "an output before it is completed": task.output is not None and task.status != "completed",
        "skipped but not completed": bool(task.skipped) and task.status != "completed",
        "assigned to nobody": task.status == "assigned" and not task.assistant,
        "subtasks to be made of what is over": bool(task.plan) and task.status in TERMINAL,
    }
    return ", ".join(name for name, wrong in checks.items() if wrong)


def test_in_every_sequence_of_events_state_lease_and_times_fit_one_another() -> None:
    count = 0
    for task, event, after in walk(8):
        count += 1
        assert not inconsistent(after), f"{inconsistent(after)}: {event} made {after} of {task}"
        assert after.fence == task.fence + isinstance(event, Claim)
        assert after.attempts >= task.attempts or isinstance(event, Reopen)
        if task.status in TERMINAL and not isinstance(event, Reopen):
            assert isinstance(event, Stopped | Spend)
            assert after.status == task.status and after.output == task.output and after.error == task.error
    assert count > 5_000, "the walk did not get anywhere"


def test_nothing_is_claimed_while_another_holds_it_and_nothing_of_a_former_holder_counts() -> None:
    for task, event, after in walk(6):
        if isinstance(event, Claim):
            assert not is_held(task, event.now)
            for stale in holders_events(*((task.lease.holder, task.lease.fence) if task.lease else ("a", task.fence))):
                with pytest.raises(LeaseLost):
                    apply(after, stale)


def test_from_every_state_that_is_not_over_there_is_a_way_to_each_end() -> None:
    for _, _, task in walk(6):
        if task.status in TERMINAL:
            continue
        if is_late(task, MUCH_LATER):
            assert apply(task, Fail(BROKEN, MUCH_LATER)).status == "failed"
            assert apply(task, Cancel("unwanted", T0)).status == "cancelled"
            continue
        claimed = apply(task, Claim("c", 30, MUCH_LATER, over=True))
        assert apply(claimed, Complete("c", claimed.fence, MUCH_LATER)).status == "completed"
        assert apply(task, Fail(BROKEN, MUCH_LATER)).status == "failed"
        cancelled = apply(task, Cancel("unwanted", T0))
        assert cancelled.status == "cancelled"
        assert apply(cancelled, Stopped(MUCH_LATER)).lease is None


def running(seconds: float = 30) -> Task:
    return apply(apply(Task(), Assign("writer")), Claim("a", seconds, T0))


def test_two_events_can_be_one_write() -> None:
    task = running()
    assert (task.status, task.assistant, task.fence, task.attempts, task.started_at) == ("running", "writer", 1, 1, T0)
    assert task.lease is not None and task.lease.expires_at == later(T0, 30)


def test_a_refusal_names_the_state_and_the_event() -> None:
    with pytest.raises(InvalidTransition, match="pending cannot take Wake"):
        apply(Task(), Wake(T0))
    with pytest.raises(InvalidTransition, match=r"running cannot take Claim: a holds it until 2026"):
        apply(running(), Claim("b", 30, T0))


def test_a_dead_holders_task_is_taken_over_and_counted_but_a_pause_is_not() -> None:
    taken = apply(running(), Claim("b", 30, LATE))
    assert (taken.attempts, taken.fence, taken.started_at) == (2, 2, T0)
    parked = apply(running(), Wait("a", 1, "client"))
    assert apply(apply(parked, Wake(T0)), Claim("b", 30, T0)).attempts == 1
    assert apply(apply(running(), Release("a", 1)), Claim("b", 30, T0)).attempts == 1


def test_a_lease_is_renewed_but_never_shortened() -> None:
    longer = apply(running(), Renew("a", 1, 60, T0))
    assert longer.lease is not None and longer.lease.expires_at == later(T0, 60)
    assert apply(longer, Renew("a", 1, 5, T0)) == longer


def test_a_lease_whose_time_a_person_broke_has_expired() -> None:
    task = running()
    assert task.lease is not None
    broken = msgspec.structs.replace(task, lease=msgspec.structs.replace(task.lease, expires_at="soon"))
    assert apply(broken, Claim("b", 30, T0)).fence == 2


def test_what_waits_for_time_is_claimed_when_it_has_come_and_other_waits_when_they_are_over() -> None:
    waiting = apply(running(), Wait("a", 1, "time", LATE))
    for early in (Claim("b", 30, T0), Wake(T0)):
        with pytest.raises(InvalidTransition, match="wait"):
            apply(waiting, early)
    assert apply(waiting, Claim("b", 30, LATE)).status == "running"
    assert apply(waiting, Wake(LATE)).status == "assigned"
    asked = apply(running(), Wait("a", 1, "approval"))
    with pytest.raises(InvalidTransition, match="it waits for approval"):
        apply(asked, Claim("b", 30, MUCH_LATER))
    assert apply(asked, Claim("b", 30, T0, over=True)).status == "running"
    with pytest.raises(InvalidTransition, match="until when"):
        apply(running(), Wait("a", 1, "time"))


def test_what_a_client_has_to_say_comes_too_late_after_the_time_it_had() -> None:
    asked = apply(running(), Wait("a", 1, "client", LATE))
    assert apply(asked, Claim("b", 30, T0, over=True)).status == "running"
    with pytest.raises(InvalidTransition, match=f"had time until {LATE}"):
        apply(asked, Claim("b", 30, MUCH_LATER, over=True))
    assert apply(asked, Fail(BROKEN, MUCH_LATER)).status == "failed"


def test_what_was_decided_stays_until_all_of_it_is_done_again() -> None:
    spent = apply(running(), Spend("a", 1, Usage(tokens=2)))
    decided = apply(spent, Decide("a", 1, Usage(tokens=7)))
    assert decided.decided == decided.usage == Usage(tokens=9)
    taken = apply(apply(decided, Release("a", 1, Usage(tokens=1))), Claim("b", 30, T0))
    assert taken.decided == Usage(tokens=9) and taken.usage == Usage(tokens=10)
    assert apply(apply(taken, Complete("b", 2, T0)), Reopen()).decided is None


def test_a_task_pauses_while_a_person_is_asked_and_as_often_as_they_are() -> None:
    asked = apply(running(), Wait("a", 1, "approval", now=T0))
    assert asked.pauses == (Pause(T0),)
    again = apply(asked, Claim("b", 30, LATE, over=True))
    assert again.pauses == (Pause(T0, LATE),)
    for over in (Cancel("enough", MUCH_LATER), Fail(Failure("odd", "odd"), MUCH_LATER), Wake(MUCH_LATER)):
        ended = apply(apply(again, Wait("b", 2, "approval", now=LATE)), over)
        assert ended.pauses == (Pause(T0, LATE), Pause(LATE, MUCH_LATER))
    assert not apply(running(), Wait("a", 1, "client", now=T0)).pauses


def test_a_plan_survives_its_holder_until_its_subtasks_are_there() -> None:
    planned = apply(running(), Plan("a", 1, STEPS, Usage(tokens=7)))
    taken = apply(planned, Claim("b", 30, LATE))
    assert taken.plan == STEPS and taken.usage.tokens == 7
    supervising = apply(taken, Supervise("b", 2))
    assert (supervising.status, supervising.plan, supervising.lease) == ("supervising", (), None)


def test_judging_keeps_the_state_and_corrections_are_made_before_it_waits_for_them() -> None:
    supervising = apply(running(), Supervise("a", 1))
    judging = apply(supervising, Claim("b", 30, T0))
    assert (judging.status, judging.attempts) == ("supervising", 1)
    corrected = apply(judging, Judge("b", 2, Judgement(enough=False, reason="no sources"), STEPS))
    assert corrected.plan == STEPS and corrected.lease is not None
    again = apply(apply(corrected, Supervise("b", 2)), Claim("c", 30, T0))
    done = apply(apply(again, Judge("c", 3, Judgement(enough=True))), Complete("c", 3, LATE, "answer"))
    assert (done.status, done.output, len(done.judgements)) == ("completed", "answer", 2)


def test_who_works_a_cancelled_task_is_told_and_shows_that_it_stopped() -> None:
    cancelled = apply(running(), Cancel("unwanted", T0))
    for event in (Renew("a", 1, 30, T0), Complete("a", 1, T0), Release("a", 1)):
        with pytest.raises(LeaseLost, match="cancelled"):
            apply(cancelled, event)
    assert apply(cancelled, Spend("a", 1, Usage(tokens=3))).usage.tokens == 3
    with pytest.raises(LeaseLost):
        apply(cancelled, Stopped(T0, "b", 1))
    with pytest.raises(LeaseLost):
        apply(cancelled, Stopped(T0))
    assert apply(cancelled, Stopped(T0, "a", 1)).lease is None
    assert apply(cancelled, Stopped(LATE)).lease is None


def test_what_runs_is_failed_by_its_holder_and_by_others_only_after_its_lease() -> None:
    with pytest.raises(LeaseLost):
        apply(running(), Fail(BROKEN, T0))
    assert apply(running(), Fail(BROKEN, T0, "a", 1)).error == BROKEN
    assert apply(running(), Fail(BROKEN, LATE)).error == BROKEN
    assert apply(Task(), Fail(BROKEN, T0)).started_at == ""


def test_what_is_skipped_is_completed_without_having_started() -> None:
    skipped = apply(Task(), Skip("no files", T0))
    assert (skipped.status, skipped.skipped, skipped.output, skipped.started_at) == ("completed", "no files", None, "")


def test_what_is_done_again_keeps_its_fence_and_what_it_spent() -> None:
    done = apply(running(), Complete("a", 1, T0, "answer", usage=Usage(tokens=9)))
    again = apply(done, Reopen())
    assert (again.status, again.output, again.fence, again.usage.tokens) == ("assigned", None, 1, 9)
    with pytest.raises(InvalidTransition, match="has not stopped yet"):
        apply(apply(running(), Cancel("unwanted", T0)), Reopen())
