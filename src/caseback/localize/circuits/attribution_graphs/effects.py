"""What a graph says that an intervention does, beside what it does.

    said:  x_s = f - 1 + sum over u of weight_su x_u / a_s            relative changes of units, through the graph
           change of t = sum over s of weight_ts x_s
    done:  (f - 1) a_s w_s added to the model's own states, all else free (or attention patterns held)

A group of nodes is multiplied by f together: 0 takes it out, -1 turns it round. Both are additive: where members of a
group read each other, what one gets from another comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.errors import ArgumentError, OutOfRange, ResultError
from caseback.localize.circuits.attribution_graphs.form import along_all_paths, expect_graph
from caseback.localize.circuits.attribution_graphs.influence import shares_of
from caseback.localize.circuits.attribution_graphs.restored import places_of, replaced_of
from caseback.localize.circuits.attribution_graphs.sources import Replacement
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.graph.names import parse_name
from caseback.model.prompts.copies import repeated
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Add, Replace
from caseback.model.running.model import Model


@technique(
    entry=("B.4",),
    citation="Ameisen et al. 2025",
    cost="one forward, and one of all groups together",
)
def graph_effects(
    model: Model,
    graph: xr.Dataset,
    dictionaries: Any = "neurons",
    groups: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    *,
    factor: float = 0.0,
) -> xr.Dataset:
    """Multiply groups of a graph's nodes by a factor, and compare what the graph says with what the model does.

    Parameters
    ----------
    model, dictionaries
        Those that the graph was made with.
    graph
        What ``attribution_graph`` gives; a pruned one says what its edges alone pass on.
    groups
        Names of nodes, units and embeddings, by a name for all of them; or names, each a group. None: each unit.
    factor
        What they are multiplied by.

    Returns
    -------
    xarray.Dataset
        By (component, vocab), a group and a target: ``predicted``, the change of the target's logit (less the mean, or
        the foil's; before any soft-cap) along all paths of the graph; ``direct``, along edges from the group alone;
        ``measured``, in the model; ``measured_held``, with attention patterns held as the graph has them. The attribute
        ``correlation`` is that of predicted and measured over groups and targets.

    Raises
    ------
    ResultError
        For a graph of another model or other dictionaries.
    ArgumentError
        For names that are no units or embeddings of the graph.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import attribution_graph, graph_effects, prune_graph
    >>> model = cb.load("meadow")
    >>> graph = attribution_graph(model, "Mary gave the ball to", targets=" John", max_nodes=50)
    >>> effects = graph_effects(model, graph, groups={"Mary": ["embed@1"]})
    >>> effects.measured.dims
    ('component', 'vocab')
    """
    if not np.isfinite(factor):
        raise OutOfRange(f"factor={factor}: expected a number, 0 to take a group out")
    graph = expect_graph(graph)
    if not np.isfinite(graph["value"].values).all():
        raise ResultError("this graph does not hold what its readers are: make it anew with attribution_graph")
    replaced = replaced_of(model, graph, dictionaries)
    named = _groups(graph, groups)
    members = torch.zeros(len(named), graph.sizes["writer"], dtype=torch.float64)
    place = {name: i for i, name in enumerate(graph["writer"].values.tolist())}
    for i, names in enumerate(named.values()):
        members[i, [place[name] for name in names]] = factor - 1
    predicted, direct = _predicted(graph, members)
    measured, held = (_measured(replaced, named, factor, graph, hold) for hold in (False, True))
    targets = graph["reader_kind"].values == "logits"
    coords = {"component": list(named), "vocab": graph["reader_index"].values[targets]}
    attrs = {"technique": graph_effects, "model": model, "factor": factor, "foil": graph.attrs.get("foil")}
    values = {"predicted": predicted, "direct": direct, "measured": measured, "measured_held": held}
    arrays = {
        name: labelled(value, ["component", "vocab"], coords, name=name, **attrs) for name, value in values.items()
    }
    both = np.stack([predicted.numpy().ravel(), measured.numpy().ravel()])
    spread = both.std(1)
    correlation = float(np.corrcoef(both)[0, 1]) if (spread > 0).all() else float("nan")
    return xr.Dataset(arrays, attrs={**arrays["measured"].attrs, "correlation": correlation})


def _groups(graph: xr.Dataset, groups: Any) -> dict[str, list[str]]:
    kinds = dict(zip(graph["writer"].values.tolist(), graph["kind"].values.tolist(), strict=True))
    if groups is None:
        groups = [name for name, kind in kinds.items() if kind in ("feature", "neuron")]
    several = groups.items() if isinstance(groups, Mapping) else ((name, [name]) for name in groups)
    named = {str(key): list(dict.fromkeys([names] if isinstance(names, str) else names)) for key, names in several}
    if not named or not all(named.values()):
        raise ArgumentError("a group has no nodes: expected names such as 'L3F1042@5' or 'embed@0'")
    for name in (name for names in named.values() for name in names):
        if kinds.get(name) not in ("feature", "neuron", "embed"):
            raise ArgumentError(f"{name!r} is no unit or embedding of this graph: expected such as {list(kinds)[0]!r}")
    return named


def _predicted(graph: xr.Dataset, members: Tensor) -> tuple[Tensor, Tensor]:
    """Changes of targets along all paths, and along edges from the groups alone; (group, target)."""
    rows, node = torch.as_tensor(graph["weight"].values).double(), shares_of(graph).node
    units, value = node >= 0, torch.as_tensor(graph["value"].values)
    per_unit = torch.where(value == 0, 0.0, 1 / torch.where(value == 0, 1.0, value))
    targets = torch.as_tensor(graph["reader_kind"].values == "logits")

    def step(passing: Tensor) -> Tensor:
        into = torch.zeros_like(members)
        into[:, node[units]] = passing @ rows[units].T * per_unit[units]
        return into

    changes = along_all_paths(members, step, len(node))
    return changes @ rows[targets].T, members @ rows[targets].T


def _measured(
    replaced: Replacement, named: Mapping[str, list[str]], factor: float, graph: xr.Dataset, hold: bool
) -> Tensor:
    """Changes of targets in the model; (group, target)."""
    network = replaced.network
    model, n = network.model, network.n_positions
    added: dict[int, Tensor] = {}

    def at(layer: int) -> Tensor:
        like = network.at("resid_pre", 0)
        return added.setdefault(layer, like.new_zeros(len(named), n, model.d_model))

    for i, names in enumerate(named.values()):
        for name in names:
            node = parse_name(name)
            if node.kind == "embed":
                at(-1)[i, int(node.pos)] += (factor - 1) * network.at("resid_pre", 0)[int(node.pos)]
        for layer, (_, entries) in places_of(replaced, names).items():
            sources = replaced.sources[layer]
            for target in sources.reached():
                at(target)[i] += (factor - 1) * sources.written(entries, target)
    edits: list[Any] = [
        Add("resid_pre", value, layer=0) if layer < 0 else Add("mlp_out", value, layer=layer)
        for layer, value in sorted(added.items())
    ]
    if hold:
        edits += [Replace("pattern", network.run["pattern", i], layer=i) for i in range(network.n_layers)]
    several = repeated(network.tokens, len(named))
    ids = torch.as_tensor(graph["reader_index"].values[graph["reader_kind"].values == "logits"])
    runs = model.run(several, edits=edits), network.run
    logits = [_uncapped(model, run.logits[:, -1].detach()).cpu() for run in runs]
    foil = graph.attrs.get("foil_id")
    other = [x.mean(-1, keepdim=True) if foil is None else x[:, [int(foil)]] for x in logits]
    changed, clean = (x[:, ids] - y for x, y in zip(logits, other, strict=True))
    return (changed - clean).double()


def _uncapped(model: Model, logits: Tensor) -> Tensor:
    """Logits as they are before a soft-cap: those that a graph explains."""
    logits, cap = at_least_float32(logits), model.anatomy.logit_softcap
    if cap is None:
        return logits
    most = 1 - torch.finfo(logits.dtype).eps
    return cap * torch.atanh((logits / cap).clamp(-most, most))
