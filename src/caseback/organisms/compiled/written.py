"""A plan written into weights, and the circuit that these weights form.

Every variable has its own subspace of the stream, written by one node and never erased. A reader's weights are zero
except on the variables that it reads, so the circuit is exactly what is not zero: one edge per slot of a reader and
node that writes a variable which the slot reads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor

from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.organisms.compiled.organism import Variable, silent
from caseback.organisms.compiled.plan import Place, Plan, Read

VERIFIED = 10
"""How many tokens the rows have on which loading verifies a model; its context must not be shorter."""


def columns_of(plan: Plan) -> dict[Place, slice]:
    """Which dimensions of the stream each variable occupies."""
    columns, start = {}, 0
    for place in plan.all_places:
        columns[place] = slice(start, start + place.width)
        start += place.width
    return columns


def write(plan: Plan, output: Read, dtype: torch.dtype, **about: Any) -> tuple[CrystalForCausalLM, Circuit]:
    """Write a plan into the weights of a new model.

    Parameters
    ----------
    plan
        The components.
    output
        The variable that is the answer, and its weights (width, vocab).
    dtype
        The weights' type.
    **about
        What the circuit records about how it was made.

    Returns
    -------
    hf, circuit
        The model, and the edges along which its weights read.
    """
    hf: Any = silent(_config(plan, output[1].shape[1])).double()
    columns, edges, roles = columns_of(plan), set[Edge](), defaultdict[Node, list[str]](list)

    def read(reads: list[Read], target: Node, slot: str, weight: Tensor) -> None:
        for place, matrix in reads:
            if bool(matrix.any()):
                weight[: matrix.shape[1], columns[place]] += matrix.T
                edges.add(Edge(place.node, target, slot))

    with torch.no_grad():
        _embed(hf, plan, columns)
        for head in plan.heads:
            attention, rows = (
                hf.model.layers[head.node.layer].self_attn,
                slice(head.node.index * hf.config.head_dim, None),
            )
            for slot, projection in (("q", attention.q_proj), ("k", attention.k_proj), ("v", attention.v_proj)):
                read(head.reads[slot], head.node, slot, projection.weight[rows])
            for slot, projection in (("q", attention.q_proj), ("k", attention.k_proj)):
                projection.bias[rows][: len(head.constant[slot])] = head.constant[slot]
            attention.o_proj.weight[columns[head.out], rows][:, : head.out.width] = _own(head.out)
            roles[head.node].append(head.out.name)
        filled: Counter[int] = Counter()
        for part in plan.neurons:
            mlp, rows = hf.model.layers[part.layer].mlp, slice(filled[part.layer], filled[part.layer] + len(part.bias))
            read(part.reads, part.out.node, "", mlp.up_proj.weight[rows])
            mlp.up_proj.bias[rows] = part.bias
            mlp.down_proj.weight[columns[part.out], rows] = part.write.T
            filled[part.layer] = rows.stop
            roles[part.out.node].append(part.out.name)
        read([output], Node("logits"), "", hf.lm_head.weight)
    labels = {node: "; ".join(names) for node, names in roles.items()}
    return hf.to(dtype), Circuit(frozenset(edges), roles=labels, about=about)


def _config(plan: Plan, d_vocab: int) -> CrystalConfig:
    """The smallest model that holds a plan."""
    nodes = [place.node for place in plan.all_places]
    neurons: Counter[int] = Counter()
    for part in plan.neurons:
        neurons[part.layer] += len(part.bias)
    return CrystalConfig(
        vocab_size=d_vocab,
        max_position_embeddings=max(plan.program.max_length + 1, VERIFIED),
        hidden_size=sum(place.width for place in plan.all_places),
        num_hidden_layers=1 + max([0, *(node.layer for node in nodes)]),
        num_attention_heads=1 + max([0, *(node.index for node in nodes)]),
        head_dim=max([1, *(max(len(head.constant["k"]), head.out.width) for head in plan.heads)]),
        intermediate_size=max([1, *neurons.values()]),
        hidden_act="relu",
        attention_scale=1.0,
    )


def _embed(hf: Any, plan: Plan, columns: dict[Place, slice]) -> None:
    """Row 0 of both embeddings is the beginning; words and positions follow, one direction per row."""
    for place in plan.all_places:
        first = 0 if place in plan.beginnings.values() else 1
        rows = slice(first, first + place.width)
        if place.node.kind == "embed":
            hf.model.embed_tokens.weight[rows, columns[place]] = _own(place)
        elif place.node.kind == "pos_embed":
            hf.model.embed_positions.weight[rows, columns[place]] = _own(place)


def _own(place: Place) -> Tensor:
    """Each of a variable's units along its own direction."""
    return torch.eye(place.width, dtype=torch.float64)


def labelled(plan: Plan, dtype: torch.dtype) -> tuple[Variable, ...]:
    """Each variable twice: as its node writes it, and in the stream from there on."""
    columns, listed = columns_of(plan), []
    directions = torch.eye(sum(place.width for place in columns), dtype=dtype)
    for place, own in columns.items():
        node, values = place.node, () if place.kind.numerical else place.kind.listed
        if node.kind == "head":
            written, head, stream = Site("head_out", node.layer), node.index, Site("resid_mid", node.layer)
        elif node.kind == "mlp":
            written, head, stream = Site("mlp_out", node.layer), None, Site("resid_post", node.layer)
        else:
            written, head, stream = Site(node.kind), None, Site("resid_pre", 0)
        listed.append(Variable(place.name, written, directions[own], values, head))
        listed.append(Variable(place.name, stream, directions[own], values))
    return tuple(listed)
