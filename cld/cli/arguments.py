"""The command line's grammar: every command, flag and help text. Parses; does nothing."""

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

import cld
from cld.cli.exits import MEANINGS, UsageError
from cld.cli.hosts import HOSTS
from cld.errors import InvalidURI
from cld.uri import MAX_DEPTH, ROOT, URI, is_type, parse_prefix, parse_uri

WAIT_SECONDS = 3600.0
"""How long a command waits for work, if it is not told."""

META_NAMES = ("purpose", "instructions", "applicability", "evaluation")

_EPILOG = "exit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in MEANINGS.items())


class Parser(argparse.ArgumentParser):
    """A parser that raises what is wrong instead of printing and exiting, so that it is told like every error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; {self.prog} --help says what it takes")


Add = Callable[..., Parser]


def parser() -> Parser:
    """The whole grammar. Global flags may stand before or after the command."""
    top = Parser(
        prog="cld",
        description="Read, write, watch and govern a tree of resources, and serve it to MCP hosts.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"cld {cld.__version__}")
    _global_flags(top, None)
    add: Add = top.add_subparsers(dest="command", metavar="command", required=True).add_parser
    _reading(add)
    _writing(add)
    _working(add)
    _governing(add)
    _connecting(add)
    return top


def _reading(add: Add) -> None:
    get = _command(add, "get", "show a resource")
    _uri(get)
    get.add_argument("--at", metavar="VERSION", help="as it was: a version, its first characters, or r3 for revision 3")
    part = get.add_mutually_exclusive_group()
    part.add_argument("--content", action="store_true", help="only the content, as JSON")
    part.add_argument("--text", action="store_true", help="only content.text, as text")

    ls = _command(add, "ls", "list resources, one a line")
    _prefix(ls)
    _filters(ls, depth=1)

    tree = _command(add, "tree", "draw resources as a tree")
    _prefix(tree)
    _filters(tree, depth=MAX_DEPTH)

    history = _command(add, "history", "every kept version of a resource, newest first")
    _uri(history)

    diff = _command(add, "diff", "what changed between two versions: the last two, or those given")
    _uri(diff)
    diff.add_argument("old", metavar="OLD", nargs="?", help="a version, its first characters, or r3 for revision 3")
    diff.add_argument("new", metavar="NEW", nargs="?", help="likewise; the current one when left out")

    watch = _command(add, "watch", "print changes as they happen, until interrupted")
    _prefix(watch)
    watch.add_argument("--type", action="append", type=_type, metavar="TYPE", help="only this type (may be repeated)")
    watch.add_argument("--change", choices=("put", "delete"), help="only this kind of change")
    watch.add_argument("--count", type=_positive, metavar="N", help="end after N changes")
    watch.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="end when none came for so long")

    search = _command(add, "search", "find resources by meaning and by words")
    search.add_argument("query", metavar="QUERY", help="a question, or some words")
    search.add_argument(
        "--below", metavar="URI", type=_prefix_text, default=ROOT, help="only what is at or below this resource"
    )
    search.add_argument(
        "--type", type=_type, action="append", default=[], metavar="TYPE", help="only this type (may be repeated)"
    )
    search.add_argument("--limit", type=_positive, default=10, metavar="N", help="at most N hits (10)")

    graph = _command(add, "graph", "ask the linked data in resources with SPARQL, or write it to a file")
    graph.add_argument("sparql", metavar="SPARQL", nargs="?", help="the query; '-' reads standard input")
    graph.add_argument(
        "--below", metavar="URI", type=_prefix_text, default=ROOT, help="only what is at or below this resource"
    )
    graph.add_argument("--limit", type=_positive, metavar="N", help="at most so many rows")
    graph.add_argument("--export", metavar="FILE", help="write all you may read as .ttl, .trig or .nq; '-' prints TriG")

    elect = _command(add, "elect", "which of some candidates a request is for, and why; or that none fits")
    elect.add_argument("text", metavar="TEXT", nargs="?", help="the request; else one a line in JSON on standard input")
    elect.add_argument(
        "--among",
        metavar="PREFIX|FILE",
        required=True,
        help="the candidates: resources below a cld: prefix, or a JSON or JSON Lines file (docs/elect.md)",
    )
    elect.add_argument("--type", type=_type, metavar="TYPE", help="below a prefix, only this type")
    elect.add_argument("--top", type=_positive, default=5, metavar="N", help="name the best N (5)")


def _writing(add: Add) -> None:
    put = _command(add, "put", "create a resource, or replace the version given")
    _uri(put)
    source = put.add_mutually_exclusive_group()
    source.add_argument("content", metavar="JSON", nargs="?", help="the content; '-' or nothing reads standard input")
    source.add_argument("--file", metavar="PATH", help="read the content from a file")
    source.add_argument(
        "--edit",
        action="store_true",
        help="edit the content in $VISUAL or $EDITOR; saves only over the version that was opened",
    )
    put.add_argument("--text", action="store_true", help='the content given is plain text, kept as {"text": …}')
    put.add_argument(
        "--meta",
        action="append",
        type=_meta,
        metavar="NAME=TEXT",
        default=[],
        help=f"set a meta text: {', '.join(META_NAMES)} (may be repeated; others stay)",
    )
    put.add_argument("--if-version", metavar="VERSION", help="replace this version only; '*' replaces any, or creates")

    rm = _command(add, "rm", "delete a resource; its versions stay in the history")
    _uri(rm)
    rm.add_argument("--recursive", "-r", action="store_true", help="and everything below it")
    rm.add_argument("--yes", "-y", action="store_true", help="do not ask before a recursive delete")
    rm.add_argument("--if-version", metavar="VERSION", help="only if it still has this version")

    restore = _command(add, "restore", "write an old version again, as a new revision")
    _uri(restore)
    restore.add_argument("version", metavar="VERSION", help="a version, its first characters, or r3 for revision 3")
    restore.add_argument("--if-version", metavar="VERSION", help="only if it still has this version")

    ingest = _command(add, "ingest", "take in files as documents and passages, and keep them in step")
    ingest.add_argument("paths", metavar="PATH", nargs="+", help="a folder or a file")
    ingest.add_argument(
        "--below", metavar="URI", type=_prefix_text, default=ROOT, help="put the documents below this resource"
    )
    ingest.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        default=[],
        help="leave out what this matches, as in a .gitignore (may be repeated)",
    )
    ingest.add_argument(
        "--check", action="store_true", help="look also whether unchanged files' passages are all there"
    )
    ingest.add_argument("--retry", action="store_true", help="try again what could not be converted before")


def _working(add: Add) -> None:
    ask = _command(add, "ask", "have something done or answered: planned, worked by assistants, with sources")
    ask.add_argument("message", metavar="MESSAGE", help="what is to be done; '-' reads standard input")
    ask.add_argument(
        "--format", metavar="WORDS|@FILE", help="the form of the answer: words, or a JSON Schema in a file"
    )
    ask.add_argument("--assistant", metavar="ID", help="who works it, instead of whoever is elected")
    _following(ask)

    plan = _command(add, "plan", "have a plan of your own worked")
    plan.add_argument(
        "file",
        metavar="FILE",
        help="a JSON array of tasks (docs/tasks.md), or the object that the tool plan takes; '-' reads standard input",
    )
    plan.add_argument("--message", metavar="TEXT", help="what it is for")
    _following(plan)
    plan.set_defaults(wait=None)  # the file may say it

    task = _command(add, "task", "show a task and those below it, or all that are not over")
    task.add_argument("uri", metavar="URI", nargs="?", type=_uri_text, help="the task; all open ones when left out")
    task.add_argument("--depth", type=_positive, metavar="N", help="how many levels down (all; 2 without URI)")
    listed = task.add_mutually_exclusive_group()
    listed.add_argument("--ready", action="store_true", help="only those that can be worked now, one a line")
    listed.add_argument("--blocked", action="store_true", help="only those that cannot be, one a line, and why")
    task.add_argument(
        "--wait", type=_seconds, metavar="SECONDS", help="go on with it, and wait at most so long until it is over"
    )

    cancel = _command(add, "cancel", "stop a task and everything below it, whoever works it")
    _uri(cancel)
    cancel.add_argument("--reason", metavar="TEXT", help="why, for the record")

    approve = _command(add, "approve", "answer a question that a task waits with")
    approve.add_argument("uri", metavar="URI", type=_uri_text, help="the approval, or the task that waits for it")
    answer = approve.add_mutually_exclusive_group()
    answer.add_argument("--reject", action="store_true", help="no")
    answer.add_argument("--edit", metavar="JSON", help="yes, but with these arguments")
    approve.add_argument("--reason", metavar="TEXT", help="why, for the record")

    branch = _command(add, "branch", "do a task again as it was asked before, beside the first time")
    _uri(branch)
    branch.add_argument("--at", metavar="VERSION", help="as it was asked at this version, or r3; else as at first")
    branch.add_argument("--assistant", metavar="ID", help="who works it, instead of whoever is elected")
    _waiting(branch)

    compare = _command(add, "compare", "how two tasks, and those below them, came out")
    compare.add_argument("first", metavar="FIRST", type=_uri_text, help="a task")
    compare.add_argument("second", metavar="SECOND", type=_uri_text, help="another, as one that cld branch made")


def _following(parser: Parser) -> None:
    parser.add_argument("--conversation", metavar="URI", type=_uri_text, help="go on with this conversation")
    _waiting(parser)


def _waiting(parser: Parser) -> None:
    parser.add_argument(
        "--wait", type=_seconds, default=WAIT_SECONDS, metavar="SECONDS", help="wait at most so long (3600)"
    )
    parser.add_argument("--explain", action="store_true", help="show the plan, who was elected and why, and the calls")


def _governing(add: Add) -> None:
    doctor = _command(add, "doctor", "check the tree, the policy and the settings, past the policy")
    doctor.add_argument("--no-fix", action="store_true", help="report only; tidy nothing")
    doctor.add_argument("--index", action="store_true", help="also compare search, graph and elections with the tree")

    policy = _command(add, "policy", "check, build, test, explain and replay the rules")
    verb: Add = policy.add_subparsers(dest="verb", metavar="verb", required=True).add_parser
    _command(verb, "check", "compile the rules and check the data, changing nothing")
    _command(verb, "build", "compile the rules into policy.wasm and policy.lock.json")
    _command(verb, "test", "run the rules' own tests (*_test.rego)")
    explain = _command(verb, "explain", "why an action is allowed or denied")
    explain.add_argument("action", choices=("read", "write", "delete", "list", "call", "subscribe"))
    explain.add_argument("uri", metavar="URI", type=_prefix_text)
    explain.add_argument("--as", dest="subject", metavar="PRINCIPAL", help="for whom; --principal when left out")
    explain.add_argument("--tool", default="", help="the tool by which it would be done")
    explain.add_argument("--task", default="", help="the task for which it would be done")
    replay = _command(verb, "replay", "decide a log of decisions again and show what would change")
    replay.add_argument("log", metavar="LOG", nargs="?", help="a decision log; the tree's own when left out")
    opa = _command(verb, "install-opa", "fetch the compiler of the rules")
    opa.add_argument("--to", metavar="PATH", help="the folder to put it in, or the file; else a folder of yours")


def _connecting(add: Add) -> None:
    serve = _command(add, "serve", "serve the tree over MCP, on standard input and output or HTTP")
    serve.add_argument("--http", metavar="HOST:PORT", help="Streamable HTTP instead of standard input and output")

    install = _command(add, "install", "connect an MCP host to this tree")
    install.add_argument(
        "host",
        nargs="?",
        choices=[host.id for host in HOSTS],
        metavar="HOST",
        help=f"one of {', '.join(host.id for host in HOSTS)}; without it, show which are found",
    )
    install.add_argument("--write", action="store_true", help="write into the host's file instead of showing")
    install.add_argument("--scope", choices=("user", "project"), help="for all of yours, or for this folder")
    install.add_argument("--name", default="cld", type=_server_name, help="what the host calls the server (cld)")

    tour = _command(add, "tour", "see it work: a real server on a real tree, step by step")
    tour.add_argument("folder", metavar="FOLDER", nargs="?", help="the tree to use (--root, else ./resources)")


def _command(add: Add, name: str, help: str) -> Parser:
    one = add(name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False)
    _global_flags(one, argparse.SUPPRESS)
    return one


def _global_flags(parser: Parser, default: str | None) -> None:
    # Below the command they have no default, or it would undo what stood before the command.
    flag = False if default is None else default
    group = parser.add_argument_group("everywhere")
    group.add_argument("--root", metavar="PATH|URL", default=default, help="the tree (CLD_ROOT, else ./resources)")
    group.add_argument("--policies", metavar="DIR", default=default, help="the rules (CLD_POLICIES)")
    group.add_argument("--principal", metavar="ID", default=default, help="who acts (CLD_PRINCIPAL, else user:local)")
    group.add_argument("--tools", metavar="LIST", default=default, help="tools a server offers: core, all or names")
    shape = group.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", default=flag, help="JSON, errors too")
    shape.add_argument("--human", action="store_true", default=flag, help="text for people, even into a pipe")
    group.add_argument("--no-color", action="store_true", default=flag, help="no colour (NO_COLOR does the same)")


def _uri(parser: Parser) -> None:
    parser.add_argument("uri", metavar="URI", type=_uri_text, help="the resource, as in cld:common.Message.m1")


def _prefix(parser: Parser) -> None:
    parser.add_argument(
        "prefix",
        metavar="PREFIX",
        nargs="?",
        type=_prefix_text,
        default=ROOT,
        help="where to begin; everything when left out",
    )


def _filters(parser: Parser, depth: int) -> None:
    parser.add_argument("--type", type=_type, metavar="TYPE", help="only this type")
    parser.add_argument(
        "--depth",
        type=_positive,
        default=depth,
        metavar="N",
        help=f"how many levels down ({'all' if depth == MAX_DEPTH else depth})",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="at most so many")


def _uri_text(text: str) -> URI:
    try:
        return parse_uri(text)
    except InvalidURI as error:
        raise argparse.ArgumentTypeError(f"{error}{_meant(text)}") from None


def _prefix_text(text: str) -> URI:
    try:
        return parse_prefix(text)
    except InvalidURI as error:
        raise argparse.ArgumentTypeError(f"{error}{_meant(text)}") from None


def _meant(text: str) -> str:
    """What was probably meant, where that is a URI: nothing is repaired, but it may be said."""
    for candidate in (f"cld:{text}", text.rstrip("/"), text.removesuffix(".json"), f"cld:{text}".removesuffix(".json")):
        try:
            return f"; did you mean {parse_prefix(candidate)}?"
        except InvalidURI:
            continue
    return ""


def _type(text: str) -> str:
    if not is_type(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no type; write <package>.<Name>, as in common.Message")
    return text


def _meta(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in META_NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=TEXT with a name of {', '.join(META_NAMES)}")
    return name, value


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not math.isfinite(seconds) or seconds < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _server_name(text: str) -> str:
    # Hosts put it before tool names, which many cap at 64 characters in all.
    if not (1 <= len(text) <= 24 and text.isascii() and text.replace("-", "").replace("_", "").isalnum()):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of 1 to 24 of A-Z a-z 0-9 _ -")
    return text
