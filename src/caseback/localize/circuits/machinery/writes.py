"""What every writer of the graph adds to the stream, and by how much that differs between two runs.

The writes of a run sum to the stream less constants (b_O and what a norm behind a branch adds), so the changes of all
writers before a place sum to the change of the stream there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.algebra.under_edits import expect_sum_of_writes, write_factor
from caseback.model.algebra.writes import attention_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.graph.graph import Graph
from caseback.model.running.model import Model
from caseback.model.running.run import Run


def sites_of_writes(model: Model, graph: Graph) -> list[Site]:
    """What a run must read for its writes.

    Raises
    ------
    EditError
        For a model under edits by which the stream is no sum of them.
    """
    anatomy = model.anatomy
    expect_sum_of_writes(anatomy, graph.inputs)
    inputs = [Site("resid_pre", 0)] if graph.inputs == ("embed",) else [Site(name) for name in graph.inputs]
    heads = anatomy.head_site
    blocks = [Site(name, layer) for layer in range(anatomy.n_layers) for name in (heads, "mlp_out")]
    return [*inputs, *blocks]


Part = tuple[slice, slice]
"""Some prompts and some columns."""
ALL: Part = (slice(None), slice(None))


def of_part(x: Float[Tensor, "row pos *dims"], part: Part) -> Float[Tensor, "some_rows some_pos *dims"]:
    """Some prompts and columns of a tensor, which stays as it is where all are wanted."""
    return x if part == ALL else x[part]


def heads_of(model: Model, run: Run, layer: int, part: Part = ALL) -> Float[Tensor, "batch pos head d_model"]:
    """Each head's write in a layer."""
    if model.anatomy.head_site == "head_out":
        return at_least_float32(of_part(run["head_out", layer], part).detach()) * write_factor(model.anatomy, layer)
    z = at_least_float32(of_part(run["z", layer], part).detach())
    branch = attention_branch(model.anatomy, layer, z)
    return branch.push(torch.einsum("bphe,hed->bphd", z, branch.weight))


def writes(
    model: Model, run: Run, graph: Graph, part: Part = ALL
) -> Iterator[Float[Tensor, "writer batch pos d_model"]]:
    """The writes of a run, in the graph's order: the inputs, then each layer's heads and each layer's MLP."""
    for name, layer in _plain_inputs(graph):
        yield at_least_float32(of_part(run[name, layer], part).detach())[None]
    for layer in range(model.n_layers):
        yield heads_of(model, run, layer, part).permute(2, 0, 1, 3)
        yield at_least_float32(of_part(run["mlp_out", layer], part).detach())[None]


@torch.no_grad()
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
    mask = of_part(base.tokens.mask, part)
    like = at_least_float32(of_part(base[_plain_inputs(graph)[0]], part))
    stacked = like.new_empty(len(graph.writers), *like.shape)
    if isinstance(source, Run):
        _put_differences(model, base, source, graph, part, stacked)
    else:
        start = 0
        for write in writes(model, base, graph, part):
            stacked[start : start + len(write)] = -write
            start += len(write)
    if isinstance(source, Tensor):
        stacked += source[:, None, None].to(stacked)
    if not bool(mask.all()):
        stacked.masked_fill_(~mask[..., None].to(stacked.device), 0.0)
    return stacked.transpose(0, 1)


def _put_differences(
    model: Model, base: Run, source: Run, graph: Graph, part: Part, into: Float[Tensor, "writer batch pos d_model"]
) -> None:
    """Each write in one run less that in another."""

    def difference(name: str, layer: int | None) -> Tensor:
        theirs, mine = (of_part(run[name, layer], part) for run in (source, base))
        return at_least_float32(theirs - mine)

    start = 0
    for name, layer in _plain_inputs(graph):
        into[start] = difference(name, layer)
        start += 1
    for layer, parts in enumerate(model.anatomy.layers):
        heads = into[start : start + parts.dims.n_heads]
        if parts.attn_post_norm is not None or model.anatomy.head_site == "head_out":
            change = heads_of(model, source, layer, part) - heads_of(model, base, layer, part)
            heads.copy_(change.permute(2, 0, 1, 3))
        else:
            # what heads write is linear in z, so one product does for both runs
            z = difference("z", layer)
            branch = attention_branch(model.anatomy, layer, z)
            heads.copy_(torch.bmm(z.flatten(0, 1).transpose(0, 1), branch.weight).view(heads.shape))
            if branch.factor != 1.0:
                heads *= branch.factor
        start += parts.dims.n_heads
        into[start] = difference("mlp_out", layer)
        start += 1


def _plain_inputs(graph: Graph) -> list[tuple[str, int | None]]:
    return [("resid_pre", 0)] if graph.inputs == ("embed",) else [(name, None) for name in graph.inputs]
