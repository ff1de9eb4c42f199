"""What an answer rests on is what it names, of what its calls have brought."""

from pathlib import Path

import pytest
from work_world import FunctionTools, answer, is_judging, judged, text_of, working

from cld.models import Ask, Completion
from cld.resource import Draft
from cld.types import Step, Wish
from cld.uri import URI, make_uri
from cld.work.requests import begin, wait
from cld.work.showing import shown

pytestmark = pytest.mark.anyio


async def test_an_answer_rests_on_what_it_names_and_not_on_what_that_is_below_nor_on_cld_itself(tmp_path: Path) -> None:
    met = ["cld:common.Document.d", "cld:common.Document.d/common.Text.t", "cld:common.Assistant.general"]

    def model(ask: Ask) -> Completion:
        if ask.messages[-1].role != "tool":
            return answer("", Wish("k1", "look", {}))
        return answer(f"see {met[1]}." if "Name" in text_of(ask) else "somewhere")

    tools = FunctionTools({"look": lambda _arguments, _caller: {"hits": [{"uri": uri} for uri in met]}})
    async with working(tmp_path, model, tools) as place:
        for uri in met[:2]:
            await place.store.put(Draft(URI(uri), {"text": "there"} if "Text" in uri else {"title": "D"}))
        for purpose, expected in (("Name it", met[1:2]), ("Look", met[:2])):
            begun = await begin(place.engine, place.store, "", (Step("a", purpose, assistant="general"),))
            await wait(place.engine, begun.task, 10)
            done = await wait(place.engine, make_uri(begun.task, "plan.Task", "a"), 10)
            assert [source.uri for source in done.sources] == expected


async def test_subtasks_are_told_in_their_order_whatever_their_files_are_called(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        if not is_judging(ask):
            return answer("done")
        told.append([line for line in text_of(ask).splitlines() if "part " in line])
        return judged(ask)

    told: list[list[str]] = []
    steps = (*(Step(f"p{number}", f"part {number}") for number in (10, 9, 2)), Step("a", "part last", after=("p10",)))
    async with working(tmp_path, model) as place:
        begun = await begin(place.engine, place.store, "", steps)
        await wait(place.engine, begun.task, 10)
        tree = await shown(place.store, await place.engine.forest.load(begun.task), 2)
    order = ["part 2", "part 9", "part 10", "part last"]
    assert [one["purpose"] for one in tree["tasks"]] == order
    parts = "\n".join(told[0])
    assert sorted(order, key=lambda part: parts.rindex(part)) == order
