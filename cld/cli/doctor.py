"""`cld doctor`: what is wrong with the tree, the policy and the settings, looked at past the policy.

The one command that reads files without asking the policy: it is for whoever owns the folder, who
can read them anyway, and it is what helps when the policy itself is broken.
"""

from argparse import Namespace

import msgspec

from cld.cli.exits import ERROR, OK
from cld.cli.session import existing
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.index.check import Checked
from cld.knowledge import KINDS, Kind, Knowledge
from cld.server.application import bring_own_tools
from cld.store.local_doctor import Finding

_NAMES: dict[Kind, str] = {"search": "search", "graph": "the graph", "elections": "elections"}
_STYLE = {"error": ("bold", "red"), "warning": ("yellow",), "info": ("dim",)}


async def doctor(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print every finding; exit code 1 when an error or warning is left that was not put right."""
    left = 0
    count = 0
    async with existing(settings) as runtime:
        for problem in runtime.problems():
            _print(Finding("", problem, "error"), terminal)
            left += 1
        bring_own_tools(runtime)
        for problem in await runtime.workshop.inspect():
            _print(Finding("", problem, "warning"), terminal)
            count += 1
            left += 1
        if settings.is_local:
            async for finding in runtime.doctor(fix=not arguments.no_fix):
                _print(finding, terminal)
                count += 1
                left += finding.severity != "info" and not finding.fixed
        if arguments.index:
            for kind in KINDS:
                for finding in await _index_findings(runtime.knowledge(), kind, fix=not arguments.no_fix):
                    _print(finding, terminal)
                    count += 1
                    left += finding.severity != "info" and not finding.fixed
    if terminal.human:
        _sum_up(settings, left, count, terminal)
    return ERROR if left else OK


async def _index_findings(knowledge: Knowledge, kind: Kind, *, fix: bool) -> list[Finding]:
    """What is wrong with one index, put right by catching up with the tree unless another process keeps it."""
    before = _findings(await knowledge.check(kind), kind)
    if not before or not fix:
        return before
    await knowledge.catch_up(kind)
    left = _findings(await knowledge.check(kind), kind)
    return [*left, *(msgspec.structs.replace(one, fixed=True) for one in before if one not in left)]


def _findings(checked: Checked, kind: Kind) -> list[Finding]:
    place = f".cld/index/{kind}"
    if checked.absent:
        return [Finding(place, f"there is no index for {_NAMES[kind]} yet; the first question makes it", "info")]
    if checked.broken:
        return [Finding(place, f"the index for {_NAMES[kind]} is damaged: {checked.broken}", "error")]
    kinds = (
        (checked.missing, "is not in"),
        (checked.stale, "is in another version in"),
        (checked.extra, "is not in the tree, but in"),
    )
    return [
        Finding(f"{uri}.json", f"{problem} the index for {_NAMES[kind]}", "error")
        for uris, problem in kinds
        for uri in uris
    ]


def _print(finding: Finding, terminal: Terminal) -> None:
    if not terminal.human:
        terminal.record(msgspec.structs.asdict(finding))
        return
    label = "fixed" if finding.fixed else finding.severity
    style = ("green",) if finding.fixed else _STYLE[finding.severity]
    where = f"{safe_line(finding.path)}: " if finding.path else ""
    terminal.line(
        f"{terminal.style(f'{label:<7}', *style)}  {terminal.style(where)}{terminal.style(safe_line(finding.problem))}"
    )


def _sum_up(settings: Settings, left: int, count: int, terminal: Terminal) -> None:
    where = str(settings.root_path) if settings.is_local else settings.root
    rules = f"rules of {settings.policies_path}"
    if left:
        terminal.line(terminal.style(f"{left} thing{'' if left == 1 else 's'} to look at in {where}, {rules}", "bold"))
    else:
        terminal.line(terminal.style(f"nothing wrong in {where}, {rules}", "green"))
