"""Development sets for elections, made by rule from what is installed; none of them is a public tool-choice set.

A set has candidates (name, description, parameters) and requests with the candidate that each is for. They are
noisy on purpose: nobody wrote the requests for this. What is not installed gives no set.
"""

import gzip
import hashlib
import inspect
import io
import itertools
import json
import pydoc
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

MAN = Path("/usr/share/man/man1")
REQUESTS = Path(__file__).parent / "election_requests.jsonl"


@dataclass
class Set:
    """`requests` are texts with the number of their candidate."""

    title: str
    candidates: list[dict[str, str]]
    requests: list[tuple[str, int]]


def order(text: str) -> str:
    """Sorts as if by chance, the same everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


def of_pairs(title: str, known: dict[str, dict[str, str]], pairs: Iterable[tuple[str, str]], most: int) -> Set:
    """The set of the candidates that have requests, at most `most` of them, chosen as if by chance."""
    unique = {request.strip(): name for request, name in pairs if name in known}
    used = sorted(set(unique.values()), key=order)[:most]
    number = {name: index for index, name in enumerate(used)}
    requests = [(request, number[name]) for request, name in unique.items() if name in number]
    return Set(title, [known[name] for name in used], sorted(requests, key=lambda pair: order(pair[0])))


def gcloud(most: int = 1000) -> Set:
    """Manual pages of one large command-line tool: the sentences before its examples say what they are for."""
    known: dict[str, dict[str, str]] = {}
    pairs: list[tuple[str, str]] = []
    for path in sorted(MAN.glob("gcloud_*.1.gz")):
        if path.name.startswith(("gcloud_alpha", "gcloud_beta")):
            continue
        text = gzip.decompress(path.read_bytes()).decode(errors="replace")
        text = re.sub(r"\\f\w|\\&", "", text).replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ")
        parts = {
            found[1]: found[2] for found in re.finditer(r'^\.SH "([A-Z ]+)"\n(.*?)(?=^\.SH|\Z)', text, re.M | re.S)
        }
        if " - " not in (named := parts.get("NAME", "")) or "EXAMPLES" not in parts:
            continue
        name, _, purpose = named.replace(".HP", "").strip().partition(" - ")
        known[name] = {
            "name": name.removeprefix("gcloud ").replace(" ", "_"),
            "description": " ".join(purpose.split()),
            "parameters": " ".join(re.findall(r"--([a-z-]{3,30})=", parts.get("SYNOPSIS", ""))[:12]),
        }
        for found in re.finditer(r"^(?:To|The following)\b(.{10,200}?)[:.]\s*$", parts["EXAMPLES"], re.M | re.S):
            request = re.sub(
                r",? (run|use|execute)(:| the following.*| this command.*)?$", "", " ".join(found[1].split())
            )
            if "gcloud" not in request and "\n." not in found[1]:
                pairs.append((request, name))
    return of_pairs("gcloud", known, pairs, most)


def tldr(folder: Path, most: int = 1000) -> Set:
    """Pages of the tldr collection (a git directory): each command's description, and what its examples do."""
    known: dict[str, dict[str, str]] = {}
    pairs: list[tuple[str, str]] = []
    listed = subprocess.run(
        ["git", "--git-dir", folder, "archive", "HEAD", "pages/common", "pages/linux"], capture_output=True, check=True
    )

    with tarfile.open(fileobj=io.BytesIO(listed.stdout)) as archive:
        for member in archive.getmembers():
            if not member.name.endswith(".md"):
                continue
            text = archive.extractfile(member).read().decode()
            name = Path(member.name).stem
            lines = [line[2:] for line in text.splitlines() if line.startswith("> ")]
            description = " ".join(
                line for line in lines if not line.startswith(("More information", "See also", "Note"))
            )
            if "alias of" in description or name in known:
                continue
            known[name] = {"name": name, "description": description.replace("`", ""), "parameters": ""}
            for found in re.finditer(r"^- (.+):$", text, re.M):
                request = re.sub(r"\[(\w+)\]", r"\1", found[1]).replace("`", "")
                pairs.append((request, name))
    return of_pairs("tldr", known, pairs, most)


