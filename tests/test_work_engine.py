"""The engine: from a message or a plan to what came of it."""

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec.structs import replace
from work_world import (
    FunctionTools,
    answer,
    brought,
    hanging,
    is_judging,
    is_planning,
    judged,
    needs_approval,
    pay,
    working,
)

from cld.errors import AccessDenied, CldError, InvalidArgument, ModelFailed
from cld.journal import Journal
from cld.models import Ask, Completion
from cld.resource import Draft
from cld.tools import Caller, OnProgress, Result
from cld.types import Annotations, Budget, Step, Usage, Wish
from cld.uri import URI, make_uri, parse_uri
from cld.work.branching import branch, compare
from cld.work.requests import begin, cancel, decide, update, wait
from cld.work.tree import Node
from cld.work.working import Working

pytestmark = pytest.mark.anyio


def said(ask: Ask) -> str:
    """What the task says that is worked."""
    return ask.messages[1].text


async def test_a_given_plan_is_worked_in_order_and_its_outputs_flow(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask, "all of it")
        return answer("summed: one" if '"first":"one"' in said(ask) else "one")

    steps = (Step("b", "Sum up", inputs={"first": {"from": "a"}}), Step("a", "Say the first thing"))
    async with working(tmp_path, model) as place:
        begun = await begin(place.engine, place.store, "", steps)
        task = await wait(place.engine, begun.task, 10)
        assert (task.status, task.output) == ("completed", "all of it")
        tasks = await place.all_of("plan.Task", begun.task)
        assert [tasks[make_uri(begun.task, "plan.Task", id)]["output"] for id in "ab"] == ["one", "summed: one"]
        message = await place.content(make_uri(begun.task, "common.Message", "answer"))
        assert message["text"] == "all of it"


