"""What an answer rests on is what it names, of what its calls have brought."""

from pathlib import Path

import pytest
from work_world import FunctionTools, answer, text_of, working

from cld.models import Ask, Completion
from cld.resource import Draft
from cld.types import Step, Wish
from cld.uri import URI, make_uri
from cld.work.requests import begin, wait

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
