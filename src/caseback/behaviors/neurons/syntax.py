"""Neurons that fire by what a word is in its sentence: part of speech, number, tense (PRIMER 5.2.4).

    score = eta^2 of the mean by classes of words, less what as many classes of other words would explain

at words' last tokens, of a treebank. Parts of speech, and plural endings, are also written in the tokens themselves;
``families`` has the neurons of these. The control gives each word the class of another word of the treebank.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.labelled_streams import FEATURES, MOVED, TREEBANK
from caseback.behaviors.neurons.by_groups import FEWEST
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers
from caseback.errors import SiteAbsent
from caseback.tasks.formats.treebank import UNIVERSAL_POS


def explained(evidence: Evidence, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The share of each neuron's variance among labeled words that classes explain, in the first and the second half.

    Raises
    ------
    SiteAbsent
        Where fewer than two classes have enough words.
    """
    folds = evidence.folds(TREEBANK, "neuron_groups")
    known = {str(name) for name in folds[0]["group"].values}
    if not known.issuperset(names):
        raise SiteAbsent("no word of the treebank is marked so")
    middle = len(folds) // 2
    return _eta(folds[:middle], names), _eta(folds[middle:], names)


def _eta(folds: list, names: list[str]) -> Float[np.ndarray, " neuron"]:
    n, sums, squares = np.zeros(len(names)), np.zeros(()), np.zeros(())
    for fold in folds:
        own = fold.transpose("group", "layer", "neuron", ...).sel(group=names)
        mean, variance = (np.nan_to_num(own[what].values.reshape(len(names), -1)) for what in ("mean", "variance"))
        many = own["n"].values.astype(float)
        n, sums, squares = n + many, sums + many[:, None] * mean, squares + many[:, None] * (variance + mean**2)
    enough = n >= FEWEST
    if enough.sum() < 2:
        raise SiteAbsent(f"fewer than two classes have {FEWEST} words in either half of the treebank")
    n, sums, squares = n[enough], sums[enough], squares[enough]
    mean = sums / n[:, None]
    whole = sums.sum(0) / n.sum()
    total = squares.sum(0) / n.sum() - whole**2
    between = (n @ (mean - whole) ** 2) / n.sum()
    share = np.divide(between, total, out=np.zeros_like(between), where=total > 1e-16)
    # less what classes without any relation explain
    return np.clip(1 - (1 - share) * (n.sum() - 1) / (n.sum() - len(n)), 0, 1)


def _look(label: str, many: int) -> Callable[[Evidence], Look]:
    def look(evidence: Evidence) -> Look:
        neuron_layers(evidence)
        own, others = (explained(evidence, [f"{label}{what} {i}" for i in range(many)]) for what in ("", MOVED))
        return Look(own[0], own[1], others[1], best(by_layer(evidence, others[0])))

    return look


for _name, _label, _many in (
    ("part of speech", "pos", len(UNIVERSAL_POS)),
    *((f"grammatical {feature.lower()}", feature, len(values)) for feature, values in FEATURES.items()),
):
    kind(
        _name,
        "neuron",
        entry="5.2.4",
        citation="Durrani et al. 2023, Dalvi et al. 2019",
        looks_at=f"share of the neuron's variance over words explained by their {_name.removeprefix('grammatical ')}",
        control_is="the same with those of other words",
        threshold=0.3,
        needs={TREEBANK: ("neuron_groups",)},
    )(_look(_label, _many))
