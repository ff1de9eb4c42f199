"""`cld tour`: shows on a real tree, with real servers, what cld does; and checks that it did.

Everything happens through MCP, as a host would do it, in a namespace of its own: the rest of the
tree is not touched (but as with the first question anybody asks, it gets a description of each tool, and
where it has no assistants those that cld brings), and running the tour again begins it anew. Each step
says what happened with the values that came back, and a step that did not do what it says ends the tour
with an error.
"""

import shutil
import tempfile
import textwrap
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TextIO, cast

import msgspec

from cld.cli.documents import own_documents, resources_of
from cld.cli.exits import OK, UsageError
from cld.cli.hosts import HOSTS, hosts_here, this_machine
from cld.cli.install import snippet, start_command
from cld.cli.played_host import SECONDS, PlayedHost, StepFailed, played_host
from cld.cli.tasks import explained
from cld.cli.terminal import Terminal, safe_line
from cld.cli.tree import Branch, draw, place
from cld.config import Settings
from cld.guard import Entry
from cld.index.installed import is_installed
from cld.store.local_paths import place_of
from cld.uri import ROOT, URI, elements_of, id_of, make_uri

TOUR = make_uri(ROOT, "cld.Namespace", "tour")
VISITOR = "user:tour-visitor"
QUESTION = "What happens to an acknowledged write when the power fails? What becomes of a task when its process dies?"
_WIDTH = 110  # characters a line of what is said may have


