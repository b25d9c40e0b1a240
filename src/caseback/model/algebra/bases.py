"""Privileged bases (PRIMER 2.10): does a basis mean anything to the model?

An elementwise nonlinearity makes its basis meaningful. The residual stream has no such basis, since the weights could
absorb any rotation of it, yet training leaves one. Its sign is the kurtosis of activations over their coordinates,

    kurt(x) = mean((x - mean x)^4) / mean((x - mean x)^2)^2,

3 without preferred directions and more where few coordinates carry much. It is compared with that of the same vectors
under a random rotation.
"""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import SiteAbsent
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


def kurtosis(x: Float[Tensor, "*dims unit"]) -> Float[Tensor, "*dims"]:
    """The kurtosis of each vector over its coordinates; 3 for Gaussian ones.

    Examples
    --------
    >>> float(kurtosis(torch.tensor([1.0, -1.0, 1.0, -1.0])))
    1.0
    """
    x = at_least_float32(x)
    x = x - x.mean(-1, keepdim=True)
    return x.pow(4).mean(-1) / x.pow(2).mean(-1).pow(2)


def random_rotation(size: int, generator: torch.Generator) -> Float[Tensor, "size size"]:
    """A uniformly random orthogonal matrix."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


@technique(role="decomposition", entry=("2.10",), citation="Elhage et al. 2023", cost="one forward")
def basis_kurtosis(
    model: Model, tokens: PromptsLike, site: str = "resid_post", *, rotations: int = 10, seed: int = 0
) -> xr.DataArray:
    """The mean kurtosis of a site's vectors over their coordinates, in the model's basis and in random ones.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. In short ones a first token with massive
        activations dominates.
    site
        A site with one vector per position, of the stream or of neurons.
    rotations
        How many random rotations it is compared with.
    seed
        Same seed, same result. Draws the rotations.

    Returns
    -------
    xr.DataArray
        (layer, variant): ``own`` is the model's basis, ``rotated`` the mean over rotations. The attribute
        ``rotated_std`` is the largest layer's standard deviation over rotations.

    Raises
    ------
    SiteAbsent
        For a site whose last dimension is not a vector of the stream or of neurons.

    Examples
    --------
    ::

        basis_kurtosis(model, texts, "mlp_post")
    """
    wanted = list(model.anatomy.sites(site))
    if wanted[0].kind.dims not in (("pos", "d_model"), ("pos", "neuron")):
        raise SiteAbsent(f"{site!r} holds {wanted[0].kind.dims} at a token: expected a site of one vector per position")
    run = model.run(tokens, read=wanted)
    generator = torch.Generator().manual_seed(seed)
    vectors = [at_least_float32(run[s])[run.tokens.mask] for s in wanted]
    turns = [random_rotation(vectors[0].shape[-1], generator).to(vectors[0]) for _ in range(rotations)]
    own = torch.stack([kurtosis(x).mean() for x in vectors])
    turned = torch.stack([torch.stack([kurtosis(x @ turn).mean() for turn in turns]) for x in vectors])
    return labelled(
        torch.stack([own, turned.mean(1)], 1),
        ["layer", "variant"],
        {"layer": [-1 if s.layer is None else s.layer for s in wanted], "variant": ["own", "rotated"]},
        name="kurtosis",
        technique=basis_kurtosis,
        model=model,
        site=site,
        rotations=rotations,
        rotated_std=float(turned.std(1).max()),
        seed=seed,
    )