async def test_a_message_is_planned_by_the_model_and_its_subtasks_are_worked(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        if is_planning(ask):
            steps = [{"id": "look", "purpose": "Look"}, {"id": "write", "purpose": "Write", "after": ["look"]}]
            for step in steps:
                for name, about in ask.schema["$defs"]["step"]["properties"].items():  # type: ignore[index]
                    kinds = about.get("type", [])
                    step.setdefault(name, "" if kinds == "string" else [] if kinds == "array" else None)
            return Completion("", value={"direct": False, "reason": "two steps", "steps": steps})
        if is_judging(ask):
            return judged(ask, "looked and written")
        return answer("ok")

    async with working(tmp_path, model) as place:
        begun = await begin(place.engine, place.store, "Look and then write")
        task = await wait(place.engine, begun.task, 10)
        assert task.status == "completed", task.error
        assert len(await place.all_of("plan.Task", begun.task)) == 2


async def test_conditions_and_lists(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        return judged(ask, without=["no"]) if is_judging(ask) else answer(f"did {said(ask).partition('item')[2][2:5]}")

    steps = (
        Step("no", "Never", when="inputs.x > 3", inputs={"x": 1}),
        Step("each", "Each of them", for_each="inputs.names", inputs={"names": ["ada", "bob"]}),
    )
    async with working(tmp_path, model) as place:
        begun = await begin(place.engine, place.store, "", steps)
        task = await wait(place.engine, begun.task, 10)
        assert task.status == "completed", task.error
        no = await place.content(make_uri(begun.task, "plan.Task", "no"))
        each = await place.content(make_uri(begun.task, "plan.Task", "each"))
        assert no["status"] == "completed" and no["skipped"]
        assert len(each["output"]) == 2


async def test_calls_are_made_once_and_their_results_are_told(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        if ask.messages[-1].role == "tool":
            return answer(f"the tool said {brought(ask)}")
        return answer("", Wish("k1", "look", {"at": 1}))

    tools = FunctionTools({"look": lambda arguments, caller: {"uri": "cld:common.Text.t", "seen": arguments["at"]}})
    async with working(tmp_path, model, tools) as place:
        there = await place.store.put(Draft(URI("cld:common.Text.t"), {"text": "there"}))
        begun = await begin(place.engine, place.store, "", (Step("a", "Look"),))
        await wait(place.engine, begun.task, 10)
        tasks = await wait(place.engine, make_uri(begun.task, "plan.Task", "a"), 10)
        assert tasks.output.startswith("the tool said") and '"seen":1' in tasks.output
        assert [(source.uri, source.version) for source in tasks.sources] == [("cld:common.Text.t", there.version)]
        assert tasks.usage.calls == 1
        [call] = (await place.all_of("tool.Call")).values()
        assert (call["state"], call["result"]["seen"]) == ("finished", 1)
        caller = tools.called[0][2]
        assert [one.id for one in caller.principal.chain()] == ["assistant:general", "user:local"]


async def test_a_call_waits_for_a_person_however_deep_it_is_and_goes_on_with_the_answer(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        if ask.messages[-1].role == "tool":
            return answer(brought(ask))
        return answer("", Wish("k", "pay", {"sum": 10}))

    deep = Step("a", "A", steps=(Step("b", "B", steps=(Step("c", "Pay"),)),))
    for decision, arguments, told in (
        ("approve", None, "paid 10"),
        ("edit", {"sum": 5}, "paid 5"),
        ("reject", None, "not made"),
    ):
        tools = FunctionTools({"pay": pay})
        async with working(tmp_path / decision, model, tools) as place:
            begun = await begin(place.engine, place.store, "", (deep,))
            task = await wait(place.engine, begun.task, 10)
            assert task.status == "supervising"
            [(uri, asked)] = (await place.all_of("plan.Approval")).items()
            assert asked["tool"] == "pay" and asked["reason"] == "it is dear"
            await decide(place.store, begun.task, decision, arguments)  # type: ignore[arg-type]
            task = await wait(place.engine, begun.task, 10)
            assert task.status == "completed", task.error
            c = [content for at, content in (await place.all_of("plan.Task")).items() if at.endswith(".c")]
            assert told in c[0]["output"]
            assert (await place.content(uri))["decided_by"] == "user:local"


async def test_how_far_a_call_is_can_be_watched_in_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cld.assistants.watched.EVERY_SECONDS", 0.01)
    seen: list[str] = []

    class Slow(FunctionTools):
        async def call(self, name: str, arguments: Any, caller: Caller, progress: OnProgress) -> Result:
            for said in ("a third", "two thirds"):
                progress(f"{said}\x1b[2J")
                while not seen or seen[-1] != said:
                    await anyio.sleep(0.01)
                    [call] = (await place.all_of("tool.Call")).values()
                    assert call.get("state", "started") == "started"
                    seen.append(call.get("progress", "").removesuffix("\\u001b[2J"))
            return Result("done")

    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        return answer("done") if ask.messages[-1].role == "tool" else answer("", Wish("k", "slow", {}))

    async with working(tmp_path, model, Slow({"slow": lambda *_: None})) as place:
        begun = await begin(place.engine, place.store, "", (Step("a", "Be slow"),))
        assert (await wait(place.engine, begun.task, 20)).status == "completed"
        [call] = (await place.all_of("tool.Call")).values()
        assert (call["state"], call.get("progress", ""), call["result"]) == ("finished", "", "done")
    assert list(dict.fromkeys(seen)) in (["", "a third", "two thirds"], ["a third", "two thirds"])


async def test_an_answer_that_comes_before_its_task_has_come_to_rest_is_acted_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pay(arguments: Any, caller: Caller) -> str:
        needs_approval("pay", caller)
        return "paid"

    looked = anyio.Event()
    run, is_answered = Working.run, Journal.is_answered

    async def looks(journal: Journal) -> bool:
        found = await is_answered(journal)
        looked.set()
        return found

    async def runs(working: Working, node: Node) -> None:
        await run(working, node)
        if node.task.waiting == "approval":
            await decide(place.store, node.uri, "approve")
            await looked.wait()
            await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(Working, "run", runs)
    monkeypatch.setattr(Journal, "is_answered", looks)

    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        return answer("done") if ask.messages[-1].role == "tool" else answer("", Wish("k", "pay", {}))

    async with working(tmp_path, model, FunctionTools({"pay": pay})) as place:
        begun = await begin(place.engine, place.store, "", (Step("a", "Pay"),))
        assert (await wait(place.engine, begun.task, 10)).status == "completed"


async def test_a_cancel_stops_all_below_and_leaves_nothing_running(tmp_path: Path) -> None:
    stopped = []

    async def slow():  # type: ignore[no-untyped-def]
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(1)

    tools = FunctionTools({"slow": lambda arguments, caller: slow()})
    steps = tuple(Step(f"s{number}", "Be slow", steps=(Step("x", "Be slow"),)) for number in range(3))
    async with working(tmp_path, lambda ask: answer("", Wish("k", "slow", {})), tools) as place:
        begun = await begin(place.engine, place.store, "", steps)
        with anyio.fail_after(10):
            while len(tools.called) < 3:
                await anyio.sleep(0.01)
        stopping = await cancel(place.engine, begun.task, "enough")
        assert not stopping.left and len(stopping.cancelled) == 7 and len(stopped) == 3
        for content in (await place.all_of("plan.Task")).values():
            assert content["status"] == "cancelled" and content.get("lease") is None
        assert {content["state"] for content in (await place.all_of("tool.Call")).values()} == {"cancelled"}


async def test_a_client_works_its_own_tasks_and_runs_its_own_tools(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        if ask.messages[-1].role == "tool":
            return answer(brought(ask))
        return answer("", Wish("k", "camera", {}))

    async with working(tmp_path, model) as place:
        begun = await begin(
            place.engine,
            place.store,
            "",
            (Step("mine", "Do it yourself", assistant="client"), Step("ours", "Look")),
        )
        task = await wait(place.engine, begun.task, 10)
        mine = make_uri(begun.task, "plan.Task", "mine")
        assert (await place.content(mine))["waiting"] == "client"
        await update(place.engine, mine, output="by hand", has_output=True)
        task = await wait(place.engine, begun.task, 10)
        assert task.status == "completed", task.error


async def test_what_a_client_gives_has_the_form_that_was_asked_for_in_words(tmp_path: Path) -> None:
    says: list[bool | CldError] = [False, True]

    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        if isinstance(said := says.pop(0), CldError):
            raise said
        return answer("", value={"fits": said, "reason": "it has three lines"}, tokens=7)

    forms = {"a": "as a poem in four lines", "b": "in Japanese", "c": "as a poem"}
    steps = tuple(Step(id, "Write", assistant="client", response_format=form) for id, form in forms.items())
    async with working(tmp_path, model, bound=Usage(tokens=10)) as place:
        begun = await begin(place.engine, place.store, "", steps)
        await wait(place.engine, begun.task, 10)
        a, b, c = (make_uri(begun.task, "plan.Task", id) for id in forms)
        with pytest.raises(InvalidArgument, match="three lines"):
            await update(place.engine, a, output="One two three", has_output=True)
        done = await update(place.engine, a, output="One two three four", has_output=True)
        assert done.status == "completed" and done.usage.tokens == 7
        assert (await place.content(make_uri(begun.task, "plan.Ledger", "budget")))["spent"]["tokens"] == 14
        for output in ("plain English", {"said": "plain English"}, None):
            with pytest.raises(InvalidArgument, match="in Japanese"):
                await update(place.engine, b, output=output, has_output=True)
        # What is plain is told without a model, and what is not holds nobody up where there is none.
        for uri, output in ((b, "これはペンです。そう思います。"), (c, "Good day")):
            says[:] = [ModelFailed("nobody answers", reasons=[])]
            assert (await update(place.engine, uri, output=output, has_output=True)).status == "completed"
        assert (await wait(place.engine, begun.task, 10)).status == "completed"


async def test_nothing_to_do_is_done_with_an_empty_list_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        assert is_judging(ask), "nothing is worked"
        return judged(ask, "all of it")

    none = Step("a", "Sum up", for_each="xs", inputs={"xs": []})
    left_out = Step("b", "Sum up", when="n > 3", inputs={"n": 2})
    async with working(tmp_path, model) as place:
        begun = await begin(place.engine, place.store, "", (none,))
        assert (await wait(place.engine, begun.task, 10)).output == "all of it"
        assert (await place.content(make_uri(begun.task, "plan.Task", "a")))["output"] == []
        begun = await begin(place.engine, place.store, "", (left_out,))
        task = await wait(place.engine, begun.task, 10)
        assert task.status == "completed" and "b was left out (it was not so: n > 3)" in task.output
        assert len(place.model.asked) == 1


async def test_what_a_client_gives_is_bounded_like_what_tools_give(tmp_path: Path) -> None:
    given: list[Any] = ["a" * 5000, {"a": "a" * 5000}, {"a": 1}]

    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        done = sum(message.role == "tool" for message in ask.messages)
        return answer("", Wish(f"k{done}", "camera", {})) if done < len(given) else answer("done")

    tools, camera = FunctionTools(output_bytes=1024), {"name": "camera"}
    async with working(tmp_path, model, tools) as place:
        begun = await begin(place.engine, place.store, "Look", client_tools=[camera], assistant="general")
        for number, result in enumerate(given):
            assert (await wait(place.engine, begun.task, 10)).waiting == "client"
            await update(place.engine, begun.task, call_results={f"k{number}": result})
        assert (await wait(place.engine, begun.task, 10)).output == "done"
        text, large, data = (await place.all_of("tool.Call")).values()
        assert len(text["text"].encode()) <= 1024 and "of 5000 bytes" in text["text"]
        assert large["error"]["code"] == "output_too_large" and "result" not in large
        assert data["result"] == {"a": 1}

        step = Step("mine", "Do it yourself", assistant="client")
        begun = await begin(place.engine, place.store, "", (step,))
        mine = make_uri(begun.task, "plan.Task", "mine")
        await wait(place.engine, begun.task, 10)
        with pytest.raises(InvalidArgument, match="output has 5008 bytes and at most 1024 are taken"):
            await update(place.engine, mine, output=given[1], has_output=True)
        await update(place.engine, mine, output=given[0], has_output=True)
        output = (await place.content(mine))["output"]
        assert len(output.encode()) <= 1024 and "of 5000 bytes" in output


async def test_budgets_hold_to_the_token(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        return answer("", Wish("k", "look", {}), tokens=40)

    tools = FunctionTools({"look": lambda arguments, caller: "again"}, {"look": Annotations(read_only=True)})
    async with working(tmp_path, model, tools, bound=Usage(tokens=40)) as place:
        begun = await begin(place.engine, place.store, "Look around", budget=Budget(tokens=100), assistant="general")
        task = await wait(place.engine, begun.task, 10)
        assert task.status == "failed" and task.error is not None and task.error.code == "budget_exceeded"
        [ledger] = (await place.all_of("plan.Ledger")).values()
        assert ledger["spent"]["tokens"] <= 100 and not ledger.get("held")
        print(ledger, task.usage)


async def test_work_goes_on_in_another_engine(tmp_path: Path) -> None:
    release = anyio.Event()

    async def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        await release.wait()
        return answer("done")

    async with working(tmp_path, model) as place:
        begun = await begin(place.engine, place.store, "", tuple(Step(f"s{n}", "Do") for n in range(5)))
        with anyio.fail_after(10):
            while not place.model.asked:
                await anyio.sleep(0.01)
    release.set()
    async with working(tmp_path, model) as place:
        assert await place.engine.resume() == 1
        task = await wait(place.engine, begun.task, 10)
        assert task.status == "completed", task.error


async def test_a_task_is_done_again_from_any_revision_and_both_are_compared(tmp_path: Path) -> None:
    rounds = iter(["one", "two", "three"])

    def model(ask: Ask) -> Completion:
        return judged(ask, next(rounds)) if is_judging(ask) else answer("same as ever")

    async with working(tmp_path, model) as place:
        begun = await begin(
            place.engine, place.store, "", (Step("a", "A"), Step("b", "B", inputs={"a": {"from": "a"}}))
        )
        await wait(place.engine, begun.task, 10)
        again = await branch(place.engine, place.store, begun.task)
        task = await wait(place.engine, again, 10)
        assert (task.status, task.output) == ("completed", "two")
        found = await compare(place.engine, place.store, begun.task, again)
        assert not found.same and not found.below and "-one" in found.output and "+two" in found.output
        part = await branch(place.engine, place.store, make_uri(begun.task, "plan.Task", "b"))
        task = await wait(place.engine, part, 10)
        assert (task.status, task.inputs) == ("completed", {"a": "same as ever"})
        assert (await place.content(begun.task))["output"] == "one", "the first time is as it was"


async def test_a_branch_has_the_plan_of_every_revision_that_had_one(tmp_path: Path) -> None:
    steps = (
        Step("a", "A", steps=(Step("deep", "Deep"), Step("deeper", "Deeper"))),
        Step("each", "Each", for_each="[1, 2]"),
    )
    async with working(tmp_path, lambda ask: judged(ask) if is_judging(ask) else answer("same as ever")) as place:
        begun = await begin(place.engine, place.store, "", steps)
        await wait(place.engine, begun.task, 20)
        each = make_uri(begun.task, "plan.Task", "each")
        for uri, ids in ((begun.task, {"a", "each"}), (make_uri(begun.task, "plan.Task", "a"), {"deep", "deeper"})):
            for kept in await place.store.history(uri):
                again = await branch(place.engine, place.store, uri, kept.version)
                assert (await wait(place.engine, again, 20)).status == "completed"
                node = await place.engine.forest.load(again)
                assert node.children.keys() == ids
                found = await compare(place.engine, place.store, uri, again)
                assert found.only == ((), ()) and not found.below
        for kept in await place.store.history(each):
            again = await branch(place.engine, place.store, each, kept.version)
            assert (await wait(place.engine, again, 20)).output == ["same as ever"] * 2
            found = await compare(place.engine, place.store, each, again)
            assert found.only == ((), ()) and not found.below


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"assistant": "nobody"}, "assistant", "general"),
        ({"assistant": "cld:cld.Namespace.home/common.Assistant.cook"}, "assistant", "general"),
        ({"response_format": {"type": "nonsense"}}, "response_format", "nonsense"),
        ({"tools": ("look", "loook")}, "tools", "look"),
    ],
)
async def test_all_that_a_plan_names_is_there_before_any_of_it_is_made(
    tmp_path: Path, wrong: dict[str, Any], field: str, said: str
) -> None:
    def model(ask: Ask) -> Completion:
        return judged(ask) if is_judging(ask) else answer("done")

    step = replace(Step("b", "B"), **wrong)
    plans = {
        f"tasks[0].{field}": (step,),
        f"tasks[1].steps[0].{field}": (Step("a", "A"), Step("c", "C", steps=(step,))),
    }
    async with working(tmp_path, model, FunctionTools({"look": lambda *_: None})) as place:
        for path, steps in plans.items():
            with pytest.raises(InvalidArgument) as caught:
                await begin(place.engine, place.store, "", steps)
            assert caught.value.field == path and path in str(caught.value) and said in str(caught.value)
        with pytest.raises(InvalidArgument, match=r"tools names 'loook'.*look"):
            await begin(place.engine, place.store, "Look", tools=["look", "loook"])
        assert not await place.all_of("plan.Task") and not await place.all_of("common.Conversation")


async def test_a_plan_may_name_its_client_its_clients_tools_and_the_assistants_of_its_namespace(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        return judged(ask) if is_judging(ask) else answer("done")

    place_of = parse_uri("cld:cld.Namespace.home/common.Conversation.c")
    cook = parse_uri("cld:cld.Namespace.home/common.Assistant.cook")
    async with working(tmp_path, model, FunctionTools({"look": lambda *_: None})) as place:
        await place.store.put(Draft(parse_uri("cld:cld.Namespace.home"), {}))
        steps = (Step("a", "A", assistant="cook", tools=("camera", "look")), Step("b", "B", assistant="client"))
        with pytest.raises(InvalidArgument, match=r"tasks\[0\].assistant"):
            await begin(place.engine, place.store, "", steps, conversation=place_of)
        # It is found though the engine may not have heard of it yet.
        await place.store.put(Draft(cook, {"title": "Cook"}))
        begun = await begin(
            place.engine, place.store, "", steps, conversation=place_of, client_tools=[{"name": "camera"}]
        )
        assert (await wait(place.engine, begun.task, 10)).status == "supervising"
        assert (await place.content(make_uri(begun.task, "plan.Task", "a")))["assistant"] == cook


def step(id: str, **more: Any) -> dict[str, Any]:
    """A step as a model writes it."""
    empty: dict[str, Any] = {"instructions": "", "evaluation": "", "assistant": "", "after": [], "when": ""}
    return {"id": id, "purpose": f"do {id}", **empty, "for_each": "", "inputs": [], "steps": [], **more}


class Refusing:
    """Plans a message to be worked as it is, refuses to, and plans it anew in one step that it does not refuse."""

    def __init__(self, *calls: str, mends: bool = True, why: str = "a (x/a): refused: I will not") -> None:
        self.calls = list(calls)
        self.mends = mends
        self.why = why
        self.plans: list[Ask] = []

    def __call__(self, ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask, "all of it", enough=self.mends)
        if is_planning(ask):
            self.plans.append(ask)
            steps = [step("mend")] if len(self.plans) > 1 else []
            return answer("", value={"direct": not steps, "reason": "so", "steps": steps}, tokens=5)
        if "Task: do mend" in said(ask):
            return answer("done")
        if self.calls:
            return answer("", Wish("k", self.calls.pop(0), {}), tokens=7)
        raise ModelFailed("every model refused", reasons=[self.why])


async def test_a_message_that_could_not_be_worked_as_it_is_is_planned_anew_with_the_reason(tmp_path: Path) -> None:
    model, tools = Refusing("look"), FunctionTools({"look": lambda *_: "seen"}, {"look": Annotations(read_only=True)})
    async with working(tmp_path, model, tools) as place:
        begun = await begin(place.engine, place.store, "Do it")
        task = await wait(place.engine, begun.task, 10)
        assert (task.status, task.output) == ("completed", "all of it")
        assert len(model.plans) == 2 and "every model refused" in model.plans[1].messages[1].text
        first, second = task.judgements
        assert not first.enough and "every model refused" in first.reason and second.enough
        assert task.usage.tokens >= 12 and task.usage.calls == 1
        assert [at for at in await place.all_of("plan.Task") if at.endswith("plan.Task.mend")]


@pytest.mark.parametrize(
    ("calls", "more", "work"),
    [
        (("send",), {}, {}),
        (("hidden",), {}, {}),
        ((), {"assistant": "general"}, {}),
        ((), {}, {"corrections": 0}),
    ],
    ids=["what it did cannot be undone", "it was denied", "it was not to be planned", "it may not be corrected"],
)
async def test_what_no_other_plan_may_mend_fails_with_its_own_reason(
    tmp_path: Path, calls: tuple[str, ...], more: dict[str, Any], work: dict[str, Any]
) -> None:
    def hidden(*_: Any) -> Any:
        raise AccessDenied("call", "cld:tool.Tool.hidden", ["it is secret"])

    model = Refusing(*calls)
    tools = FunctionTools({"send": lambda *_: "sent", "hidden": hidden}, {"hidden": Annotations(read_only=True)})
    async with working(tmp_path, model, tools, **work) as place:
        begun = await begin(place.engine, place.store, "Do it", **more)
        task = await wait(place.engine, begun.task, 10)
        assert task.error is not None and task.error.code == "model_failed" and len(model.plans) <= 1


async def test_no_other_plan_is_asked_for_where_no_model_was_to_be_had(tmp_path: Path) -> None:
    model = Refusing(why="a (x/a): budget: tokens: 7 are left, the question alone may be 16")
    async with working(tmp_path, model) as place:
        begun = await begin(place.engine, place.store, "Do it")
        task = await wait(place.engine, begun.task, 10)
        assert task.error is not None and task.error.code == "model_failed" and len(model.plans) == 1


async def test_planning_anew_counts_among_the_corrections(tmp_path: Path) -> None:
    model = Refusing(mends=False)
    async with working(tmp_path, model, corrections=1) as place:
        begun = await begin(place.engine, place.store, "Do it")
        task = await wait(place.engine, begun.task, 10)
        assert task.error is not None and task.error.code == "not_enough" and len(model.plans) == 2
        assert len(task.judgements) == 2


async def test_what_was_begun_with_models_is_left_to_processes_that_have_some(tmp_path: Path) -> None:
    asked = anyio.Event()
    async with working(tmp_path, hanging(asked)) as place:
        begun = await begin(place.engine, place.store, "With models", assistant="general")
        await asked.wait()
    async with working(tmp_path, lambda _: answer("by rule"), tasks_at_once=1) as place:
        place.model.generates = False
        assert await place.engine.resume() == 1
        own = await begin(place.engine, place.store, "Without", assistant="general")
        assert (await wait(place.engine, own.task, 10)).output == "by rule"
        node = await place.engine.forest.load(begun.task)
        assert "can be asked" in place.engine.leaves(node) and not node.is_over and not node.task.lease
        assert not place.engine.leaves(await place.engine.forest.load(own.task))
        assert (await cancel(place.engine, own.task, "over")).left == ()
    async with working(tmp_path, lambda _: answer("by a model")) as place:
        assert await place.engine.resume() == 1
        assert (await wait(place.engine, begun.task, 10)).output == "by a model"
