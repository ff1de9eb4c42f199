"""The built-in types: what the content of a resource of each has to look like.

Structs only, no behaviour; `cld.schema` checks contents against them. Those that people write by hand to
say something say more keys are allowed where more is harmless; those that steer (prompts, schemas, tools,
tasks, approvals) take no more, so that a misspelt key is an error and not a rule that is silently not there.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
"""Where an argument goes in a prompt's texts; group 1 is its name."""


class Conversation(msgspec.Struct, frozen=True):
    """`common.Conversation`; more keys are allowed."""

    title: str = ""


class Message(msgspec.Struct, frozen=True):
    """`common.Message`; more keys are allowed."""

    text: str
    role: Literal["user", "assistant", "system", "tool"] = "user"


class Text(msgspec.Struct, frozen=True):
    """`common.Text`, a passage that stands for itself; more keys are allowed."""

    text: str
    title: str = ""


class Document(msgspec.Struct, frozen=True):
    """`common.Document`, something with a source and perhaps parts below it; more keys are allowed."""

    title: str = ""
    text: str = ""
    source: str = ""
    media_type: str = ""


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`common.Schema`, a JSON Schema 2020-12 for one type.

    No more keys, so that a rule beside `schema` instead of in it is an error and not a gap.
    """

    schema: dict[str, Any]
    title: str = ""
    description: str = ""


class PromptArgument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person is asked for before a prompt is used; no more keys, as in `Prompt`."""

    name: str
    title: str = ""
    description: str = ""
    required: bool = False


class PromptMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a prompt, with `{{argument}}` where an argument goes; no more keys, as in `Prompt`."""

    role: Literal["user", "assistant"]
    text: str


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`common.Prompt`, offered as an MCP prompt: either `messages` or `template`, the text of a user's message.

    No more keys, so that a misspelt one is an error and not a prompt that says less than was meant.
    """

    title: str = ""
    description: str = ""
    arguments: tuple[PromptArgument, ...] = ()
    messages: tuple[PromptMessage, ...] = ()
    template: str = ""


class Namespace(msgspec.Struct, frozen=True):
    """`cld.Namespace`; more keys are allowed, and none of them grants or restricts anything.

    Which tools may be used in a namespace is said in the policy's `data.json`, under `namespaces`, and only there.
    """

    title: str = ""


class Stream(msgspec.Struct, frozen=True):
    """`event.Stream`; more keys are allowed."""

    title: str = ""
    description: str = ""


class Event(msgspec.Struct, frozen=True):
    """`event.Event`, something an application announces; more keys are allowed, `data` is free."""

    data: Any
    name: str = ""


