"""When an election abstains: how likely it is that any candidate fits at all.

A fixed threshold on the best score means something else among five candidates than among a thousand
(the best of many is high by chance), and something else for candidates that resemble one another. So the
best score is read against the others, and, where there are earlier requests, against how such
requests scored when their own candidate was there and when it was taken away. Pure.
"""

from cld.index.arrays import Floats, Positions, Scores, np

EVEN = 0.5
"""An election of less confidence abstains."""

CAUTION = (0.4, 0.0, 0.25, 0.25, -0.2)
"""Weights of `facts_of`, before anything is learnt; from the development sets of bench/election.py."""

_DOUBT = 1.0
_FEW = 10


def facts_of(logits: Floats) -> Scores:
    """For each request: one, the best score, how far it is above the mean of the others, its share, candidates."""
    count = logits.shape[1]
    wide = logits.astype(np.float64)
    best = wide.max(axis=1)
    others = (wide.sum(axis=1) - best) / max(1, count - 1)
    shares = -np.log(np.exp(wide - best[:, None]).sum(axis=1))
    ones = np.ones(len(best))
    above = best - others if count > 1 else best
    return np.stack([ones, best, above, shares, ones * np.log(count)], axis=1)


def confidence(facts: Scores, caution: Scores) -> Scores:
    """The chance that a candidate fits, for each row of `facts_of`."""
    return 1 / (1 + np.exp(-np.clip(facts @ caution, -30, 30)))


def learnt_caution(logits: Floats, owners: Positions) -> Scores:
    """Weights that tell apart requests with their candidate there (`owners`) and the same with it taken away.

    Logistic regression on standardised facts; the fewer requests there are, the more of `CAUTION` is left.
    """
    rows, count = logits.shape
    if count < 3:
        return np.array(CAUTION)
    there = facts_of(logits)
    kept = np.ones(logits.shape, bool)
    kept[np.arange(rows), owners] = False
    gone = facts_of(logits[kept].reshape(rows, count - 1))
    facts = np.concatenate([there, gone])[:, 1:-1]
    right = np.concatenate([np.ones(rows), np.zeros(rows)])
    middle, spread = facts.mean(axis=0), facts.std(axis=0) + 1e-3
    known: Scores = np.concatenate([np.ones((2 * rows, 1)), (facts - middle) / spread], axis=1)
    weights = np.zeros(known.shape[1])
    for _ in range(12):
        chances = confidence(known, weights)
        slope = known.T @ (right - chances) - _DOUBT * weights
        bend = (known * (chances * (1 - chances))[:, None]).T @ known + _DOUBT * np.eye(len(weights))
        step: Scores = np.asarray(np.linalg.solve(bend, slope), np.float64)
        # Where chances are near 0 or 1 the bend is no guide for a long step.
        weights += np.clip(step, -1, 1)
    plain: Scores = weights[1:] / spread
    found = np.array([weights[0] - float(plain @ middle), *plain, 0.0])
    share = rows / (rows + _FEW)
    return share * found + (1 - share) * np.array(CAUTION)
