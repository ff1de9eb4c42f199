"""Settings: one frozen object, read once at start and passed explicitly.

Flags beat the environment, which beats the `cld.toml` beside the tree, which beats the user's own file. The one
beside the tree may have come with somebody else's tree: it cannot name what runs programs, opens folders, sends
texts away or says who is who (`OWN`).
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from cld.errors import ConfigError
from cld.resource import MAX_BYTES

LogLevel = Literal["debug", "info", "warning"]
Durability = Literal["none", "file", "full"]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]

_MEGABYTE = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on single resources."""

    body_bytes: Positive = MAX_BYTES


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long replaced and deleted versions stay: the newest `keep` of each resource, for `days`."""

    keep: Positive = 1000
    days: Positive = 365


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`source` "auto" takes inotify where there is one; `reconcile_seconds` is the slow full check."""

    source: Literal["auto", "inotify", "watchdog", "poll"] = "auto"
    reconcile_seconds: Seconds = 300.0
    poll_seconds: Seconds = 2.0


class PolicySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`on_error` says what a bad edit while running does; `opa` is the compiler's path.

    `log_bytes` is how large the decision log may become in all; the oldest files go first.
    """

    on_error: Literal["last_good", "deny_all"] = "last_good"
    timeout_ms: Positive = 100
    opa: str = ""
    log_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 4 * 1024**3


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How bearer tokens of `cld serve --http` are verified, and what else may be bound.

    One of `jwt_key_file` (PEM public key, or a shared secret for HS*) and `jwks_url` is needed.
    Tokens must name `audience`; their principal is the claim `principal_claim`. They bring roles only where
    `roles_claim` is set, and are the principal of this machine only with `local_principal`.
    """

    jwt_key_file: str = ""
    jwks_url: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    issuer: str = ""
    audience: str = "cld"
    principal_claim: str = "sub"
    roles_claim: str = ""
    local_principal: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which embedding search uses: `wordllama`, which needs no network, or any that litellm knows.

    `api_base` is where it is served, if not at its provider's usual place; keys come from the environment.
    `reconcile_seconds` is how often every index, the graph's included, is compared with all of the tree.
    """

    model: str = "wordllama"
    api_base: str = ""
    dimensions: Annotated[int, msgspec.Meta(ge=0)] = 0
    reconcile_seconds: Seconds = 900.0


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of one query, how many run at once, and how long a caller's dataset is kept for the next one."""

    seconds: Seconds = 10.0
    rows: Positive = 1000
    result_bytes: Positive = 1024 * 1024
    memory_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 512 * 1024 * 1024
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    idle_seconds: Seconds = 30.0


class IngestLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one file may cost before it is given up, and how much of a folder is looked at.

    `memory_bytes` bounds the address space of a converting process; with less than the least its libraries do
    not load.
    """

    file_bytes: Annotated[int, msgspec.Meta(ge=1, le=1024 * _MEGABYTE)] = 64 * _MEGABYTE
    text_characters: Annotated[int, msgspec.Meta(ge=1, le=256 * _MEGABYTE)] = 16 * _MEGABYTE
    passages: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 20_000
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=256 * _MEGABYTE)] = 1536 * _MEGABYTE
    files: Positive = 1_000_000
    depth: Annotated[int, msgspec.Meta(ge=1, le=128)] = 64


class Ingest(IngestLimits, frozen=True, forbid_unknown_fields=True):
    """`roots` are the folders that the tool `ingest` may read, as whole paths; the command reads what its user may."""

    roots: tuple[str, ...] = ()


class WorkBudget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one message may cost at most, with all its tasks; a plan may say less, never more. Money is in dollars."""

    tokens: Annotated[int, msgspec.Meta(ge=0)] = 200_000
    money: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    calls: Annotated[int, msgspec.Meta(ge=0)] = 1000
    seconds: Seconds = 3600.0


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How tasks are worked.

    `tasks_at_once` is how many this process works at a time. Who works a task has it for `lease_seconds` unless
    renewed; when a process dies, others go on after that, `attempts` times in all. `iterations` bounds a task's
    dialogue with its model, `corrections` how often subtasks are added because what came was not enough; `depth`,
    `width` and `tasks` bound a plan. `resume` says whether a server that starts takes up what was left undone.
    """

    tasks_at_once: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 16
    lease_seconds: Annotated[float, msgspec.Meta(ge=0.5, le=3600)] = 15.0
    time_limit: Seconds = 300.0
    approval_seconds: Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)] = 86_400.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    iterations: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    corrections: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    depth: Annotated[int, msgspec.Meta(ge=1, le=16)] = 6
    width: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000
    tasks: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 5000
    window_tokens: Annotated[int, msgspec.Meta(ge=100, le=1_000_000)] = 4000
    resume: bool = True
    budget: WorkBudget = WorkBudget()


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the chain, `model` as litellm names it. `api_key` is the name of an environment variable.

    `timeout` bounds a try, in seconds; `at_once` and `per_minute` (0: no bound) how many are made. Prices are in US
    dollars for a million tokens. `max_tokens` bounds an answer and `context` a question with its answer; 0 is what
    litellm knows. `schema` says how a schema is told: in the request itself, in words, or as litellm knows.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    model: Annotated[str, msgspec.Meta(min_length=1)]
    api_base: str = ""
    api_key: Annotated[str, msgspec.Meta(pattern="^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""
    timeout: Seconds = 120.0
    at_once: Positive = 4
    per_minute: Annotated[int, msgspec.Meta(ge=0)] = 0
    price_in: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    price_out: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    context: Annotated[int, msgspec.Meta(ge=0)] = 0
    schema: Literal["auto", "request", "words"] = "auto"
    temperature: float | None = None
    reasoning_effort: Literal["", "none", "minimal", "low", "medium", "high"] = ""

    def __post_init__(self) -> None:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out belong together; 0 is a price")


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The models that are asked: those of the `chain` one after another, for planning and judging `reasoning` first.

    `cache` is how many answers are kept for the same question, in memory; 0 keeps none. With `fallback` the model
    `offline` answers while none of them can be asked.
    """

    chain: tuple[Tier, ...] = ()
    reasoning: Tier | None = None
    cache: Annotated[int, msgspec.Meta(ge=0)] = 0
    fallback: bool = True

    def __post_init__(self) -> None:
        names = [tier.name for tier in (*self.chain, *([self.reasoning] if self.reasoning else []))]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two tiers are named {min(twice)!r}")


Rate = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,8}/(second|minute|hour|day)$")]
"""How often, as `30/minute`: so many at once, and as many again over that time."""


class Permit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tool server that may be used: its whole command line, or its URL.

    `environment` are the only names that its `env` may set, and the only variables that `env` and `headers` may
    take from cld's environment. `cwd` is the only folder it may name to be started in.
    """

    command: tuple[str, ...] = ()
    url: str = ""
    environment: tuple[str, ...] = ()
    cwd: str = ""

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ValueError("a permitted tool server has either a command or a url")


class Tooling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tools: whose Python files are tools, what a call of any tool may take, and what the tools cld brings may reach.

    `folders` hold Python files with tools; `environment` names the variables these get of cld's own. `seconds`
    and `output_bytes` bound each call, `memory_bytes` the address space of each process, `workers` how many run
    at once. `tool_rates` and `namespace_rates` are by name, `*` for each of the others.

    `http_hosts` may be fetched from (`example.org`, `*.example.org`, with `:port` where it is not the usual one),
    in `granted_folder` files are read and written, in `outbox` drafts of mails are left; empty turns each off.
    `servers` are the tool servers that resources of a tree may have started or talked to.
    """

    folders: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    library: bool = True
    seconds: Seconds = 60.0
    output_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 * _MEGABYTE)] = 256 * 1024
    memory_bytes: Annotated[int, msgspec.Meta(ge=128 * _MEGABYTE)] = 2048 * _MEGABYTE
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    idle_seconds: Seconds = 60.0
    tool_rates: dict[str, Rate] = {}
    namespace_rates: dict[str, Rate] = {}
    http_hosts: tuple[str, ...] = ()
    granted_folder: str = ""
    outbox: str = ""
    servers: tuple[Permit, ...] = ()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of cld's settings. `root` is a path or an fsspec URL."""

    root: str = "./resources"
    policies: str = ""
    principal: str = "user:local"
    tools: str = "core"
    http: str = ""
    log: LogLevel = "warning"
    durability: Durability = "full"
    limits: Limits = Limits()
    history: History = History()
    watch: Watch = Watch()
    policy: PolicySettings = PolicySettings()
    auth: Http = Http()
    index: Index = Index()
    graph: Graph = Graph()
    ingest: Ingest = Ingest()
    work: Work = Work()
    models: Models = Models()
    tooling: Tooling = Tooling()

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return "://" not in self.root

    @property
    def root_path(self) -> Path:
        """The root as an absolute path; only where `is_local`."""
        return Path(self.root).expanduser().absolute()

    @property
    def policies_path(self) -> Path:
        """Where the rules lie: as set, else `policies` beside the root, else those cld ships."""
        if self.policies:
            return Path(self.policies).expanduser().absolute()
        if self.is_local and (beside := self.root_path.parent / "policies").is_dir():
            return beside
        # A wheel has them in the package, a checkout beside it.
        packaged = Path(__file__).parent / "_policies"
        return packaged if packaged.is_dir() else Path(__file__).parent.parent / "policies"

    @property
    def seeds_path(self) -> Path:
        """Where the resources lie that a tree without any of their kind begins with."""
        packaged = Path(__file__).parent / "_seeds"
        return packaged if packaged.is_dir() else Path(__file__).parent.parent / "resources"


