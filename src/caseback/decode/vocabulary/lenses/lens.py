"""A fitted lens: one affine map per depth, from the stream there to the stream that the model unembeds.

    lens_r(h) = unembed(h W_r + b_r),    r = 0 (the embedding), 1 (after layer 0), ..., n_layers (the end)

Tuned lenses (h + h A + b), translators (h A + b) and Jacobian lenses (h J^T) are all of this form, so one class holds
them, one function reads prompts through them, and one file holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens_statistics import Places, expect_sizes, followed, labelled_readings, read
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.fingerprint import fingerprint as digest_of
from caseback.jobs.fingerprint import raw_digest
from caseback.model.anatomy.dense import weight_matrix
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.display import Displayed
from caseback.model.registry import technique
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Target
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike
from caseback.model.running.verify import unembed


@dataclass(frozen=True)
class Lens(Displayed):
    """Affine maps into the stream that the model unembeds.

    Attributes
    ----------
    kind
        How it was made: ``"tuned"``, ``"translator"``, ``"jacobian"``, ``"future"`` ...
    rows
        Where each map reads: r is the stream before layer r, so 0 is the embedding and ``n_layers`` the end.
    weight
        (row, d_model, d_model), in the orientation ``h @ W``.
    bias
        (row, d_model).
    n_layers
        Of the model.
    ahead
        The map at t gives the stream of t + ahead.
    fingerprint
        Of the unembedding that it was fitted for, and of the edits that the model stood under; empty where that is
        unknown.
    provenance
        How it was fitted, for people: corpus, steps, losses.
    """

    kind: str
    rows: tuple[int, ...]
    weight: Float[Tensor, "row d_model d_model"] = field(repr=False)
    bias: Float[Tensor, "row d_model"] = field(repr=False)
    n_layers: int
    ahead: int = 0
    fingerprint: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return self.weight.shape[-1]

    def transport(self, row: int, h: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims d_model"]:
        """The stream before layer ``row`` carried to the end.

        Raises
        ------
        OutOfRange
            Where the lens has no map for that row.
        """
        if row not in self.rows:
            raise OutOfRange(f"this lens has no map for row {row}: it has {', '.join(map(str, self.rows))}")
        i = self.rows.index(row)
        weight, bias = (x[i].to(h.device) for x in (self.weight, self.bias))
        wide = h.to(torch.promote_types(h.dtype, weight.dtype))
        return (wide @ weight.to(wide) + bias.to(wide)).to(h.dtype)

    def low_rank(self, rank: int, *, from_identity: bool = False) -> Lens:
        """The lens with each map replaced by its best approximation of a rank (Eckart-Young).

        Parameters
        ----------
        rank
            How many singular directions are kept.
        from_identity
            Approximate W - I instead of W, which suits maps that are near the identity.

        Raises
        ------
        OutOfRange
            For a rank that is not between 1 and d_model.
        """
        if not 1 <= rank <= self.d_model:
            raise OutOfRange(f"rank {rank}: expected 1 to {self.d_model}")
        base = torch.eye(self.d_model).to(self.weight) * from_identity
        u, s, vh = torch.linalg.svd(self.weight - base)
        weight = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :] + base
        return replace(self, weight=weight, provenance={**self.provenance, "rank": rank})

    def expect(self, model: Model) -> None:
        """Refuse a model that the lens was not fitted for.

        Raises
        ------
        CasebackError
            Where width, depth, the unembedding or the edits that the model stands under differ.
        """
        if (self.d_model, self.n_layers) != (model.d_model, model.n_layers):
            raise CasebackError(
                f"this lens is for {self.n_layers} layers of width {self.d_model}, and {model.name!r} has "
                f"{model.n_layers} of width {model.d_model}: fit one on this model"
            )
        if self.fingerprint and self.fingerprint != fingerprint(model):
            raise CasebackError(
                f"this lens was fitted for another unembedding, or under other edits, than {model!r} (fingerprint "
                f"{self.fingerprint[:12]}, the model's is {fingerprint(model)[:12]}): fit one on this model, or give "
                "edits to the call that reads"
            )


def fingerprint(model: Model) -> str:
    """A checksum of what turns the final stream into logits: the final norm's gain and the unembedding, in float32.

    Of a model under edits these are in it too: states that they change are not those that a lens was fitted on.

    Examples
    --------
    >>> import caseback as cb
    >>> fingerprint(cb.load("meadow")) == fingerprint(cb.load("meadow"))
    True
    """
    anatomy = model.anatomy
    norm = None if anatomy.final_norm is None else anatomy.norms[anatomy.final_norm]
    parts = [weight_matrix(anatomy.unembed)] + ([] if norm is None else [norm.gamma])
    edits = [digest_of(list(anatomy.standing), "edits").encode()] if anatomy.standing else []
    return raw_digest(*(part.detach().cpu().double().numpy().astype(np.float32) for part in parts), *edits)


@technique(
    role="lens",
    entry=("4.3.2", "4.3.3", "4.3.5", "B.1"),
    citation="Belrose et al. 2023, Din et al. 2023, Pal et al. 2023",
    cost="one forward + layers x positions x (d_model^2 + unembedding)",
)
def read_lens(
    model: Model,
    tokens: PromptsLike,
    lens: Lens,
    *,
    targets: Target | Sequence[Target] = (),
    pos: int | None = None,
    k: int = 5,
    edits: Edit | Sequence[Edit] = (),
    max_logits: int | None = None,
) -> xr.Dataset:
    """Read the stream at every depth through a fitted lens.

    Parameters
    ----------
    model
        The model. It must be the one that the lens was fitted for.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    lens
        From ``fit_tuned_lens``, ``fit_translators``, ``fit_jacobian_lens``, ``fit_future_lens`` or a file.
    targets, pos, k, edits, max_logits
        As for ``logit_lens``.

    Returns
    -------
    xr.Dataset
        As of ``logit_lens``. Rows are those of the lens and the end of the model, which is its own output. A lens
        that looks ``ahead`` is compared with the model's prediction at t + ahead and the token that followed it;
        positions without such a token are absent, and there is no row for the end.

    Raises
    ------
    CasebackError
        For a lens of another model.
    TargetError, OutOfRange
        As for ``logit_lens``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import fit_translators
    >>> model = cb.load("meadow")
    >>> lens = fit_translators(model, ["Mary went to the store.", "John saw the dog at the park."])
    >>> read_lens(model, "the cat and the dog", lens)["kl"].dims
    ('layer', 'batch', 'pos')
    """
    lens.expect(model)
    max_logits = limit("lens_logits", given=max_logits)
    expect_sizes(k, max_logits)
    tokens = model.tokens(tokens)
    rows = list(lens.rows)
    if not lens.ahead and rows[-1] != model.n_layers:
        rows.append(model.n_layers)
    wanted = followed(model, tokens, targets)
    at = Places(tokens, pos, lens.ahead)
    run = model.run(tokens, read=[stream_at(model, row) for row in rows], edits=edits)

    def states(i: int, example: Tensor, column: Tensor) -> Tensor:
        site = stream_at(model, rows[i])
        value = run[site.name, site.layer]
        h = value[example.to(value.device), column.to(value.device)].detach()[:, None]
        return lens.transport(rows[i], h) if rows[i] in lens.rows else h

    to_logits = partial(unembed, model.anatomy)
    readings, _ = read(run, len(rows), states, to_logits, 1, at, wanted, min(k, model.d_vocab), max_logits)
    attrs = {"site": "resid_post", "k": k, "lens": lens.kind, "ahead": lens.ahead or None}
    return labelled_readings(model, [row_name(row) for row in rows], at, wanted, readings, read_lens, attrs)


def stream_at(model: Model, row: int) -> Site:
    """The stream before layer ``row``; after the last layer for ``row = n_layers``."""
    return Site("resid_pre", row) if row < model.n_layers else Site("resid_post", row - 1)


def row_name(row: int) -> str:
    """What results call a row: ``"embed"``, or the layer after which the stream is read."""
    return "embed" if row == 0 else str(row - 1)


def streams(model: Model, tokens: PromptsLike, rows: Sequence[int]) -> dict[int, Float[Tensor, "batch pos d_model"]]:
    """The stream at several depths, in float32 at least, from one run that unembeds nothing."""
    sites = {row: stream_at(model, row) for row in rows}
    run = execute(model.anatomy, model.tokens(tokens), read=list(dict.fromkeys(sites.values())), logits=False)
    return {row: at_least_float32(run[site.name, site.layer].detach()) for row, site in sites.items()}
