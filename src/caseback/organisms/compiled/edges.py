"""Cutting one edge: one reader sees another write in place of the source's, all others see the true one.

    what the slot reads  =  stream - write + value,    value 0, the write's mean, or the write in another run

An edge outside a written model's circuit can be cut without any effect, one inside cannot.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.circuit import Edge, Node
from caseback.model.running.edits import Add
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike


@checked
def ablate_edge(
    model: Model, tokens: PromptsLike, edge: Edge | str, value: str | Run = "zero"
) -> Float[Tensor, "batch pos vocab"]:
    """The logits at all positions while one edge is cut.

    Parameters
    ----------
    model
        The model. An edge into k or v can be cut only if heads do not share keys and values.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    edge
        From ``embed``, ``pos_embed``, a head or an MLP to a head's q, k or v, an MLP or ``logits``; text or ``Edge``.
    value
        What the reader sees: ``"zero"``, ``"mean"`` (of the write, over all these prompts' positions), or a run of
        other prompts, token-aligned, that has read the source's write (``head_out``, ``mlp_out``, ``embed`` or
        ``pos_embed``).

    Raises
    ------
    CasebackError
        For an edge of neurons or positions, an unknown value, or shared key/value heads.

    Examples
    --------
    >>> from caseback.organisms.compiled import build
    >>> organism = build("previous_token", alphabet="ab", max_length=4)
    >>> tokens, cut = organism.ids([["a", "b", "a"]]), "embed -> L0H0.q"
    >>> bool((ablate_edge(organism.model, tokens, cut) == organism.model.run(tokens).logits).all())
    True
    """
    edge = Edge.parse(edge) if isinstance(edge, str) else edge
    if any(node.pos or node.kind in ("neuron", "feature") for node in (edge.source, edge.target)):
        raise CasebackError(f"edge {edge} cannot be cut here: expected whole components, at all positions")
    if edge.slot in ("k", "v") and model.n_kv_heads != model.n_heads:
        raise CasebackError(f"edge {edge} cannot be cut: heads of {model.name} share their keys and values")
    if not isinstance(value, Run) and value not in ("zero", "mean"):
        raise CasebackError(f"value {value!r} is unknown: expected 'zero', 'mean' or a run of other prompts")
    tokens = model.tokens(tokens)
    written = _write(model.run(tokens, read=[_site(edge.source)]), edge.source)
    if isinstance(value, Run):
        change = _write(value, edge.source) - written
    elif value == "mean":
        change = written[tokens.mask].mean(0) - written
    else:
        change = -written
    return model.run(tokens, edits=[_reading(model, edge, change)]).logits


def _site(node: Node) -> Site:
    """Where a node's write is read."""
    name = {"head": "head_out", "mlp": "mlp_out"}.get(node.kind, node.kind)
    return Site(name, node.layer if node.layer >= 0 else None)


def _write(run: Run, node: Node) -> Float[Tensor, "batch pos d_model"]:
    site = _site(node)
    held = run[site.name, site.layer]
    return held[:, :, node.index] if node.kind == "head" else held


def _reading(model: Model, edge: Edge, change: Tensor) -> Add:
    target = edge.target
    if target.kind == "head":
        return Add(f"{edge.slot}_in", change, layer=target.layer, head=target.index)
    if target.kind == "mlp":
        return Add("mlp_in", change, layer=target.layer)
    return Add("resid_post", change, layer=model.n_layers - 1)