Status = Literal["pending", "assigned", "running", "supervising", "waiting", "completed", "failed", "cancelled"]
Waiting = Literal["approval", "client", "time"]
CallState = Literal["started", "waiting", "finished", "failed", "cancelled"]

Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Why something did not come about: `code` for programs, `message` for people and models."""

    code: str
    message: str


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was spent: `tokens` of models, in and out; `money` in US dollars; `calls` of tools; model requests."""

    tokens: Count = 0
    money: Amount = 0.0
    calls: Count = 0
    requests: Count = 0


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a task and all below it may spend at most; None is no bound of its own.

    `seconds` count from its start, without the time in which a task of it waits for a person's answer.
    """

    tokens: Count | None = None
    money: Amount | None = None
    calls: Count | None = None
    seconds: Amount | None = None


class Lease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who works a task, until when unless renewed; `fence` grows with every claim, and is never reused."""

    holder: str
    fence: Count
    expires_at: str


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a task waited for a person's answer; without `until` it still does."""

    since: str
    until: str = ""


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A candidate of an election and its chance of being the right one."""

    assistant: str
    score: float


class Elected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The record of an election: the best candidates, best first, and why; `abstained` when none was good enough.

    `by` says how the choice was made: by `similarity`, by the `plan`, or the `default` after an abstention.
    """

    ranked: tuple[Choice, ...] = ()
    by: Literal["similarity", "plan", "default"] = "similarity"
    abstained: bool = False
    reason: str = ""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Evidence: a resource, the version that was read, and the words in it that matter."""

    uri: str
    version: str = ""
    quote: str = ""


class Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whether what came of the subtasks is what was asked for, and what is lacking; one for each round."""

    enough: bool
    reason: str = ""
    by: str = ""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A subtask as a plan has it, before it is one. `id` is unique among its siblings.

    `after` and the values of `inputs` that are `{"from": …}` name earlier siblings by id. `when` is an
    expression in CEL over `inputs`, or with a leading `?` a question for the model; when it is not so, the
    task is completed without being worked. `for_each` is a CEL expression giving a list: the task is then
    done once for each of its values, as `item` among the inputs.
    """

    id: str
    purpose: str
    instructions: str = ""
    applicability: str = ""
    evaluation: str = ""
    assistant: str = ""
    after: tuple[str, ...] = ()
    when: str = ""
    for_each: str = ""
    inputs: dict[str, Any] = {}
    tools: tuple[str, ...] | None = None
    response_format: dict[str, Any] | str | None = None
    budget: Budget | None = None
    time_limit: Amount | None = None
    priority: int = 0
    steps: tuple["Step", ...] = ()


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`plan.Task`: something to do, and how far it is. What is to be done is in its meta texts.

    `plan` are the subtasks still to be made of it; None while nobody has planned. `direct` says that it is to be
    worked as it is. `decided` is what had been spent when it was settled whether (`when`) and how (as it is, or as
    `plan`, for `for_each` the one with a step for each value) it is worked: from then on nobody decides it again.
    `tools` are those it may use at most. `until` is how long it is `waiting` at most. `hands` are those who changed
    it besides who asked: nothing is done in it that one of them may not do. `roles` are those that the token of who
    asked brought; they count of the task at the top. `usage` is what the task itself spent, without those below.
    `output` is what came of it, and `sources` what that rests on. `branch_of` is the task, in that version, which
    this one does again. `pauses` are when it waited for a person's answer, which is no time of any budget.
    `with_models` says of the task at the top that models could be asked where it was begun: a process that can ask
    none leaves it to others. No more keys.
    """

    status: Status = "pending"
    waiting: Waiting | None = None
    until: str = ""
    assistant: str = ""
    election: Elected | None = None
    direct: bool = False
    decided: Usage | None = None
    plan: tuple[Step, ...] | None = None
    after: tuple[str, ...] = ()
    when: str = ""
    for_each: str = ""
    inputs: dict[str, Any] = {}
    tools: tuple[str, ...] | None = None
    client_tools: tuple[dict[str, Any], ...] = ()
    response_format: dict[str, Any] | str | None = None
    budget: Budget | None = None
    time_limit: Amount | None = None
    priority: int = 0
    branch_of: Source | None = None
    skipped: str = ""
    hands: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    with_models: bool = False
    output: Any = None
    sources: tuple[Source, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    usage: Usage = Usage()
    attempts: Count = 0
    fence: Count = 0
    lease: Lease | None = None
    started_at: str = ""
    pauses: tuple[Pause, ...] = ()
    completed_at: str = ""
    error: Failure | None = None


class Ledger(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`plan.Ledger`, below the task whose budget it keeps: what was spent there, and what is set aside for what runs.

    `held` is by task and step; what a hold cost is only known afterwards, and until then all of it is gone. `sunk` is
    what of it is known to be spent already, by tries that came to nothing; the rest may be given back.
    """

    budget: Budget
    spent: Usage = Usage()
    held: dict[str, Usage] = {}
    sunk: dict[str, Usage] = {}


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`plan.Approval`, below the task that waits for it: a person approves, rejects or edits `arguments`.

    `call` is the id of the tool call that waits, `within` its tool where it is not that one that asks but one that it
    calls. Without an answer by `deadline` it is rejected, `decided_by` service:work, as is one that is not waited for
    any more; `comment` says which. No more keys.
    """

    tool: str
    arguments: dict[str, Any]
    call: str = ""
    within: str = ""
    reason: str = ""
    asked_at: str = ""
    deadline: str = ""
    decision: Literal["approve", "reject", "edit"] | None = None
    edited: dict[str, Any] | None = None
    comment: str = ""
    decided_by: str = ""
    decided_at: str = ""


class Annotations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tool says of itself, in MCP's words; what it does not say is assumed the worst of."""

    read_only: bool = False
    destructive: bool = True
    idempotent: bool = False
    open_world: bool = True


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`tool.Tool`: something that can be called. `origin` is where it comes from, as `tools/weather.py`. No more keys.

    `disabled` takes it out of use; `time_limit` is in seconds.
    """

    name: str
    description: str
    input_schema: dict[str, Any]
    title: str = ""
    output_schema: dict[str, Any] | None = None
    annotations: Annotations = Annotations()
    time_limit: Amount | None = None
    origin: str = ""
    digest: str = ""
    disabled: bool = False


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`tool.Server`: another MCP server, whose tools come in as `<prefix>_<name>`. No more keys.

    Either `command` (with `args`, `env` and `cwd`) or `url` (with `headers`). `env` and `headers` hold names of
    environment variables, never secrets: `{"API_KEY": "$MY_KEY"}`.
    """

    prefix: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str = ""
    url: str = ""
    headers: dict[str, str] = {}
    tools: tuple[str, ...] | None = None
    disabled: bool = False


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A call that a tool makes and that a person agreed to, once, with the arguments they `edited` if they did."""

    tool: str
    arguments: dict[str, Any]
    edited: dict[str, Any] | None = None
    by: str = ""


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What came of a call that a tool made, so many calls below its own; `edited` are the arguments it really had."""

    tool: str
    arguments: dict[str, Any]
    depth: Count
    edited: dict[str, Any] | None = None
    result: Any = None
    text: str = ""
    error: Failure | None = None
    approved_by: str = ""


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`tool.Call`, below its task: one call of a tool, written before it starts and when it is over. No more keys.

    `step` is the model's turn that asked for it, `key` the model's own name for the call. `fence` is that of
    the claim under which it started. `approved_by` is who agreed to it, `granted` what was agreed to of the calls
    that it is still to make itself, `made` those that were over when it was stopped to ask: they are not made again.
    `question` is the id of the `plan.Approval` that it waits for.
    """

    tool: str
    arguments: dict[str, Any]
    state: CallState = "started"
    step: Count = 0
    key: str = ""
    fence: Count = 0
    attempts: Count = 0
    idempotent: bool = False
    client: bool = False
    progress: str = ""
    result: Any = None
    text: str = ""
    error: Failure | None = None
    approved_by: str = ""
    granted: tuple[Grant, ...] = ()
    made: tuple[Made, ...] = ()
    question: str = ""
    started_at: str = ""
    finished_at: str = ""


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A call that a model asked for: its own `key` for it, the tool, the arguments, or what is wrong with them."""

    key: str
    tool: str
    arguments: dict[str, Any] = {}
    problem: str = ""


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`plan.Turn`, below its task: what a model answered at `step` of the dialogue, so that nobody asks it again.

    `asked` is what it was told beside the results of its calls: what was wrong with its answer before. `held` names
    what was set aside for it in ledgers. No more keys.
    """

    step: Count
    text: str = ""
    wishes: tuple[Wish, ...] = ()
    asked: str = ""
    model: str = ""
    usage: Usage = Usage()
    held: str = ""


class Assistant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`common.Assistant`: who works tasks. What for, how, and judged by what, is in its meta texts. No more keys.

    `tools` are names of tools, or patterns with `*`; `model` is a tier of the models' settings. `general` says
    that it takes what nobody else fits.
    """

    title: str = ""
    tools: tuple[str, ...] = ()
    model: str = ""
    general: bool = False
    disabled: bool = False


BUILT_IN: Mapping[str, type[msgspec.Struct]] = {
    "cld.Namespace": Namespace,
    "common.Assistant": Assistant,
    "common.Conversation": Conversation,
    "common.Document": Document,
    "common.Message": Message,
    "common.Prompt": Prompt,
    "common.Schema": Schema,
    "common.Text": Text,
    "event.Event": Event,
    "event.Stream": Stream,
    "plan.Approval": Approval,
    "plan.Ledger": Ledger,
    "plan.Task": Task,
    "plan.Turn": Turn,
    "tool.Call": Call,
    "tool.Server": Server,
    "tool.Tool": Tool,
}
"""The types whose content always has to fit; `msgspec.convert` to the struct reads it."""
