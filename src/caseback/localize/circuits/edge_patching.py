"""Edge patching: one reader sees one writer's other value, everybody else the true one (PRIMER 3.2.22).

    effect(u -> v) = metric(input_v + u(source) - u(base)) - metric(base)

Exact, edge by edge, where ``edge_attribution`` estimates. Each edge is a variant of a sweep, which recomputes only what
comes after the reader, many edges in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.localize.circuits.path_patching import seen
from caseback.localize.circuits.selecting import name_of_reader
from caseback.localize.circuits.writes import changes, sites_of_writes
from caseback.localize.components.run_pair import base_and_source
from caseback.localize.inputs.per_token import aligned
from caseback.model.circuit import Circuit, Edge
from caseback.model.graph import Graph
from caseback.model.metrics import Metric
from caseback.model.model import Model
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.run import execute


@technique(
    entry=("3.2.22",), citation="Goldowsky-Dill et al. 2023, Conmy et al. 2023", cost="a sweep: one variant an edge"
)
def patch_edges(
    model: Model,
    clean: Any,
    corrupt: Any,
    metric: Metric,
    edges: Iterable[str | Edge] | Circuit | None = None,
    *,
    direction: str = "noising",
    inputs: tuple[str, ...] = ("embed",),
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Patch edges one at a time, exactly.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned, one or one a prompt.
    metric
        What is measured.
    edges
        Which edges, as ``"L0H1 -> L1H4.k"`` or a circuit's; all by default.
    direction
        ``"noising"``: the corrupt value into the clean run; ``"denoising"``: the clean value into the corrupt run.
    inputs
        As for ``edge_attribution``.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (writer, reader, batch), the patched metric less that of the run that is patched, in the convention of
        ``edge_attribution``; NaN where there is no edge or none was asked for. Beside it the metric ``base``.

    Raises
    ------
    TokensError
        For counterfactuals that are not token-aligned.
    CasebackError
        For edges that this model lacks, and for none.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> effects = patch_edges(model, *pair, cb.logit_diff(" Mary", " John"), ["embed -> L0H0.v", "MLP 3 -> logits"])
    >>> int(effects.notnull().sum())
    2
    """
    graph = Graph.of(model.anatomy, inputs)
    if edges is None:
        mask = graph.exists
    else:
        listed = (
            edges.edges if isinstance(edges, Circuit) else [Edge.parse(e) if isinstance(e, str) else e for e in edges]
        )
        mask = graph.mask(Circuit(frozenset(listed)))
    pairs = mask.T.nonzero().tolist()
    if not pairs:
        raise CasebackError("no edge to patch: give some, such as 'L0H1 -> L1H4.k', or none at all for every edge")
    base, source = base_and_source(model, clean, corrupt, direction)
    reads = sites_of_writes(model, graph)
    here, there = (execute(model.anatomy, tokens, read=reads, logits=False) for tokens in (base, source))
    change = aligned(changes(model, here, there, graph).transpose(1, 2), base)
    variants = [seen(graph.readers[r], change[:, :, w], None) for r, w in pairs]
    swept = model.sweep(base, variants, metric, labels=[""] * len(pairs), progress=progress, checkpoint=checkpoint)
    effects = np.full((*graph.exists.shape, len(base)), np.nan)
    at = np.array(pairs)
    effects[at[:, 1], at[:, 0]] = swept.values - swept["clean"].values
    return labelled(
        effects,
        ["writer", "reader", "batch"],
        {
            "writer": [str(node) for node in graph.writers],
            "reader": [name_of_reader(reader) for reader in graph.readers],
            "base": ("batch", swept["clean"].values),
        },
        name="effect",
        technique=patch_edges,
        model=model,
        metric=metric.name,
        direction=direction,
        patch="resample",
    )
