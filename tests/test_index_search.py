"""Search: the answer is right, says why, and is the same as if what may not be read were not there."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from index_world import World, a_world, until

from cld.errors import InvalidArgument
from cld.index import EmbeddingFailed, Model, search
from cld.index.arrays import Floats
from cld.resource import Draft, Meta
from cld.uri import URI, parse_uri

pytestmark = pytest.mark.anyio

TEXTS = {
    "cld:common.Text.cas": "Compare-and-swap on plain files: only the version that was read is replaced.",
    "cld:common.Text.bread": "Rye bread needs a sour dough, which rises for twelve hours in a warm place.",
    "cld:common.Text.cat": "The kitten slept on the rug beside the stove.",
    "cld:cld.Namespace.docs/common.Text.locks": "Locks are freed by the kernel when a process dies.",
    "cld:cld.Namespace.docs/common.Document.guide": "How to install the program on a new machine.",
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path / "resources") as world:
        yield world


async def fill(world: World, texts: dict[str, str]) -> None:
    for uri, text in texts.items():
        await world.put(uri, text)


async def test_what_is_asked_for_is_found_by_its_words_and_by_its_meaning(world: World) -> None:
    await fill(world, TEXTS)
    async with world.maintained():
        assert (await world.ask("replaced versions of files"))[0] == "cld:common.Text.cas"
        assert (await world.ask("a cat sleeping on a carpet"))[0] == "cld:common.Text.cat"
        (first, *_) = await world.search.query(world.mine, "sour dough bread")
        assert first.uri == "cld:common.Text.bread" and first.why.signals == ("words", "meaning")
        assert first.why.words == ("sour", "dough", "bread") and 0 < first.why.similarity <= 1
        by_meaning = await world.search.query(world.mine, "feline pets", mode="meaning")
        assert by_meaning[0].uri == "cld:common.Text.cat" and by_meaning[0].why.signals == ("meaning",)
        assert await world.ask("feline", mode="words") == []


async def test_a_quote_is_an_exact_part_of_the_field_that_why_names(world: World) -> None:
    filler = "Nothing of interest happens in this sentence, nor in the next. " * 60
    await world.put(
        "cld:common.Text.t", "short", notes=[{"body": "short"}, {"body": f"{filler}The zebra crossed. {filler}"}]
    )
    await world.mine.put(Draft(parse_uri("cld:plan.Task.d"), {}, Meta(purpose="Counts giraffes in the savanna.")))
    async with world.maintained():
        (zebra, *_) = await world.search.query(world.mine, "zebra")
        content = (await world.mine.get(zebra.uri)).resource.content
        assert zebra.why.field == "content.notes[1].body"
        assert content["notes"][1]["body"][zebra.why.start : zebra.why.end] == zebra.quote
        assert "zebra" in zebra.quote and len(zebra.quote) <= 320
        (giraffe, *_) = await world.search.query(world.mine, "giraffes")
        assert (giraffe.uri, giraffe.why.field) == ("cld:plan.Task.d", "meta.purpose")
        assert giraffe.quote == "Counts giraffes in the savanna."


async def test_the_quote_is_of_the_passage_that_matched(world: World) -> None:
    about_cats = "Kittens and cats sleep on rugs and carpets, purring. " * 18
    about_money = "The bank raised interest rates by a quarter of a point. " * 18
    await world.put("cld:common.Text.both", f"{about_money}\n\n{about_cats}")
    async with world.maintained():
        for asked, said in (("feline pets", "Kittens"), ("central banking and finance", "The bank")):
            (hit,) = await world.search.query(world.mine, asked, mode="meaning")
            assert hit.quote.startswith(said) and hit.why.words == ()


async def test_prefix_types_and_namespace_narrow_what_is_searched(world: World) -> None:
    await fill(world, TEXTS)
    await world.put("cld:cld.Namespace.docs2/common.Text.locks", "Locks are freed by the kernel too.")
    await world.put("cld:cld.Namespace.docs-old/common.Text.locks", "Locks were freed by the kernel.")
    async with world.maintained():
        asked = "locks freed by the kernel, files, bread, machine"
        docs = parse_uri("cld:cld.Namespace.docs")
        below = ["cld:cld.Namespace.docs/common.Document.guide", "cld:cld.Namespace.docs/common.Text.locks"]
        assert sorted(await world.ask(asked, prefix=docs)) == below
        assert sorted(await world.ask(asked, namespace="docs")) == below
        assert await world.ask(asked, namespace="docs", types=["common.Text"]) == [below[1]]
        assert await world.ask(asked, prefix=parse_uri(below[1])) == [below[1]]
        assert await world.ask(asked, types=["common.Nothing"]) == []
        assert len(await world.ask(asked, limit=3)) == 3


async def test_the_answer_is_the_same_as_over_a_tree_without_what_may_not_be_read(tmp_path: Path) -> None:
    rng = random.Random(7)
    said = "lock kernel process file version zebra bread rye install queue index policy rule"
    vocabulary = said.split()
    texts = {
        f"cld:common.Conversation.c{n % 9}/common.Text.t{n:03d}": " ".join(
            rng.choices(vocabulary, k=rng.randint(1, 60))
        )
        for n in range(240)
    }
    # Some say the same, so that their order is a matter of ties, and some pages are full of what is denied.
    texts |= {f"cld:common.Text.same{n:03d}": "zebra zebra lock" for n in range(150)}
    uris = list(texts)
    denied = set(rng.sample(uris, 300))

    def rule(principal: object, action: str, uri: URI, meta: object) -> bool:
        return uri not in denied

    async with a_world(tmp_path / "whole") as whole, a_world(tmp_path / "bare") as bare:
        await fill(whole, texts)
        rng.shuffle(uris)
        await fill(bare, {uri: texts[uri] for uri in uris if uri not in denied})
        async with whole.maintained(), bare.maintained():
            for _ in range(25):
                asked = " ".join(rng.choices(vocabulary, k=rng.randint(1, 8)))
                for mode in ("hybrid", "words", "meaning"):
                    mine = await whole.search.query(whole.guarded(rule), asked, mode=mode, limit=rng.randint(1, 30))
                    assert not {hit.uri for hit in mine} & denied
                    reference = await bare.search.query(bare.mine, asked, mode=mode, limit=max(1, len(mine)))
                    assert mine == reference
            everything = await whole.search.query(whole.guarded(rule), "zebra", limit=100)
            assert everything == await bare.search.query(bare.mine, "zebra", limit=100)


async def test_what_is_denied_is_never_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(world, TEXTS)
    async with world.maintained():
        opened: list[str] = []
        get = world.store.get

        async def watched(uri: URI, version: str | None = None) -> object:
            opened.append(uri)
            return await get(uri, version)

        monkeypatch.setattr(world.store, "get", watched)
        hits = await world.ask("bread kitten locks", rule=lambda p, action, uri, meta: uri == "cld:common.Text.cat")
        assert hits == ["cld:common.Text.cat"] and set(opened) == {"cld:common.Text.cat"}


async def test_a_resource_that_may_be_read_but_not_listed_is_no_hit(world: World) -> None:
    await fill(world, TEXTS)
    async with world.maintained():
        assert await world.ask("kitten", rule=lambda p, action, uri, meta: action != "list") == []


async def test_rules_that_look_at_meta_decide_hits_too(world: World) -> None:
    await world.mine.put(Draft(parse_uri("cld:common.Text.a"), {"text": "zebra"}, Meta(purpose="open")))
    await world.mine.put(Draft(parse_uri("cld:common.Text.b"), {"text": "zebra"}, Meta(purpose="secret")))
    async with world.maintained():
        mine = world.guarded(lambda p, action, uri, meta: (meta or {}).get("purpose") == "open", needs_meta=True)
        assert [hit.uri for hit in await world.search.query(mine, "zebra")] == ["cld:common.Text.a"]


async def test_the_same_texts_have_their_order_from_their_uris(world: World) -> None:
    async with world.maintained():
        for name in "bdac":
            await world.put(f"cld:common.Text.{name}", "the same words")
            await until(lambda n=name: world.ask("same", prefix=parse_uri(f"cld:common.Text.{n}")))
        assert await world.ask("same words") == [f"cld:common.Text.{name}" for name in "abcd"]
        assert await world.ask("same words", limit=2) == ["cld:common.Text.a", "cld:common.Text.b"]


async def test_one_resource_is_one_hit_however_many_of_its_passages_match(world: World) -> None:
    await world.put("cld:common.Text.long", "\n\n".join(f"Zebra number {n}. " + "Grass. " * 100 for n in range(20)))
    await world.put("cld:common.Text.short", "Zebra.")
    async with world.maintained():
        assert sorted(await world.ask("zebra")) == ["cld:common.Text.long", "cld:common.Text.short"]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Das Straßenfest findet in Köln statt", "STRASSENFEST köln"),
        ("Le café était fermé", "cafe ferme"),
        ("東京タワーは高いです", "東京タワー"),
        ("Москва — столица России", "москва"),
        ("हिन्दी भाषा में लिखा", "हिन्दी"),
        ("מגדל השעון בעיר", "השעון"),
        ("한국어 문서입니다", "한국어"),
        ("the GuardedStore.get_many call", "guarded store"),
        ("emoji 🦓🦓 only beside words", "emoji"),
        ('"; DROP TABLE x; -- <script>alert(1)</script> ${jndi:ldap://x}', "jndi"),
        ("bell \x07 and escape \x1b[31m red \u202e override", "override"),
    ],
)
async def test_texts_in_any_script_are_found(world: World, text: str, asked: str) -> None:
    await world.put("cld:common.Text.other", "something else altogether")
    await world.put("cld:common.Text.it", text)
    async with world.maintained():
        (hit, *_) = await world.search.query(world.mine, asked, mode="words")
        assert hit.uri == "cld:common.Text.it"
        assert text[hit.why.start : hit.why.end] == hit.quote


@pytest.mark.parametrize(
    "asked", ["", "   ", "\x00", "?!…", "🦓", "a" * 100_000, "zebra " * 5000, "%s %(x)s {0}", "\u202e"]
)
async def test_odd_questions_get_an_answer(world: World, asked: str) -> None:
    await world.put("cld:common.Text.it", "A zebra crossed the road.")
    async with world.maintained():
        assert set(await world.ask(asked)) <= {"cld:common.Text.it"}
        assert await world.ask(asked, mode="words") == (["cld:common.Text.it"] if "zebra" in asked else [])


async def test_resources_without_text_and_very_large_ones_do_no_harm(world: World) -> None:
    await world.put("cld:common.Thing.empty")
    await world.put("cld:common.Thing.numbers", values=[1, 2.5, None, True, {"n": 2**64}])
    await world.put("cld:common.Thing.data", blob="QUJD" * 100_000, link="cld:common.Text.x", at="2026-11-21T07:34:55Z")
    await world.put("cld:common.Thing.line", body="needle " + "hay" * 300_000)
    await world.put("cld:common.Thing.words", body="straw " * 300_000 + "zebra")
    await world.put("cld:common.Thing.signs", body="☃ " * 50_000)
    (world.root / "cld:common.Thing.broken.json").write_text("{")
    (world.root / "cld:common.Thing.binary.json").write_bytes(b"\xff\xfe\x00")
    async with world.maintained():
        assert (await world.ask("zebra", mode="words")) == ["cld:common.Thing.words"]
        assert await world.ask("needle", mode="words") in ([], ["cld:common.Thing.line"])
        assert (await world.check()).good


async def test_limits_are_checked(world: World) -> None:
    for limit in (0, 101):
        with pytest.raises(InvalidArgument):
            await world.search.query(world.mine, "x", limit=limit)


async def test_without_an_index_there_are_no_hits_and_nothing_is_made(world: World) -> None:
    assert await world.ask("anything") == [] and not await world.search.complete()
    assert not world.folder.exists() or list(world.folder.iterdir()) == []


@pytest.mark.parametrize("package", ["numpy", "wordllama"])
def test_without_the_packages_it_needs_search_says_what_to_install(tmp_path: Path, package: str) -> None:
    # With the packages hidden, as where the extra was not installed.
    (tmp_path / "resources" / ".cld" / "index").mkdir(parents=True)
    (tmp_path / "resources" / ".cld" / "index" / "current").write_text("0" * 16)
    code = f"""
