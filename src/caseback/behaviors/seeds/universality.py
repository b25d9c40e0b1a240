"""Universal units: those of one model that are in another too, which began from another seed (5.2.15).

    r(u)       = max over v of |corr(x_u, y_v)|          v: any unit of the other model
    control(u) = the same with the other's activations rotated at random within each layer:  y R
    excess     = r - control,    universal: excess > .5

Everything follows from streamed moments: corr(x_u, (y R)_v) is (C_xy R)_uv over the deviations, where those of y R are
the root of the diagonal of Rᵀ C_yy R. The rotation is orthogonal, so the other model's layers carry the same as before
and no unit of theirs does. (The reference code draws a Gaussian matrix with rows of length one, which is none.)
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.seeds.moments import Moments, Read, moments
from caseback.errors import CasebackError
from caseback.model.algebra.bases import random_rotation
from caseback.model.graph.names import Name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.stream.documents import Corpus

UNITS = {"neuron": Read("mlp_post"), "head": Read("head_out", lambda x: x.norm(dim=-1))}
UNIVERSAL = 0.5


@technique(
    entry=("5.2.15",),
    citation="Gurnee et al. 2024",
    cost="a forward of both models per token, for each group of layers whose cross moments fit",
)
def universality(
    model: Model,
    other: Model,
    corpus: Corpus,
    *,
    units: str = "neuron",
    n_tokens: int | None = None,
    length: int | None = None,
    skip: int = 4,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """How well each unit of a model is matched by its nearest in another, beside the other model rotated.

    Parameters
    ----------
    model
        The model whose units are asked about.
    other
        A model of the same tokenizer, such as another seed or checkpoint.
    corpus
        Text, as ``caseback.stream.collect`` takes it.
    units
        ``"neuron"``, or ``"head"``: a head's activation is the length of what it writes.
    n_tokens
        Stop the text after about so many tokens; by default it is read to its end.
    length
        Tokens per row of text; 128 by default, or the context where that is shorter.
    skip
        First tokens of each row that do not count.
    seed
        Same seed, same result. Draws the rotations.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By ``component``: ``correlation`` and ``control``, absolute Pearson correlations of the nearest unit, their
        difference ``excess``, and ``nearest``, which unit that is; a constant unit has 0. The attribute ``universal``
        is the share of units whose excess is past .5.

    Raises
    ------
    CasebackError
        For other units, models of different vocabularies, and a corpus without tokens past the skipped ones.

    References
    ----------
    Gurnee et al. 2024, "Universal neurons in GPT2 language models".

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> matched = universality(model, model, ["Mary gave a drink to John", "the cat is on the table"], units="head")
    >>> float(matched.correlation.min().round(6))
    1.0
    """
    if units not in UNITS:
        raise CasebackError(f"units {units!r}: expected one of {', '.join(UNITS)}")
    if skip < 0:
        raise CasebackError(f"skip={skip}: expected 0 or more")
    rotations: dict[int, Tensor] = {}
    names, nearest, n = [], [], 0
    correlation, control = [], []
    given = {"n_tokens": n_tokens, "length": length, "skip": skip, "progress": progress}
    for one in moments(model, other, corpus, UNITS[units], **given):
        draw, n = torch.Generator().manual_seed(seed), one.n
        for layer, within in one.other.items():
            if layer not in rotations:
                rotations[layer] = random_rotation(len(within), draw).to(within)
        best, where, rotated = _nearest(one, rotations)
        names += [str(Name(units, one.layer, i)) for i in range(len(best))]
        nearest += [str(Name(units, layer, i)) for layer, i in where]
        correlation.append(best.cpu().numpy())
        control.append(rotated.cpu().numpy())
    matched, chance = np.concatenate(correlation), np.concatenate(control)
    about = {"other": other.name, "units": units, "n_tokens": n, "skip": skip, "seed": seed}
    about["universal"] = float((matched - chance > UNIVERSAL).mean())
    return xr.Dataset(
        {
            name: labelled(values, ["component"], {"component": names}, technique=universality, model=model, **about)
            for name, values in (
                ("correlation", matched),
                ("control", chance),
                ("excess", matched - chance),
                ("nearest", np.array(nearest)),
            )
        },
        attrs=about,
    )


def _nearest(one: Moments, rotations: dict[int, Tensor]) -> tuple[Tensor, list[tuple[int, int]], Tensor]:
    """Of every unit of a layer: its best correlation, with which unit, and the best with a rotated one."""
    own = one.within.diagonal()
    by_layer, at, rotated = [], [], []
    for layer, cross in one.cross.items():
        best, index = _correlations(cross, own, one.other[layer].diagonal()).max(1)
        by_layer.append(best)
        at.append(index)
        turn = rotations[layer]
        spread = (turn * (one.other[layer] @ turn)).sum(0)
        rotated.append(_correlations(cross @ turn, own, spread).amax(1))
    best, which = torch.stack(by_layer).max(0)
    index = torch.stack(at).gather(0, which[None])[0]
    layers = list(one.cross)
    where = [(layers[layer], i) for layer, i in zip(which.tolist(), index.tolist(), strict=True)]
    return best, where, torch.stack(rotated).amax(0)


def _correlations(
    cross: Float[Tensor, "unit other"], own: Float[Tensor, " unit"], others: Float[Tensor, " other"]
) -> Float[Tensor, "unit other"]:
    """|r| from covariances and variances; 0 for what hardly varies, where rounding is all that is left."""
    scale = (own.clamp_min(0).sqrt()[:, None] * others.clamp_min(0).sqrt()).clamp_min(torch.finfo(cross.dtype).tiny)
    return torch.where(scale > 1e-12, cross.abs() / scale, 0.0).clamp_max(1.0)
