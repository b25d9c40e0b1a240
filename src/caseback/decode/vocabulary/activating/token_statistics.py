"""What a unit is about, found by counting and without a language model: the tokens at, before and after its firings.

    pmi(t) = log P(t | fires) / P(t),        P(t | fires) = (n_fires(t) + a P(t)) / (n_fires + a)

A prior of a tokens at the base rate keeps a rare token that was there once from being the answer. Tokens are ranked
by P(t | fires) pmi(t), their share of the divergence between the two distributions. The check that comes with it: the
mean activation of each token, counted on even rows, predicts the activations of odd rows with some correlation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.vocabulary.activating.examples import Activating
from caseback.decode.vocabulary.activating.scores import correlation
from caseback.errors import OutOfRange
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.stream.tables.ordered_keys import values_of

WHERE = {"at": 0, "before": -1, "after": 1}


@dataclass(frozen=True)
class Trigger:
    """A token, or a position, at which a unit fires more than by chance.

    Attributes
    ----------
    where
        ``"at"`` the firing token, ``"before"`` or ``"after"`` it, or ``"position"``.
    token
        Its text; the position as text.
    pmi
        In nats.
    share
        Of the firings, how many have it there.
    precision
        Where it is there, how often the unit fires.
    """

    where: str
    token: str
    pmi: float
    share: float
    precision: float


@dataclass(frozen=True)
class TokenStatistics:
    """What was counted about one unit.

    Attributes
    ----------
    unit, level, firings
        The unit, above which activation it is said to fire, and at how many tokens it does.
    triggers
        For each place the tokens that tell most, the first the most.
    held_out
        Correlation of the activations of odd rows with each token's mean on even rows; 0 where either is constant.
    """

    unit: int
    level: float
    firings: int
    triggers: dict[str, list[Trigger]]
    held_out: float

    def sentence(self) -> str:
        """The explanation in words.

        Examples
        --------
        >>> york = Trigger("at", " york", 3.2, 0.97, 0.5)
        >>> TokenStatistics(3, 0.5, 31, {"at": [york]}, 0.4).sentence()
        "fires at ' york' (97%)"
        """
        phrases = [
            f"{where if where != 'position' else 'at position'} "
            + ", ".join(f"{t.token!r} ({100 * t.share:.0f}%)" for t in some[:3])
            for where, some in self.triggers.items()
            if some
        ]
        return "fires " + "; ".join(phrases) if phrases else "fires at nothing in particular"


@technique(
    role="unit",
    entry=("4.3.16",),
    citation="Church & Hanks 1990, Huang et al. 2023",
    cost="one forward over the corpus",
)
def token_statistics(
    model: Model,
    collection: Activating,
    unit: int,
    *,
    fraction: float = 0.5,
    prior: float = 1.0,
    top: int = 5,
) -> TokenStatistics:
    """Explain a unit by the tokens and positions of its firings.

    Parameters
    ----------
    model
        The model.
    collection
        From ``activating_inputs``; its corpus is run again for this unit.
    unit
        Its index at the site.
    fraction
        It fires where it is above this fraction of its largest activation.
    prior
        Tokens at the base rate that are added to the firings.
    top
        How many tokens are named for each place.

    Raises
    ------
    OutOfRange
        For a fraction outside 0 to 1, or a unit that was not collected.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary.activating import activating_inputs
    >>> model = cb.load("meadow")
    >>> collection = activating_inputs(model, ["Mary went to the store.", "John saw the dog."], "mlp_post", layer=0)
    >>> sorted(token_statistics(model, collection, 3).triggers)
    ['after', 'at', 'before', 'position']
    """
    if not 0 < fraction < 1 or prior < 0 or top < 1:
        raise OutOfRange(f"fraction {fraction}, prior {prior}, top {top}: expected 0 to 1, 0 or more, 1 or more")
    largest = float(values_of(collection.tally.keys[collection.number(unit)][:1])[0])
    level = max(0.0, fraction * largest)
    by_row = collection.again(model, unit, range(collection.rows.n_rows))
    rows = [collection.rows[r] for r in range(collection.rows.n_rows)]
    skip = collection.provenance["skip"]
    ids = torch.tensor([t for row in rows for t in row])
    values = torch.tensor([v for r in range(len(rows)) for v in by_row[r]])
    position = torch.tensor([p for row in rows for p in range(len(row))])
    odd = torch.tensor([r % 2 for r, row in enumerate(rows) for _ in row]).bool()
    counts = position >= skip
    fires = (values > level) & counts
    triggers: dict[str, list[Trigger]] = {}
    for where, shift in WHERE.items():
        at = torch.arange(len(ids)) + shift
        inside = (at >= 0) & (at < len(ids))
        at = at.clamp(0, len(ids) - 1)
        # the neighbor of a row's end is in another row
        inside &= position[at] - position == shift
        use = inside & counts
        found_at = _triggers(where, ids[at][use], fires[use], model.d_vocab, prior, top)
        triggers[where] = [Trigger(where, model.token_text(t), *numbers) for t, *numbers in found_at]
    size = int(position.max()) + 1
    found_at = _triggers("position", position[counts], fires[counts], size, prior, top)
    triggers["position"] = [Trigger("position", str(p), *numbers) for p, *numbers in found_at]
    held_out = _held_out(ids[counts], values[counts], odd[counts], model.d_vocab)
    return TokenStatistics(unit, level, int(fires.sum()), triggers, held_out)


def _triggers(
    where: str, ids: Int[Tensor, " token"], fires: Tensor, size: int, prior: float, top: int
) -> list[tuple[int, float, float, float]]:
    """Ids with their pmi, share and precision; only those that are there more often than by chance."""
    if not bool(fires.any()):
        return []
    all_of = torch.bincount(ids, minlength=size).double()
    firing = torch.bincount(ids[fires], minlength=size).double()
    base = all_of / all_of.sum()
    given = (firing + prior * base) / (firing.sum() + prior)
    pmi = torch.where(firing > 0, (given / base).log(), torch.zeros_like(base))
    order = (given * pmi).sort(descending=True, stable=True).indices[:top].tolist()
    return [
        (i, float(pmi[i]), float(firing[i] / firing.sum()), float(firing[i] / all_of[i])) for i in order if pmi[i] > 0
    ]


def _held_out(ids: Tensor, values: Float[Tensor, " token"], odd: Tensor, d_vocab: int) -> float:
    even = ~odd
    if not bool(odd.any()) or not bool(even.any()):
        return 0.0
    sums = torch.zeros(d_vocab, dtype=torch.float64).index_add_(0, ids[even], values[even].double())
    counts = torch.bincount(ids[even], minlength=d_vocab)
    mean = torch.where(counts > 0, sums / counts.clamp_min(1), values[even].double().mean())
    return correlation(mean[ids[odd]].tolist(), values[odd].tolist())
