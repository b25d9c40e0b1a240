"""Representation fine-tuning: what is learned is an edit of a few tokens' states, not a weight of the model.

    LoReFT   h <- h + R^T (W h + b - R h)        R (r, d) orthonormal rows
    NoReFT   the same, R without a constraint
    DiReFT   h <- h + R^T (W h + b)              R without a constraint

LoReFT is a distributed interchange in the span of R with W h + b for a source. Training starts at the identity (W = R,
b = 0; for DiReFT W = 0) and minimizes the surprise at given answers; R, W and b are kept in float32 at least. The first
and last positions of a prompt share one map a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.decode.states import Place, expect_places
from caseback.errors import CasebackError, EditError, OutOfRange
from caseback.jobs.training import Plan, fit
from caseback.model.algebra.rotation import Rotation, random_rows
from caseback.model.anatomy.sites import MAPS
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.running.affine import Affine
from caseback.model.running.answer_metrics import Answer, answer_ids, answer_log_prob
from caseback.model.running.measure import measured
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

Variant = Literal["loreft", "noreft", "direft"]


@checked
@dataclass(frozen=True, eq=False)
class ReFT:
    """A fine-tuned representation.

    Attributes
    ----------
    rows
        (place, r, d), R.
    weight
        (place, r, d), W.
    bias
        (place, r), b.
    places
        Of the first dimension.
    variant
        ``"loreft"``, ``"noreft"`` or ``"direft"``.
    first, last
        How many of a prompt's first and last positions are edited; None for both: all positions, given and generated.
    losses
        The mean surprise per answer token over each epoch of training.
    """

    rows: Float[Tensor, "place r d"]
    weight: Float[Tensor, "place r d"]
    bias: Float[Tensor, "place r"]
    places: list[Place]
    variant: Variant = "loreft"
    first: int | None = None
    last: int | None = None
    losses: Sequence[float] = ()

    @checked
    def edits(self, model: Model, prompts: PromptsLike) -> list[Affine]:
        """The edits for a batch of prompts, as ``model.run`` and ``model.generate`` take them.

        Which positions are the first and last follows from each prompt's length, so edits are of this batch.

        Raises
        ------
        LoadError
            For a model that lacks one of the places, or has another width there.
        """
        expect_places(model, self.places, self.rows.shape[2], "this fine-tuned representation")
        return self._edits(model.tokens(prompts).lengths.tolist())

    def _edits(self, lengths: Sequence[int]) -> list[Affine]:
        reads = self.weight if self.variant == "direft" else self.weight - self.rows
        offsets = (self.bias[:, None] @ self.rows)[:, 0]
        parts = [
            {"read": read, "write": write, "offset": offset, **place.address}
            for read, write, offset, place in zip(reads, self.rows, offsets, self.places, strict=True)
        ]
        return [Affine(**part, **at) for at in where_edited(lengths, self.first, self.last) for part in parts]

    def __repr__(self) -> str:
        where = f"{self.places[0]}" if len(self.places) == 1 else f"{len(self.places)} places"
        n = "all positions" if self.first is None else f"first {self.first} and last {self.last} positions"
        return f"ReFT({self.variant}, rank {self.rows.shape[1]} at {where}, {n})"


def where_edited(lengths: Sequence[int], first: int | None, last: int | None) -> list[dict[str, Any]]:
    """Addresses of the first and last positions of prompts, one for each length among them.

    Examples
    --------
    >>> where_edited([3, 9, 3], 2, 2)
    [{'pos': [0, 1, 2], 'prompt': [0, 2]}, {'pos': [0, 1, 7, 8], 'prompt': [1]}]
    """
    if first is None or last is None:
        return [{}]
    addresses = []
    for length in dict.fromkeys(lengths):
        pos = sorted({*range(min(first, length)), *range(max(length - last, 0), length)})
        addresses.append({"pos": pos, "prompt": [i for i, n in enumerate(lengths) if n == length]})
    return addresses


@technique(
    entry=("4.2.11", "B.15"),
    citation="Wu et al. 2024a",
    cost="epochs passes over the examples, forward and backward; the model's weights stay frozen",
)
def fit_reft(
    model: Model,
    prompts: PromptsLike,
    answers: Answer,
    *,
    rank: int = 4,
    layers: Sequence[int] | None = None,
    site: str = "resid_post",
    first: int | None = 7,
    last: int | None = 7,
    variant: Variant = "loreft",
    lr: float = 9e-4,
    epochs: int = 24,
    batch_size: int = 16,
    warmup: float = 0.1,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> ReFT:
    """Learn an edit of the prompts' states under which the model gives certain answers.

    Parameters
    ----------
    model
        The model; its weights are not changed.
    prompts, answers
        The examples. An answer follows its prompt token by token: text with its leading space, or ids.
    rank
        r, of each layer's map.
    layers
        Which layers; all by default.
    site
        Where in a layer.
    first, last
        How many of each prompt's first and last positions are edited, 7 and 7 in the paper's commonsense task; None
        for both edits all positions, those of the answer and of what is generated included.
    variant
        ``"loreft"``, ``"noreft"`` or ``"direft"``; see the module.
    lr, epochs, batch_size, warmup
        Of Adam, with a linear rise and fall; rate and epochs as AxBench takes them.
    seed
        Same seed, same result.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    ReFT
        ``found.edits(model, prompts)`` are its edits; ``save_reft`` keeps it.

    Raises
    ------
    CasebackError
        For a rank above the width, no positions, or a loss that is not finite.

    Notes
    -----
    Entries 4.2.11 and B.15: Wu et al. 2024a; Wu et al. 2025 (AxBench).

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompts = ["Review: The film was great. Sentiment:", "Review: The film was awful. Sentiment:"]
    >>> found = fit_reft(model, prompts, [" negative", " positive"], layers=[2], lr=0.02, epochs=30)
    >>> whole = model.generate(prompts, edits=found.edits(model, prompts), max_new_tokens=1)
    >>> [text.split()[-1] for text in model.text(whole)]
    ['negative', 'positive']
    """
    places = [Place(at.name, at.layer) for at in _sites(model, site, layers)]
    width = model.run([[1]], read=[place[:2] for place in places])[places[0][:2]].shape[-1]
    if not 1 <= rank <= width:
        raise OutOfRange(f"rank={rank}: expected 1 to {width}, the width of {places[0]}")
    if (first is None) != (last is None) or (first is not None and last is not None and not first + last > 0):
        raise EditError(f"first={first}, last={last}: expected numbers of positions, or None for both")
    if min(first or 0, last or 0) < 0:
        raise EditError(f"first={first}, last={last}: expected 0 or more")
    lengths = model.tokens(prompts).lengths.tolist()
    whole = model.with_answer(prompts, answers)
    given = answer_ids(answers, len(lengths), model.tokenizer, model.d_vocab)
    counts = torch.tensor([len(ids) for ids in given], dtype=torch.float64)
    metric = answer_log_prob(given)
    maps = [_Map(rank, width, variant, seed + i, model) for i in range(len(places))]

    def current() -> ReFT:
        rows, weight, bias = (torch.stack([getattr(one, name) for one in maps]) for name in ("rows", "weight", "bias"))
        return ReFT(rows, weight, bias, places, variant, first, last)

    def loss(rows: Tensor, done: float) -> Tensor:
        edits = current()._edits([lengths[i] for i in rows.tolist()])
        own = whole.ids[rows.to(whole.ids.device)], whole.mask[rows.to(whole.ids.device)]
        some = type(whole)(*own, [whole.text[i] for i in rows.tolist()])
        _, log_p = measured(model.anatomy, some, metric.of_rows(whole, rows), edits=edits, grad=True)
        return -log_p.sum() / float(counts[rows].sum())

    parameters = [p for one in maps for p in one.parameters()]
    plan = Plan(
        epochs=epochs, batch_size=batch_size, warmup=warmup, seed=seed, progress=progress, checkpoint=checkpoint
    )
    job = {
        "model": model,
        "examples": whole,
        "lengths": lengths,
        "map": [variant, rank, first, last, *map(str, places)],
    }
    curve = fit([(parameters, lr)], loss, len(lengths), plan, job=job, what="fine-tuning")
    reft = current()
    return ReFT(reft.rows.detach(), reft.weight.detach(), reft.bias.detach(), places, variant, first, last, curve.loss)


class _Map(nn.Module):
    """R, W and b of one place, from the identity on."""

    def __init__(self, rank: int, width: int, variant: str, seed: int, model: Model):
        super().__init__()
        dtype = torch.promote_types(model.dtype, torch.float32)
        if variant == "loreft":
            self.rotation = Rotation(rank, width, seed=seed, dtype=dtype, device=model.device)
            start = self.rotation.rows.detach()
        else:
            start = random_rows(rank, width, seed).to(model.device, dtype)
            self.free = nn.Parameter(start)
        self.weight = nn.Parameter(torch.zeros_like(start) if variant == "direft" else start.clone())
        self.bias = nn.Parameter(start.new_zeros(rank))
        self.variant = variant

    @property
    def rows(self) -> Float[Tensor, "r d"]:
        return self.rotation.rows if self.variant == "loreft" else self.free


def _sites(model: Model, site: str, layers: Sequence[int] | None) -> list[Any]:
    """A site in some layers, each once."""
    named = [site] if layers is None else [(site, layer) for layer in dict.fromkeys(layers)]
    chosen = [at for one in named for at in model.anatomy.sites(one)]
    if not chosen:
        raise CasebackError("layers names none: expected one at least")
    if chosen[0].base.name in MAPS or not {"head", "kv_head"}.isdisjoint(chosen[0].kind.dims):
        raise CasebackError(
            f"{site!r} is of heads: expected a site with one vector at each token, such as 'resid_post'"
        )
    return chosen