_CALL = re.compile(r"\b([a-z_]+(?:\.[a-z_]+)+)\(")


def python(most: int = 400) -> Set:
    """Functions of the standard library; the comment right above a line that calls one is a request for it."""
    known: dict[str, dict[str, str]] = {}
    pairs: list[tuple[str, str]] = []
    paths = sysconfig.get_paths()
    for folder in (paths["stdlib"], paths["purelib"]):
        for path in sorted(Path(folder).rglob("*.py")):
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError):
                continue
            for above, line in itertools.pairwise(lines):
                comment = above.strip()
                if not comment.startswith("# ") or not 3 <= len(comment.split()) - 1 <= 25:
                    continue
                called = set(_CALL.findall(line))
                pairs += [(comment[2:], each) for each in called if _documented(each, known)]
    return of_pairs("python", known, pairs, most)


def _documented(called: str, known: dict[str, dict[str, str]]) -> bool:
    if called in known:
        return bool(known[called])
    known[called] = {}
    module = called.partition(".")[0]
    if module in sys.stdlib_module_names and module not in ("antigravity", "this", "idlelib", "test"):
        try:
            thing = pydoc.locate(called)
            text = (inspect.getdoc(thing) or "").split("\n\n")[0] if callable(thing) else ""
        except Exception:
            return False
        if text:
            try:
                parameters = " ".join(inspect.signature(thing).parameters)
            except (TypeError, ValueError):
                parameters = ""
            known[called] = {"name": called, "description": " ".join(text.split()), "parameters": parameters}
    return bool(known[called])


def go(most: int = 400) -> Set:
    """Functions of Go's standard library, from its sources, in the same way."""
    root = (
        Path(subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, check=True).stdout.strip()) / "src"
    )
    known: dict[str, dict[str, str]] = {}
    pairs: list[tuple[str, str]] = []
    sources = [path for path in sorted(root.rglob("*.go")) if "testdata" not in path.parts]
    texts = {path: path.read_text(errors="replace") for path in sources}
    for path, text in texts.items():
        if path.name.endswith("_test.go") or "internal" in path.parts or "vendor" in path.parts or "cmd" in path.parts:
            continue
        package = path.parent.name
        for found in re.finditer(r"((?://[^\n]*\n)+)func ([A-Z]\w*)\(([^)]*)\)", text):
            doc = " ".join(line[2:].strip() for line in found[1].splitlines())
            name = f"{package}.{found[2]}"
            known.setdefault(
                name, {"name": name, "description": doc.split(". ")[0][:400], "parameters": found[3][:200]}
            )
    for text in texts.values():
        for found in re.finditer(r"^\s*// (.+)\n([^/\n].*)$", text, re.M):
            if 3 <= len(found[1].split()) <= 25:
                called = set(re.findall(r"\b([a-z]\w*\.[A-Z]\w*)\(", found[2]))
                pairs += [(found[1], each) for each in called]
    return of_pairs("go", known, pairs, most)


_BOTOCORE = Path(sysconfig.get_paths()["purelib"]) / "botocore" / "data"


def _botocore(folder: Path, kind: str) -> dict[str, Any]:
    """The newest description of a service; empty where there is none."""
    versions = sorted([*folder.glob(f"*/{kind}-1.json*"), *folder.glob(f"*/{kind}-2.json*")])
    if not versions:
        return {}
    data = versions[-1].read_bytes()
    return json.loads(gzip.decompress(data) if versions[-1].suffix == ".gz" else data)


def _sentences(html: str) -> list[str]:
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())
    return re.split(r"(?<=[.:]) (?=[A-Z])", text)


def operations(most: int = 1000) -> Set:
    """Operations of a large web API with parameters; requests are what the examples in its description say they do."""
    known: dict[str, dict[str, str]] = {}
    pairs: list[tuple[str, str]] = []
    for folder in sorted(path for path in _BOTOCORE.glob("*") if path.is_dir()):
        examples = _botocore(folder, "examples").get("examples", {})
        service = _botocore(folder, "service") if examples else {}
        for name, shown in examples.items():
            if (operation := service["operations"].get(name)) is None:
                continue
            shape = service["shapes"].get(operation.get("input", {}).get("shape"), {})
            title = f"{folder.name}.{name}"
            known[title] = {
                "name": title,
                "description": " ".join(_sentences(operation.get("documentation", ""))[:3])[:600],
                "parameters": " ".join(list(shape.get("members", {}))[:12]),
            }
            for one in shown:
                said = _sentences(one.get("description", ""))[0]
                said = re.sub(r"^(The following|This|The) (\S+ )?(example|command|operation|code)s? ", "", said)
                if 3 <= len(said.split()) <= 40:
                    pairs.append((said, title))
    return of_pairs("operations", known, pairs, most)


