"""`cld policy …`: checking, building, testing, explaining and replaying the rules."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec

from cld.cli.exits import ERROR, OK
from cld.cli.session import DESTRUCTIVE, HOST, existing
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.policy import Context
from cld.policy.build import EXECUTABLE, build, check, require_opa, test
from cld.policy.explain import Changed, replay
from cld.policy.install import install_opa
from cld.policy.rego import RegoPolicy
from cld.principal import parse_principal
from cld.runtime import log_folder
from cld.uri import id_of, type_of


async def policy(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Run one of the verbs on the rules of the settings."""
    match arguments.verb:
        case "explain":
            return await _explain(arguments, settings, terminal)
        case "replay":
            return _replay(arguments, settings, terminal)
        case "install-opa":
            return _install_opa(arguments, terminal)
        case _:
            return _compile(arguments.verb, settings, terminal)


def _compile(verb: str, settings: Settings, terminal: Terminal) -> int:
    folder = settings.policies_path
    opa = require_opa(settings.policy.opa, folder)
    told: dict[str, Any] = {"policies": str(folder), "opa": str(opa)}
    match verb:
        case "check":
            check(folder, opa)
            said = f"the rules and the data in {folder} hold"
        case "test":
            said = test(folder, opa)
            told["said"] = said
        case _:
            lock = build(folder, opa)
            said = f"built policy.wasm and policy.lock.json in {folder} with opa {lock.opa}"
            told["wasm"] = lock.wasm
    if terminal.human:
        terminal.line(terminal.style(said, "green"))
    else:
        terminal.document(told)
    return OK


async def _explain(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    async with existing(settings) as runtime:
        principal = runtime.principal if arguments.subject is None else parse_principal(arguments.subject)
        called = arguments.action == "call" and type_of(arguments.uri) == "tool.Tool"
        tool = arguments.tool or (id_of(arguments.uri) if called else "")
        context = Context(tool=tool, task=arguments.task, host=HOST, destructive=called and tool in DESTRUCTIVE)
        found = runtime.explain(principal, arguments.action, arguments.uri, context)
    if not terminal.human:
        terminal.document(found)
        return OK
    for answer in msgspec.convert(found["decisions"], list[_Answer]):
        _show(answer, terminal)
    return OK


class _Entry(msgspec.Struct):
    """An entry of data.json that had a part in it."""

    subject: str
    place: str
    rule: dict[str, Any]


class _Answer(msgspec.Struct):
    """What is shown of an explanation for one principal."""

    principal: str
    allow: bool
    reasons: list[str]
    obligations: dict[str, Any]
    subjects: list[str]
    grants: list[_Entry]
    denies: list[_Entry]


def _show(answer: _Answer, terminal: Terminal) -> None:
    if answer.allow:
        asked = answer.obligations.get("require_approval")
        reason = "" if asked is None else f", once a person agrees: {safe_line(asked.get('reason', ''))}"
        terminal.line(terminal.style(f"allowed{reason}", "green"))
    else:
        terminal.line(terminal.style(f"denied: {safe_line('; '.join(answer.reasons))}", "red"))
    counts = safe_line(", ".join(answer.subjects))
    terminal.line(terminal.style(f"{safe_line(answer.principal)} counts as {counts or 'nobody'}", "dim"))
    for kind, entries in (("grant", answer.grants), ("deny", answer.denies)):
        for entry in entries:
            rule = msgspec.json.encode(entry.rule).decode()
            terminal.line(terminal.style(f"{kind}: {entry.subject} at {entry.place}: {safe_line(rule)}", "dim"))


def _replay(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print what would be decided otherwise; exit code 1 when anything would."""
    log = log_folder(settings) if arguments.log is None else Path(arguments.log)
    rules = RegoPolicy.open(settings.policies_path, timeout_ms=settings.policy.timeout_ms, opa=settings.policy.opa)
    changes = 0
    for changed in replay(log, rules):
        changes += 1
        if terminal.human:
            _row(changed, terminal)
        else:
            terminal.record(changed)
    if terminal.human:
        what = f"{changes} decision{'' if changes == 1 else 's'} would be different" if changes else "nothing changes"
        terminal.line(terminal.style(f"{what} under {settings.policies_path}", "bold"))
    return ERROR if changes else OK


def _row(changed: Changed, terminal: Terminal) -> None:
    now = terminal.style("allowed", "green") if changed.after else terminal.style("denied ", "red")
    was = "allowed" if changed.before else "denied"
    why = f"  {'; '.join(changed.reasons)}" if changed.reasons else ""
    asked = f"{changed.principal} {changed.action} {changed.uri}"
    terminal.line(f"{now}  {terminal.style(safe_line(asked))}  {terminal.style(safe_line(f'was {was}{why}'), 'dim')}")


def _install_opa(arguments: Namespace, terminal: Terminal) -> int:
    folder = None if arguments.to is None else Path(arguments.to)
    if folder is not None and folder.name == EXECUTABLE and not folder.is_dir():
        folder = folder.parent  # the file was named
    place = install_opa(folder)
    if terminal.human:
        terminal.line(terminal.style(f"installed {place}", "green"))
    else:
        terminal.document({"opa": str(place)})
    return OK
