"""The tool that says how the models stand: who is asked, whether they can be, what they did and what that cost."""

import msgspec

from cld.server.call import Call, Reply
from cld.server.registry import READS, tool_of


class ModelStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


async def _status(call: Call, args: ModelStatus) -> Reply:
    status = call.runtime.workshop.status
    told = [
        f"{one.tier} ({one.model}): {f'{one.state}, {one.why}' if one.why else one.state}; {one.requests} requests, "
        f"{one.answers} answers, {sum(one.failures.values())} failures, {one.tokens} tokens, ${one.money:.6f}"
        for one in status.models
    ]
    if status.offline:
        told.append("offline: answers while no model can be asked" if told else "offline: no model is configured")
    return Reply(msgspec.to_builtins(status), "\n".join(told))


MODEL_STATUS = tool_of(
    ModelStatus,
    _status,
    name="model_status",
    title="Look at the models",
    description="This process's models in the order they are asked: whether they can be, requests, failures, cost.",
    annotations=READS,
    returns={
        "models": {"type": "array", "items": {"type": "object"}},
        "offline": {"type": "boolean"},
        "offline_answers": {"type": "integer"},
        "cache_hits": {"type": "integer"},
    },
    required=["models", "offline"],
)
