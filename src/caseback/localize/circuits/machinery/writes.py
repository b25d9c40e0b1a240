"""What every writer of the graph adds to the stream, and by how much that differs between two runs.

The writes of a run sum to the stream less constants (b_O and what a norm behind a branch adds), so the changes of all
writers before a place sum to the change of the stream there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.algebra.writes import attention_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.graph.graph import Graph
from caseback.model.running.model import Model
from caseback.model.running.run import Run


def sites_of_writes(model: Model, graph: Graph) -> list[Site]:
    """What a run must read for its writes."""
    anatomy = model.anatomy
    inputs = [Site("resid_pre", 0)] if graph.inputs == ("embed",) else [Site(name) for name in graph.inputs]
    heads = anatomy.head_site
    blocks = [Site(name, layer) for layer in range(anatomy.n_layers) for name in (heads, "mlp_out")]
    return [*inputs, *blocks]


Part = tuple[slice, slice]
"""Some prompts and some columns."""
ALL: Part = (slice(None), slice(None))


def heads_of(model: Model, run: Run, layer: int, part: Part = ALL) -> Float[Tensor, "batch pos head d_model"]:
    """Each head's write in a layer."""
    if model.anatomy.head_site == "head_out":
        return at_least_float32(run["head_out", layer][part].detach())
    z = at_least_float32(run["z", layer][part].detach())
    branch = attention_branch(model.anatomy, layer, z)
    return branch.push(torch.einsum("bphe,hed->bphd", z, branch.weight))


def writes(
    model: Model, run: Run, graph: Graph, part: Part = ALL
) -> Iterator[Float[Tensor, "writer batch pos d_model"]]:
    """The writes of a run, in the graph's order: the inputs, then each layer's heads and each layer's MLP."""
    for name, layer in _plain_inputs(graph):
        yield at_least_float32(run[name, layer][part].detach())[None]
    for layer in range(model.n_layers):
        yield heads_of(model, run, layer, part).permute(2, 0, 1, 3)
        yield at_least_float32(run["mlp_out", layer][part].detach())[None]


def changes(
    model: Model,
    base: Run,
    source: Run | Float[Tensor, "writer d_model"] | None,
    graph: Graph,
    part: Part = ALL,
) -> Float[Tensor, "batch writer pos d_model"]:
    """What each writer writes in the other run less what it writes in the base run; padding is 0.

    Parameters
    ----------
    model
        The model.
    base, source
        Runs of aligned prompts in the same columns that read ``sites_of_writes``; source None stands for zeros, and a
        tensor for one constant per writer.
    graph
        Of the model.
    part
        Some prompts and columns alone.
    """
    mask = base.tokens.mask[part]
    stacked: Tensor | None = None
    start = 0
    for change in _changes(model, base, source, graph, part):
        if stacked is None:
            stacked = change.new_empty(len(mask), len(graph.writers), *change.shape[2:])
        mine = slice(start, start + len(change))
        start = mine.stop
        stacked[:, mine] = change.transpose(0, 1)
        if isinstance(source, Tensor):
            stacked[:, mine] += source[mine, None].to(stacked)
    assert stacked is not None
    return stacked if bool(mask.all()) else stacked.masked_fill_(~mask[:, None, :, None].to(stacked.device), 0.0)


def _changes(
    model: Model, base: Run, source: Run | Tensor | None, graph: Graph, part: Part
) -> Iterator[Float[Tensor, "writer batch pos d_model"]]:
    """Changes block by block; those to zero where the source is not a run."""
    if not isinstance(source, Run):
        yield from (-write for write in writes(model, base, graph, part))
        return
    frozen = [p.attn_post_norm is not None for p in model.anatomy.layers]
    for name, layer in _plain_inputs(graph):
        yield at_least_float32((source[name, layer][part] - base[name, layer][part]).detach())[None]
    for layer in range(model.n_layers):
        if frozen[layer] or model.anatomy.head_site == "head_out":
            yield (heads_of(model, source, layer, part) - heads_of(model, base, layer, part)).permute(2, 0, 1, 3)
        else:
            # what heads write is linear in z, so one product does for both runs
            z = at_least_float32((source["z", layer][part] - base["z", layer][part]).detach())
            branch = attention_branch(model.anatomy, layer, z)
            yield branch.push(torch.einsum("bphe,hed->bphd", z, branch.weight)).permute(2, 0, 1, 3)
        yield at_least_float32((source["mlp_out", layer][part] - base["mlp_out", layer][part]).detach())[None]


def _plain_inputs(graph: Graph) -> list[tuple[str, int | None]]:
    return [("resid_pre", 0)] if graph.inputs == ("embed",) else [(name, None) for name in graph.inputs]
