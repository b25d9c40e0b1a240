"""Neurons whose strongest tokens are one token, or one pair of tokens (PRIMER 5.2.12).

    token     share of the 20 texts' strongest tokens, one of each text, that are t
    bigram    share that are the pair (s, t), less the same where s is what stood before another t of the text

t, and (s, t), are the commonest of the other half's. A neuron of one token has whatever pairs the token stands in, so
pairs count only beyond those. Both are of a neuron's peaks: what it does below them may be something else. Controls:
tokens from anywhere in the text; pairs drawn twice.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers
from caseback.errors import SiteAbsent

TABLE = "neuron_windows"
FEWEST = 10
"""Texts of either half, at least."""
Windows = Int[np.ndarray, "neuron k"]


def places(evidence: Evidence, fold: int) -> Windows:
    """Where the neurons are strongest, one place a text; never a row's first token.

    Raises
    ------
    SiteAbsent
        For too few texts.
    """
    at = evidence.folds(TEXT, TABLE)[fold]["top_place"].transpose("layer", "neuron", "k").values
    at = at.reshape(-1, at.shape[-1])
    if (whole := int((at >= 0).all(0).sum())) < FEWEST:
        raise SiteAbsent(f"{whole} texts in a half: expected {FEWEST} at least, each with a strongest token")
    return at[:, :whole]


def commonest(values: Windows) -> Int[np.ndarray, " neuron"]:
    """The commonest number of each row, the smallest where several are.

    Examples
    --------
    >>> commonest(np.array([[3, 1, 3], [2, 5, 7]])).tolist()
    [3, 2]
    """
    ordered = np.sort(values, 1)
    # how many of the row are the same as this one
    many = np.stack([(ordered == ordered[:, [i]]).sum(1) for i in range(ordered.shape[1])], 1)
    return np.take_along_axis(ordered, many.argmax(1)[:, None], 1)[:, 0]


def share_of(values: Windows, number: Int[np.ndarray, " neuron"]) -> np.ndarray:
    """How many of each row are that number."""
    return (values == number[:, None]).mean(1)


def _halves(evidence: Evidence) -> list[tuple[np.ndarray, Windows]]:
    neuron_layers(evidence)
    return [(evidence.text_ids(fold)[0], places(evidence, fold)) for fold in (0, 1)]


@kind(
    "token",
    "neuron",
    entry="5.2.12",
    citation="Voita et al. 2023, Gurnee et al. 2023",
    looks_at="share of the texts' strongest tokens that are one token, the commonest of other texts'",
    control_is="tokens from anywhere in the text",
    threshold=0.8,
    needs={TEXT: (TABLE,)},
)
def token(evidence: Evidence) -> Look:
    """One token at the peaks."""
    (first_ids, first), (second_ids, second) = _halves(evidence)
    rng = np.random.default_rng(evidence.seed)
    tokens = first_ids[first], second_ids[second]
    drawn = [rng.choice(ids, at.shape) for ids, at in ((first_ids, first), (second_ids, second))]
    mode = commonest(tokens[0])
    distinct = (np.diff(np.sort(tokens[1], 1), axis=1) != 0).sum(1) + 1.0
    by_chance = share_of(drawn[0], commonest(drawn[0]))
    return Look(
        share_of(tokens[0], mode),
        share_of(tokens[1], mode),
        share_of(drawn[1], commonest(drawn[0])),
        best(by_layer(evidence, by_chance)),
        {"token": mode.astype(float), "different tokens": distinct},
    )


def another(ids: np.ndarray, first: np.ndarray, at: Windows, rng: np.random.Generator) -> Windows:
    """For each place another one of the same token that is no row's first; itself where there is none."""
    order = np.lexsort((first, ids))  # those of a token one behind another, rows' first tokens last
    inner = np.bincount(ids[~first], minlength=int(ids.max()) + 1)
    starts = np.bincount(ids, minlength=len(inner)).cumsum() - np.bincount(ids, minlength=len(inner))
    many = inner[ids[at]]
    drawn = order[np.minimum(starts[ids[at]] + (rng.random(at.shape) * many).astype(int), len(ids) - 1)]
    return np.where(many > 0, drawn, at)


@kind(
    "bigram",
    "neuron",
    entry="5.2.12",
    citation="Voita et al. 2023, Gurnee et al. 2023",
    looks_at="share of the texts' strongest tokens that end one pair, the commonest of other texts', beyond their last "
    "tokens' own",
    control_is="pairs of other places of the same tokens, drawn twice",
    threshold=0.4,
    needs={TEXT: (TABLE,)},
)
def bigram(evidence: Evidence) -> Look:
    """One pair of tokens at the peaks, beyond its last token."""
    rng = np.random.default_rng(evidence.seed)
    scores, controls = [], []
    pairs = []
    for fold, (ids, at) in enumerate(_halves(evidence)):
        first = evidence.text_ids(fold)[1] == 0
        size = evidence.model.d_vocab
        pair = np.where(first, -1, np.roll(ids, 1) * size + ids)
        drawn = [pair[another(ids, first, at, rng)] for _ in range(2)]
        pairs.append(pair[at])
        mode = commonest(pairs[0])
        scores.append(share_of(pair[at], mode) - share_of(drawn[0], mode))
        controls.append(share_of(drawn[0], mode) - share_of(drawn[1], mode))
    mode = commonest(pairs[0])
    beside = {"before": (mode // evidence.model.d_vocab).astype(float), "token": (mode % evidence.model.d_vocab) * 1.0}
    return Look(scores[0], scores[1], controls[1], best(by_layer(evidence, controls[0])), beside)