ENVIRONMENT = {
    "root": "CLD_ROOT",
    "policies": "CLD_POLICIES",
    "principal": "CLD_PRINCIPAL",
    "tools": "CLD_TOOLS",
    "log": "CLD_LOG",
}

OPA = "CLD_OPA"
"""The compiler of the rules, as in `policy.opa`."""

CONFIG = "CLD_CONFIG"
"""The user's own file, where that is not `cld/cld.toml` in the user's configuration folder."""

_OWN_TOOLING = tuple(
    f"tooling.{name}" for name in ("folders", "environment", "http_hosts", "granted_folder", "outbox", "servers")
)

OWN = ("policy.opa", "index.model", "index.api_base", "ingest.roots", "models", "auth", *_OWN_TOOLING)
"""Settings, or whole tables of them, that only the user's own file and the environment can give."""


def load_settings(flags: Mapping[str, str | None], environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings that flags, environment, the `cld.toml` beside the root and the user's own file give together.

    A flag that is None was not given. Neither file may set the root, and that beside it nothing of `OWN`.

    Raises:
        ConfigError: naming the file or variable and what does not fit.
    """
    given: dict[str, Any] = {name: environment[var] for name, var in ENVIRONMENT.items() if environment.get(var)}
    given.update({name: value for name, value in flags.items() if value is not None})
    root = str(given.get("root", Settings().root))
    own_file = own_settings(environment)
    own = _read(own_file, must_be=bool(environment.get(CONFIG)))
    beside_file = _expanded(root).parent / "cld.toml" if "://" not in root else Path("cld.toml")
    beside = _read(beside_file) if beside_file.absolute() != own_file else {}
    for file, written in ((own_file, own), (beside_file, beside)):
        if "root" in written:
            raise ConfigError(f"{file} sets root; use --root or CLD_ROOT")
        # Each by itself, so that the message can say which to mend.
        _convert(written, str(file))
    for name in OWN:
        table, _, key = name.partition(".")
        if table in beside and (not key or key in beside[table]):
            raise ConfigError(
                f"{beside_file} sets {name}, which a file that may have come with a tree cannot; "
                f"set it in {own_file}, or name a file of yours by {CONFIG}"
            )
    merged = _over(_over(own, beside), given)
    if environment.get(OPA):
        merged = _over(merged, {"policy": {"opa": environment[OPA]}})
    settings = _convert(merged, f"a flag or one of {', '.join((*ENVIRONMENT.values(), OPA))}")
    _expanded(settings.policies)
    tooling = settings.tooling
    folders = [("ingest.roots", folder) for folder in settings.ingest.roots]
    folders += [("tooling.folders", folder) for folder in tooling.folders]
    folders += [("tooling.granted_folder", tooling.granted_folder), ("tooling.outbox", tooling.outbox)]
    for name, folder in folders:
        _expanded(folder)
        if folder and not folder.startswith("~") and not Path(folder).is_absolute():
            raise ConfigError(f"{own_file} sets {name} to {folder!r}; write whole paths, as ~/documents")
    return settings


def own_settings(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the user's own settings lie, whether or not there are any."""
    if named := environment.get(CONFIG):
        return _expanded(named)
    folder = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return _expanded(folder) / "cld" / "cld.toml"


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `under`, tables key by key."""
    merged = {**under, **over}
    for name in under.keys() & over.keys():
        if isinstance(under[name], dict) and isinstance(over[name], dict):
            merged[name] = {**under[name], **over[name]}
    return merged


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{path!r} is no path: {error}") from error


def _read(file: Path, *, must_be: bool = False) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        if must_be:
            raise ConfigError(f"{CONFIG} names {file}, which is not there") from error
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is no TOML: {error}") from error


def _convert(values: dict[str, Any], origin: str) -> Settings:
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin} does not fit: {error}") from error
