"""Amnesic probing: what does the model do without a concept, beyond what it does without anything else of that size?

    effect = mean(metric under erasure - metric of the clean run)          selectivity = effect - mean of the controls'

Controls erase random concepts that have no covariance with this one, of equal rank, and of equal removed variance.
Another gives the gold label back: what the erased part says of the label on average is added again, so that an effect
that remains there is of what went beside the label. That a probe can read a concept does not say that the model uses it
(entry 4.1.7): this does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.erasure.eraser import Eraser, addressed
from caseback.decode.erasure.oracle import oracle_leace, per_prompt
from caseback.decode.erasure.random_erasers import Factors, random_erasers
from caseback.decode.erasure.scrub import labels_of
from caseback.decode.probes.splits import listed_values
from caseback.decode.states import Place, States, read_states, sites_of
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.algebra.symmetric_product import symmetric_product
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.affine import Affine
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric, kl
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

CONTROLS = ("equal rank", "equal variance")


@technique(
    entry=("4.1.7", "4.2.8"),
    citation="Elazar et al. 2021",
    cost="a sweep of 2 + 2 x draws variants for each eraser, and a pass that reads the states",
)
def amnesic(
    model: Model,
    tokens: PromptsLike,
    labels: Sequence[Any] | Tensor | np.ndarray,
    eraser: Eraser | Mapping[str, Eraser],
    metric: Metric | None = None,
    *,
    pos: Positions = None,
    draws: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Measure what erasing a concept does to a model's predictions, beside what erasing as much of anything else does.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. Not those that the eraser was fitted to, if it is
        to say something of others.
    labels
        A label for each prompt.
    eraser
        What ``leace`` and its like gave, or several by name, such as ``eraser.each()`` for every place by itself.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. By default KL(clean || erased) of the
        next token; ``cb.loss()`` is the loss of all tokens.
    pos
        Positions of each prompt from which it is erased; all by default.
    draws
        How many random concepts of each kind.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By ``variant``, the eraser. (batch): ``clean``. (variant, batch): ``erased``; ``gold``, erased and the label
        given back. (variant, control, draw, batch): ``random``. (variant): ``effect`` and ``gold_effect``, means over
        prompts of the difference from clean; ``removed``, the mean square of what is erased, over places.
        (variant, control): ``random_effect`` and the middle 95 % of the draws' effects, ``low`` and ``high``;
        ``random_removed``; ``selectivity``, ``effect`` less ``random_effect``.

    Raises
    ------
    CasebackError
        For an eraser of other sites, labels that the eraser does not know, or as many labels as there are not prompts.
    OutOfRange
        For less than two draws.

    Notes
    -----
    Entries 4.2.8 and 4.1.7: Elazar et al. 2021; equal variance, and controls that leave the concept alone, are not
    theirs. Of equal variance is a random concept of equal rank where as many directions hold twice as much, else of the
    fewest that do. Variances and class means are those of the clean run of these prompts. At several places a draw is
    alike.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode import read_states
    >>> from caseback.decode.erasure import leace
    >>> model = cb.load("meadow")
    >>> names = {"Mary": "she", "Anna": "she", "John": "he", "Tom": "he"}
    >>> texts = [f"{name} went to the {place}" for name in names for place in ("store", "park", "house")]
    >>> who = [names[text.split()[0]] for text in texts]
    >>> eraser = leace(read_states(model, texts, sites="resid_post.1"), who)
    >>> result = amnesic(model, texts, who, eraser, pos=-1, draws=5)
    >>> result.random.dims, bool((result.clean == 0).all())
    (('variant', 'control', 'draw', 'batch'), True)
    """
    prompts = model.tokens(tokens)
    listed = listed_values(labels, "labels")
    if draws < 2:
        raise OutOfRange(f"draws {draws}: expected at least 2, of which the controls' interval is made")
    if len(listed) != len(prompts):
        raise CasebackError(f"{len(listed)} labels for {len(prompts)} prompts: expected one for each")
    erasers = {eraser.method: eraser} if isinstance(eraser, Eraser) else dict(eraser)
    if not erasers:
        raise CasebackError("no eraser is given: expected one at least, such as leace gives it")
    if metric is None:
        metric = kl_from_clean(model, prompts)
    variants: list[list[Edit]] = []
    names: list[str] = []
    removed: dict[str, tuple[float, Any]] = {}
    for name, one in erasers.items():
        states = _states_of(model, prompts, one, pos)
        drawn, sizes = _controls(states, one, draws, seed)
        removed[name] = float(one.removed_of(states.x).square().sum(-1).mean(1).sum()), sizes
        edits = one.edits(pos)
        gold = _given_back(states, listed, len(prompts), one)
        variants += [edits, [*edits, *per_prompt(addressed(one.places), gold, pos, None)]]
        center = None if one.mean is None else in_float64(states.x).mean(1)
        variants += [_edits(one.places, of_kind, i, center, pos) for of_kind in drawn for i in range(draws)]
        names += [name, f"{name}, label given back"]
        names += [f"{name}: {kind} {i}" for kind in CONTROLS for i in range(draws)]
    swept = model.sweep(prompts, variants, metric, labels=names, progress=progress)
    clean = swept.clean.values
    values = swept.values.reshape(len(erasers), 2 + 2 * draws, len(prompts))
    random = values[:, 2:].reshape(len(erasers), 2, draws, len(prompts))
    effect = (values - clean).mean(-1)
    controls = (random - clean).mean(-1)
    low, high = np.quantile(controls, [0.025, 0.975], axis=-1)
    by_eraser, by_control = ("variant",), ("variant", "control")
    arrays = {
        "clean": (("batch",), clean),
        "erased": (("variant", "batch"), values[:, 0]),
        "gold": (("variant", "batch"), values[:, 1]),
        "random": (("variant", "control", "draw", "batch"), random),
        "effect": (by_eraser, effect[:, 0]),
        "gold_effect": (by_eraser, effect[:, 1]),
        "removed": (by_eraser, [size for size, _ in removed.values()]),
        "random_effect": (by_control, controls.mean(-1)),
        "low": (by_control, low),
        "high": (by_control, high),
        "random_removed": (by_control, np.mean([sizes for _, sizes in removed.values()], axis=-1)),
        "selectivity": (by_control, effect[:, :1] - controls.mean(-1)),
    }
    coords = {"variant": list(erasers), "control": list(CONTROLS)}
    placed = {name: (numbers, dims) for name, (dims, numbers) in arrays.items()}
    about = {"metric": metric.name, "draws": draws, "seed": seed}
    return labelled_set(placed, coords, technique=amnesic, model=model, **about)


