"""When an election abstains: how likely it is that any candidate fits at all.

A fixed threshold on the best score means something else among five candidates than among a thousand
(the best of many is high by chance), and something else for candidates that resemble one another. So the
best score is read against the others, those that say the same counted as one, and against some more that are
imagined, which fit nothing: alone or among few, the best is best by chance too. Where there are earlier requests,
it is read against how such requests scored when their own candidate was there and when it was taken away. Pure.
"""

from typing import NamedTuple

from cld.index.arrays import Floats, Positions, Scores, np

EVEN = 0.5
"""An election of less confidence abstains."""

CAUTION = (2.25, 0.0, 1.2)
"""Weights of `facts_of`, before anything is learnt; from the development sets of bench/election.py."""

_IMAGINED = 30
"""So many candidates are imagined."""

_RESEMBLANCE = {1: 0.3, 2: 0.15}
_RESEMBLANCE_OF_MORE = 0.1
"""How near requests lie to earlier ones of a candidate they are not for; of several, what all share is left out."""

_DOUBT = 1.0
_FEW = 10

_ALIKE = 0.95
"""From this cosine on two descriptions say the same."""

_MOST_COMPARED = 4096
"""Of more candidates a few alike are no matter, and to find them would take seconds."""


class Rivals(NamedTuple):
    """Against what a best score is read: how much each candidate counts, and what those score that are imagined."""

    weights: Scores
    imagined: float = 0.0


def rivals_of(vectors: Floats, trust: float = 0.0) -> Rivals:
    """The rivals among candidates with these unit vectors: of several that say the same each counts a part.

    A description has nothing to do with a request that is not for it, which is a score of 0. Requests resemble one
    another whatever they are for, so it is more the more earlier ones count (`trust`).
    """
    count = len(vectors)
    weights = np.ones(count)
    if count <= _MOST_COMPARED:
        weights = 1 / np.maximum(1, (vectors @ vectors.T >= _ALIKE).sum(axis=1))
    return Rivals(weights, trust * _RESEMBLANCE.get(count, _RESEMBLANCE_OF_MORE))


def facts_of(logits: Floats, rivals: Rivals) -> Scores:
    """For each request: one, the best score, and the logarithm of its share among all and those imagined.

    The rivals' weights are for all rows or for each.
    """
    wide = logits.astype(np.float64)
    best = np.maximum(wide.max(axis=1), -30)
    others = (np.exp(wide - best[:, None]) * rivals.weights).sum(axis=1)
    return np.stack([np.ones(len(best)), best, -np.log(others + _IMAGINED * np.exp(rivals.imagined - best))], axis=1)


def confidence(facts: Scores, caution: Scores) -> Scores:
    """The chance that a candidate fits, for each row of `facts_of`."""
    return 1 / (1 + np.exp(-np.clip(facts @ caution, -30, 30)))


def learnt_caution(logits: Floats, owners: Positions, rivals: Rivals) -> Scores:
    """Weights that tell apart requests with their candidate there (`owners`) and the same with it taken away.

    Logistic regression on standardised facts; the fewer requests there are, the more of `CAUTION` is left. Where
    another candidate says the same, taking one away leaves no misfit.
    """
    count = logits.shape[1]
    only = np.flatnonzero(rivals.weights[owners] == 1)
    if count < 3 or not len(only):
        return np.array(CAUTION)
    there = facts_of(logits, rivals)
    kept = np.ones((len(only), count), bool)
    kept[np.arange(len(only)), owners[only]] = False
    left = np.broadcast_to(rivals.weights, kept.shape)[kept].reshape(len(only), count - 1)
    gone = facts_of(logits[only][kept].reshape(len(only), count - 1), rivals._replace(weights=left))
    facts = np.concatenate([there, gone])[:, 1:]
    right = np.concatenate([np.ones(len(there)), np.zeros(len(gone))])
    rows = len(there)
    middle, spread = facts.mean(axis=0), facts.std(axis=0) + 1e-3
    known: Scores = np.concatenate([np.ones((len(facts), 1)), (facts - middle) / spread], axis=1)
    weights = np.zeros(known.shape[1])
    for _ in range(12):
        chances = confidence(known, weights)
        slope = known.T @ (right - chances) - _DOUBT * weights
        bend = (known * (chances * (1 - chances))[:, None]).T @ known + _DOUBT * np.eye(len(weights))
        step: Scores = np.asarray(np.linalg.solve(bend, slope), np.float64)
        # Where chances are near 0 or 1 the bend is no guide for a long step.
        weights += np.clip(step, -1, 1)
    plain: Scores = weights[1:] / spread
    found = np.array([weights[0] - float(plain @ middle), *plain])
    share = rows / (rows + _FEW)
    return share * found + (1 - share) * np.array(CAUTION)
