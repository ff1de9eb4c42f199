"""What a task is told of the tree: what was said before, what it is part of and comes after, and nothing it may not."""

from pathlib import Path

import pytest
import work_world
from policy_folder import Folder
from work_world import answer, is_judging, judged, text_of, working

from cld.models import Ask, Completion
from cld.resource import Draft
from cld.types import Step
from cld.uri import make_uri, parse_uri
from cld.work.requests import begin, wait

pytestmark = pytest.mark.anyio

TALK = parse_uri("cld:common.Conversation.c1")


def says_back(ask: Ask) -> Completion:
    if is_judging(ask):
        return judged(ask, "all of it")
    return answer(f"An answer about {text_of(ask).partition('Task: ')[2].partition(chr(10))[0]}.")


async def test_a_new_message_is_told_what_was_said_before_and_what_was_answered(tmp_path: Path) -> None:
    async with working(tmp_path, says_back) as place:
        for text in ("ships", "cargo"):
            begun = await begin(place.engine, place.store, text, conversation=TALK, assistant="general")
            await wait(place.engine, begun.task, 10)
        begun = await begin(place.engine, place.store, "harbours", conversation=TALK, assistant="general")
        await wait(place.engine, begun.task, 10)
        told = text_of(place.model.asked[-1])
        places = [told.index(part) for part in ("ships", "An answer about ships.", "cargo", "An answer about cargo.")]
        assert places == sorted(places)
        assert "An answer about ships." not in text_of(place.model.asked[0])


async def test_of_what_was_said_before_the_newest_is_told_that_fits(tmp_path: Path) -> None:
    async with working(tmp_path, says_back, window_tokens=300) as place:
        await place.store.put(Draft(TALK, {"title": "Talk"}))
        for text in ("first " * 60, "second"):
            begun = await begin(place.engine, place.store, text, conversation=TALK, assistant="general")
            await wait(place.engine, begun.task, 10)
        begun = await begin(place.engine, place.store, "third", conversation=TALK, assistant="general")
        await wait(place.engine, begun.task, 10)
        told = text_of(place.model.asked[-1])
        assert "An answer about second." in told
        assert "first first" not in told


async def test_what_its_assistant_may_not_read_no_task_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    data = folder.read_data()
    secret = make_uri(TALK, "common.Message", "a-secret")
    data["denies"]["kind:assistant"] = {**data["denies"].get("kind:assistant", {}), secret: {"deny": ["read"]}}
    folder.write_data(data)
    monkeypatch.setattr(work_world, "PROJECT", tmp_path)
    async with working(tmp_path, says_back) as place:
        await place.store.put(Draft(TALK, {"title": "Talk"}))
        await place.store.put(Draft(secret, {"role": "user", "text": "the word is swordfish"}))
        begun = await begin(place.engine, place.store, "openly", conversation=TALK, assistant="general")
        await wait(place.engine, begun.task, 10)
        begun = await begin(place.engine, place.store, "again", conversation=TALK, assistant="general")
        task = await wait(place.engine, begun.task, 10)
        assert task.status == "completed", task.error
        assert "An answer about openly." in text_of(place.model.asked[-1])
        assert not any("swordfish" in text_of(ask) for ask in place.model.asked)


async def test_a_task_is_told_of_those_it_comes_after_and_of_no_others(tmp_path: Path) -> None:
    steps = (
        Step("a", "apples"),
        Step("b", "bananas"),
        Step("c", "cherries", after=("a", "b")),
        Step("d", "dates", after=("c",)),
    )
    async with working(tmp_path, says_back) as place:
        begun = await begin(place.engine, place.store, "fruit", steps)
        task = await wait(place.engine, begun.task, 10)
        assert task.status == "completed", task.error
        told = {
            name: next(t for t in map(text_of, place.model.asked) if f"Task: {name}\n" in t)
            for name in ("bananas", "cherries", "dates")
        }
        assert "An answer about" not in told["bananas"]
        assert "An answer about apples." in told["cherries"] and "An answer about bananas." in told["cherries"]
        assert "An answer about cherries." in told["dates"] and "An answer about apples." not in told["dates"]
        assert all("fruit" in one for one in told.values()), "what it is part of"


async def test_no_task_is_told_its_own_state_nor_where_it_lies(tmp_path: Path) -> None:
    async with working(tmp_path, says_back) as place:
        begun = await begin(place.engine, place.store, "fruit", (Step("a", "apples"), Step("b", "pears", after=("a",))))
        assert (await wait(place.engine, begun.task, 10)).status == "completed"
        alone, after = (text_of(ask) for ask in place.model.asked if not is_judging(ask))
    assert "It is part of this:\nfruit" in alone and "It is part of this:\nfruit" in after
    assert begun.conversation not in alone and f"{begun.task}/plan.Task.a\nAn answer about apples." in after
    for state in ("running", "supervising", place.engine.holder, "there is no other assistant", "user\n"):
        assert state not in alone and state not in after, state


async def test_a_task_that_names_its_inputs_gets_those_and_no_more(tmp_path: Path) -> None:
    steps = (Step("a", "apples"), Step("b", "bananas", inputs={"of": {"from": "a"}}))
    async with working(tmp_path, says_back) as place:
        begun = await begin(place.engine, place.store, "fruit", steps)
        await wait(place.engine, begun.task, 10)
        told = next(t for t in map(text_of, place.model.asked) if "Task: bananas" in t)
        assert "An answer about apples." in told and "Context" not in told