import asyncio, importlib.util, sys
sys.path.insert(0, "tests")
sys.modules[{package!r}] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == {package!r} else find(name, *more)
from pathlib import Path
from index_world import a_world
async def main():
    async with a_world(Path(sys.argv[1])) as world:
        try:
            print(await world.maintainer().catch_up())
        except Exception as error:
            print(type(error).__name__, error)
asyncio.run(main())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "resources")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parent.parent)
    assert done.stdout.startswith(f"Unsupported search needs the package {package}; install cld[knowledge]"), done


async def test_a_hit_that_changed_since_is_quoted_as_it_is_now(world: World) -> None:
    await world.put("cld:common.Text.a", "A zebra crossed the road.")
    await world.put("cld:common.Text.b", "A zebra ate grass.")
    async with world.maintained():
        pass
    # Nobody maintains the index from here on.
    await world.put("cld:common.Text.a", "The road was empty, no zebra anywhere.")
    await world.delete("cld:common.Text.b")
    (hit,) = await world.search.query(world.mine, "zebra")
    assert hit.quote == "The road was empty, no zebra anywhere."


async def test_no_score_is_of_a_version_whose_meta_kept_it_from_the_caller(world: World) -> None:
    secret = Draft(parse_uri("cld:common.Text.a"), {"text": "The zebra is in the vault."}, Meta(purpose="secret"))
    await world.mine.put(secret)
    async with world.maintained():
        pass
    # Open from here on, and another text; what the index has of it is still the secret one.
    await world.mine.put(
        Draft(parse_uri("cld:common.Text.a"), {"text": "Nothing to see."}, Meta(purpose="open")), if_version="*"
    )
    mine = world.guarded(lambda p, action, uri, meta: (meta or {}).get("purpose") == "open", needs_meta=True)
    assert await world.search.query(mine, "zebra vault") == ()
    async with world.maintained():
        assert [hit.uri for hit in await world.search.query(mine, "nothing to see")] == ["cld:common.Text.a"]