def kl_from_clean(model: Model, tokens: Tokens) -> Metric:
    """KL from the clean run at the last position, of which the other positions' logits are not held."""
    rows = []
    for some in torch.arange(len(tokens)).split(limit("task_prompts")):
        part = tokens[some]
        logits = model.run(part).logits
        rows.append(at_least_float32(logits[torch.arange(len(some)), part.column(-1).to(logits.device)]))
    return kl(torch.cat(rows)[:, None].expand(-1, tokens.ids.shape[1], -1))


def _states_of(model: Model, tokens: Tokens, eraser: Eraser, pos: Positions) -> States:
    """The clean run's states at an eraser's places."""
    places = addressed(eraser.places)
    states = read_states(model, tokens, sites=sites_of(places), pos=pos)
    order = {place: i for i, place in enumerate(states.places)}
    if missing := [place for place in places if place not in order]:
        raise CasebackError(
            f"the eraser is of {missing[0]}, which this model has not: it has {states.names[0]} and so on"
        )
    if states.x.shape[2] != eraser.proj_left.shape[1]:
        raise CasebackError(
            f"the eraser is of width {eraser.proj_left.shape[1]} and {states.names[0]} of {states.x.shape[2]}: it was "
            "fitted to another model"
        )
    return States(states.x[[order[place] for place in places]], list(places), states.prompt)


def _controls(
    states: States, eraser: Eraser, draws: int, seed: int
) -> tuple[list[Factors], Float[np.ndarray, "control draw"]]:
    """Erasers of random concepts of both kinds, and the mean square of what each draw removes.

    Of a linear eraser, which takes from the mean too, they are of second moments in place of covariances.
    """
    x = in_float64(states.x)
    wanted = eraser.removed_of(x).square().sum(-1).mean(1)
    x = x if eraser.mean is None else x - x.mean(1, keepdim=True)
    covariance = symmetric_product(x) / x.shape[1]
    drawn = [
        random_erasers(covariance, x.shape[1], eraser.proj_left, removed, draws, torch.Generator().manual_seed(seed))
        for removed in (None, wanted)
    ]
    sizes = [((left.mT @ left) * (right @ covariance @ right.mT)).sum((1, 2, 3)) for left, right in drawn]
    return drawn, torch.stack(sizes).cpu().numpy()


def _given_back(states: States, labels: list[Any], n: int, eraser: Eraser) -> Float[Tensor, "place batch d"]:
    """What is erased of a prompt with its label on average: E[L R (x - m) | z]."""
    removed = eraser.removed_of(in_float64(states.x))
    oracle = oracle_leace(states, labels_of(states, labels, n), numeric=eraser.classes is None, svd_tol=1e-9)
    of_label = oracle.removed_of(labels)
    return (
        removed.mean(1, keepdim=True) + of_label @ eraser.proj_right.to(of_label).mT @ eraser.proj_left.to(of_label).mT
    )


def _edits(places: list[Place], factors: Factors, i: int, center: Any, pos: Positions) -> list[Edit]:
    """One draw of random concepts erased, about the mean where one is given."""
    centers = [None] * len(places) if center is None else center
    return [
        Affine(read=right, write=-left.mT, center=mean, pos=pos, **place.address)
        for place, left, right, mean in zip(places, factors[0][i], factors[1][i], centers, strict=True)
    ]
