"""Logit spectroscopy (PRIMER 4.3.13): the stream in bands of the unembedding's singular values.

    W_U = U S V^T, the final norm's gain folded in;    U = [U_1 ... U_N], equal numbers of columns, largest values first
    logits of band b = x U_b S_b V_b^T = (x U_b U_b^T) W_U,    which sum to x W_U over the bands
    coverage of band b by x = |x U_b|^2 / |x|^2,               which sum to 1

x is the stream, divided by the final norm's denominator where it becomes logits. The last band is nearly silent in the
logits: what is written there is for later layers only ("dark signals"). V is not formed: U and S come from the triangle
of a QR decomposition of W_U^T. Cancedda has W_U as (vocab, d_model), so that his right singular vectors are U here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens_statistics import Places, followed
from caseback.decode.vocabulary.weights.named_matrices import table_of, weights_of
from caseback.errors import CasebackError, OutOfRange, UnknownSite
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import SITES
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Index, Project
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Target
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@checked
class Spectrum:
    """The unembedding's singular directions in the stream, cut into bands (PRIMER 4.3.13).

    Parameters
    ----------
    model
        The model.
    bands
        How many, each of about d_model / bands directions; Cancedda 2024 takes 20.
    folded
        Multiply the final norm's gain (and centring, and the logit scale) in, as the paper does.

    Attributes
    ----------
    U, S
        (d_model, d_model) and (d_model,), largest singular value first.
    ranges
        The directions of each band, as ``range`` objects.

    Raises
    ------
    OutOfRange
        For fewer than 1 band or more than there are directions.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> spectrum = Spectrum(model, bands=8)
    >>> run = model.run("the cat and the", edits=spectrum.filter([7], layer=1, pos=slice(1, None)))
    >>> torch.allclose(spectrum.coverage(run.logits.new_ones(model.d_model)).sum(), torch.ones(()), atol=1e-5)
    True
    """

    def __init__(self, model: Model, bands: int = 20, *, folded: bool = True):
        table = table_of(weights_of(model, folded), "out")
        if not 1 <= bands <= len(table):
            raise OutOfRange(f"bands={bands}: expected 1 to {len(table)}, the model's width")
        # W_U^T = Q R with orthonormal Q, so the small R^T has the same U and S as W_U
        triangle = torch.linalg.qr(table.mT, mode="r").R
        # all of the stream, also where the vocabulary is smaller than it
        self.U, values, _ = torch.linalg.svd(triangle.mT, full_matrices=True)
        self.S = torch.zeros(len(table), dtype=values.dtype, device=values.device)
        self.S[: len(values)] = values
        self.model, self.folded = model, folded
        edges = [round(i * len(table) / bands) for i in range(bands + 1)]
        self.ranges = [range(a, b) for a, b in zip(edges, edges[1:], strict=False)]

    def __len__(self) -> int:
        return len(self.ranges)

    def basis(self, bands: int | Sequence[int]) -> Float[Tensor, "k d_model"]:
        """Orthonormal directions of some bands; negative ones count from the last.

        Raises
        ------
        OutOfRange
            For a band that is not there, or none.
        """
        wanted = [bands] if isinstance(bands, int) else list(bands)
        wrong = [b for b in wanted if not -len(self) <= b < len(self)]
        if wrong or not wanted:
            raise OutOfRange(f"bands {wrong or wanted}: there are {len(self)}, 0 (largest values) to {len(self) - 1}")
        columns = sorted({i for b in wanted for i in self.ranges[b]})
        return self.U[:, columns].mT

    def coverage(self, x: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims rank"]:
        """|x U_b|^2 / |x|^2 of every band; NaN for a vector of zeros, which no band covers.

        Raises
        ------
        CasebackError
            For vectors of another width.
        """
        if x.shape[-1] != len(self.S):
            raise CasebackError(f"vectors of width {x.shape[-1]} in a spectrum of width {len(self.S)}")
        parts = self.squares(x)
        return parts / parts.sum(-1, keepdim=True)

    def squares(self, x: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims rank"]:
        """|x U_b|^2 of every band."""
        return self._per_band((at_least_float32(x).to(self.U) @ self.U).pow(2))

    def filter(
        self,
        bands: int | Sequence[int],
        *,
        site: str = "resid_post",
        layer: Index = None,
        pos: Positions = None,
        keep: bool = False,
    ) -> Project:
        """The edit that suppresses some bands of a site, or keeps them alone.

        Parameters
        ----------
        bands
            Which, negative ones from the last.
        site, layer, pos
            Where; all layers and positions by default. Sinks live in the last band of the first position:
            ``pos=slice(1, None)`` spares it.
        keep
            Keep these bands and suppress the others.

        Raises
        ------
        UnknownSite
            For a site that is not a direction of the stream.
        """
        if site not in SITES or SITES[site].dims[-1] != "d_model":
            streams = [name for name, kind in SITES.items() if kind.dims[-1] == "d_model"]
            raise UnknownSite(f"{site!r} is not in the stream, where the bands are: choose one of {', '.join(streams)}")
        return Project(site=site, basis=self.basis(bands), keep=keep, layer=layer, pos=pos)

    def coordinates(self) -> dict[str, Any]:
        """The bands and the singular values at their ends, for results."""
        values = self.S.tolist()
        return {
            "rank": range(len(self)),
            "sigma_first": ("rank", [values[r[0]] for r in self.ranges]),
            "sigma_last": ("rank", [values[r[-1]] for r in self.ranges]),
        }

    def _per_band(self, x: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims rank"]:
        return torch.stack([x[..., r[0] : r[-1] + 1].sum(-1) for r in self.ranges], -1)


@technique(role="lens", entry=("4.3.13",), citation="Cancedda 2024", cost="one QR of W_U + one forward")
def spectral_coverage(
    model: Model,
    tokens: PromptsLike,
    *,
    bands: int = 20,
    site: str = "resid_post",
    pos: int | None = None,
    folded: bool = True,
) -> xr.DataArray:
    """Measure how much of what a site holds lies in each band of the unembedding, layer by layer.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    bands, folded
        As for ``Spectrum``.
    site
        A site of every layer that is in the stream: the stream itself or a write, ``"attn_out"``, ``"mlp_out"``, or
        ``"head_out"`` for each head's.
    pos
        One position of each prompt; all by default.

    Returns
    -------
    xr.DataArray
        (layer, batch, pos, head, rank), without pos where one is given and without head where the site has none: shares
        that sum to 1 over the bands ``rank``, which has ``sigma_first`` and ``sigma_last`` beside it; NaN where a
        shorter prompt has no token, or nothing is written.

    Raises
    ------
    UnknownSite
        For a site that is not in the stream of every layer.
    OutOfRange
        For a position or a number of bands that is not there.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> shares = spectral_coverage(model, "the cat and the dog", bands=4, site="mlp_out")
    >>> shares.dims, bool((abs(shares.sum("rank") - 1) < 1e-5).all())
    (('layer', 'batch', 'pos', 'rank'), True)
    """
    kind = SITES.get(site)
    if kind is None or not kind.layered or kind.dims not in (("pos", "d_model"), ("pos", "head", "d_model")):
        names = [n for n, s in SITES.items() if s.layered and s.dims[-1] == "d_model"]
        raise UnknownSite(f"{site!r} is not in the stream of every layer: choose one of {', '.join(names)}")
    spectrum, tokens = Spectrum(model, bands, folded=folded), model.tokens(tokens)
    at = Places(tokens, pos)
    run = model.run(tokens, read=[site])
    layers = [s.layer for s in model.anatomy.sites(site)]
    rows = [spectrum.coverage(run[site, i][at.example, at.column].detach()) for i in layers]
    lead = ["layer", "batch"] if at.single else ["layer", "batch", "pos"]
    heads = ["head"] if "head" in kind.dims else []
    return labelled(
        at.put(torch.stack(rows).cpu().numpy()),
        [*lead, *heads, "rank"],
        {"layer": layers, **spectrum.coordinates()},
        name="coverage",
        technique=spectral_coverage,
        model=model,
        site=site,
        bands=bands,
        folded=folded,
    )


@technique(role="lens", entry=("4.3.13",), citation="Cancedda 2024", cost="one QR of W_U + one forward")
def band_logits(
    model: Model,
    tokens: PromptsLike,
    targets: Target | Sequence[Target],
    *,
    bands: int = 20,
    pos: int = -1,
    edits: Edit | Sequence[Edit] = (),
) -> xr.DataArray:
    """Split targets' logits into the shares of the bands: they sum to the model's logits, bias and soft-cap apart.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    targets
        Tokens, as for ``logit_lens``.
    bands
        How many.
    pos
        The position of each prompt that is read.
    edits
        Interventions under which the model runs.

    Returns
    -------
    xr.DataArray
        (batch, rank, vocab), before any soft-cap. The coordinate ``bias`` (batch, vocab) is what no band gives: the
        unembedding's bias and that of the final norm. The attribute ``gap`` is the largest difference between the
        sum, soft-capped where the model does, and the model's own logits.

    Raises
    ------
    TargetError
        For a target that is not one token.
    OutOfRange
        For a position or a number of bands that is not there.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> shares = band_logits(model, "When Mary and John went to the store, John gave a drink to", " Mary", bands=4)
    >>> shares.dims, shares.attrs["gap"] < 1e-3
    (('batch', 'rank', 'vocab'), True)
    """
    tokens = model.tokens(tokens)
    spectrum, wanted, at = Spectrum(model, bands), followed(model, tokens, targets), Places(tokens, pos)
    if not wanted.shape[1]:
        raise CasebackError("no target is given: name at least one token")
    last = model.n_layers - 1
    run = model.run(tokens, read=[("resid_post", last)], edits=edits)
    weights = weights_of(model, True)
    x = at_least_float32(run["resid_post", last][at.example, at.column].detach())
    x = x if weights.final_norm is None else weights.final_norm(x)
    directions = weights.W_U.mT[wanted.to(x.device)].to(x)
    mine, bias = x.to(spectrum.U) @ spectrum.U, at_least_float32(weights.b_U)[wanted.to(x.device)]
    shares = spectrum._per_band(mine[:, None] * (directions.to(mine) @ spectrum.U)).mT
    total = shares.sum(1) + bias.to(shares)
    cap = model.anatomy.logit_softcap
    total = total if cap is None else torch.tanh(total / cap) * cap
    own = run.logits[at.example, at.column].gather(-1, wanted.to(run.logits.device))
    texts = [[model.token_text(i) for i in row] for row in wanted.tolist()]
    return labelled(
        shares,
        ["batch", "rank", "vocab"],
        {**spectrum.coordinates(), "target": (("batch", "vocab"), texts), "bias": (("batch", "vocab"), bias)},
        name="logit",
        technique=band_logits,
        model=model,
        bands=bands,
        pos=pos,
        softcap=cap,
        gap=float((total - own.to(total)).abs().max()),
    )
