"""Groups of an attribution graph's units against the model: predicted and measured; and its circuits at sizes.

    python benchmarks/graph_supernodes.py [--tokens 600000] [--prompts 8]      --tokens 0: neurons alone
    python benchmarks/graph_supernodes.py --model SMOLLM2

Supernodes are found by rule: all units shown at one position (the three of most influence), and all units shown that
raise one word (the three words of most influence among those that two or more units have in their first five). Each is
taken out as a whole. Predicted is along all paths of the graph, direct along edges to the target alone, measured in the
model, with and without attention held; all as shares of the logit difference. On meadow three tasks, transcoders of
every layer and neurons, with means over prompts; else a fact and an indirect object, with neurons.

Then, on meadow, what of a task the strongest 4, 16, 64 and 256 nodes have, all others at their mean: ranked by mean
influence in the attribution graphs of 40 prompts, by effects (integrated gradients) on the same prompts, and heads and
MLPs by effects. Errors of transcoders are kept. Judged on 40 others.
"""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import nullcontext
from typing import Any

import numpy as np
import xarray as xr
from graphs_on_meadow import first, tasks, transcoders_of
from rich.console import Console
from rich.table import Table

import caseback as cb
from caseback.decode.dictionaries import attached
from caseback.localize.circuits import (
    attribution_graph,
    feature_circuit,
    feature_faithfulness,
    graph_effects,
    node_influence,
    prune_graph,
)
from caseback.reports.graphs.attribution import attribution_graph_document

SIZES = (4, 16, 64, 256)
GROUPS = 3  # by position, and by word
PROMPTS = (("The capital of France is", " Paris", None),
           ("When Mary and John went to the store, John gave a drink to", " Mary", " John"))  # fmt: skip
console = Console(width=140)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="meadow")
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--prompts", type=int, default=8)
    given = parser.parse_args()
    model = cb.load(given.model)
    if given.model != "meadow":
        for prompt, target, foil in PROMPTS:
            graph = attribution_graph(model, prompt, targets=target, foil=foil)
            show(prompt, supernode_effects(model, graph, "neurons", 0.5))
        return
    transcoders = transcoders_of(model, given.tokens) if given.tokens else []
    every = Table("task", "units", "groups", "correlation", "of direct", "signs agree", "mean size", "mean miss")
    for units, parts in (("transcoders", transcoders), ("neurons", "neurons"))[not transcoders :]:
        for task, prompts in tasks(model, given.prompts):
            found = []
            for prompt, target, foil, _ in prompts:
                graph = attribution_graph(model, [prompt], parts, targets=target, foil=foil, max_nodes=1500)
                found.append(supernode_effects(model, graph, parts, 0.7))
            if units == "transcoders":
                show(f"{task}: {model.tokenizer.decode(prompts[0][0])}", found[0])
            rows = np.array([row for one in found for row in one.values()])
            said, direct, done = rows[:, 0], rows[:, 1], rows[:, 2]
            both = [float(np.corrcoef(x, done)[0, 1]) for x in (said, direct)]
            signs = float((np.sign(said) == np.sign(done)).mean())
            row = (*both, signs, float(abs(done).mean()), float(abs(said - done).mean()))
            every.add_row(task, units, str(len(rows)), *(f"{x:.2f}" for x in row))
    console.print(every)
    for task in ("agreement", "greater_than"):
        at_sizes(model, transcoders, task)


