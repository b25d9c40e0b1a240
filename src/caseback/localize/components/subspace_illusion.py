"""Does a direction carry the metric, or does patching it wake a dormant one? (PRIMER 3.2.20)

    v = v_row + v_null,     v_null W = 0 for everything W that reads the site

Along v_null an activation may differ between prompts, but nothing downstream sees it; along v_row nothing need differ.
Patched along v, the difference of the first is written into the second: the metric moves as if v carried it, though
neither part does. The test is to patch v_row alone, which no part of the change has to pass through a direction that is
never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, EditError, OutOfRange
from caseback.localize.components.subspace import address, address_attrs, effects, orthonormal
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.prompts.per_token import expect_metric
from caseback.model.prompts.run_pair import base_and_source
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Resample, Swap
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="component effect",
    entry=("3.2.20",),
    citation="Makelov et al. 2024",
    cost="2 forwards + 4 x (the forward pass from there on)",
)
def subspace_illusion(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: Metric,
    direction: Float[Tensor, " d"],
    *,
    site: str,
    layer: int | None = None,
    head: int | None = None,
    pos: Positions = None,
    reads: Float[Tensor, "d m"] | None = None,
    patching: str = "noising",
    least: float = 0.05,
    kept: float = 0.75,
    lost: float = 0.25,
) -> xr.DataArray:
    """Patch a direction, and the part of it that is read downstream, and compare.

    Parameters
    ----------
    model, clean, corrupt, metric, site, layer, head, pos
        As for ``subspace_patch``.
    direction
        The direction v whose patch is in question; its length does not matter.
    reads
        What reads the site, as columns (d, m). None: W_out for ``mlp_post``, W_O for ``z`` of one head. Everything
        that comes after reads the stream, mostly all of it, so there the reader that is meant must be given: see
        ``query_reads``.
    patching
        ``"noising"`` or ``"denoising"``, as ``direction`` of ``subspace_patch``.
    least, kept, lost
        The verdict's thresholds, our own choice: v has an effect where its mean is at least ``least`` of the total
        change between the two runs; then it is ``"faithful"`` where the part that is read has at least ``kept`` of
        it, an ``"illusion"`` where it has at most ``lost``, and ``"unclear"`` between. Where v has no effect the
        verdict is ``"no effect"``.

    Returns
    -------
    xr.DataArray
        (variant, batch): what patching changes along ``v``, along its part that is read (``row``), along the rest
        (``null``) and for the ``full`` activation; NaN for a part that v does not have. ``share`` is each part's
        share of v's squared length. Attributes: ``verdict``, ``read_share`` (the effect of ``row`` over that of
        ``v``, of means over prompts) and the thresholds.

    Raises
    ------
    EditError
        For a direction of a wrong size, reads that do not fit, or a site that needs ``reads``.
    OutOfRange
        For thresholds out of order.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "the cat and the dog", "the dog and the dog"
    >>> v = torch.randn(model.weights.W_out[1].shape[0], generator=torch.Generator().manual_seed(0))
    >>> effects = subspace_illusion(model, *pair, cb.logit(" cat"), v, site="mlp_post", layer=1)
    >>> bool(abs(effects.sel(variant="null")).max() < 1e-4)  # nothing reads it
    True
    """
    metric = expect_metric(metric)
    if not (0 <= lost < kept and least > 0):
        raise OutOfRange(f"thresholds least={least}, kept={kept}, lost={lost}: expected least > 0 and 0 <= lost < kept")
    where = address(model, site, layer, head, pos)
    base, source = base_and_source(model, clean, corrupt, patching)
    run = model.run(source, read=[Site(where["site"], layer), *metric.reads])
    d = (run[where["site"]] if layer is None else run[where["site"], layer]).shape[-1]
    v, _ = orthonormal(direction, d, "direction")
    if len(v) != 1:
        raise EditError(f"direction has {len(v)} rows: expected one vector; subspace_patch takes subspaces")
    seen = row_space(_reads(model, where, d) if reads is None else reads, d)
    row = v @ seen @ seen.T
    split = {"v": v, "row": row, "null": v - row}
    sizes = {name: float((x**2).sum()) for name, x in split.items()}
    # what is left of a part that v lacks is rounding, and has no direction
    there = {name: x for name, x in split.items() if sizes[name] > 1e-12}
    edits: list[Edit] = [Swap(basis=x / x.norm(), source=run, **where) for x in there.values()]
    changes, values, other = effects(model, base, [*edits, Resample(source=run, **where)], metric, run)
    by_part = dict(zip([*there, "full"], changes, strict=True))
    total = np.stack([by_part.get(name, np.full(len(values), np.nan)) for name in (*split, "full")])
    verdict, share = _verdict(by_part, other - values, least, kept, lost)
    names = ("clean", "corrupt") if patching == "noising" else ("corrupt", "clean")
    return labelled(
        total,
        ["variant", "batch"],
        {
            "variant": [*split, "full"],
            "share": ("variant", [*sizes.values(), np.nan]),
            names[0]: ("batch", values),
            names[1]: ("batch", other),
        },
        name="effect",
        technique=subspace_illusion,
        model=model,
        metric=metric.name,
        target=metric.target,
        foil=metric.foil,
        direction=patching,
        verdict=verdict,
        read_share=share,
        read_rank=seen.shape[1],
        least=least,
        kept=kept,
        lost=lost,
        **address_attrs(where),
    )


def query_reads(model: Model, heads: Sequence[tuple[int, int]]) -> Float[Tensor, "d_model m"]:
    """What some heads' queries read of the stream: their W_Q with the norm folded in, side by side.

    Parameters
    ----------
    model
        The model.
    heads
        (layer, head) pairs.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tuple(query_reads(model, [(1, 0), (1, 2)]).shape) == (model.d_model, 2 * model.d_head)
    True
    """
    if not heads:
        raise CasebackError("no head is given: expected (layer, head) pairs")
    folded = model.weights.folded()
    return torch.cat([folded.W_Q[layer, head] for layer, head in heads], -1)


def row_space(reads: Any, d: int) -> Float[Tensor, "d rank"]:
    """An orthonormal basis of what some columns (d, m) see of a site, without those that see next to nothing.

    Raises
    ------
    EditError
        For reads that do not fit the site.
    """
    reads = torch.as_tensor(reads).detach()
    if reads.ndim != 2 or reads.shape[0] != d:
        raise EditError(f"reads has shape {tuple(reads.shape)}: expected ({d}, m), what reads the site as columns")
    u, s, _ = torch.linalg.svd(reads.cpu().double(), full_matrices=False)
    floor = s.max() * max(reads.shape) * torch.finfo(at_least_float32(reads).dtype).eps
    return u[:, s > floor]


def _reads(model: Model, where: dict[str, Any], d: int) -> Tensor:
    """The one matrix that reads a site, where there is one."""
    site, layer, head = where["site"], where["layer"], where["head"]
    if site == "mlp_post":
        return model.weights.W_out[layer]
    if site == "z" and head is not None and model.anatomy.head_site == "z":
        return model.weights.W_O[layer, head]
    raise EditError(
        f"{site!r} is read by more than one matrix: say by which with reads=, ({d}, m), such as query_reads(model, "
        "[(layer, head), ...]); 'mlp_post', and 'z' of one head=, have their own"
    )


def _verdict(
    by_part: dict[str, np.ndarray], change: np.ndarray, least: float, kept_share: float, lost_share: float
) -> tuple[str, float | None]:
    """The verdict, and the effect of the part that is read over that of the whole direction."""
    whole, total = float(by_part["v"].mean()), float(np.abs(change).mean())
    if total == 0 or abs(whole) < least * total:
        return "no effect", None
    share = float(by_part["row"].mean()) / whole if "row" in by_part else 0.0
    if share >= kept_share:
        return "faithful", share
    return ("illusion" if share <= lost_share else "unclear"), share
