"""Edge patching: one reader sees one writer's other value, everybody else the true one (PRIMER 3.2.22).

    effect(u -> v) = metric(input_v + u(source) - u(base)) - metric(base)

u(source) is what the writer writes in the counterfactual, 0, or its mean. Exact, edge by edge, where
``edge_attribution`` estimates. Each edge is a variant of a sweep, which recomputes only what comes after the reader,
many edges in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.launch import HERE
from caseback.localize.circuits.machinery.circuit_runs import mean_writes
from caseback.localize.circuits.machinery.writes import changes, sites_of_writes
from caseback.localize.circuits.path_patching import seen
from caseback.localize.circuits.selecting import name_of_reader
from caseback.model.circuit import Circuit, Edge
from caseback.model.graph.graph import Graph
from caseback.model.prompts.per_token import aligned
from caseback.model.prompts.run_pair import base_and_source
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike, Tokens

ABLATIONS = ("resample", "zero", "mean")


@technique(
    role="circuit finder",
    entry=("3.2.22",),
    citation="Goldowsky-Dill et al. 2023, Conmy et al. 2023",
    cost="a sweep: one variant per edge",
)
def patch_edges(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    only: Iterable[str | Edge] | Circuit | None = None,
    *,
    direction: str = "noising",
    ablation: str = "resample",
    over: PromptsLike | None = None,
    inputs: tuple[str, ...] = ("embed",),
    progress: bool = False,
    checkpoint: str | Path | None = None,
    folder: str | Path | None = None,
    workers: int = 1,
    on: str = HERE,
    threads: int | None = None,
) -> xr.DataArray:
    """Patch edges one at a time, exactly.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned; one counterfactual for all, or one per prompt. Only
        ``"resample"`` needs them.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    only
        Which edges, as ``"L0H1 -> L1H4.k"`` or a circuit's; all by default.
    direction
        ``"noising"``: the corrupt value into the clean run; ``"denoising"``: the clean value into the corrupt run.
    ablation, over
        What a patched edge carries: the other run's write (``"resample"``), ``"zero"``, or the writer's ``"mean"`` over
        all tokens of the prompts ``over``, by default the clean ones. The latter two go into the clean run alone.
    inputs
        As for ``edge_attribution``.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.
    folder, workers, on, threads
        In place of a checkpoint a folder, in which several workers share the edges out; as for ``Model.sweep``.

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
        For edges that this model lacks, and for an empty list of them; for an unknown ablation, and one that does not
        go in that direction.

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
    if only is None:
        mask = graph.exists
    else:
        mask = graph.mask(Circuit(frozenset(only.edges if isinstance(only, Circuit) else map(_edge, only))))
    pairs = mask.T.nonzero().tolist()
    if not pairs:
        raise CasebackError("no edge to patch: give some, such as 'L0H1 -> L1H4.k', or leave out only= for every edge")
    base, there = _base_and_other(model, graph, clean, corrupt, direction, ablation, over)
    here = execute(model.anatomy, base, read=sites_of_writes(model, graph), logits=False)
    change = aligned(changes(model, here, there, graph).transpose(1, 2), base)
    variants = [seen(graph.readers[r], change[:, :, w], None) for r, w in pairs]
    swept = model.sweep(
        base,
        variants,
        metric,
        labels=[""] * len(pairs),
        progress=progress,
        checkpoint=checkpoint,
        folder=folder,
        workers=workers,
        on=on,
        threads=threads,
    )
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
        patch=ablation,
    )


def _edge(given: str | Edge) -> Edge:
    if not isinstance(given, str | Edge):
        raise CasebackError(f"{given!r} is no edge: expected an Edge, or its text such as 'L0H1 -> L1H4.k'")
    return Edge.parse(given) if isinstance(given, str) else given


def _base_and_other(
    model: Model,
    graph: Graph,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    direction: str,
    ablation: str,
    over: PromptsLike | None,
) -> tuple[Tokens, Run | Float[Tensor, "writer d_model"] | None]:
    """The prompts that are patched, and what patched edges carry."""
    if ablation not in ABLATIONS:
        raise CasebackError(f"ablation {ablation!r} is unknown. {did_you_mean(ablation, ABLATIONS)}")
    if ablation == "resample":
        if corrupt is None:
            raise CasebackError("ablation='resample' patches from counterfactuals: give corrupt, or ablation='zero'")
        base, source = base_and_source(model, clean, corrupt, direction)
        return base, execute(model.anatomy, source, read=sites_of_writes(model, graph), logits=False)
    if direction != "noising":
        raise CasebackError(f"ablation={ablation!r} has no direction {direction!r}: it goes into the clean run")
    tokens = model.tokens(clean)
    return tokens, None if ablation == "zero" else mean_writes(
        model, tokens if over is None else over, inputs=graph.inputs
    )
