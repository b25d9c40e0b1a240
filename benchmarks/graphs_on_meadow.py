"""Attribution graphs of the bundled model with transcoders and with neurons: do interventions confirm what they say?

    python benchmarks/graphs_on_meadow.py [--tokens 600000] [--prompts 8]

TopK transcoders of every layer are trained on the model's own kind of text. On prompts of three tasks (agreement,
greater-than, and the language of a resident, which follows from the city) the answer is explained against a foil. For
each: how much of what leads to it begins at the prompt, how predicted and measured effects of the 20 strongest units go
together (and how often their signs agree), and what is measured without the strongest five together, as a share of the
logit difference, beside five drawn at random from the graph.

Of a resident: how much of the influence passes through units that write the name of the resident's city, beside units
that write the names of five other cities, and what the model loses without the former and without the latter.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from rich.console import Console
from rich.table import Table

import caseback as cb
from caseback.decode.dictionaries import Dictionary, Recipe, train_dictionaries
from caseback.localize.circuits import attribution_graph, graph_effects, graph_scores, node_influence
from caseback.organisms.prose import world
from caseback.organisms.prose.text import KINDS, documents
from caseback.reports.graphs.attribution import attribution_graph_document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--prompts", type=int, default=8)
    given = parser.parse_args()
    model = cb.load("meadow")
    transcoders = transcoders_of(model, given.tokens)
    columns = ("task", "units", "replacement", "correlation", "signs agree", "without 5", "without 5 random")
    table = Table(*columns, title="Graphs and interventions, means over prompts")
    cities = Table("units", "through its city", "through other cities", "lost without", "lost without others")
    for units, parts in (("transcoders", transcoders), ("neurons", "neurons")):
        for task, prompts in tasks(model, given.prompts):
            rows, ways = [], []
            for prompt, target, foil, who in prompts:
                graph = attribution_graph(model, [prompt], parts, targets=target, foil=foil, max_nodes=1500)
                rows.append(judged(model, graph, parts))
                if who is not None:
                    ways.append(by_city(model, graph, parts, who))
            table.add_row(task, units, *(f"{x:.2f}" for x in np.nanmean(rows, 0)))
            if ways:
                cities.add_row(units, *(f"{x:.3f}" for x in np.nanmean(ways, 0)))
    console = Console(width=120)
    console.print(table)
    console.print(cities)


def transcoders_of(model: cb.Model, n_tokens: int) -> list[Dictionary]:
    """Skip transcoders of every layer, trained on the model's own kind of text."""
    texts = [d.text for i, kind in enumerate(KINDS) for d in documents(kind, 400, seed=i, heldout=False)]
    random.Random(0).shuffle(texts)
    recipes = [
        Recipe(
            site=f"mlp_norm.{i}", target=f"mlp_out.{i}", architecture="topk", options={"k": 32}, width=2560, skip=True
        )
        for i in range(model.n_layers)
    ]
    began = time.perf_counter()
    trained = train_dictionaries(model, texts, recipes, n_tokens=n_tokens)
    print(f"{len(trained)} skip transcoders in {time.perf_counter() - began:.0f} s")
    return [one.dictionary for one in trained]


def tasks(model: cb.Model, count: int) -> Iterator[tuple[str, list[tuple[list[int], int, int, world.Resident | None]]]]:
    """By name, prompts that the model answers, with the answer, a foil, and the resident that they are about."""
    draw = random.Random(0)
    told = []
    while len(told) < count:
        who, other = draw.sample(world.RESIDENTS, 2)
        ids = model.tokens(f"The neighbors of {who.name} {who.surname} speak").ids
        target, foil = (model.token_id(f" {one.language}") for one in (who, other))
        if target != foil and int(model.run(ids).logits[0, -1].argmax()) == target:
            told.append((ids[0].tolist(), target, foil, who))
    yield "language of a resident", told
    for name in ("agreement", "greater_than"):
        prompts = getattr(cb.tasks, name)().prompts(model, count, seed=0)
        rows = zip(prompts.clean.ids, prompts.clean.mask, prompts.metric.target, prompts.metric.foil, strict=True)
        yield name, [(ids[mask].tolist(), first(target), first(foil), None) for ids, mask, target, foil in rows]


def first(tokens: int | list[int]) -> int:
    """One of several right (or wrong) answers."""
    return tokens if isinstance(tokens, int) else tokens[0]


def strongest(graph: xr.Dataset, count: int) -> list[str]:
    influence = node_influence(graph)
    units = influence.isel(writer=np.isin(graph.kind.values, ("feature", "neuron")))
    return units.writer.values[np.argsort(-units.values)[:count]].tolist()


def judged(model: cb.Model, graph: xr.Dataset, parts: object) -> list[float]:
    """One prompt's row."""
    names = strongest(graph, 20)
    units = graph.writer.values[np.isin(graph.kind.values, ("feature", "neuron"))].tolist()
    groups = {**{name: [name] for name in names}, "five": names[:5], "random": random.Random(0).sample(units, 5)}
    effects = graph_effects(model, graph, parts, groups)
    each = effects.sel(component=names)
    said, done = each.predicted.values[:, 0], each.measured.values[:, 0]
    value = float(graph.value.values[-1])
    return [
        graph_scores(graph)["replacement"],
        float(np.corrcoef(said, done)[0, 1]),
        float((np.sign(said) == np.sign(done)).mean()),
        *(float(effects.measured.sel(component=name).values[0]) / value for name in ("five", "random")),
    ]


@torch.no_grad()
def by_city(model: cb.Model, graph: xr.Dataset, parts: object, who: world.Resident) -> list[float]:
    """Influence through units that write the resident's city, and others; what is lost without each."""
    document = attribution_graph_document(
        model, [], parts, graph=graph, node=1, edge=1, interventions=0, most_nodes=5000, k=10
    )
    words = dict(zip(document["nodes"]["name"], document["nodes"]["words"], strict=True))
    influence = node_influence(graph).to_series()
    names = {
        city: [name for name, word in words.items() if word and f" {city}" in word["up"]]
        for city in sorted({one.city for one in world.RESIDENTS})
    }
    own, others = names.pop(who.city), [names[city] for city in random.Random(0).sample(sorted(names), 5)]
    value = float(graph.value.values[-1])

    def lost(group: list[str]) -> float:
        return (
            float(graph_effects(model, graph, parts, {"group": group}).measured.values[0, 0]) / value if group else 0.0
        )

    through = [float(influence[group].sum()) for group in (own, *others)]
    return [through[0], float(np.mean(through[1:])), lost(own), float(np.mean([lost(group) for group in others]))]


if __name__ == "__main__":
    main()
