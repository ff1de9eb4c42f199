"""Elections on development sets made by rule: full text, embedding, and `cld.index.election`; abstention; time.

`python bench/election.py [--tldr GIT_DIRECTORY] [--held-out]`. The weights of the election were set on all
of these but `debian`, each kind judged with weights from the others; `debian` was kept for the end.
"""

import argparse
import functools
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import election_sets as sets
import numpy as np

from cld.index.election import Candidate, Electorate, name_words
from cld.index.wordllama import embed
from cld.index.words import words_of

TESTED = 300
FEW, DRAWS = 10, 60
EARLIER = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tldr", type=Path)
    parser.add_argument("--held-out", action="store_true")
    given = parser.parse_args()
    makers: list[Callable[[], sets.Set]] = [
        *(functools.partial(sets.written, kind) for kind in ("tools", "intents", "plugins")),
        *(sets.gcloud, sets.operations, sets.services, sets.python, sets.go),
    ]
    if given.tldr:
        makers.append(lambda: sets.tldr(given.tldr))
    made = [sets.debian()] if given.held_out else [make() for make in makers]
    # Comments in programs and requests as people put them need no words around.
    made += [sets.chatty(one) for one in made if one.title in ("gcloud", "operations", "tldr")]
    made = [one for one in made if one.requests]
    print(
        f"{'set':<20}{'candidates':>11}{'earlier':>8}   {'full text':>13}{'embedding':>13}{'election':>13}"
        "   (first, of five)"
    )
    for one in made:
        for most in (0, EARLIER):
            compare(one, most)
    print("\nabstention: area under the curve, and share decided rightly (fits and misfits weigh the same)")
    abstention(made, sets.misfits())
    print("\ntime")
    for count in (100, 1000, 10_000):
        timed(made, count)


