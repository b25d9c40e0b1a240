"""Subspace patching: only what an activation has in a subspace takes the other run's value (PRIMER 3.2.19).

    h = h(base) + (h(source) - h(base)) U^T U,     rows of U (k, d) orthonormal

Also called a distributed interchange intervention. With k = d it is full patching; any rotation of U's rows within
their span is the same intervention. That it changes the metric does not show that the subspace carried what was
patched: see ``subspace_illusion``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import EditError
from caseback.model.anatomy.sites import Site
from caseback.model.prompts.per_token import expect_metric
from caseback.model.prompts.run_pair import base_and_source
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Resample, Swap
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens

Basis = Float[Tensor, "k d"]


@technique(
    role="component effect",
    entry=("3.2.19",),
    citation="Geiger et al. 2023",
    cost="2 forwards + bases x (the forward pass from there on)",
)
def subspace_patch(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: Metric,
    bases: Basis | Mapping[str, Basis],
    *,
    site: str,
    layer: int | None = None,
    head: int | None = None,
    pos: Positions = None,
    direction: str = "noising",
) -> xr.DataArray:
    """Exchange what lies in a subspace of an activation with the other run's, and measure.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned, one or one per prompt: ``Tokens``, or anything that
        ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    bases
        Rows that span the subspace, (k, d) or (d,), d the size of the site's last dimension; or several by name. Rows
        that are not orthonormal are replaced by an orthonormal basis of their span, and the coordinate
        ``orthonormalised`` says so.
    site, layer, head, pos
        Where: any site that can be edited, but maps of attention. Layer and head are as in edits; at a site with
        heads and no ``head`` each head's own subspace is exchanged. ``pos`` counts each prompt's own positions;
        everywhere by default.
    direction
        ``"noising"``: the corrupt run's part into the clean run. ``"denoising"``: the clean run's into the corrupt.

    Returns
    -------
    xr.DataArray
        (variant, batch), the metric of the patched run less that of the run patched into, for each basis and, last,
        for the ``full`` activation; with each one's ``rank`` and the metrics ``clean`` and ``corrupt`` beside it.

    Raises
    ------
    EditError
        For a basis of a wrong size or of dependent rows, a site that cannot be patched, a basis called "full".

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "the cat and the dog", "the dog and the dog"
    >>> plane = torch.eye(model.d_model)[:2]
    >>> subspace_patch(model, *pair, cb.logit(" cat"), plane, site="resid_post", layer=0).dims
    ('variant', 'batch')
    """
    metric = expect_metric(metric)
    where = address(model, site, layer, head, pos)
    named = bases if isinstance(bases, Mapping) else {"subspace": bases}
    if "full" in named:
        raise EditError("a basis is called 'full', which is the whole activation's name: call it something else")
    base, source = base_and_source(model, clean, corrupt, direction)
    run = model.run(source, read=[Site(where["site"], layer), *metric.reads])
    d = (run[where["site"]] if layer is None else run[where["site"], layer]).shape[-1]
    orthonormal_bases = {name: orthonormal(basis, d, name) for name, basis in named.items()}
    edits: list[Edit] = [Swap(basis=basis, source=run, **where) for basis, _ in orthonormal_bases.values()]
    changes, values, other = effects(model, base, [*edits, Resample(source=run, **where)], metric, run)
    names = ("clean", "corrupt") if direction == "noising" else ("corrupt", "clean")
    return labelled(
        changes,
        ["variant", "batch"],
        {
            "variant": [*orthonormal_bases, "full"],
            "rank": ("variant", [*(len(basis) for basis, _ in orthonormal_bases.values()), d]),
            "orthonormalised": ("variant", [*(changed for _, changed in orthonormal_bases.values()), False]),
            names[0]: ("batch", values),
            names[1]: ("batch", other),
        },
        name="effect",
        technique=subspace_patch,
        model=model,
        metric=metric.name,
        target=metric.target,
        foil=metric.foil,
        direction=direction,
        **address_attrs(where),
    )


def address(model: Model, site: str, layer: int | None, head: int | None, pos: Positions) -> dict[str, Any]:
    """Where a subspace is exchanged, as an edit's arguments.

    Raises
    ------
    EditError
        For a site that cannot be patched, or one whose layer is not given.
    """
    resolved = next(iter(model.anatomy.sites(site if layer is None else (site, layer))))
    if not resolved.kind.editable or resolved.name in ("scores", "pattern", "logits"):
        raise EditError(f"{resolved.name!r} has no subspace to patch: choose a site of the stream, a head or an MLP")
    if resolved.kind.layered and layer is None:
        raise EditError(f"a subspace belongs to one layer: give layer= for {resolved.name!r}")
    if not resolved.kind.layered and layer is not None:
        raise EditError(f"{resolved.name!r} is not in a layer: leave out layer={layer}")
    return {"site": resolved.name, "layer": layer, "head": head, "pos": pos}


def address_attrs(where: Mapping[str, Any]) -> dict[str, Any]:
    """An address as attributes."""
    pos = where["pos"]
    shown = pos.tolist() if isinstance(pos, Tensor) else str(pos) if isinstance(pos, slice) else pos
    return {"site": where["site"], "site_layer": where["layer"], "site_head": where["head"], "pos": shown}


def orthonormal(basis: Any, d: int, name: str = "subspace") -> tuple[Basis, bool]:
    """Orthonormal rows with the span of those given, and whether they had to be made so.

    Raises
    ------
    EditError
        Where the rows are not vectors of this size, or do not span as many dimensions as there are rows.

    Examples
    --------
    >>> rows, changed = orthonormal(torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]]), 3)
    >>> bool(changed), torch.allclose(rows @ rows.T, torch.eye(2).double())
    (True, True)
    """
    rows = torch.atleast_2d(torch.as_tensor(basis)).detach()
    if not rows.is_floating_point() or rows.ndim != 2 or rows.shape[1] != d:
        raise EditError(f"{name!r} has shape {tuple(rows.shape)} and type {rows.dtype}: expected numbers (k, {d})")
    rows = rows.cpu().double()
    if not bool(rows.isfinite().all()):
        raise EditError(f"{name!r} holds numbers that are not finite")
    rank = int(torch.linalg.matrix_rank(rows)) if len(rows) else 0
    if rank < len(rows) or not rank:
        raise EditError(
            f"{name!r} has {len(rows)} rows that span {rank} dimensions: leave out those that depend on others"
        )
    gram = rows @ rows.T
    if bool((gram - torch.eye(len(rows), dtype=gram.dtype)).abs().max() < 1e-6):
        return rows, False
    return torch.linalg.qr(rows.T)[0].T.contiguous(), True


def effects(
    model: Model, base: Tokens, edits: list[Edit], metric: Metric, source: Run
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each edit changes, (variant, batch), and the metric of the run patched into and of the source."""
    swept = model.sweep(base, edits, metric, labels=[str(i) for i in range(len(edits))])
    values = swept["clean"].values
    return swept.values - values, values, metric(source).cpu().double().numpy()
