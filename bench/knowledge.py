"""What the knowledge parts cost and how well they find, on the documentation that is installed beside cld.

    python bench/knowledge.py [quality] [search] [freshness] [memory] [--texts N ...]

`quality`: headings (and the first lines of docstrings) become questions, are hidden from the texts they stand
over, and must lead back there: recall@1, 5, 10 and MRR for words, meaning and both. `search`: p50 and p99 of a
question under the shipped policy at 1,000, 10,000 and 100,000 texts, beside a scan of the same texts in memory;
reach: p50 ≤ 20 ms at 100,000. `freshness`: from the end of a durable put to its being found by another process;
reach: p99 ≤ 1 s. `memory`: the maintainer's peak while it indexes 100,000 texts; reach: < 600 MB. Exits with 1
when a reach is missed. Takes some minutes; the questions are a rule, and nothing in cld was fitted to them.
"""

import argparse
import ast
import asyncio
import collections
import json
import random
import re
import resource as limits
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email.parser import BytesParser
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from cld.config import Watch
from cld.events.choose import open_bus
from cld.guard import Guard, GuardedStore
from cld.guard.events import hear
from cld.index import Mode
from cld.index.maintainer import Maintainer
from cld.index.search import Search
from cld.policy import Context
from cld.policy.log import DecisionLog
from cld.policy.rego import RegoPolicy
from cld.principal import parse_principal
from cld.resource import Draft, Resource, encode
from cld.schema import Schemas
from cld.store.local import LocalStore
from cld.uri import URI, elements_of

POLICIES = Path(__file__).parent.parent / "policies"
SITE = Path(sysconfig.get_paths()["purelib"])
SIZES = (1_000, 10_000, 100_000)
MODES: tuple[Mode, ...] = ("words", "meaning", "hybrid")
OWNER = parse_principal("user:local", roles=("owner",))


class Section(NamedTuple):
    """A piece of documentation; `question` is its heading, where that is to be hidden and asked."""

    titles: tuple[str, ...]
    text: str
    question: str
    kind: str


# --- the documentation


def sections() -> list[Section]:
    """Every section of the installed documentation and every docstring of some length, each once."""
    raw = {section[1][:200]: section for section in _raw() if len(section[1]) >= 200 and section[0]}
    heads = collections.Counter(titles[-1].casefold() for titles, *_ in raw.values())
    found: list[Section] = []
    for titles, text, kind in raw.values():
        head = titles[-1]
        asked = len(head.split()) >= 3 and len(head) < 200 and heads[head.casefold()] == 1
        found.append(Section(tuple(titles[:-1] if asked else titles), text[:6000], head if asked else "", kind))
    return found


def _raw() -> Iterator[tuple[list[str], str, str]]:
    for path in sorted(SITE.rglob("*")):
        if path.suffix in {".md", ".rst"} and path.is_file():
            yield from _split(path.read_text(errors="replace"), [], path.suffix == ".md")
        elif path.name == "METADATA":
            message = BytesParser().parsebytes(path.read_bytes())
            body = str(message.get_payload() or message.get("Description") or "")
            markdown = "markdown" in str(message.get("Description-Content-Type"))
            yield from _split(body, [str(message["Name"])], markdown)
        elif path.suffix == ".py" and "/tests/" not in path.as_posix():
            yield from _docstrings(path)


def _docstrings(path: Path) -> Iterator[tuple[list[str], str, str]]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Module)):
            head, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
            if rest:
                yield [" ".join(head.split())], rest, "docstring"


_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*\s*")
_RULE = re.compile(r"([=\-~^\"'#*+.`:_])\1{2,}")
_MARKS = re.compile(r"[`*_]|!?\[|\]\([^)]*\)|\]")


def _split(text: str, above: list[str], markdown: bool) -> Iterator[tuple[list[str], str, str]]:
    path: list[tuple[int, str]] = []
    body: list[str] = []
    fenced = False
    marks: list[str] = []
    lines = iter([*text.splitlines(), ""])
    for line in lines:
        level, title = 0, ""
        if markdown:
            fenced ^= line.lstrip().startswith(("```", "~~~"))
            if not fenced and (found := _HEADING.fullmatch(line)):
                level, title = len(found[1]), _MARKS.sub("", found[2])
        elif body and body[-1].strip() and not body[-1].startswith(" ") and _RULE.fullmatch(line.strip()):
            marks += [] if line[0] in marks else [line[0]]
            level, title = marks.index(line[0]) + 1, body.pop().replace("`", "").strip()
        if level and title:
            yield [*above, *(one for _, one in path)], "\n".join(body).strip(), "section"
            path = [one for one in path if one[0] < level] + [(level, title)]
            body = []
        else:
            body.append(line)
    yield [*above, *(one for _, one in path)], "\n".join(body).strip(), "section"


