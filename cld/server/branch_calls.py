"""What the tools of branches do."""

import msgspec
from msgspec import UNSET

from cld.server.branch_tools import Branch, Compare
from cld.server.call import Call, Reply
from cld.server.work_calls import told
from cld.work.branching import branch, compare
from cld.work.requests import wait


async def task_branch(call: Call, args: Branch) -> Reply:
    engine = await call.runtime.work(call.principal)
    version = None if args.version is UNSET else args.version
    uri = await branch(engine, call.store, args.uri, version, assistant=args.assistant)
    node = await engine.forest.load(uri)
    async with told(call, engine, node):
        task = await wait(engine, uri, args.wait_seconds)
    assert task.branch_of is not None
    data = {"uri": uri, "branch_of": args.uri, "version": task.branch_of.version, "status": task.status}
    if task.status == "completed":
        data["answer"] = task.output
    return Reply(data, f"{uri} is {task.status}; task_compare shows how it differs from {args.uri}")


async def task_compare(call: Call, args: Compare) -> Reply:
    engine = await call.runtime.work(call.principal)
    found = await compare(engine, call.store, args.first, args.second)
    data = msgspec.to_builtins(found)
    lines = [f"{name}: {one} → {other}" for name, (one, other) in found.fields.items()]
    return Reply(data, "\n".join([*lines, found.output]) if not found.same else "they came out the same")
