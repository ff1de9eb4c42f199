"""Trees of tasks for people and models: states, who works them and why, what it cost, and what is waited for."""

from collections.abc import Mapping
from typing import Any

import msgspec

from cld.errors import InvalidResource
from cld.escape import safe_line
from cld.guard import GuardedStore
from cld.journal import CALL, Question, children, questions
from cld.resource import timestamp
from cld.tasks.budget import total
from cld.types import Call, Usage
from cld.uri import id_of
from cld.work.claims import blocked, ends, ready
from cld.work.tree import Node

MOST_TEXT = 2000
MOST_CALLS = 50
MOST_GIVEN = 500
"""How many bytes of arguments are shown of a call that nobody has to answer; its resource has them all."""

_WAITS = {"approval": "a person's answer", "client": "its client", "time": "its time"}


MOST_READY = 50
"""How many of the tasks that can be worked now are named."""

_TOLD = ("dependency", "above", "never", "gone", "broken")
"""Why a task cannot be worked that its own state does not tell."""


async def shown(store: GuardedStore, node: Node, depth: int) -> dict[str, Any]:
    """A task and `depth` levels below it, of which `store` may read all; totals are of everything below.

    `ready` are the URIs of those at and below it that can be worked now, first what is to be taken up first.
    """
    now = timestamp()
    data = await _shown(store, node, depth, now)
    if can := ready(node, now):
        data["ready"] = [one.uri for one in can[:MOST_READY]]
    return data


async def _shown(store: GuardedStore, node: Node, depth: int, now: str) -> dict[str, Any]:
    task = node.task
    why = blocked(node, now)
    usage = total(one.task.usage for one in node.subtree())
    data: dict[str, Any] = {
        "uri": node.uri,
        "status": task.status,
        "purpose": node.meta.purpose[:MOST_TEXT],
        **_given(
            waiting=task.waiting,
            assistant=task.assistant,
            output=task.output,
            skipped=task.skipped,
            until=ends(node, now),
            after=list(task.after),
            blocked=why.reason if why is not None and why.kind in _TOLD else "",
        ),
        **({"error": msgspec.to_builtins(task.error)} if task.error else {}),
        **({"election": msgspec.to_builtins(task.election)} if task.election else {}),
        **({"sources": msgspec.to_builtins(task.sources)} if task.sources else {}),
        **({"judgements": msgspec.to_builtins(task.judgements)} if task.judgements else {}),
        **({"usage": msgspec.to_builtins(usage)} if usage != Usage() else {}),
    }
    if calls := await _calls(store, node):
        data["calls"] = calls
    if not node.is_over and (asked := await questions(store, node.uri)):
        data["approvals"] = [_question(one) for one in asked]
    if node.children:
        counts: dict[str, int] = {}
        for one in node.subtree():
            if one is not node:
                counts[one.task.status] = counts.get(one.task.status, 0) + 1
        data["below"] = counts
        if depth > 0:
            data["tasks"] = [await _shown(store, child, depth - 1, now) for child in node.in_order()]
    return data


async def _calls(store: GuardedStore, node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for uri in (await children(store, node.uri, CALL))[:MOST_CALLS]:
        try:
            content = (await store.get(uri)).resource.content
            msgspec.convert(content, Call)
        except (InvalidResource, msgspec.ValidationError) as error:
            found.append({"uri": uri, "error": _invalid(str(error))})
            continue
        one: dict[str, Any] = {"id": id_of(uri), "tool": content.get("tool"), "state": content.get("state")}
        if content.get("state") == "waiting":
            one |= {"key": content.get("key"), "arguments": content.get("arguments"), "client": content.get("client")}
        elif (given := content.get("arguments")) and len(msgspec.json.encode(given)) <= MOST_GIVEN:
            one["arguments"] = given
        if content.get("progress"):
            one["progress"] = content["progress"]
        if content.get("error"):
            one["error"] = content["error"]
        found.append(one)
    return found


def _question(question: Question) -> dict[str, Any]:
    if question.approval is None:
        return {"uri": question.uri, "error": _invalid(question.error)}
    return {"uri": question.uri, **msgspec.to_builtins(question.approval)}


def _invalid(message: str) -> dict[str, Any]:
    """Of what somebody has edited, or is editing, that it cannot be used as it is."""
    return {"code": InvalidResource.code, "message": message}


def drawn(data: dict[str, Any], indent: str = "") -> list[str]:
    """What `shown` gave, as lines of text: its URI on top, subtasks by their ids, what has to be answered by URI."""
    root = not indent
    waits = f" for {_WAITS.get(data['waiting'], data['waiting'])}" if data.get("waiting") else ""
    who = f" [{id_of(data['assistant'])}]" if str(data.get("assistant", "")).startswith("cld:") else ""
    name = "" if root else f"{id_of(data['uri'])}: "
    lines = [f"{indent}{name}{data['status']}{waits}{who}  {safe_line(' '.join(str(data['purpose']).split()))[:120]}"]
    if root or data.get("waiting"):
        lines.append(f"{indent}  {data['uri']}")
    if data.get("blocked"):
        lines.append(f"{indent}  {safe_line(data['blocked'])}")
    if data.get("skipped"):
        lines.append(f"{indent}  skipped: {safe_line(data['skipped'])}")
    if data.get("error"):
        lines.append(f"{indent}  {data['error']['code']}: {safe_line(data['error']['message'])}")
    broken = [one for one in (*data.get("approvals", ()), *data.get("calls", ())) if "tool" not in one]
    lines += [f"{indent}  cannot be used: {safe_line(one['error']['message'])}" for one in broken]
    for one in data.get("approvals", ()):
        if "tool" not in one:
            continue
        lines.append(f"{indent}  asks: may it call {safe_line(one['tool'])}? {safe_line(one.get('reason', ''))}")
        lines.append(f"{indent}  {one['uri']}")
    lines += [
        f"{indent}  wants from its client: {safe_line(str(one['tool']))} ({one['id']})"
        for one in data.get("calls", ())
        if one.get("client") and one["state"] == "waiting"
    ]
    for child in data.get("tasks", ()):
        lines += drawn(child, indent + "  ")
    if root and data.get("usage"):
        lines.append(cost(data["usage"]))
    return lines


def cost(usage: Mapping[str, Any]) -> str:
    """What a task and all below it spent, as a line of text."""
    money = f", ${usage['money']:.4f}" if usage.get("money") else ""
    return f"cost: {usage.get('calls', 0)} calls of tools, {usage.get('tokens', 0)} tokens{money}"


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [], ())}
