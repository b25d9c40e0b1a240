"""Attribution graphs of models whose mechanism is known: do they show it?

    python benchmarks/graphs_on_organisms.py [--prompts 20]

For each compiled organism, graphs of its own neurons on random prompts that it has an answer to, the answer against
another word that it might have said. Beside each other: how much of what leads to the answer begins at the words that
it is made from (chance: as many words of the prompt), on how many prompts the strongest path begins there, how much of
what heads carry from there is carried by heads of the circuit, and how predicted and measured effects of taking each
unit and each word out go together.
"""

from __future__ import annotations

import argparse
import random

import numpy as np
from rich.console import Console
from rich.table import Table

from caseback.errors import CasebackError
from caseback.localize.circuits import attribution_graph, graph_effects, head_loadings, node_influence
from caseback.organisms.compiled import build
from caseback.organisms.compiled.organism import Organism

ORGANISMS = ("recall", "induction", "indirect_object", "superposition", "modular_addition", "shortcut")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=20)
    given = parser.parse_args()
    columns = ("organism", "prompts", "begins at sources", "chance", "strongest path", "circuit's heads", "correlation")
    table = Table(*columns, title="Attribution graphs of compiled organisms")
    for name in ORGANISMS:
        organism = build(name)
        rows = [row for prompt in prompts(organism, given.prompts) if (row := measured(organism, *prompt))]
        means = [mean(column) for column in zip(*rows, strict=True)]
        table.add_row(name, str(len(rows)), *means)
    Console(width=120).print(table)


def mean(column: tuple[float, ...]) -> str:
    """The mean of what there is: heads carry nothing where MLPs stand between."""
    there = [value for value in column if np.isfinite(value)]
    return f"{np.mean(there):.2f}" if there else "-"


def prompts(organism: Organism, count: int) -> list[tuple[list[str], str, str, set[int]]]:
    """Prompts that end where the organism answers, the answer, another possible answer, and the words it is made of."""
    draw = random.Random(0)
    drawn: list[tuple[list[str], str, str, set[int]]] = []
    answers: set[str] = set()
    for _ in range(40 * count):
        words = words_of(organism, draw)
        try:
            answer = organism.function(words)[-1]
        except CasebackError:
            continue
        sources = sources_of(organism, words, answer)
        if answer is None or not sources:
            continue
        answers.add(answer)
        drawn.append((words, answer, "", sources))
    chosen = []
    for words, answer, _, sources in drawn[:count]:
        others = sorted((set(words) & answers or answers) - {answer}) or sorted(answers - {answer})
        if others:
            chosen.append((words, answer, draw.choice(others), sources))
    return chosen


def words_of(organism: Organism, draw: random.Random) -> list[str]:
    """A random prompt of the form that the organism was written for."""
    if organism.name == "indirect_object":
        a, b = draw.sample([w for w in organism.inputs if w[0].isupper()][:6], 2)
        return f"when {a} and {b} went to the store {b} gave it to".split() if "when" in organism.inputs else [a, b, b]
    if organism.name == "modular_addition":
        numbers = [w for w in organism.inputs if w.isdigit()]
        return (
            [draw.choice(numbers), draw.choice(numbers), "="] if "=" in organism.inputs else draw.choices(numbers, k=2)
        )
    return draw.choices(organism.inputs, k=min(organism.max_length, 7))


def sources_of(organism: Organism, words: list[str], answer: str | None) -> set[int]:
    """The positions, BOS counted, of the words that the answer is made of."""
    if organism.sources is not None:
        return {position + 1 for position in organism.sources(words, len(words) - 1)}
    if organism.name == "modular_addition":
        return {i + 1 for i, word in enumerate(words) if word.isdigit()}
    return {i + 1 for i, word in enumerate(words) if word == answer}


def measured(organism: Organism, words: list[str], answer: str, other: str, sources: set[int]) -> list[float] | None:
    """One prompt's row."""
    model, ids = organism.model, organism.ids([words]).tolist()
    graph = attribution_graph(model, ids, "neurons", targets=answer, foil=other, first=0, max_nodes=1000)
    influence = node_influence(graph)
    embeds = influence.isel(writer=graph.kind.values == "embed")
    if float(embeds.sum()) == 0:
        return None
    at_sources = np.isin(embeds.pos_of.values, list(sources))
    begins = float(embeds.values[at_sources].sum() / embeds.values.sum())
    strongest = float(int(embeds.pos_of.values[embeds.values.argmax()]) in sources)
    names = [f"embed@{pos}" for pos in sorted(sources)]
    heads = head_loadings(model, graph, top=model.n_heads * model.n_layers)
    own = {str(node) for node in organism.circuit.nodes if node.kind == "head"}
    of_sources = heads.sel(writer=[name for name in names if name in heads.writer.values])
    size = abs(of_sources["loading"].values)
    carried = float(size[np.isin(of_sources["head"].values, list(own))].sum() / size.sum()) if size.sum() else np.nan
    groups = {name: [name] for name, kind in zip(graph.writer.values, graph.kind.values, strict=True)
              if kind in ("embed", "neuron")}  # fmt: skip
    correlation = float(graph_effects(model, graph, groups=groups).attrs["correlation"])
    return [begins, len(sources) / (len(words) + 1), strongest, carried, correlation]


if __name__ == "__main__":
    main()
