"""Nonnegative factors of a prompt's neurons: which neurons are active together, at which tokens.

    A ~ W H,   A (pos, neuron) = max(a, 0) or |a|,   W (pos, factor), H (factor, neuron) >= 0,   |A - W H|^2 least

Nothing is trained on a corpus: it is a first look at one prompt, and factors of another prompt are others. Rows of H
have the norm 1, so W says how active a factor is; a factor writes  sum over neurons of  H W_out,  with the sign that
each neuron has where the factor is active.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from caseback.decode.vocabulary.weights.named_matrices import matrix_of, table_of, weights_of
from caseback.errors import ArgumentError, CasebackError, OutOfRange
from caseback.model.algebra.under_edits import expect_unedited
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    entry=("4.2.16",),
    citation="Lee & Seung 1999; Alammar 2021",
    cost="one forward pass, and one factorization of (pos, neuron)",
)
def neuron_factors(
    model: Model,
    prompt: PromptsLike,
    n_factors: int = 8,
    *,
    layers: Sequence[int] | None = None,
    part: Literal["positive", "absolute"] = "positive",
    skip: int = 1,
    top: int = 8,
    steps: int = 500,
    seed: int = 0,
) -> xr.Dataset:
    """Factor the activations of a prompt's MLP neurons.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt.
    n_factors
        How many; ten or fewer can be looked at.
    layers
        Whose neurons are factored together; all by default.
    part
        What of an activation is factored: ``"positive"``, max(a, 0), all there is of ReLU, or ``"absolute"``, |a|,
        where gates make neurons negative as often.
    skip
        First tokens that are left out: a sink's neurons would be most of the squares.
    top
        Words of a factor, and neurons.
    steps
        Updates at most.
    seed
        Same seed, same result. It completes the start, which follows from the singular vectors.

    Returns
    -------
    xr.Dataset
        ``activation`` (component, pos), 0 at skipped tokens, ``weight`` (component, neuron), all layers' neurons one
        behind another, with ``neuron_layer`` and ``neuron_index`` beside; the largest factor first. ``top_neuron``
        (component, rank) as names, ``up_token`` and ``up`` (component, k), the words whose logits a factor raises most
        on the direct path for an activation of 1. ``share`` (component), of all squares what goes without it; attribute
        ``explained``, 1 - |A - W H|^2 / |A|^2.

    Raises
    ------
    ArgumentError
        For several prompts, or another part.
    CasebackError
        For neurons that are all 0 or not finite.
    OutOfRange
        For more factors than tokens or neurons, and a layer that there is not.
    SiteAbsent
        For a layer without neurons of its own, such as a mixture of experts.

    Examples
    --------
    >>> import caseback as cb
    >>> factors = neuron_factors(cb.load("meadow"), "Mary went to the store, and John went to the park", 3)
    >>> factors.activation.sizes["component"], bool(factors.attrs["explained"] > 0.3)
    (3, True)
    """
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise ArgumentError(f"{len(tokens)} prompts: expected one")
    if part not in ("positive", "absolute"):
        raise ArgumentError(f"part {part!r}: expected 'positive' or 'absolute'")
    if skip < 0 or top < 1 or steps < 1:
        raise OutOfRange(f"skip {skip}, top {top}, steps {steps}: expected 0, 1 and 1 at least")
    chosen = list(range(model.n_layers)) if layers is None else [model.anatomy.layer(i) for i in layers]
    if not chosen or len(set(chosen)) != len(chosen):
        raise OutOfRange(f"layers {chosen}: expected one or more, each once")
    expect_unedited(model.anatomy, "a factor of what neurons write", {"mlp_out"}, "edit the neurons, mlp_post")
    weights = weights_of(model, True)
    writes: list[Any] = [matrix_of(model, weights, "out", layer) for layer in chosen]
    run = model.run(tokens, read=[("mlp_post", layer) for layer in chosen])
    signed = torch.cat([run["mlp_post", layer][0] for layer in chosen], -1).detach().cpu().double()
    signed = signed[tokens.mask[0].cpu()]
    a = (signed.clamp_min(0) if part == "positive" else signed.abs()).numpy()[skip:]
    if not 1 <= n_factors <= min(a.shape):
        raise OutOfRange(f"{n_factors} factors of {a.shape[0]} tokens and {a.shape[1]} neurons: expected no more")
    if not np.isfinite(a).all() or not a.any():
        raise CasebackError("the neurons are all 0, or not finite: there is nothing to factor")
    w, h = _factors(a, n_factors, steps, seed)
    sign = np.sign(w.T @ signed.numpy()[skip:]) if part == "absolute" else 1.0
    sizes = [len(each) for each in writes]
    ends = np.cumsum(sizes)
    direction: Any = sum(
        torch.from_numpy((sign * h)[:, end - size : end]).to(each) @ each
        for each, size, end in zip(writes, sizes, ends, strict=True)
    )
    logits = direction @ table_of(weights, "out")
    logits = logits - logits.mean(-1, keepdim=True)
    up = logits.topk(min(top, logits.shape[-1]))
    of_layer, index = np.repeat(chosen, sizes), np.concatenate([np.arange(size) for size in sizes])
    strongest = np.argsort(-h, axis=1, kind="stable")[:, :top]
    names = np.array([[f"L{of_layer[i]}N{index[i]}" for i in row] for row in strongest], dtype=object)
    words = np.array([[model.token_text(i) for i in row] for row in up.indices.tolist()], dtype=object)
    left = ((a - w @ h) ** 2).sum()
    without = np.array([((a - np.delete(w, i, 1) @ np.delete(h, i, 0)) ** 2).sum() for i in range(n_factors)])
    dims = ("component", "k")
    of = labelled(
        np.pad(w.T, ((0, 0), (skip, 0))),
        ["component", "pos"],
        {"token": ("pos", np.array(tokens.text[0], dtype=object))},
        technique=neuron_factors,
        model=model,
        **{"part": part, "skip": skip, "seed": seed, "layers": chosen, "explained": float(1 - left / (a**2).sum())},
    )
    return xr.Dataset(
        {
            "activation": of.variable,
            "weight": (("component", "neuron"), h),
            "share": (("component",), (without - left) / (a**2).sum()),
            "top_neuron": (("component", "rank"), names),
            "up_token": (dims, words),
            "up": (dims, up.values.detach().cpu().double().numpy()),
        },
        {"token": of.token, "neuron_layer": ("neuron", of_layer), "neuron_index": ("neuron", index)},
        of.attrs,
    )


def _factors(a: np.ndarray, n: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """W and H, rows of H of norm 1, the factor with the largest activations first."""
    options: dict[str, Any] = {"init": "nndsvda", "max_iter": steps, "tol": 1e-6, "random_state": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = NMF(**{"n_components": n, **options})
        w = fitted.fit_transform(a)
    h = fitted.components_
    norms = np.linalg.norm(h, axis=1)
    w, h = w * norms, h / np.where(norms > 0, norms, 1)[:, None]
    order = np.argsort(-np.linalg.norm(w, axis=0), kind="stable")
    return w[:, order], h[order]
