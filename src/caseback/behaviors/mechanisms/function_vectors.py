"""Function vectors and task vectors: what a prompt's examples leave at its last token (PRIMER 5.4.1).

    mean_h      mean over few-shot prompts of head h's write at the last token
    AIE(h)      E[ p(y | x, do(z_h = mean z_h)) - p(y | x) ],   x prompts that do not show the function
    function    v = sum of mean_h over the heads of the largest AIE,    put by     resid_post[l] + v
    task        v = mean of resid_post[l] at the last token,            put by     resid_post[l] = v

A head's write is z W_O, what the block's own scale and norm make of it included and the output bias left out: the code
published with Todd et al. adds that bias once for every head. Heads and layer are chosen on one half of the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.mechanisms.report import LACKING
from caseback.behaviors.mechanisms.shots import SHOT, Shots, Words, halves, shots_of
from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.graph.names import head_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Add, Edit, Replace
from caseback.model.running.model import Model

SITE = "resid_post"
WITHOUT = ("shuffled", "zero-shot")
"""Prompts that do not show the function."""
MEASURES = ("prob", "log_prob")


@dataclass(frozen=True)
class FunctionVector:
    """What makes a model do a function that no example shows.

    Attributes
    ----------
    vector
        (d_model,) what is added to the stream at a prompt's last token, or stands in its place.
    layer
        Behind which layer.
    adds
        Whether it is added (a function vector) or replaces (a task vector).
    heads
        Names of the heads whose writes it sums; empty for a task vector.
    effects
        (layer, head), each head's average indirect effect on the prompts it was chosen on; None for a task vector.
    by_layer
        (layer,), the mean log probability of the answer with the vector behind each layer, zero-shot, on these prompts.
    about
        How it was made.
    """

    vector: Float[Tensor, " d_model"]
    layer: int
    adds: bool
    heads: tuple[str, ...] = ()
    effects: xr.DataArray | None = None
    by_layer: xr.DataArray | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def edit(self) -> Edit:
        """The vector as an edit of a prompt's last token, to run with or to save by ``cb.save_edits``."""
        return put(self.vector, self.layer, adds=self.adds)


def put(vector: Float[Tensor, " d_model"], layer: int, *, adds: bool) -> Edit:
    """A vector put behind a layer, at a prompt's last token."""
    return (Add if adds else Replace)(SITE, value=vector, layer=layer, pos=-1)


