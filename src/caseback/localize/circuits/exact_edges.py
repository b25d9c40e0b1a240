"""Exact edge patching: what the metric changes by when one edge carries something else, for every edge (PRIMER 3.2.22).

    effect(u -> v) = m(model with input_v = input_v + (other_u - u)) - m(model)

What edge attribution estimates to first order, measured: one circuit run an edge, many in one batch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from caseback.errors import CasebackError
from caseback.localize.circuits.running import CircuitRuns
from caseback.localize.circuits.selecting import name_of_reader
from caseback.model.graph import Graph
from caseback.model.metrics import Metric
from caseback.model.model import Model
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.whole_file import whole_file


@technique(entry=("3.2.22",), citation="Goldowsky-Dill et al. 2023, Conmy et al. 2023", cost="1 circuit run an edge")
def edge_patching(
    model: Model,
    clean: Any,
    corrupt: Any,
    metric: Metric,
    *,
    ablation: str = "resample",
    over: Any = None,
    inputs: tuple[str, ...] = ("embed",),
    at_once: int = 64,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Cut every edge of the graph, one at a time, all others carrying what they carry.

    Parameters
    ----------
    model, clean, corrupt, metric
        As for ``run_circuit``.
    ablation, over, inputs
        What the cut edge carries; as for ``run_circuit``.
    at_once
        Edges between two writes of the checkpoint.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is measured; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (writer, reader, batch), the metric with the edge cut less that without: the sign of ``edge_attribution``'s
        noising. NaN where there is no edge. Beside it ``clean``, the model's own metric.

    Raises
    ------
    CasebackError
        For a checkpoint of another call, and as ``run_circuit``.

    Examples
    --------
    >>> from caseback.organisms.compiled import build
    >>> import caseback as cb
    >>> organism = build("previous_token", alphabet="ab", max_length=4)
    >>> effects = edge_patching(
    ...     organism.model, organism.tokens([["a", "b", "a"]]), None, cb.logit("b"), ablation="zero"
    ... )
    >>> float(effects.sel(writer="L0H0", reader="logits")[0]) < -1
    True
    """
    graph = Graph.of(model.anatomy, inputs)
    runs = CircuitRuns(model, graph, clean, corrupt, metric, ablation=ablation, over=over)
    pairs = graph.exists.T.nonzero().flip(1)
    told = repr((model.name, dict(model.provenance()), runs.tokens.ids.tolist(), metric.name, ablation, inputs))
    mark = hashlib.sha256((told + str(metric.target) + str(metric.foil)).encode()).hexdigest()
    effects, done = _read(checkpoint, mark, len(pairs), len(runs.tokens))
    with tqdm(total=len(pairs), desc="edges", disable=not progress, initial=done) as bar:
        while done < len(pairs):
            some = pairs[done : done + at_once]
            masks = graph.exists.repeat(len(some), 1, 1)
            masks[torch.arange(len(some)), some[:, 0], some[:, 1]] = False
            effects[done : done + len(some)] = runs.metrics(masks) - runs.whole
            done += len(some)
            bar.update(len(some))
            _write(checkpoint, mark, effects, done)
    table = torch.full((*graph.exists.shape, len(runs.tokens)), torch.nan, dtype=torch.float64)
    table[pairs[:, 0], pairs[:, 1]] = effects
    return labelled(
        table,
        ["writer", "reader", "batch"],
        {
            "writer": [str(node) for node in graph.writers],
            "reader": [name_of_reader(reader) for reader in graph.readers],
            "clean": ("batch", runs.whole),
        },
        name="effect",
        technique=edge_patching,
        model=model,
        metric=metric.name,
        patch=ablation,
    )


def _read(path: Any, mark: str, edges: int, batch: int) -> tuple[torch.Tensor, int]:
    if path is None or not Path(path).exists():
        return torch.full((edges, batch), torch.nan, dtype=torch.float64), 0
    with safe_open(path, "pt") as file:
        theirs = (file.metadata() or {}).get("mark")
    if theirs != mark:
        raise CasebackError(f"{str(path)!r} was written by another call: give another file, or remove it")
    kept = load_file(path)
    return kept["effects"], int(kept["done"])


def _write(path: Any, mark: str, effects: torch.Tensor, done: int) -> None:
    if path is not None:
        with whole_file(path) as draft:
            save_file({"effects": effects, "done": torch.tensor(done)}, draft, {"mark": mark})
