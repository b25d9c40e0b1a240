"""Does an attribution depend on what the model has learned? (PRIMER 3.1.28; Adebayo et al. 2018)

    cascading    randomize from the top down: unembedding, + last layer, + the layer before ..., + embedding
    independent  randomize one of these at a time, the others as they were

After each stage the attribution is made anew, of the same metric, and compared with that of the model as it is. One
that stays the same when nothing that was learned is left explains the prompt, or the architecture, and not the model.
Each parameter is drawn anew with its own mean and standard deviation, so that the scale of the computation is kept and
only what was learned is lost. All of it happens on a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.methods import Methods, checked_options, methods_named, scores_of
from caseback.localize.inputs.trust.agreement import agreement
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.assembled import assembled
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.parameters import expect_own_numbers
from caseback.model.prompts.per_token import expect_metric
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

ORDERS = ("cascading", "independent")
DRAWS = ("normal", "shuffle")
SIMILARITIES = ("spearman", "kendall", "top_k")


@technique(
    role="judgement", entry=("3.1.28",), citation="Adebayo et al. 2018", cost="(layers + 3) x methods attributions"
)
def randomisation_test(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    methods: Methods,
    *,
    order: str = "cascading",
    draw: str = "normal",
    similarity: str = "spearman",
    absolute: bool = True,
    limit: float = 0.7,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Randomize the model's parameters and see whether attributions change.

    Parameters
    ----------
    model
        The model. It is copied, and the copy is what is randomized.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. The more the better: with few tokens, ranks are
        alike by chance.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is the same at every stage: name its
        target, since a randomized model would choose another.
    methods
        As for ``attribute``.
    order
        ``"cascading"`` or ``"independent"``, see the file.
    draw
        ``"normal"`` draws each parameter from a normal distribution of its own mean and standard deviation (one that
        is constant, such as a norm that was never trained, stays); ``"shuffle"`` exchanges its entries at random.
    similarity
        ``"spearman"`` (the paper's), ``"kendall"`` or ``"top_k"``, as in ``agreement``.
    absolute
        Compare sizes; the paper shows both.
    limit
        A method whose similarity, averaged over the prompts, is still at least this when all is randomized is
        flagged.
    options
        Each method's options by its name, as for ``attribute``.
    seed
        Same seed, same result. The parameters are drawn with it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``similarity``, (attribution, variant, batch), of the attribution after each stage with the model's own; the
        stages are named in ``variant``: ``original``, ``unembed`` (with the final norm), ``layer 11`` ... ``embed``.
        ``flagged``, (attribution,): in a cascade, whether it is still at least ``limit`` at the end; for independent
        stages, at every one of them. A method that scores all tokens alike has no ranks: it is flagged where its
        scores do not change at all. ``change``, (attribution, variant, batch): the largest change of a score as a
        share of the largest score.

    Raises
    ------
    CasebackError
        For an unknown order, draw or similarity, and as ``attribute``.
    OutOfRange
        For a limit outside -1 to 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model, prompt = cb.load("meadow"), "When Mary and John went to the store, John gave a drink to"
    >>> stages = randomisation_test(model, prompt, cb.logit_diff(" Mary", " John"), "gradient_x_input")
    >>> stages.variant.values[[0, 1, -1]].tolist(), bool(stages.flagged[0])
    (['original', 'unembed', 'embed'], False)
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    for what, value, known in (
        ("order", order, ORDERS),
        ("draw", draw, DRAWS),
        ("similarity", similarity, SIMILARITIES),
    ):
        if value not in known:
            raise CasebackError(f"{what} {value!r} is unknown. {did_you_mean(value, known)}")
    if not -1 <= limit <= 1:
        raise OutOfRange(f"limit is {limit}: expected a similarity, from -1 to 1")
    named = methods_named(methods)
    own_options = checked_options(named, options)

    def attributed(on: Model) -> np.ndarray:
        return np.stack([scores_of(n, m, on, tokens, metric, own_options[n]).values for n, m in named.items()])

    base = attributed(model)
    attributions, names = [base], ["original"]
    with randomized(model, order=order, draw=draw, seed=seed) as stages:
        total = model.n_layers + 2
        for name, on in progress_bar(stages, total=total, show=progress, what="randomize", unit="stage"):
            names.append(name)
            attributions.append(attributed(on))
    alike = np.stack([_alike(base, now, similarity, absolute) for now in attributions], axis=1)
    size = np.nanmax(np.abs(base), axis=-1)
    change = np.stack([_share(np.nanmax(np.abs(now - base), axis=-1), size) for now in attributions], axis=1)
    flagged = _flagged(alike[:, 1:], change[:, 1:], limit, order)
    coords = {"attribution": list(named), "variant": names}
    attrs = {
        "order": order,
        "draw": draw,
        "compared_by": similarity,
        "absolute": absolute,
        "limit": limit,
        "seed": seed,
        "metric": metric.name,
    }
    arrays = {"similarity": alike, "change": change, "flagged": flagged}
    variables = {
        name: labelled(
            x,
            ["attribution", "variant", "batch"][: x.ndim],
            {key: value for key, value in coords.items() if key == "attribution" or x.ndim == 3},
            name=name,
            technique=randomisation_test,
            model=model,
            **attrs,
        )
        for name, x in arrays.items()
    }
    return xr.Dataset(variables, attrs=variables["similarity"].attrs)


def _alike(a: np.ndarray, b: np.ndarray, similarity: str, absolute: bool) -> np.ndarray:
    """(attribution, batch): the similarity of each method with itself before."""
    rows = []
    for mine, theirs in zip(a, b, strict=True):
        both = xr.DataArray(np.stack([mine, theirs]), dims=["attribution", "batch", "pos"])
        rows.append(agreement(both, absolute=absolute)[similarity].values[0, 1])
    return np.stack(rows)


def _share(change: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.where(size > 0, change / np.where(size > 0, size, 1), (change > 0).astype(float))


def _flagged(alike: np.ndarray, change: np.ndarray, limit: float, order: str) -> np.ndarray:
    """(attribution,): whether it never noticed."""
    with np.errstate(invalid="ignore"):
        ranks = ~np.isnan(alike)
        mean = np.where(ranks, alike, 0).sum(-1) / np.maximum(ranks.sum(-1), 1)
    # without ranks there is nothing to compare but the scores themselves
    same = np.where(ranks.any(-1), mean >= limit, (change == 0).all(-1))
    return same[:, -1] if order == "cascading" else same.all(-1)


@contextmanager
def randomized(model: Model, *, order: str, draw: str, seed: int) -> Iterator[Iterator[tuple[str, Model]]]:
    """The stages of a randomization as models, one after the other; each is good until the next is asked for.

    Parameters
    ----------
    model
        Copied; tied embeddings are untied in the copy, so that the unembedding can be drawn without the embedding.
    order, draw, seed
        As for ``randomisation_test``.

    Yields
    ------
    An iterator of a stage's name and the randomized model.

    Examples
    --------
    >>> import caseback as cb
    >>> with randomized(cb.load("meadow"), order="independent", draw="shuffle", seed=0) as stages:
    ...     names = [name for name, _ in stages]
    >>> names[0], names[-1]
    ('unembed', 'embed')
    """
    expect_own_numbers(model.hf, "a randomization")
    hf = copy.deepcopy(model.hf)
    with torch.no_grad():
        _untie(hf)
    fresh = Model(hf, model.tokenizer, assembled(hf, model.tokenizer, model.anatomy.standing), model.name)

    def stages() -> Iterator[tuple[str, Model]]:
        for index, (name, parameters) in enumerate(_stages(fresh.anatomy)):
            originals = [p.detach().clone() for p in parameters] if order == "independent" else None
            generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
            with torch.no_grad():
                for parameter in parameters:
                    parameter.copy_(_drawn(parameter, draw, generator))
            yield name, fresh
            if originals is not None:
                with torch.no_grad():
                    for parameter, was in zip(parameters, originals, strict=True):
                        parameter.copy_(was)

    try:
        yield stages()
    finally:
        del fresh, hf


def _untie(hf: Any) -> None:
    """Give the unembedding a matrix of its own where it shares the embedding's."""
    into, out = hf.get_input_embeddings(), hf.get_output_embeddings()
    if into is not None and out is not None and getattr(out, "weight", None) is into.weight:
        out.weight = nn.Parameter(out.weight.detach().clone(), requires_grad=out.weight.requires_grad)


def _stages(anatomy: Anatomy) -> list[tuple[str, list[nn.Parameter]]]:
    """Names and parameters from the output to the input; every parameter of the model is in one of them."""
    above = [anatomy.unembed, anatomy.final_norm]
    stages = [("unembed", [p for module in above if module is not None for p in module.parameters()])]
    for index in reversed(range(anatomy.n_layers)):
        stages.append((f"layer {index}", list(anatomy.layers[index].layer.parameters())))
    seen = {id(p) for _, parameters in stages for p in parameters}
    stages.append(("embed", [p for p in anatomy.hf.parameters() if id(p) not in seen]))
    return stages


def _drawn(parameter: Tensor, draw: str, generator: torch.Generator) -> Tensor:
    if draw == "shuffle":
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        return parameter.flatten()[order].view_as(parameter)
    wide = in_float64(parameter)
    spread = wide.std(correction=0)
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(wide.device)
    return (wide.mean() + spread * noise).to(parameter)
