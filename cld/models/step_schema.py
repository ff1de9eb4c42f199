"""Steps as a model writes them: the schema it is asked for, and steps of what it answered.

Every key is required and no other allowed, as providers' strict modes want it; what is not needed is empty. A model
may name neither tools nor budgets nor forms of answers: those are not its to give.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cld.types import Step

STEP = "#/$defs/step"


def step_definition(assistants: Sequence[str]) -> dict[str, Any]:
    """The schema of one step, to stand in `$defs` as `step`; `assistants` are the URIs it may name."""
    properties: dict[str, Any] = {
        "id": {"type": "string", "description": "short, of letters, digits, - and _; unlike any beside it"},
        "purpose": {"type": "string", "description": "what is to be done, complete in itself"},
        "instructions": {"type": "string", "description": "how, where that matters"},
        "evaluation": {"type": "string", "description": "by what its result is judged"},
        "assistant": {"type": "string", "enum": ["", *assistants], "description": "who is to do it; empty: elected"},
        "after": {"type": "array", "items": {"type": "string"}, "description": "ids beside it that come before"},
        "when": {"type": "string", "description": "CEL over its inputs, or ? and a question; empty: always"},
        "for_each": {"type": "string", "description": "CEL giving a list: done once for each; empty: once"},
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "from": {"type": "string", "description": "id beside it whose output this is, or empty"},
                    "value": {"type": "string", "description": "the value itself, where from is empty"},
                },
                "required": ["name", "from", "value"],
                "additionalProperties": False,
            },
        },
        "steps": {"type": "array", "items": {"$ref": STEP}, "description": "what it falls into; empty: nothing"},
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def steps_of(written: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    """The steps that a value of the schema says."""
    return tuple(
        Step(
            id=step["id"],
            purpose=step["purpose"],
            instructions=step["instructions"],
            evaluation=step["evaluation"],
            assistant=step["assistant"],
            after=tuple(dict.fromkeys(step["after"])),
            when=step["when"],
            for_each=step["for_each"],
            inputs={one["name"]: {"from": one["from"]} if one["from"] else one["value"] for one in step["inputs"]},
            steps=steps_of(step["steps"]),
        )
        for step in written
    )