def split(one: sets.Set, most: int) -> tuple[list[tuple[str, int]], dict[int, list[str]]]:
    """Requests to test with, and up to `most` earlier ones for each candidate."""
    tested = min(TESTED, len(one.requests) // (1 if most == 0 and len(one.requests) < 2 * TESTED else 2))
    earlier: dict[int, list[str]] = defaultdict(list)
    for text, number in one.requests[tested:]:
        if len(earlier[number]) < most:
            earlier[number].append(text)
    return one.requests[:tested], earlier


def candidates_of(one: sets.Set, earlier: dict[int, list[str]]) -> list[Candidate]:
    return [
        Candidate(each["name"], each["description"], each["parameters"], tuple(earlier.get(number, ())))
        for number, each in enumerate(one.candidates)
    ]


def compare(one: sets.Set, most: int) -> None:
    tested, earlier = split(one, most)
    if most and not any(earlier.values()):
        return
    texts = [text for text, _ in tested]
    right = np.array([number for _, number in tested])
    candidates = candidates_of(one, earlier)
    mean = sum(map(len, earlier.values())) / len(candidates)
    results = [full_text(candidates, texts), embedding(candidates, texts), Electorate(candidates).logits(texts)]
    told = "".join(f"{first:>7.1%}{five:>6.0%}" for first, five in (accuracy(scores, right) for scores in results))
    print(f"{one.title:<20}{len(candidates):>11}{mean:>8.1f}   {told}", flush=True)


def accuracy(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    best = np.argsort(-scores, axis=1, kind="stable")
    return float((best[:, 0] == right).mean()), float((best[:, :5] == right[:, None]).any(axis=1).mean())


def said_by(one: Candidate) -> str:
    return f"{name_words(one.name)}: {one.description} {one.parameters}"


def full_text(candidates: list[Candidate], requests: list[str]) -> np.ndarray:
    """BM25 with the usual constants over descriptions and earlier requests."""
    said = [Counter(word for _, word in words_of(" ".join([said_by(one), *one.requests]))) for one in candidates]
    there = Counter(word for words in said for word in words)
    mean = sum(map(Counter.total, said)) / len(said)
    scores = np.zeros((len(requests), len(said)))
    by_word: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, words in enumerate(said):
        size = 1.2 * (0.25 + 0.75 * words.total() / mean)
        for word, times in words.items():
            rare = math.log(1 + (len(said) - there[word] + 0.5) / (there[word] + 0.5))
            by_word[word].append((number, rare * times * 2.2 / (times + size)))
    for row, request in enumerate(requests):
        for word in {word for _, word in words_of(request)}:
            for number, value in by_word.get(word, ()):
                scores[row, number] += value
    return scores


def embedding(candidates: list[Candidate], requests: list[str]) -> np.ndarray:
    """Cosine with the description's vector, to which those of earlier requests are added."""
    vectors = embed([said_by(one) for one in candidates])
    for number, one in enumerate(candidates):
        if one.requests:
            vectors[number] += embed(one.requests).sum(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return embed(requests) @ vectors.T


def abstention(made: list[sets.Set], misfits: list[str]) -> None:
    """Some of the candidates stand; requests for the others fit nobody. Of few that stand, many draws count together.

    Thresholds are those of the embedding's cosine: the best one for all rows together, and the best for each row,
    both in hindsight.
    """
    rows: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
    for one in made:
        half = len(one.candidates) // 2
        for standing, most in ((1, 0), (3, 0), (3, EARLIER), *((n, e) for n in (10, 100, half) for e in (0, EARLIER))):
            if standing > half + 1 or (standing, most) == (10, EARLIER):
                continue
            tested, earlier = split(one, most)
            candidates = candidates_of(one, earlier)
            texts = [text for text, _ in tested] + misfits
            fits, sure, best = list[bool](), list[float](), list[float]()
            for stand in drawn(len(candidates), standing):
                fits += [number in stand for _, number in tested] + [False] * len(misfits)
                these = [candidates[number] for number in stand]
                sure += [election.confidence for election in Electorate(these).elect_each(texts)]
                best += embedding(these, texts).max(axis=1).tolist()
            if min(sum(fits), len(fits) - sum(fits)) >= 10:
                title = f"{one.title:<19}{standing:>5} candidates{most:>4} earlier"
                rows.append((title, np.array(best), np.array(sure), np.array(fits)))
    thresholds = np.linspace(0, 1, 101)
    overall = max(thresholds, key=lambda at: float(np.mean([rightly(best > at, fits) for _, best, _, fits in rows])))
    for most in (None, 0, EARLIER):
        total = [figures(overall, *row[1:]) for row in rows if most is None or row[0].endswith(f" {most} earlier")]
        if most is None:
            for row, found in zip(rows, total, strict=True):
                print(told(row[0], found))
        print(told("mean" if most is None else f"mean, {most} earlier", np.mean(total, axis=0).tolist()))


def drawn(count: int, standing: int) -> list[list[int]]:
    """Who stands, in each of so many draws that there are some requests for them."""
    if standing > FEW:
        return [list(range(standing))]
    chance = random.Random(standing)
    return [chance.sample(range(count), standing) for _ in range(DRAWS // standing)]


def figures(overall: float, best: np.ndarray, sure: np.ndarray, fits: np.ndarray) -> tuple[float, ...]:
    own = max(rightly(best > at, fits) for at in np.linspace(0, 1, 101))
    return area(best, fits), area(sure, fits), rightly(best > overall, fits), own, rightly(sure >= 0.5, fits)


def told(title: str, found: Sequence[float]) -> str:
    cosine, sure, fixed, own, ours = found
    return (
        f"{title:<45}   cosine {cosine:.3f} confidence {sure:.3f}   one threshold {fixed:.1%}, "
        f"the set's own {own:.1%}, ours {ours:.1%}"
    )


def area(values: np.ndarray, fits: np.ndarray) -> float:
    ranks = values.argsort().argsort()
    yes, no = int(fits.sum()), int((~fits).sum())
    return float((ranks[fits].sum() - yes * (yes - 1) / 2) / (yes * no))


def rightly(taken: np.ndarray, fits: np.ndarray) -> float:
    return float((taken[fits].mean() + (~taken[~fits]).mean()) / 2)


def timed(made: list[sets.Set], count: int) -> None:
    pool = [(one, number) for one in made for number in range(len(one.candidates))]
    texts = [text for one in made for text, _ in one.requests][:2000]
    for most in (0, EARLIER):
        candidates = []
        for at in range(count):
            one, number = pool[at % len(pool)]
            each = one.candidates[number]
            earlier = tuple(texts[(at * 7 + k * 13) % len(texts)] for k in range(most))
            candidates.append(Candidate(f"{each['name']}_{at}", each["description"], each["parameters"], earlier))
        began = time.perf_counter()
        electorate = Electorate(candidates)
        ready = time.perf_counter()
        electorate.elect(texts[0])
        first = time.perf_counter()
        asked = texts[: 2000 if count < 10_000 else 500]
        for _ in electorate.elect_each(asked):
            pass
        done = time.perf_counter()
        print(
            f"{count:>6} candidates, {most:>2} earlier each: ready in {ready - began:.2f} s, one election "
            f"{(first - ready) * 1000:.1f} ms, {len(asked) / (done - first):,.0f} a second in a stream",
            flush=True,
        )


if __name__ == "__main__":
    main()