async def tour(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Run every step; the first that does not do what it says ends the tour."""
    if arguments.folder is not None:
        settings = msgspec.structs.replace(settings, root=arguments.folder)
    if not settings.is_local:
        raise UsageError("the tour edits a file by hand, so it needs a folder; give one, as in cld tour ./resources")
    with tempfile.TemporaryDirectory(prefix="cld-tour-") as scratch, (Path(scratch) / "log").open("w+") as log:
        try:
            async with AsyncExitStack() as stack:
                await Tour(settings, terminal, Path(scratch), log, stack).run()
        except Exception:
            # What the servers had to say is the best hint at what went wrong.
            log.seek(0)
            for line in log.read().splitlines()[-20:]:
                terminal.note(f"server: {line}")
            raise
    return OK


class Tour:
    """The steps, in order; what one finds the next goes on with."""

    def __init__(
        self, settings: Settings, terminal: Terminal, scratch: Path, log: TextIO, stack: AsyncExitStack
    ) -> None:
        self._settings = settings
        self._terminal = terminal
        self._scratch = scratch
        self._log = log
        self._stack = stack
        self._number = 0

    async def run(self) -> None:
        """Every step.

        Raises:
            StepFailed: naming the step.
        """
        try:
            await self._run()
        except StepFailed as failed:
            raise StepFailed(f"step {self._number}: {failed}") from failed

    async def _run(self) -> None:
        began = time.monotonic()
        first = await self._start()
        sections = await self._import(first)
        uri, original = await self._read(first, sections)
        await self._edit(first, uri)
        second = await self._second_server(first, uri)
        await self._hand_edit(second, uri)
        policies = self._policies()
        await self._visitor(uri, policies)
        await self._approval(uri, policies)
        await self._history(first, uri, original)
        await self._ask(first)
        await self._look(first)
        self._connect()
        self._say(f"All of this took {time.monotonic() - began:.1f} s. Run it again whenever you like.")

    async def _start(self) -> PlayedHost:
        self._step("Start the server, as a host does")
        began = time.monotonic()
        host = await self._host(self._settings)
        tools = (await host.client.list_tools()).tools
        self._say(f"$ {host.command}")
        self._say(
            f"ready after {time.monotonic() - began:.2f} s, speaks MCP {host.client.protocol_version}, "
            f"{len(tools)} tools: {', '.join(tool.name for tool in tools)}"
        )
        self._check(
            {"resource_get", "resource_put", "events_wait"} <= {tool.name for tool in tools},
            "the server does not list its tools",
        )
        return host

    async def _import(self, host: PlayedHost) -> dict[URI, dict[str, Any]]:
        self._step("Put this project's own documents into the tree, one resource a section")
        began = time.monotonic()
        wanted: dict[URI, dict[str, Any]] = {TOUR: {"title": "What the tour made; delete it when you like"}}
        documents = own_documents()
        for source, markdown in documents:
            wanted.update(resources_of(TOUR, source, markdown))
        there = {row["uri"] for row in await host.below(TOUR)}
        written = 0
        for uri, content in wanted.items():
            before, _ = await host.attempt("resource_get", uri=uri)
            if before is None:
                await host.do("resource_put", uri=uri, content=content)
            elif before["content"] != content:
                await host.do("resource_put", uri=uri, content=content, if_version=before["version"])
            else:
                continue
            written += 1
        # Sections that a document does not have any more.
        for uri in sorted(there - wanted.keys(), key=len, reverse=True):
            await host.do("resource_delete", uri=uri)
        listed = {row["uri"] for row in await host.below(TOUR)}
        self._check(listed == wanted.keys() - {TOUR}, "the tree does not list what was put into it")
        self._say(f"{len(documents)} documents are {len(wanted)} resources below {TOUR}")
        self._say(f"{written} were new or changed, written in {time.monotonic() - began:.2f} s, each one durable")
        return wanted

    async def _read(self, host: PlayedHost, wanted: dict[URI, dict[str, Any]]) -> tuple[URI, str]:
        self._step("Read one")
        uri = next(uri for uri, content in wanted.items() if "text" in content)
        read = await host.do("resource_get", uri=uri)
        file = self._file(uri)
        self._check(read["content"] == wanted[uri], "what was read is not what was written")
        self._check(msgspec.json.decode(file.read_bytes())["content"] == wanted[uri], f"{file} holds something else")
        self._say(f"resource_get {uri}")
        self._say(f"“{read['content']['text'].splitlines()[0][:90]}”")
        self._say(f"revision {read['revision']}, version {read['version'][:12]}")
        self._say(f"it is the file {file}")
        return uri, read["version"]

    async def _edit(self, host: PlayedHost, uri: URI) -> None:
        self._step("Change it, naming the version that was read")
        written = await self._append(host, uri, "A line that the first server added.")
        self._say(
            f"resource_put, if_version as read: now revision {written['revision']}, version {written['version'][:12]}"
        )

    async def _second_server(self, first: PlayedHost, uri: URI) -> PlayedHost:
        self._step("A second host on the same tree: two servers, one resource, nothing lost")
        second = await self._host(self._settings)
        read = await second.do("resource_get", uri=uri)
        self._say(f"both servers read version {read['version'][:12]}; the first writes, then the second tries to")
        await self._append(first, uri, "The first was quicker.")
        changed = {**read["content"], "text": read["content"]["text"] + "\nThe second was slower."}
        _, error = await second.attempt("resource_put", uri=uri, content=changed, if_version=read["version"])
        self._check(error is not None and error["code"] == "conflict", f"no conflict was reported but {error}")
        assert error is not None
        self._say(f"the second is told: {error['message']}")
        await self._append(second, uri, "The second read again and added this.")
        text = (await first.do("resource_get", uri=uri))["content"]["text"]
        self._check("The first was quicker." in text and "The second read again" in text, "a change was lost")
        self._say("it reads again and adds its line: both changes are there")
        return second

    async def _hand_edit(self, host: PlayedHost, uri: URI) -> None:
        self._step("Edit the file by hand, as with any editor, and see the news arrive")
        waiting = await host.do("events_wait", prefix=uri, timeout_seconds=0)
        file = self._file(uri)
        data = file.read_text(encoding="utf-8")
        began = time.monotonic()
        file.write_text(data.replace("The first was quicker.", "Somebody edited this by hand."), encoding="utf-8")
        news = await host.do("events_wait", prefix=uri, timeout_seconds=20, cursor=waiting["cursor"])
        took = time.monotonic() - began
        self._check(bool(news["events"]) and news["events"][-1]["uri"] == uri, "no event came for the edit")
        event = news["events"][-1]
        read = await host.do("resource_get", uri=uri)
        self._check(read["version"] == event["version"] and "by hand" in read["content"]["text"], "the event lies")
        self._say(
            f"event after {took * 1000:.0f} ms: {event['change']} {event['uri']}, version {event['version'][:12]}"
        )

    async def _visitor(self, uri: URI, policies: Path) -> None:
        self._step(f"Somebody with fewer rights: {VISITOR}, a reader of this namespace only")
        self._say(f'with "members": {{"{VISITOR}": ["reader@tour"]}} in a copy of policies/data.json')
        settings = msgspec.structs.replace(self._settings, principal=VISITOR, policies=str(policies))
        host = await self._host(settings)
        read = await host.do("resource_get", uri=uri)
        self._say(f"may read: version {read['version'][:12]}")
        _, error = await host.attempt("resource_put", uri=uri, content={"text": "mine now"}, if_version="*")
        self._check(error is not None and error["code"] == "access_denied", f"writing was not denied but {error}")
        assert error is not None
        self._say(f"may not write: {error['message']}")
        outside = (await host.do("resource_list", prefix=ROOT, depth=1, limit=1000))["resources"]
        self._check({row["uri"] for row in outside} <= {TOUR}, "a reader of the tour sees the rest of the tree")
        self._say(
            "does not see anything else: resource_list of the whole tree shows "
            f"{', '.join(row['uri'] for row in outside) or 'nothing'}"
        )

    async def _approval(self, uri: URI, policies: Path) -> None:
        self._step("What needs a person's approval is asked for, and not done without it")
        self._say(f'with "approvals": {{"targets": {{"{TOUR}": {{"actions": ["delete"]}}}}}} in the same copy')
        host = await self._host(msgspec.structs.replace(self._settings, policies=str(policies)), has_person=True)
        _, error = await host.attempt("resource_delete", uri=uri)
        self._check(bool(host.asked), f"nobody was asked but {error}")
        self._check(error is not None and error["code"] == "access_denied", f"declining did not deny but {error}")
        read = await host.do("resource_get", uri=uri)
        self._say(f"asked: {host.asked[0].splitlines()[0]}")
        self._say(f"answered no: it is still there, version {read['version'][:12]}")

    async def _history(self, host: PlayedHost, uri: URI, original: str) -> None:
        self._step("Look back, and go back")
        versions = (await host.do("resource_history", uri=uri, limit=5))["versions"]
        for row in versions:
            now = "  now" if row["current"] else ""
            self._say(f"{row['version'][:12]}  revision {row['revision']}  {row['at']}  {row['by']}{now}")
        self._say("(the edit by hand is a version of its own; revisions count what was written through cld)")
        self._check(versions[0]["current"] and len(versions) >= 5, "the history does not have every version")
        current = versions[0]["version"]
        restored = await host.do("resource_restore", uri=uri, version=original, if_version=current)
        old = await host.do("resource_get", uri=uri, version=original)
        now = await host.do("resource_get", uri=uri)
        self._check(now["content"] == old["content"], "the restored resource is not the old one")
        self._say(f"restored {original[:12]} as revision {restored['revision']}")

    async def _ask(self, host: PlayedHost) -> None:
        self._step("Ask a question about these documents: planned, elected, worked, answered with sources")
        if not is_installed():
            self._say("left out: searching needs the extra knowledge, as in pip install 'cld[knowledge]'")
            return
        began = time.monotonic()
        chain = [tier.name for tier in self._settings.models.chain]
        before = await self._assistants(host)
        conversation = make_uri(TOUR, "common.Conversation", "question")
        self._say(f"plan: “{QUESTION}”")
        done = await host.do("plan", message=QUESTION, conversation=conversation, wait_seconds=SECONDS - 5)
        tree = await host.do("task_get", uri=done["task"], depth=8)
        if not before:
            there = ", ".join(map(id_of, await self._assistants(host)))
            self._say(f"this tree had no assistants; those that cld brings are in it now: {there}")
        for line in explained(tree):
            self._say(line)
        if chain and done["status"] != "completed":
            self._say(f"no answer from {', '.join(chain)}: {done.get('error_detail')}; docs/models.md says more")
            return
        self._check(done["status"] == "completed", f"the task is {done['status']}: {done.get('error_detail')}")
        self._say(f"the answer, after {time.monotonic() - began:.1f} s:")
        for line in str(done["answer"]).splitlines():
            self._say(f"  {line}" if line.strip() else "")
        await self._sources(host, done["sources"], must=not chain)
        if chain and tree.get("usage", {}).get("tokens"):
            self._say(f"written with {', '.join(chain)}, as your settings say")
        elif chain:
            self._say(f"none of {', '.join(chain)} was asked: it was found by rule, and quoted word for word")
        else:
            self._say("No model is configured, so nothing was written: it was found by rule, and quoted word for word.")
            self._say("To have answers written, name a model in ~/.config/cld/cld.toml: docs/models.md shows how.")
        await self._left(host, conversation)

    async def _assistants(self, host: PlayedHost) -> list[URI]:
        listed = await host.do("resource_list", prefix=ROOT, type="common.Assistant", depth=1, limit=100)
        return [row["uri"] for row in listed["resources"]]

    async def _sources(self, host: PlayedHost, sources: list[dict[str, Any]], *, must: bool) -> None:
        """Read each source again and see that the words taken from it are there."""
        quoted = [source for source in sources if source.get("quote")]
        self._check(bool(quoted) or not must, "the answer names no source")
        for source in quoted:
            content = (await host.do("resource_get", uri=source["uri"]))["content"]
            texts = [" ".join(text.split()) for text in _texts(content)]
            quote = " ".join(source["quote"].rstrip("…").split())
            self._check(
                any(quote in text for text in texts), f"{source['uri']} does not say what the answer takes from it"
            )
        if quoted:
            self._say(f"checked: each of the {len(quoted)} sources was read again, and says so")

    async def _left(self, host: PlayedHost, conversation: URI) -> None:
        """Show the files that the question left."""
        rows = await host.below(conversation)
        self._say(f"What was done is {len(rows) + 1} files: every task, turn of a model, call, and the answer. In")
        self._say(f"{self._file(conversation).with_suffix('').relative_to(self._settings.root_path)}")
        root = Branch(conversation)
        for row in rows:
            place(root, msgspec.convert(row, Entry), len(elements_of(conversation)))
        if self._terminal.human:
            draw(root, "   ", self._terminal)

    async def _look(self, host: PlayedHost) -> None:
        self._step("What is there now")
        rows = await host.below(TOUR)
        root = Branch(TOUR)
        for row in rows:
            place(root, msgspec.convert(row, Entry), len(elements_of(TOUR)))
        if self._terminal.human:
            for document in root.below.values():
                document.below = _first(document.below, 2)
            documents = {name: one for name, one in root.below.items() if name.startswith("common.Document")}
            root.below = _first(documents, 4)
            draw(root, "   ", self._terminal)
        self._say(f"{len(rows)} resources below {TOUR}")
        self._say(f"in {self._settings.root_path}; look at it with ls, cat and git, or with")
        self._say(f"cld tree {TOUR}{self._root_flag()}")
        self._say(f"and be rid of it with cld rm -r {TOUR}{self._root_flag()}")

    def _connect(self) -> None:
        here = hosts_here(this_machine())
        host = here[0] if here else HOSTS[0]
        self._step(f"Connect your host ({host.title}{'' if here else ', for example; none was found on this machine'})")
        command, args = start_command(self._settings)
        if self._terminal.human:
            for line in snippet(host, "cld", host.entry(command, args)).splitlines():
                self._terminal.line("   " + self._terminal.style(line, "cyan"))
        self._say(f"cld install {host.id} --write{self._root_flag()}   adds it to what is there")
        if len(here) > 1:
            self._say(f"also found: {', '.join(other.id for other in here[1:])}")

    async def _append(self, host: PlayedHost, uri: URI, line: str) -> dict[str, Any]:
        """Add a line to the resource's text, over the version read."""
        read = await host.do("resource_get", uri=uri)
        content = {**read["content"], "text": f"{read['content']['text']}\n{line}"}
        written = await host.do("resource_put", uri=uri, content=content, if_version=read["version"])
        self._check(written["revision"] == read["revision"] + 1, "the revision did not count on")
        return written

    async def _host(self, settings: Settings, *, has_person: bool = False) -> PlayedHost:
        return await self._stack.enter_async_context(played_host(settings, self._log, has_person=has_person))

    def _policies(self) -> Path:
        """The rules in force, in a folder of their own, with two more entries in the data."""
        folder = self._scratch / "policies"
        shutil.copytree(self._settings.policies_path, folder)
        file = folder / "data.json"
        data = msgspec.json.decode(file.read_bytes())
        data.setdefault("members", {})[VISITOR] = ["reader@tour"]
        asking = {"actions": ["delete"], "reason": "the tour wants to show a question"}
        data.setdefault("approvals", {}).setdefault("targets", {})[TOUR] = asking
        file.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=2))
        return folder

    def _file(self, uri: URI) -> Path:
        return self._settings.root_path.joinpath(*place_of(uri))

    def _root_flag(self) -> str:
        return "" if self._settings.root == Settings().root else f" --root {self._settings.root_path}"

    def _step(self, title: str) -> None:
        self._number += 1
        if self._terminal.human:
            self._terminal.line()
            self._terminal.line(self._terminal.style(f"{self._number}. {title}", "bold"))
            self._terminal.flush()
        else:
            self._terminal.record({"step": self._number, "title": title})

    def _say(self, text: str) -> None:
        if self._terminal.human:
            for line in textwrap.wrap(safe_line(text), _WIDTH, break_long_words=False, break_on_hyphens=False):
                self._terminal.line("   " + self._terminal.style(line))
            self._terminal.flush()
        else:
            self._terminal.record({"step": self._number, "said": text})

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise StepFailed(otherwise)


def _first(below: dict[str, Branch], most: int) -> dict[str, Branch]:
    """The first `most` branches, and one that says how many more there are."""
    if len(below) <= most + 1:
        return below
    kept = dict(list(below.items())[:most])
    more = f"… {len(below) - most} more"
    return {**kept, more: Branch(more)}


def _texts(value: object) -> Iterator[str]:
    """All texts in a resource's content."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        parts = cast("Iterable[object]", value.values() if isinstance(value, dict) else value)
        for part in parts:
            yield from _texts(part)