def made_up(found: list[Section], count: int) -> Iterator[str]:
    """`count` different texts of a passage's length, out of sentences of the documentation."""
    rng = random.Random(11)
    sentences = [
        line for section in found for line in re.split(r"(?<=[.!?])\s+|\n\n", section.text) if 20 < len(line) < 400
    ]
    for _ in range(count):
        yield " ".join(rng.choice(sentences) for _ in range(rng.randint(3, 9)))[:1000]


# --- a tree with an index


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[tuple[LocalStore, GuardedStore]]:
    """The tree, raw and as its owner may use it, every decision made and logged as in a server."""
    store = await LocalStore.open(root)
    journal = DecisionLog(root / ".cld" / "log")
    policy = RegoPolicy.open(POLICIES)
    try:
        yield store, GuardedStore(Guard(OWNER, policy, journal), store, Schemas(_no_schema), Context(tool="search"))
    finally:
        journal.close()
        await store.aclose()


async def _no_schema(uri: URI) -> None:
    return None


def write_tree(root: Path, contents: Iterator[dict[str, object]]) -> int:
    """One `common.Text` for each content, a thousand below each document; bytes of text written."""
    size = 0
    for number, content in enumerate(contents):
        folder = URI(f"cld:common.Document.d{number // 1000:03d}")
        (root / folder).mkdir(parents=True, exist_ok=True)
        uri = URI(f"{folder}/common.Text.t{number:06d}")
        (root / f"{uri}.json").write_bytes(
            encode(Resource(uri=uri, type="common.Text", id=f"t{number:06d}", content=content))
        )
        size += sum(len(text.encode()) for text in content.values() if isinstance(text, str))
    return size


async def catch_up(root: Path) -> float:
    """Index the tree; seconds."""
    began = time.perf_counter()
    async with opened(root) as (_, mine):
        await Maintainer(root / ".cld" / "index", mine, None).catch_up()  # type: ignore[arg-type]
    return time.perf_counter() - began


def index_size(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / ".cld" / "index").rglob("*") if path.is_file())


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


# --- the parts


async def quality(given: argparse.Namespace, place: Path) -> bool:
    """Hybrid must be better than either of its halves."""
    found = sections()
    root = place / "quality"
    write_tree(root, ({"title_path": list(one.titles), "text": one.text} for one in found))
    print(f"quality: {len(found):,} sections, indexed in {await catch_up(root):.0f} s")
    asked = [(number, one.question, one.kind) for number, one in enumerate(found) if one.question]
    good = True
    async with opened(root) as (_, mine):
        search = Search(root / ".cld" / "index")
        overall: dict[str, float] = {}
        for kind, most in (("section", given.questions), ("docstring", given.questions)):
            some = [one for one in asked if one[2] == kind]
            some = random.Random(3).sample(some, min(most, len(some)))
            for mode in MODES:
                ranks: list[int] = []
                for number, question, _ in some:
                    hits = await search.query(mine, question, mode=mode, limit=10)
                    places = [int(elements_of(hit.uri)[-1][-6:]) for hit in hits]
                    ranks.append(places.index(number) + 1 if number in places else 0)
                shares = [sum(0 < rank <= top for rank in ranks) / len(ranks) for top in (1, 5, 10)]
                mrr = sum(1 / rank for rank in ranks if rank) / len(ranks)
                overall[mode] = overall.get(mode, 0.0) + mrr / 2
                told = "  ".join(f"@{top} {share:.3f}" for top, share in zip((1, 5, 10), shares, strict=True))
                print(f"  {len(some):5d} {kind + 's':11s} {mode:8s} {told}  MRR@10 {mrr:.3f}")
        good = overall["hybrid"] > max(overall["words"], overall["meaning"])
        told = ", ".join(f"{mode} {mrr:.3f}" for mode, mrr in overall.items())
        print(f"  hybrid {'wins' if good else 'DOES NOT WIN'}: mean MRR {told}")
    return good


