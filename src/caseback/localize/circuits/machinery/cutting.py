"""One pass in which edges are cut: writes are noted as they are made, reads corrected by what their cut edges change.

    input_v += sum over u of (1 - mask[u, v]) (other_u - u)

``mask`` is 1 in the circuit, 0 outside, anything between where masks are learned; it may differ from place to place in
a prompt. Several circuits pass side by side, each on its copy of all prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.model.algebra.under_edits import expect_sum_of_writes, write_factor
from caseback.model.algebra.writes import attention_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.circuit import Node
from caseback.model.graph.graph import Graph
from caseback.model.running.edits import Apply, Edit
from caseback.model.running.model import Model

SoftMasks = Bool[Tensor, "variant place writer reader"] | Float[Tensor, "variant place writer reader"]


class Cuts:
    """The edits of one pass; good for that pass alone.

    Parameters
    ----------
    model, graph
        The model and its graph.
    masks
        How much of each edge stands, for each circuit and each place.
    cut
        What cut edges carry: (writer, token, d_model) over all own tokens of all prompts, or a scalar.
    places
        The place of each own token; None where there is one place.
    """

    def __init__(
        self, model: Model, graph: Graph, masks: SoftMasks, cut: Tensor, places: Int[Tensor, " token"] | None = None
    ):
        expect_sum_of_writes(model.anatomy, graph.inputs)
        self.model, self.graph, self.cut = model, graph, cut
        # with gradients nothing may be written in place, so changes are then kept one by one instead of in one buffer
        self.learned = masks.requires_grad or cut.requires_grad
        away = 1 - masks.to(cut.device, torch.promote_types(model.dtype, torch.float32))
        self.away = (away * graph.exists.to(cut.device)).transpose(2, 3)
        self.alive = [True] * len(graph.readers) if masks.requires_grad else self._alive()
        self.rows = [] if places is None else [(places == i).nonzero()[:, 0] for i in range(masks.shape[1])]
        self.noted: dict[int, Tensor] = {}
        self.buffer: Tensor | None = None
        self.totals: dict[int, Tensor] = {}
        self.block: tuple[slice, list[int], Tensor] | None = None

    def _alive(self) -> list[bool]:
        """Which readers matter: those of a branch that some circuit keeps an edge out of.

        The heads of a layer stand and fall together: a norm over all queries lets each of them see the others. Behind
        a norm attention's bias, which is nobody's write, depends on them too, so there they always matter.
        """
        full = self.graph.exists.T.to(self.away.device)
        heard = ((self.away < 1) & full).any(0).any(0).any(0).tolist()
        branches = {node.depth for node, stands in zip(self.graph.writers, heard, strict=True) if stands}
        normed = [i for i, p in enumerate(self.model.anatomy.layers) if p.attn_post_norm is not None]
        branches |= {Node("head", i).depth for i in normed}
        return [node.kind == "logits" or node.depth in branches for node, _ in self.graph.readers]

    def edits(self) -> list[Edit]:
        """What to run the model with."""
        inputs = [Apply(name, partial(self._note_input, at=i)) for i, name in enumerate(self.graph.inputs)]
        alone = Apply("resid_pre", partial(self._note_input, at=0), layer=0)
        edits: list[Edit] = [alone] if len(inputs) == 1 else [*inputs]
        writer, reader = len(inputs), 0
        heads = self.model.anatomy.head_site
        for i, layer in enumerate(self.graph.layers):
            block = slice(reader, reader + layer.n_heads + 2 * layer.n_kv_heads)
            for slot, count in zip("qkv", (layer.n_heads, layer.n_kv_heads, layer.n_kv_heads), strict=True):
                edits.append(Apply(f"{slot}_in", partial(self._correct, at=reader, block=block), layer=i))
                reader += count
            edits.append(Apply(heads, partial(self._note_heads, layer=i, at=writer), layer=i))
            block = slice(reader, reader + 1)
            edits.append(Apply("mlp_in", partial(self._correct, at=reader, block=block), layer=i))
            edits.append(Apply("mlp_out", partial(self._note_input, at=writer + layer.n_heads), layer=i))
            writer, reader = writer + layer.n_heads + 1, reader + 1
        last = partial(self._correct, at=reader, block=slice(reader, reader + 1))
        return [*edits, Apply("resid_post", last, layer=-1)]

    def _note(self, written: Float[Tensor, "writer token d_model"], at: int) -> None:
        """Keep the change that a cut edge makes: what it carries instead, less what was written."""
        mine = slice(at, at + len(written))
        there = self.cut if self.cut.ndim == 0 else self.cut[mine, None]
        # (variant, writer, token, d_model), the tokens being those of one copy of the prompts
        change = (there - at_least_float32(written).unflatten(1, (len(self.away), -1))).transpose(0, 1)
        if self.learned:
            self.noted[at] = change
            return
        if self.buffer is None:
            self.buffer = change.new_zeros(len(change), len(self.graph.writers), *change.shape[2:])
        self.buffer[:, mine] = change
        if at == 0 or at in self.totals:
            total = change.sum(1)
            self.totals[mine.stop] = total if at == 0 else self.totals[at] + total

    def _note_input(self, x: Float[Tensor, "token d_model"], at: int) -> Tensor:
        self._note(x[None], at)
        return x

    def _note_heads(self, x: Float[Tensor, "token head *unit"], layer: int, at: int) -> Tensor:
        if self.model.anatomy.head_site == "head_out":
            self._note(x.transpose(0, 1) * write_factor(self.model.anatomy, layer), at)
            return x
        z = at_least_float32(x)
        branch = attention_branch(self.model.anatomy, layer, z)
        self._note(branch.push(torch.einsum("the,hed->thd", z, branch.weight)).transpose(0, 1), at)
        return x

    def _correct(self, x: Float[Tensor, "token *head d_model"], at: int, block: slice) -> Tensor:
        """Add to each reader's input what its cut edges change; a layer's heads are summed for all at once."""
        # query, key and value of one layer ask in turn: the sums are formed for the first and shared by the others
        if self.block is None or self.block[0] != block:
            self.block = self._of_block(block)
        _, alive, block_changes = self.block
        count = x.shape[1] if x.ndim == 3 else 1
        mine = [i for i, r in enumerate(alive) if at <= r < at + count]
        if not mine or not block_changes.numel():
            return x
        change = block_changes[:, mine[0] : mine[-1] + 1].transpose(1, 2).to(x)
        each = x.unflatten(0, (len(block_changes), -1))
        if x.ndim == 2:
            return (each + change[:, :, 0]).flatten(0, 1)
        if len(mine) < count:
            where = torch.tensor([alive[i] - at for i in mine], device=x.device)
            change = torch.zeros_like(each).index_copy_(2, where, change)
        return (each + change).flatten(0, 1)

    def _of_block(self, block: slice) -> tuple[slice, list[int], Float[Tensor, "variant reader token d_model"]]:
        """The changes of the inputs of some readers that read the same writers, of those that matter."""
        alive = [r for r in range(block.start, block.stop) if self.alive[r]]
        # writers stand in the order of computation, so those that a reader reads come first
        before = int(self.graph.exists[:, block.start].sum())
        away = self.away[:, :, alive, :before]
        if not self.learned and not bool(away.any()):
            return block, alive, away.new_zeros(0)
        if self.learned:
            parts = [(away[..., at : at + p.shape[1]], p) for at, p in sorted(self.noted.items()) if at < before]
            return block, alive, self._placed(parts)
        assert self.buffer is not None
        changes = self.buffer[:, :before]
        cut, uncut = ((part > 0).flatten(0, 2).any(0).nonzero()[:, 0] for part in (away, 1 - away))
        if before in self.totals and len(uncut) < len(cut):
            # few edges stand: take what these change off what all of them do
            total = self.totals[before][:, None]
            standing = self._placed([(1 - away[..., uncut], changes[:, uncut])]) if len(uncut) else 0.0
            return block, alive, (total - standing).expand(-1, len(alive), -1, -1)
        return (
            block,
            alive,
            self._placed([(away[..., cut], changes[:, cut])] if len(cut) < before else [(away, changes)]),
        )

    def _placed(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, "variant reader token d_model"]:
        """Weights (variant, place, reader, writer) times changes (variant, writer, token, d_model), place by place."""
        if not self.rows:
            return _products([(weights[:, 0], change) for weights, change in parts])
        first, change = parts[0]
        total = change.new_zeros(len(change), first.shape[2], *change.shape[2:])
        for place, rows in enumerate(self.rows):
            here = _products([(weights[:, place], change[:, :, rows]) for weights, change in parts])
            total = total.index_add(2, rows.to(total.device), here)
        return total


def _products(parts: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, "variant reader token d_model"]:
    """The sum of products over writers, a few writers at a time; the changes are not copied."""
    total: Tensor | None = None
    for weights, change in parts:
        weights, flat = weights.to(change), change.flatten(2)
        total = weights @ flat if total is None else torch.baddbmm(total, weights, flat)
    assert total is not None
    return total.unflatten(2, parts[0][1].shape[2:])


def tokens_at(places: Sequence[Sequence[list[int]]], lengths: Sequence[int]) -> Int[Tensor, " token"]:
    """The place of every own token of every prompt: the number of the place that names it, or the last for none.

    Parameters
    ----------
    places
        For each place the positions that it has in each prompt.
    lengths
        Of the prompts.
    """
    rows = []
    for b, n in enumerate(lengths):
        row = torch.full((n,), len(places))
        for i, named in enumerate(places):
            row[named[b]] = i
        rows.append(row)
    return torch.cat(rows)
