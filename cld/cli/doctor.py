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
from cld.store.local_doctor import Finding

_STYLE = {"error": ("bold", "red"), "warning": ("yellow",), "info": ("dim",)}


async def doctor(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print every finding; exit code 1 when an error or warning is left that was not put right."""
    left = 0
    count = 0
    async with existing(settings) as runtime:
        for problem in runtime.problems():
            _print(Finding("", problem, "error"), terminal)
            left += 1
        if settings.is_local:
            async for finding in runtime.doctor(fix=not arguments.no_fix):
                _print(finding, terminal)
                count += 1
                left += finding.severity != "info" and not finding.fixed
        if arguments.index:
            checked = await runtime.knowledge().check()
            for finding in _index_findings(checked):
                _print(finding, terminal)
                left += 1
    if terminal.human:
        _sum_up(settings, left, count, terminal)
    return ERROR if left else OK


def _index_findings(checked: Checked) -> list[Finding]:
    if checked.broken:
        return [Finding(".cld/index", checked.broken, "error")]
    kinds = (
        (checked.missing, "is not in the search index"),
        (checked.stale, "is in the search index in another version"),
        (checked.extra, "is in the search index and not in the tree"),
    )
    return [Finding(f"{uri}.json", problem, "error") for uris, problem in kinds for uri in uris]


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