class Odd:
    """An embedder of the default model's name, which gives vectors that are too short, or none for long."""

    model = Model()

    def __init__(self, answer: "Floats | None") -> None:
        self.answer = answer

    async def embed(self, texts: Sequence[str]) -> "Floats":
        if self.answer is None:
            await asyncio.Event().wait()
        assert self.answer is not None
        return self.answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(np.ones((1, 3), np.float32), "not of 256"), (np.ones((2, 256), np.float32), "not"), (None, "did not answer")],
)
async def test_where_the_model_answers_otherwise_or_too_late_words_alone_decide(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: "Floats | None", reason: str
) -> None:
    await fill(world, TEXTS)
    async with world.maintained():
        pass
    monkeypatch.setattr(search, "QUESTION_SECONDS", 0.05)
    odd = search.Search(world.folder, lambda model: Odd(answer))
    (hit,) = await odd.query(world.mine, "sour dough")
    assert (hit.uri, hit.why.signals) == ("cld:common.Text.bread", ("words",))
    with pytest.raises(EmbeddingFailed, match=reason):
        await odd.query(world.mine, "sour dough", mode="meaning")


async def test_what_the_index_principal_may_not_read_is_not_indexed(tmp_path: Path) -> None:
    async with a_world(tmp_path / "resources", lambda p, action, uri, meta: "secret" not in uri) as world:
        await world.put("cld:common.Text.secret", "zebra")
        await world.put("cld:common.Text.open", "zebra")
        async with world.maintained():
            assert await world.ask("zebra") == ["cld:common.Text.open"]


async def test_an_edit_by_hand_is_found(world: World) -> None:
    await world.put("cld:common.Text.a", "A zebra crossed the road.")
    async with world.maintained():
        (world.root / "cld:common.Text.a.json").write_text(json.dumps({"content": {"text": "A walrus swam."}}))
        await until(lambda: world.ask("walrus", mode="words"))
        assert await world.ask("zebra", mode="words") == []
