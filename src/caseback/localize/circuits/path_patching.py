"""Path patching: what a sender does to some receivers, all other heads being held (PRIMER 3.2.23).

    input_R = input_R(clean) + s(corrupt) - s(clean) [+ what MLPs on the way make of it]    for the receivers R alone

Two conventions are in use. Frozen MLPs: only the direct edges from sender to receivers carry the counterfactual.
Recomputed MLPs: heads are held at their clean writes, MLPs and norms answer to what changed, so paths that pass
through MLPs count too (Wang et al.'s). What the receivers then write is computed anew, and so is all that reads it.
Where receivers feed one another the later reads it too (Goldowsky-Dill et al.), or is held at the input above (Wang et
al.).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.circuits.machinery.writes import changes, sites_of_writes
from caseback.localize.circuits.selecting import name_of_reader
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Node
from caseback.model.graph.graph import Graph, Reader
from caseback.model.prompts.per_token import aligned
from caseback.model.prompts.run_pair import base_and_source
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Add, Edit, Freeze, Replace
from caseback.model.running.frames import Positions, positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.sweeping.side_by_side import side_by_side

MLPS = ("frozen", "recomputed")


@technique(
    role="component effect",
    entry=("3.2.23",),
    citation="Wang et al. 2023, Goldowsky-Dill et al. 2023",
    cost="a sweep: one variant per sender",
)
def path_patch(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: Metric,
    *,
    receivers: Sequence[str],
    senders: Sequence[str] | None = None,
    mlps: str = "frozen",
    chained: bool = True,
    pos: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """What the metric changes by when only the receivers see a sender's counterfactual write.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned; one counterfactual for all, or one per prompt.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    receivers
        Who reads the counterfactual: ``"logits"``, ``"MLP 3"``, ``"L3H0.q"`` … (``"L3KV0.k"`` for shared keys), all of
        them at once.
    senders
        Writers by name, ``"embed"``, ``"L0H1"``, ``"MLP 0"`` …, one at a time; all by default.
    mlps
        ``"frozen"`` at their clean writes, as every other component between sender and receivers; or ``"recomputed"``,
        the choice of Wang et al. for IOI, in which the way through MLPs belongs to the path.
    chained
        Whether what one receiver writes reaches a later one, as in Goldowsky-Dill et al. 2023. With ``False`` every
        receiver but the logits is held at its clean input and what the sender changes of it, as in Wang et al. 2022.
        The two differ only where receivers feed one another.
    pos
        The position at which receivers see it; all positions by default.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (writer, batch), the patched metric less the clean one; 0 for a sender that no receiver reads. Beside it
        ``clean``, the metric of the clean run.

    Raises
    ------
    TokensError
        For counterfactuals that are not token-aligned.
    CasebackError
        For a name that is not a component of this model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> direct = path_patch(model, *pair, cb.logit_diff(" Mary", " John"), receivers=["logits"])
    >>> direct.sizes["writer"] == 1 + model.n_layers * (model.n_heads + 1)
    True
    """
    graph = Graph.of(model.anatomy)
    if mlps not in MLPS:
        raise CasebackError(f"mlps {mlps!r} is unknown. {did_you_mean(mlps, MLPS)}")
    into = [_receiver(graph, name) for name in receivers]
    if not into:
        raise CasebackError("no receiver given: expected some of 'logits', 'MLP 1', 'L2H0.q' and the like")
    names = [str(writer) for writer in graph.writers]
    chosen = names if senders is None else list(senders)
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise CasebackError(f"{unknown[0]!r} is not a writer of this model: expected some of {', '.join(names[:8])} …")
    base, source = base_and_source(model, clean, corrupt, "noising")
    reads = sites_of_writes(model, graph)
    here, there = (execute(model.anatomy, tokens, read=reads, logits=False) for tokens in (base, source))
    change = aligned(changes(model, here, there, graph).transpose(1, 2), base)
    numbers = [names.index(name) for name in chosen]
    if mlps == "frozen":
        by_sender = _direct(graph, change, numbers, into)
    else:
        by_sender = _by_mlps(model, graph, base, change, numbers, into)
    at = (lambda value: value) if pos is None else (lambda value: _at(value, base.lengths.tolist(), pos))
    inputs = {} if chained else {reader: at(value) for reader, value in _clean_inputs(model, base, into).items()}
    variants = [
        [seen(reader, at(change), pos, inputs.get(reader)) for reader, change in by_reader.items()]
        for by_reader in by_sender
    ]
    active = [i for i, edits in enumerate(variants) if edits]
    if not active:
        raise CasebackError(f"no sender stands before any of the receivers {list(receivers)}")
    swept = model.sweep(base, [variants[i] for i in active], metric, progress=progress)
    effects = np.zeros((len(chosen), len(base)))
    effects[active] = swept.values - swept["clean"].values
    return labelled(
        effects,
        ["writer", "batch"],
        {"writer": chosen, "clean": ("batch", swept["clean"].values)},
        name="effect",
        technique=path_patch,
        model=model,
        metric=metric.name,
        receivers=list(receivers),
        receivers_pos=pos,
        chained=chained,
        mlps=mlps,
    )


def _direct(
    graph: Graph, change: Float[Tensor, "batch pos writer d_model"], senders: Sequence[int], into: Sequence[Reader]
) -> list[dict[Reader, Float[Tensor, "batch pos d_model"]]]:
    """What each sender alone changes of the receivers' inputs."""
    columns = {reader: graph.readers.index(reader) for reader in into}
    return [{reader: change[:, :, w] for reader, r in columns.items() if graph.exists[w, r]} for w in senders]


