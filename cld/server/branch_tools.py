"""The tools that do a task again and compare what came of it."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from cld.server.arguments import HostURI
from cld.server.registry import READS, Annotations, Tool, tool_of
from cld.server.resources_tools import TEXT, described
from cld.server.work_tools import DEFAULT_WAIT, MOST_WAIT, on_first_call


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: Annotated[HostURI, described("The task to do again")]
    version: Annotated[str, described("As it was asked then; left out, as at first")] | UnsetType = UNSET
    assistant: Annotated[str, described("Who works it, instead of whoever is elected")] = ""
    wait_seconds: Annotated[float, msgspec.Meta(ge=0, le=MOST_WAIT)] = DEFAULT_WAIT


class Compare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    first: HostURI
    second: HostURI


_MODULE = "cld.server.branch_calls"

BRANCHES: tuple[Tool, ...] = (
    tool_of(
        Branch,
        on_first_call("task_branch", _MODULE),
        name="task_branch",
        title="Do a task again",
        description="Do a task again from how it was asked at a revision, as a new task beside it.",
        annotations=Annotations(read_only=False, destructive=False, idempotent=False, open_world=True),
        returns={"uri": TEXT, "branch_of": TEXT, "version": TEXT, "status": TEXT, "answer": {}},
        required=["uri", "status"],
    ),
    tool_of(
        Compare,
        on_first_call("task_compare", _MODULE),
        name="task_compare",
        title="Compare two tasks",
        description="How two tasks and those below them came out: states, assistants, outputs, sources, cost.",
        annotations=READS,
        returns={"same": {"type": "boolean"}, "fields": {"type": "object"}, "output": TEXT, "below": {"type": "array"}},
        required=["same"],
    ),
)
