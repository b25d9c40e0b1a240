"""Check an organism's answer book against its weights and against what cutting edges does."""

import copy
from collections.abc import Iterable

import torch

import caseback as cb
from caseback.model.circuit import Edge, Node
from caseback.model.graph.graph import Graph
from caseback.organisms.compiled import Organism, ablate_edge


def touching(model: cb.Model) -> set[Edge]:
    """Edges whose writer's and reader's weights have a product other than 0, as far as the reader matters for logits."""
    met = {e for e in _edges(model) if bool((_writes(model, e.source) @ _reads(model, e.target, e.slot)).any())}
    heard = {Node("logits")}
    for edge in sorted(met, key=lambda e: e.target.depth, reverse=True):
        if edge.target in heard:
            heard.add(edge.source)
    return {e for e in met if e.target in heard}


def _edges(model: cb.Model) -> list[Edge]:
    return Graph.of(model.anatomy, ("embed", "pos_embed")).edges


def _writes(model: cb.Model, node: Node) -> torch.Tensor:
    core = model.hf.model
    if node.kind == "embed":
        return core.embed_tokens.weight
    if node.kind == "pos_embed":
        return core.embed_positions.weight
    layer = core.layers[node.layer]
    if node.kind == "mlp":
        return torch.cat([layer.mlp.down_proj.weight.T, layer.mlp.down_proj.bias[None]])
    return layer.self_attn.o_proj.weight.T[_rows(layer, node)]


def _reads(model: cb.Model, node: Node, slot: str) -> torch.Tensor:
    if node.kind == "logits":
        return model.hf.lm_head.weight.T
    layer = model.hf.model.layers[node.layer]
    if node.kind == "mlp":
        return layer.mlp.up_proj.weight.T
    return getattr(layer.self_attn, f"{slot}_proj").weight[_rows(layer, node)].T


def _rows(layer, node: Node) -> slice:
    width = layer.self_attn.head_dim
    return slice(node.index * width, (node.index + 1) * width)


def silenced(model: cb.Model, *heads: str) -> cb.Model:
    """A copy in which these heads write nothing."""
    hf = copy.deepcopy(model.hf)
    for head in map(Node.parse, heads):
        layer = hf.model.layers[head.layer]
        layer.self_attn.o_proj.weight[:, _rows(layer, head)] = 0
    return cb.load(hf, tokenizer=model.tokenizer)


def changes(model: cb.Model, ids: torch.Tensor, edges: Iterable[Edge | str], *, last: bool = False) -> dict[str, float]:
    """By how much cutting each edge changes any logit, behind ``<bos>`` or at the last position alone."""
    intact, start = model.run(ids).logits, -1 if last else 1
    return {str(e): float((ablate_edge(model, ids, e) - intact)[:, start:].abs().max()) for e in edges}


def check(
    organism: Organism,
    ids: torch.Tensor,
    *,
    last: bool = False,
    spare: Iterable[str] = (),
    unheeded: Iterable[str] = (),
) -> None:
    """The circuit's edges are those that touch; cutting another changes nothing, cutting one of them does.

    ``last``: the organism answers at the last position alone. ``spare``: edges inside that matter only while something
    else is silent. ``unheeded``: edges outside that touch, but by too little to matter.
    """
    model, inside = organism.model, set(map(str, organism.circuit.edges))
    assert {*map(str, touching(model))} == {*inside, *unheeded}
    assert inside.isdisjoint(unheeded) and inside.issuperset(spare)
    live = [e for e in _edges(model) if _writes(model, e.source).any() and _reads(model, e.target, e.slot).any()]
    outside = changes(model, ids, [e for e in live if e not in organism.circuit])
    assert max(outside.values(), default=0) < 1e-5
    cut = changes(model, ids, sorted(inside), last=last)
    assert {edge: x for edge, x in cut.items() if x < 1e-4}.keys() == set(spare)