def _by_mlps(
    model: Model,
    graph: Graph,
    base: Tokens,
    change: Float[Tensor, "batch pos writer d_model"],
    senders: Sequence[int],
    into: Sequence[Reader],
) -> list[dict[Reader, Float[Tensor, "batch pos d_model"]]]:
    """What each sender, and MLPs that answer to it, change of the receivers' inputs while heads are held."""
    last = model.n_layers - 1
    sites = {reader: _stream(model, reader) for reader in into}
    read = list(dict.fromkeys(sites.values()))
    clean = execute(model.anatomy, base, read=read, logits=False)
    by_sender: list[dict[Reader, Tensor]] = [{} for _ in senders]
    reached = [[r for r in into if graph.exists[w, graph.readers.index(r)]] for w in senders]
    able = [i for i, readers in enumerate(reached) if readers]
    variants = []
    for i in able:
        writer = graph.writers[senders[i]]
        edits: list[Edit] = [_sent(writer, change[:, :, senders[i]])]
        later = list(range(writer.layer + 1, last + 1))
        variants.append([*edits, Freeze("z", layer=later)] if later else edits)
    for which, run in side_by_side(model.anatomy, base, variants, read):
        for n, v in enumerate(which):
            rows = slice(n * len(base), (n + 1) * len(base))
            for reader in reached[able[v]]:
                site = sites[reader]
                moved = run[site.name, site.layer][rows] - clean[site.name, site.layer]
                by_sender[able[v]][reader] = aligned(moved, base)
    return by_sender


def _clean_inputs(
    model: Model, base: Tokens, into: Sequence[Reader]
) -> dict[Reader, Float[Tensor, "batch pos d_model"]]:
    """What the receivers read in the clean run; the logits are left out, which read all that the others write."""
    sites = {reader: _stream(model, reader) for reader in into if reader[0].kind != "logits"}
    clean = execute(model.anatomy, base, read=list(dict.fromkeys(sites.values())), logits=False)
    return {reader: aligned(clean[site.name, site.layer], base) for reader, site in sites.items()}


def _stream(model: Model, reader: Reader) -> Site:
    """The stream that a receiver reads."""
    node = reader[0]
    if node.kind == "logits":
        return Site("resid_post", model.n_layers - 1)
    return Site("mlp_in" if node.kind == "mlp" else "attn_in", node.layer)


def _sent(writer: Node, change: Tensor) -> Edit:
    """A sender's write with its change added."""
    if writer.kind == "head":
        return Add("head_out", change, layer=writer.layer, head=writer.index)
    return Add("mlp_out", change, layer=writer.layer) if writer.kind == "mlp" else Add("resid_pre", change, layer=0)


def _receiver(graph: Graph, name: str) -> tuple[Node, str]:
    text, _, slot = name.partition(".")
    reader = (Node.parse(text), slot)
    if reader not in graph.readers:
        known = ", ".join(name_of_reader(other) for other in graph.readers[:4])
        raise CasebackError(f"{name!r} reads nothing in this model: expected readers such as {known}, …, logits")
    return reader


def _at(change: Tensor, lengths: list[int], pos: Positions) -> Tensor:
    """The changes at one position of each prompt."""
    where = [next(iter(positions(pos, i, n))) for i, n in enumerate(lengths)]
    return change[list(range(len(where))), where]


def seen(reader: Reader, change: Tensor, pos: int | None, clean: Tensor | None = None) -> Edit:
    """A receiver's input with a change added: to what it reads, or to its ``clean`` input, at which it is then held."""
    node, slot = reader
    edit, value = (Add, change) if clean is None else (Replace, clean + change)
    if node.kind == "logits":
        return edit("resid_post", value, layer=-1, pos=pos)
    if node.kind == "mlp":
        return edit("mlp_in", value, layer=node.layer, pos=pos)
    return edit(f"{slot}_in", value, layer=node.layer, head=node.index, pos=pos)