async def search(given: argparse.Namespace, place: Path) -> bool:
    """p50 at the largest number of texts must be within reach."""
    found = sections()
    questions = random.Random(4).sample([one.question for one in found if one.question], 300)
    good = True
    for count in given.texts:
        root = place / f"search{count}"
        texts = list(made_up(found, count))
        size = write_tree(root, ({"text": text} for text in texts))
        took = await catch_up(root)
        print(
            f"search: {count:,} texts, {size / 1e6:.1f} MB, indexed in {took:.1f} s ({size / 1e6 / took:.1f} MB/s), "
            f"index {index_size(root) / size:.2f} of the text"
        )
        command = [sys.executable, __file__, "first", str(root)]
        starting = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        first = float((await starting.communicate())[0])
        async with opened(root) as (_, mine):
            service = Search(root / ".cld" / "index")
            await service.query(mine, "warm up")
            for mode in MODES:
                times: list[float] = []
                for question in questions:
                    began = time.perf_counter()
                    await service.query(mine, question, mode=mode)
                    times.append(time.perf_counter() - began)
                p50 = statistics.median(times)
                print(f"  {mode:8s} p50 {p50 * 1e3:6.2f} ms  p99 {percentile(times, 0.99) * 1e3:6.2f} ms")
                good &= not (mode == "hybrid" and count == 100_000 and p50 > 0.020)
        scans = [scan(texts, question) for question in questions[:20]]
        print(f"  scan of the texts in memory, any word: p50 {statistics.median(scans) * 1e3:.2f} ms")
        print(f"  first answer of a new process, imports and opening included: {first * 1e3:.0f} ms")
    return good


def scan(texts: list[str], question: str) -> float:
    began = time.perf_counter()
    words = question.casefold().split()
    sorted(
        ((sum(word in text for word in words), at) for at, text in enumerate(map(str.casefold, texts))), reverse=True
    )[:10]
    return time.perf_counter() - began


async def first(root: Path) -> None:
    """Seconds until the first answer, measured from after the imports that a server has done already."""
    began = time.perf_counter()
    async with opened(root) as (_, mine):
        opening = time.perf_counter() - began
        assert await Search(root / ".cld" / "index").query(mine, "how to open a file")
        print(time.perf_counter() - began - opening)


async def freshness(given: argparse.Namespace, place: Path) -> bool:
    """p99 must be under a second, in a tree of 10,000 texts that another process maintains."""
    root = place / "fresh"
    write_tree(root, ({"text": text} for text in made_up(sections(), 10_000)))
    await catch_up(root)
    times: list[float] = []
    maintainer = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "maintain", str(root), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert maintainer.stdout is not None
        await maintainer.stdout.readline()
        async with opened(root) as (_, mine):
            service = Search(root / ".cld" / "index")
            for number in range(given.puts):
                uri = URI(f"cld:common.Text.fresh{number}")
                await mine.put(Draft(uri, {"text": f"The okapi{number} was put just now."}))
                began = time.perf_counter()
                while not await service.query(mine, f"okapi{number}", mode="words", limit=1):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                times.append(time.perf_counter() - began)
    finally:
        maintainer.kill()
        await maintainer.wait()
    p99 = percentile(times, 0.99)
    print(
        f"freshness: {len(times)} puts, found after p50 {statistics.median(times) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms"
    )
    return p99 <= 1.0


async def memory(given: argparse.Namespace, place: Path) -> bool:
    """The whole process of a maintainer, watching and deciding included, must stay under 600 MB."""
    count = max(given.texts)
    root = place / "memory"
    size = write_tree(root, ({"text": text} for text in made_up(sections(), count)))
    began = time.perf_counter()
    maintainer = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "maintain", str(root), stdout=asyncio.subprocess.PIPE
    )
    assert maintainer.stdout is not None
    peak = json.loads(await maintainer.stdout.readline())
    took = time.perf_counter() - began
    maintainer.kill()
    await maintainer.wait()
    print(f"memory: {count:,} texts, {size / 1e6:.0f} MB, indexed in {took:.1f} s, peak {peak:.0f} MB")
    return peak < 600


async def maintain(root: Path) -> None:
    """A maintainer until it is killed; prints its peak in MB when all is indexed."""
    async with opened(root) as (store, mine), open_bus(Watch(), root, store) as bus:
        keeper = Maintainer(root / ".cld" / "index", mine, lambda: hear(mine, bus))
        task = asyncio.create_task(keeper.keeping.run())
        await keeper.keeping.ready.wait()
        print(limits.getrusage(limits.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
        await task


PARTS = {"quality": quality, "search": search, "freshness": freshness, "memory": memory}


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] in {"first", "maintain"}:
        asyncio.run({"first": first, "maintain": maintain}[sys.argv[1]](Path(sys.argv[2])))
        return 0
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    arguments.add_argument("--texts", type=int, nargs="+", default=list(SIZES))
    arguments.add_argument("--questions", type=int, default=1000)
    arguments.add_argument("--puts", type=int, default=200)
    arguments.add_argument("--dir", default=None, help="a folder on the disk to measure")
    given = arguments.parse_args()
    missed: list[str] = []
    for part in given.parts:
        with tempfile.TemporaryDirectory(dir=given.dir, prefix=".bench-") as place:
            if not asyncio.run(PARTS[part](given, Path(place).resolve())):
                missed.append(part)
    print(f"missed: {', '.join(missed)}" if missed else "all within reach")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