def supernode_effects(model: cb.Model, graph: xr.Dataset, parts: Any, node: float) -> dict[str, list[float]]:
    """By group: predicted, direct, measured and measured with attention held, as shares of the logit difference."""
    document = attribution_graph_document(
        model, [], parts, graph=graph, node=node, edge=1, interventions=0, query_key=0, k=5
    )
    nodes = document["nodes"]
    small = prune_graph(graph, node=node)
    shown = set(small["writer"].values[np.isin(small["kind"].values, ("feature", "neuron"))].tolist())
    units = [i for i, name in enumerate(nodes["name"]) if name in shown]
    texts = [token["text"] for token in document["tokens"]]
    by_place: dict[str, list[int]] = {}
    by_word: dict[str, list[int]] = {}
    for i in units:
        by_place.setdefault(f"at {texts[nodes['pos'][i]]!r} {nodes['pos'][i]}", []).append(i)
        for word in nodes["words"][i]["up"]:
            by_word.setdefault(f"raise {word!r}", []).append(i)
    groups: dict[str, list[str]] = {}
    for kind, least in ((by_place, 1), (by_word, 2)):
        weight = Counter(
            {name: sum(nodes["influence"][i] for i in own) for name, own in kind.items() if len(own) >= least}
        )
        groups |= {
            f"{len(kind[name])} {name}": [nodes["name"][i] for i in kind[name]]
            for name, _ in weight.most_common(GROUPS)
        }
    effects = graph_effects(model, graph, parts, groups).isel(vocab=0)
    value = float(graph["value"].values[-1])
    ways = ("predicted", "direct", "measured", "measured_held")
    return {name: [float(effects[way].sel(component=name)) / value for way in ways] for name in groups}


def show(title: str, rows: dict[str, list[float]]) -> None:
    table = Table("units", "predicted", "direct", "measured", "attention held", title=title)
    for name, row in rows.items():
        table.add_row(name, *(f"{x:.2f}" for x in row))
    console.print(table)


def at_sizes(model: cb.Model, transcoders: list[Any], task: str) -> None:
    """Faithfulness of the strongest nodes, and what is left without them, by what ranked them."""
    prompts = getattr(cb.tasks, task)().prompts(model, 80, seed=0)
    finding, judging = prompts[:40], prompts[40:]
    table = Table(
        "nodes", "ranked by", *(f"{size}" for size in SIZES), *(f"without {size}" for size in SIZES), title=task
    )
    with attached(model, transcoders, name="transcoder") if transcoders else nullcontext():
        for label, sites, parts in (
            ("neurons", ["mlp_post"], "neurons"),
            ("transcoder features", ["transcoder"], transcoders),
            ("heads and MLPs", ["z", "mlp_out"], None),
        ):
            if parts == []:
                continue
            found = feature_circuit(
                model, finding.clean, finding.corrupt, finding.metric, sites=sites, node_threshold=0.0, edges=False
            )
            scores = {str(node): abs(score) for node, score in found.scores.items()}
            ranks = {"effects": sorted(scores, key=lambda name: -scores[name])}
            if parts is not None:
                ranks["graphs"] = by_influence(model, finding, parts)
            for way, names in ranks.items():
                sizes = [size for size in SIZES if size <= len(names)]
                circuits = [cb.Circuit.of(*names[:size]) for size in sizes]
                judged = feature_faithfulness(
                    model, judging.clean, judging.corrupt, judging.metric, circuits, sites=sites
                )
                row = judged.isel(measure=0)
                cells = [
                    [f"{x:.2f}" for x in row[name].values] + [""] * (len(SIZES) - len(sizes))
                    for name in ("faithfulness", "completeness")
                ]
                table.add_row(label, way, *cells[0], *cells[1])
    console.print(table)


def by_influence(model: cb.Model, prompts: Any, parts: Any) -> list[str]:
    """Units, positions put together, by their mean influence in the graphs of some prompts."""
    total: Counter[str] = Counter()
    rows = zip(prompts.clean.ids, prompts.clean.mask, prompts.metric.target, prompts.metric.foil, strict=True)
    for ids, mask, target, foil in rows:
        graph = attribution_graph(
            model, [ids[mask].tolist()], parts, targets=first(target), foil=first(foil), max_nodes=1500
        )
        influence = node_influence(graph)
        units = influence.isel(writer=np.isin(graph["kind"].values, ("feature", "neuron")))
        for name, value in zip(units["writer"].values.tolist(), units.values.tolist(), strict=True):
            total[name.partition("@")[0]] += value
    return [name for name, _ in total.most_common()]


if __name__ == "__main__":
    main()
