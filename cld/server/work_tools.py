"""The tools that begin work, look at it, answer what it waits for and stop it: what they take and give.

What they do is `cld.server.work_calls`, which is loaded with the first call: a server that is never asked to
work has none of it.
"""

import importlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from cld.server.arguments import HostURI
from cld.server.call import Call, Reply
from cld.server.registry import Annotations, Handle, Tool, tool_of
from cld.server.resources_tools import TEXT, described
from cld.types import Budget

MOST_WAIT = 3600.0
DEFAULT_WAIT = 20.0
"""Under a minute, after which some hosts drop a call."""

_OBJECT = {"type": "object"}
_WRITES = Annotations(read_only=False, destructive=False, idempotent=False, open_world=True)

TaskURI = Annotated[HostURI, described("The task's URI")]


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: Annotated[str, described("What is to be done")] = ""
    tasks: (
        Annotated[
            list[dict[str, Any]],
            described(
                "Your own plan instead: [{id, purpose, instructions?, evaluation?, assistant? (client: you work it), "
                "after?: [id], when?, for_each?, inputs?: {name: value or {from: id}}, tools?, response_format?, "
                "steps?: [same]}]"
            ),
        ]
        | UnsetType
    ) = UNSET
    conversation: Annotated[HostURI, described("Go on with this one")] | UnsetType = UNSET
    wait_seconds: Annotated[float, described("Wait so long for the answer", ge=0, le=MOST_WAIT)] = DEFAULT_WAIT
    response_format: Annotated[dict[str, Any] | str, described("JSON Schema, or words")] | UnsetType = UNSET
    tools: (
        Annotated[
            list[str | dict[str, Any]],
            described("Names of those to use; or your own: {name, description, inputSchema}"),
        ]
        | UnsetType
    ) = UNSET
    budget: Annotated[Budget, described("At most; money in dollars")] | UnsetType = UNSET


class Get(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: TaskURI
    depth: Annotated[int, described("How many levels below it", ge=0, le=16)] = 2
    wait_seconds: Annotated[float, described("Wait until it is over or waits for you", ge=0, le=MOST_WAIT)] = 0.0


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: TaskURI
    output: Annotated[Any, described("What came of it")] | UnsetType = UNSET
    call_results: Annotated[dict[str, Any], described("Results of your tools, by the call's id or key")] | UnsetType = (
        UNSET
    )
    status: Literal["completed", "failed"] | UnsetType = UNSET
    error: Annotated[str, described("Why it failed")] = ""


class Cancel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: TaskURI
    reason: str = ""


class Approve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: Annotated[HostURI, described("The approval, or the task that waits for it")]
    decision: Literal["approve", "reject", "edit"]
    arguments: Annotated[dict[str, Any], described("With edit: what to call it with instead")] | UnsetType = UNSET
    reason: str = ""


def on_first_call(name: str, module: str = "cld.server.work_calls") -> Handle:
    """The handler of that name, whose module is loaded when it is called."""

    async def handle(call: Call, args: Any) -> Reply:
        return await getattr(importlib.import_module(module), name)(call, args)

    return handle


WORK: tuple[Tool, ...] = (
    tool_of(
        Plan,
        on_first_call("plan"),
        name="plan",
        title="Plan and do",
        description="Have something done: plans a message into tasks (or takes your tasks), elects assistants, works "
        "and verifies them, and answers with sources; returns a handle when it takes longer.",
        annotations=_WRITES,
        returns={
            "conversation": TEXT,
            "message": TEXT,
            "task": TEXT,
            "status": TEXT,
            "answer": {},
            "sources": {"type": "array"},
            "waiting": {"type": "array"},
            "error_detail": _OBJECT,
        },
        required=["conversation", "message", "status"],
    ),
    tool_of(
        Get,
        on_first_call("task_get"),
        name="task_get",
        title="Look at a task",
        description="A task and those below it: states, who works them and why, calls, questions, cost, output.",
        annotations=Annotations(read_only=True, destructive=False, idempotent=True),
        returns={"uri": TEXT, "status": TEXT, "purpose": TEXT, "output": {}, "tasks": {"type": "array"}},
        required=["uri", "status"],
    ),
    tool_of(
        Update,
        on_first_call("task_update"),
        name="task_update",
        title="Work a task yourself",
        description="Give what came of a task that waits for you, or results of your own tools that it called.",
        annotations=_WRITES,
        returns={"uri": TEXT, "status": TEXT},
        required=["uri", "status"],
    ),
    tool_of(
        Cancel,
        on_first_call("task_cancel"),
        name="task_cancel",
        title="Stop a task",
        description="Stop a task and everything below it, and see that nothing of it runs any more.",
        annotations=Annotations(read_only=False, destructive=True, idempotent=True),
        returns={"uri": TEXT, "cancelled": {"type": "array"}, "left": {"type": "array"}},
        required=["uri", "cancelled"],
    ),
    tool_of(
        Approve,
        on_first_call("approve"),
        name="approve",
        title="Answer a question",
        description="A person's answer to a call that waits for approval: approve, reject, or edit its arguments.",
        annotations=Annotations(read_only=False, destructive=False, idempotent=False),
        returns={"uri": TEXT, "decision": TEXT, "tool": TEXT, "decided_by": TEXT},
        required=["uri", "decision"],
    ),
)