@technique(
    entry=("5.4.1",),
    citation="Todd et al. 2024",
    cost="a sweep of heads at the last token, and one of layers",
)
def function_vector(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    *,
    shots: int = 5,
    shot: str = SHOT,
    prompts: int = 25,
    top: int = 10,
    without: str | None = None,
    by: str = "prob",
    seed: int = 0,
    progress: bool = False,
) -> FunctionVector:
    """The sum of what the heads that carry a function write at the last token of few-shot prompts.

    Parameters
    ----------
    model
        The model.
    pairs
        Words and what the function makes of them. One half of them is used, the other is for judging.
    shots
        Examples in a prompt, at least 2; 10 in the paper.
    shot
        How an example is written, with what parts it from the next: a text with ``{input}`` and ``{output}``.
    prompts
        Few-shot prompts that means are taken over, and as many that effects are measured on.
    top
        How many heads are summed; 10 in the paper. At most a quarter of all.
    without
        The prompts that effects are measured on: ``"shuffled"``, with the examples' second halves dealt out anew, as in
        the paper, or ``"zero-shot"``. By default shuffled ones, unless they are answered as well as the others, since
        the kind of answer gives the function away.
    by
        ``"prob"``, as in the paper, or ``"log_prob"``, which also shows effects where the answer is sure or hopeless.
    seed
        Same seed, same result. Splits the pairs and draws examples.
    progress
        Show a progress bar.

    Returns
    -------
    FunctionVector
        Put behind the layer where it makes the answers of these queries likeliest, zero-shot.

    Raises
    ------
    OutOfRange
        For too few pairs, prompts, shots or heads.
    CasebackError
        For other words than ``without`` and ``by`` know.

    References
    ----------
    Todd et al. 2024, "Function vectors in large language models".

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.tasks.standard.shots import FUNCTIONS
    >>> model = cb.load("meadow")
    >>> vector = function_vector(model, FUNCTIONS["first_letter"], prompts=8)
    >>> vector.vector.shape == (model.d_model,), len(vector.heads)
    (True, 5)
    >>> run = model.run("store:", edits=vector.edit)
    """
    for name, given, known in (("without", without, WITHOUT), ("by", by, MEASURES)):
        if given is not None and given not in known:
            raise CasebackError(f"{name} {given!r} is unknown. {did_you_mean(given, known)}")
    if top < 1:
        raise OutOfRange(f"top is {top}: expected 1 head or more")
    few = finding(model, pairs, prompts=prompts, shots=shots, shot=shot, seed=seed)
    without = without or _lacking(model, few)
    run = model.run(few.prompts.clean, read=["z", "head_out"])
    effects = indirect_effects(model, run, few, without, by, progress=progress).mean("batch")
    layers = [(i, h) for i in range(model.n_layers) for h in range(model.anatomy.layers[i].dims.n_heads)]
    scores = np.array([float(effects.sel(layer=i, head=h)) for i, h in layers])
    best = np.argsort(-scores, kind="stable")[: min(top, max(1, len(layers) // 4))]
    chosen = [layers[i] for i in best]
    rows, columns = torch.arange(len(few)), few.prompts.clean.column(-1)
    vector = torch.stack([run["head_out", i][rows, columns, h].mean(0) for i, h in chosen]).sum(0)
    layer, swept = best_layer(model, few, [vector] * model.n_layers, adds=True, progress=progress)
    about = {
        "shots": shots,
        "shot": shot,
        "prompts": len(few),
        "without": without,
        "by": by,
        "seed": seed,
        "cut": few.cut,
    }
    names = tuple(head_name(*head) for head in chosen)
    return FunctionVector(vector, layer, True, names, effects, swept, about)


@technique(entry=("5.4.1",), citation="Hendel et al. 2023", cost="a forward, and a sweep of layers")
def task_vector(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    *,
    shots: int = 5,
    shot: str = SHOT,
    prompts: int = 25,
    seed: int = 0,
    progress: bool = False,
) -> FunctionVector:
    """The stream at the last token of few-shot prompts with other queries, to stand in a prompt's own.

    Parameters
    ----------
    model, pairs, shots, shot, seed, progress
        As for ``function_vector``.
    prompts
        Few-shot prompts that the mean is taken over; 1 in the paper.

    Returns
    -------
    FunctionVector
        At the layer where it makes the answers of these queries likeliest, zero-shot.

    Raises
    ------
    OutOfRange
        For too few pairs, prompts or shots.

    References
    ----------
    Hendel et al. 2023, "In-context learning creates task vectors".

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.tasks.standard.shots import FUNCTIONS
    >>> vector = task_vector(cb.load("meadow"), FUNCTIONS["first_letter"], prompts=8)
    >>> vector.adds, vector.heads
    (False, ())
    """
    few = finding(model, pairs, prompts=prompts, shots=shots, shot=shot, seed=seed)
    run = model.run(few.prompts.clean, read=[SITE])
    rows, columns = torch.arange(len(few)), few.prompts.clean.column(-1)
    means = [run[SITE, layer][rows, columns].mean(0) for layer in range(model.n_layers)]
    layer, swept = best_layer(model, few, means, adds=False, progress=progress)
    about = {"shots": shots, "shot": shot, "prompts": len(few), "seed": seed, "cut": few.cut}
    return FunctionVector(means[layer], layer, False, (), None, swept, about)


def finding(model: Model, pairs: Words, *, prompts: int, shots: int, shot: str, seed: int) -> Shots:
    """The prompts that a vector is found on."""
    if prompts < 4:
        raise OutOfRange(f"{prompts} prompts: expected 4 or more")
    own, _ = halves(pairs, shots, seed)
    return shots_of(model, own, own, prompts, shots, shot, seed)


def _lacking(model: Model, few: Shots) -> str:
    """Shuffled prompts, unless their answers are as likely as with the examples in order."""
    shown, shuffled = (
        float(few.log_prob(model.run(tokens)).mean()) for tokens in (few.prompts.clean, few.prompts.corrupt)
    )
    return WITHOUT[shown - shuffled < LACKING]


def indirect_effects(
    model: Model, run: Any, on: Shots, without: str, by: str, *, progress: bool = False
) -> xr.DataArray:
    """(layer, head, batch): how much likelier the answer gets when a head's z is the mean of few-shot prompts."""
    rows, columns = torch.arange(len(run.tokens)), run.tokens.column(-1)
    heads = [(i, h) for i in range(model.n_layers) for h in range(model.anatomy.layers[i].dims.n_heads)]
    means = {i: run["z", i][rows, columns].mean(0) for i in range(model.n_layers)}
    variants = [Replace("z", layer=i, head=h, pos=-1, value=means[i][h]) for i, h in heads]
    swept = model.sweep(on.without(without), variants, on.log_prob, progress=progress)
    value = (lambda x: np.exp(x)) if by == "prob" else (lambda x: x)
    moved = value(swept.values) - value(swept["clean"].values)
    grid = np.full((model.n_layers, model.n_heads, moved.shape[1]), np.nan)
    for (i, h), row in zip(heads, moved, strict=True):
        grid[i, h] = row
    coords = {"layer": range(model.n_layers), "head": range(model.n_heads)}
    return labelled(
        grid,
        ["layer", "head", "batch"],
        {name: list(at) for name, at in coords.items()},
        name="effect",
        technique=function_vector,
        model=model,
        measure=by,
        on=without,
    )


def best_layer(
    model: Model, on: Shots, vectors: Sequence[Tensor], *, adds: bool, progress: bool = False
) -> tuple[int, xr.DataArray]:
    """The layer behind which its vector makes the answers likeliest, zero-shot, and the mean of each layer."""
    variants = [put(vector, layer, adds=adds) for layer, vector in enumerate(vectors)]
    means = model.sweep(on.zero, variants, on.log_prob, progress=progress).values.mean(1)
    swept = labelled(
        means,
        ["layer"],
        {"layer": list(range(model.n_layers))},
        name="log_prob",
        technique=function_vector if adds else task_vector,
        model=model,
    )
    return int(means.argmax()), swept
