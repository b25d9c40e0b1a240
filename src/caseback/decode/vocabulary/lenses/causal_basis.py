"""Causal bases: the directions of a stream that a lens's reading hangs on (Belrose et al. 2023, with PRIMER 4.3.3).

    influence(v) = E KL( q(h) || q(h - v v' (h - E h)) ),    q(h) the lens's reading of h
    v_i = argmax influence(v)  over unit v orthogonal to v_1 ... v_{i-1}

A direction's influence is what the reading loses where the state's part along it is replaced by its mean. Each is found
by L-BFGS from several starts, as the function has more than one hill; the gradient is written out.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens import Lens, row_name, streams
from caseback.decode.vocabulary.lenses.vocabulary_kl import VocabularyKL
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.tasks.corpus import corpus_rows


@technique(
    role="lens",
    entry=("4.3.3",),
    citation="Belrose et al. 2023",
    cost="one forward over the corpus + directions x starts x iterations x tokens x 3 unembeddings",
)
def causal_basis(
    model: Model,
    texts: Iterable[str],
    lens: Lens | None = None,
    *,
    row: int,
    directions: int = 8,
    starts: int = 4,
    iterations: int = 50,
    length: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    max_logits: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Find the directions of the stream at a depth that matter most to a lens's reading, most influential first.

    Parameters
    ----------
    model
        The model.
    texts
        The corpus over whose tokens influence is averaged; its states, (token, d_model), are all kept.
    lens
        A lens that reads the token's own position; None for the logit lens.
    row
        The depth: the stream before layer ``row``.
    directions
        How many.
    starts
        Beginnings of the search for each: the direction of largest variance, and random ones.
    iterations
        Of L-BFGS from each, at most.
    length, batch
        Tokens of a row and rows of a batch, as for ``corpus_rows``.
    seed
        Same seed, same result. It draws the random beginnings.
    max_logits
        The most logits formed at once.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``basis`` (k, d_model), orthonormal rows; ``influence`` (k), in nats. The attribute ``random_influence`` is the
        mean influence of as many random directions, ``tokens`` how many tokens were averaged over.

    Raises
    ------
    CasebackError
        For an empty corpus, or a lens of another model.
    OutOfRange
        For a depth that the lens or the model does not have, a lens that looks ahead, or sizes out of range.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> causal = causal_basis(model, ["Mary went to the store."], row=3, directions=2, starts=1, iterations=5)
    >>> bool(causal["influence"][0] > causal.attrs["random_influence"])
    True
    """
    if not 0 <= row <= model.n_layers:
        raise OutOfRange(f"row {row}: expected 0 (the embedding) to {model.n_layers} (the end)")
    if not 1 <= directions <= model.d_model or starts < 1 or iterations < 1:
        raise OutOfRange(
            f"directions={directions}, starts={starts}, iterations={iterations}: expected 1 to {model.d_model}, and at "
            "least 1 of each"
        )
    if lens is not None:
        lens.expect(model)
        if lens.ahead or row not in lens.rows:
            raise OutOfRange(f"row {row} of a lens of rows {list(lens.rows)}, {lens.ahead} ahead: expected one at hand")
    states = [
        streams(model, tokens, [row])[row][tokens.mask]
        for tokens in corpus_rows(model, texts, length=length, batch=batch)
    ]
    if not states:
        raise CasebackError("the corpus is empty: no text has as many tokens as are needed")
    influence = _Influence(model, torch.cat(states), lens, row, max_logits)
    generator = torch.Generator().manual_seed(seed)
    basis = influence.h.new_zeros(0, model.d_model)
    influences = []
    for _ in progress_bar(range(directions), show=progress, unit="direction"):
        tries = [influence.climb(start, basis, iterations) for start in influence.starts(starts, basis, generator)]
        value, v = max(tries, key=lambda tried: tried[0])
        basis = torch.cat([basis, v[None]])
        influences.append(value)
    drawn = torch.randn(directions, model.d_model, generator=generator, dtype=torch.float64).to(basis)
    by_chance = sum(influence(v / v.norm())[0] for v in drawn) / directions
    attrs = {
        "row": row_name(row),
        "lens": "logit" if lens is None else lens.kind,
        "tokens": len(influence.h),
        "random_influence": by_chance,
        "seed": seed,
    }
    return xr.Dataset(
        {
            name: labelled(value, dims, name=name, technique=causal_basis, model=model, **attrs)
            for name, value, dims in (("basis", basis, ["k", "d_model"]), ("influence", influences, ["k"]))
        },
        attrs=labelled(influences, ["k"], technique=causal_basis, model=model, **attrs).attrs,
    )


class _Influence:
    """A direction's influence on a lens's reading of some states, and its gradient at the direction."""

    def __init__(
        self, model: Model, h: Float[Tensor, "token d_model"], lens: Lens | None, row: int, max_logits: int | None
    ):
        self.kl = VocabularyKL(model.anatomy, max_logits)
        self.h = h.to(self.kl.rows)
        self.centred = self.h - self.h.mean(0)
        if lens is None:
            self.weight = torch.eye(model.d_model).to(self.h)
            self.bias = self.h.new_zeros(model.d_model)
        else:
            self.weight, self.bias = (x[lens.rows.index(row)].to(self.h) for x in (lens.weight, lens.bias))

    def __call__(self, v: Float[Tensor, " d_model"]) -> tuple[float, Float[Tensor, " d_model"]]:
        """The influence of a unit vector, and its gradient as if v were free."""
        total, gradient = 0.0, torch.zeros_like(v)
        for start in range(0, len(self.h), self.kl.step):
            h, c = (x[start : start + self.kl.step] for x in (self.h, self.centred))
            along = c @ v
            log_p = self.kl.log_probs(h @ self.weight + self.bias)
            without = (h - along[:, None] * v) @ self.weight + self.bias
            divergence, at_stream = self.kl(without[None], log_p)
            g = at_stream[0] @ self.weight.T
            total += float(divergence.sum())
            gradient -= (g @ v) @ c + along @ g
        return total / len(self.h), gradient / len(self.h)

    def starts(self, count: int, basis: Float[Tensor, "k d_model"], generator: torch.Generator) -> list[Tensor]:
        """Unit vectors orthogonal to a basis: the one of largest variance, then random ones."""
        left = self.centred - self.centred @ basis.T @ basis
        _, vectors = torch.linalg.eigh(left.T @ left)
        drawn = torch.randn(count - 1, self.h.shape[1], generator=generator, dtype=torch.float64).to(self.h)
        return [_unit(v, basis) for v in (vectors[:, -1], *drawn)]

    def climb(self, start: Tensor, basis: Float[Tensor, "k d_model"], iterations: int) -> tuple[float, Tensor]:
        """The top of the hill that a beginning stands on: its influence and its unit vector."""
        free = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [free], max_iter=iterations, line_search_fn="strong_wolfe", tolerance_change=1e-12
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            with torch.enable_grad():
                v = _unit(free, basis)
            value, gradient = self(v.detach())
            v.backward(-gradient)
            return torch.tensor(-value, dtype=free.dtype)

        optimizer.step(closure)  # type: ignore[arg-type]
        v = _unit(free.detach(), basis)
        return self(v)[0], v


def _unit(v: Tensor, basis: Float[Tensor, "k d_model"]) -> Tensor:
    """The part of a vector orthogonal to a basis, of length 1."""
    v = v - (v @ basis.T) @ basis
    return v / v.norm()