def services(most: int = 400) -> Set:
    """Services, each with what its description says at the beginning; requests are what its operations do."""
    known: dict[str, dict[str, str]] = {}
    pairs: list[tuple[str, str]] = []
    for folder in sorted(path for path in _BOTOCORE.glob("*") if path.is_dir()):
        service = _botocore(folder, "service")
        told = [one for one in _sentences(service.get("documentation", "")) if len(one.split()) > 4]
        named = re.sub(r"^(AWS|Amazon) ", "", service.get("metadata", {}).get("serviceFullName", folder.name))
        if not told:
            continue
        known[named] = {"name": named, "description": " ".join(told[:2])[:400], "parameters": ""}
        operations = sorted(service["operations"].items(), key=lambda item: order(folder.name + item[0]))
        for _, operation in operations[:30]:
            said = _sentences(operation.get("documentation", ""))[0]
            if 4 <= len(said.split()) <= 40 and named.casefold() not in said.casefold():
                pairs.append((said, named))
    return of_pairs("services", known, pairs, most)


def debian(most: int = 1000) -> Set:
    """Installed packages: each by its name and summary; requests are the sentences of its long description."""
    form = "${Package}\t${Description}\x01"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    known: dict[str, dict[str, str]] = {}
    pairs: list[tuple[str, str]] = []
    for entry in listed.split("\x01"):
        name, _, text = entry.partition("\t")
        summary, _, rest = text.partition("\n")
        # Parts of one program have one description.
        if not rest or re.search(r"-(dev|doc|data|common|dbg|bin)$", name) or re.fullmatch(r"lib.*\d", name):
            continue
        known[name] = {"name": name, "description": summary, "parameters": ""}
        sentences = re.split(r"(?<=\.)\s+", " ".join(rest.replace("\n .\n", " ").split()))
        pairs += [(one, name) for one in sentences[:3] if name not in one.lower() and 4 <= len(one.split()) <= 40]
    return of_pairs("debian", known, pairs, most)


def written(kind: str) -> Set:
    """Tools, plugins or a company's intents, and requests as people put them, written for this bench."""
    rows = [row for line in REQUESTS.read_text().splitlines() if (row := json.loads(line)).get("kind") == kind]
    known = {row["name"]: {key: row.get(key, "") for key in ("name", "description", "parameters")} for row in rows}
    return of_pairs(kind, known, [(text, row["name"]) for row in rows for text in row["requests"]], 10_000)


def misfits() -> list[str]:
    """Requests that none of the candidates is for."""
    return next(row["requests"] for line in REQUESTS.read_text().splitlines() if not (row := json.loads(line))["name"])


_AROUND = (
    "Hi there, could you please help me {}? I need it for something at work today, thanks a lot!",
    "I'd like to {}, but I don't really know how to do that. What should I use?",
    "Can you {} for me?",
    "My boss just asked me about this and I'm a bit stuck: how would I {}? Any advice is welcome.",
    "hey so basically i want to {} and then show it to my friends this weekend",
    "Please {}. Let me know when you're done, and tell me if there is any problem along the way.",
    "What is the best way to {}?",
    "I've been trying to figure this out for hours. I just need to {}, nothing else.",
    "It would be great if you could {} before the meeting tomorrow morning.",
    "Tell me something: is it possible to {}? If it is, go ahead.",
)


def chatty(made: Set) -> Set:
    """The same requests with the words around them that people use."""
    requests = [
        (_AROUND[int(order(text)[:8], 16) % len(_AROUND)].format(text[0].lower() + text[1:]), number)
        for text, number in made.requests
    ]
    return Set(f"{made.title}, chatty", made.candidates, requests)
