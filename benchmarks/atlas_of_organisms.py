"""Models whose heads and neurons are known: does the atlas find these, and prove nothing else?

    python benchmarks/atlas_of_organisms.py [--organisms induction,duplicate] [--texts 60]

For each compiled organism an atlas of all kinds of heads and neurons that need no labels, on random words, with proofs.
Beside each other: the units whose kind is known by construction, how many of them have that label and how many are
proved as it; other labels, and those on the control; and what else is proved: rightly beside what the unit was built
for (``TOO``: an induction head copies), or falsely.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from caseback.behaviors import KINDS, Atlas, atlas
from caseback.organisms.compiled import build, names
from caseback.organisms.compiled.organism import Organism

PREVIOUS, SAME = {"L0H0": "previous token"}, {"L0H0": "duplicate token"}
# what a unit was built for, as the atlas calls it; a kind that is not a head's or neuron's own circuit has no line
KNOWN: dict[str, dict[str, str]] = {
    "previous_token": PREVIOUS,
    "induction": PREVIOUS | {"L1H0": "induction"},
    "recall": PREVIOUS,
    "duplicate": SAME,
    "count": SAME,
    "indirect_object": PREVIOUS | {"L0H1": "duplicate token", "L1H0": "induction", "L4H0": "anti-copying"},
    "copy_suppression": {"L0H0": "copying", "L1H0": "copy suppression"},
    "superposition": {"L0H0": "current token"},
    "entropy_neuron": {"L0N0": "entropy"},
    "planted_neurons": PREVIOUS
    | {"L0N0": "position", "L0N5": "attention switch", "L0N6": "attention switch"}
    | {"L1N0": "suppression", "L1N1": "token frequency"}
    | {f"L0N{i}": "dead" for i in (7, 8)}
    | {f"L1N{i}": "dead" for i in range(2, 9)},
}
# labels that a unit has rightly beside its own: near words include the word itself, movers copy, a head that looks one
# back needs no far keys, and what a neuron was built to raise is a few of the words
TOO = {
    "induction": {("L1H0", "fuzzy induction"), ("L1H0", "copying")},
    "indirect_object": {("L4H0", "negative"), ("L0H0", "streaming")}
    | {(f"L{head}", "copying") for head in ("3H0", "3H1", "4H1")},
    "planted_neurons": {(f"L0N{i}", kind) for i in range(7) for kind in ("prediction", "partition")},
}
WIDE = [f"{a}{b}" for a in "bdfgklm" for b in "aeiou"] + ["ba-di", "do-fe", "gu-ka", "lo-mi", "me-bu"]
# large enough for spans of random words that come again; a head that shares its attention among three places has little
# above uniform attention in a row of nine
SIZES: dict[str, dict[str, Any]] = {
    **{name: {"alphabet": WIDE, "max_length": 36} for name in ("previous_token", "induction", "duplicate", "count")},
    "copy_suppression": {"alphabet": WIDE, "max_length": 36},
    "indirect_object": {
        "names": WIDE,
        "templates": ["Then {A} and {B} " + "went on " * 14 + "and {S2} gave it to"],
    },
}
LEFT_OUT = ("relation ",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--organisms", default=",".join(names()))
    parser.add_argument("--texts", type=int, default=60)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    columns = ("organism", "units", "known", "label", "proved", "other labels", "on the control", "also", "false")
    table, listed = Table(*columns, title="Atlases of compiled organisms"), []
    for name in given.organisms.split(","):
        organism = build(name, **SIZES.get(name, {}))
        row, others = measured(name, organism, given.texts)
        table.add_row(*map(str, row))
        listed += others
    console = Console(width=120)
    console.print(table)
    for line in listed:
        console.print(line, highlight=False)


def measured(name: str, organism: Organism, n_texts: int) -> tuple[list[object], list[str]]:
    """A row of the table, and what is labeled or proved beside the known units' own kinds."""
    found = atlas_of(organism, n_texts)
    known = set(KNOWN.get(name, {}).items())
    labels = {(unit, kind) for unit, kinds in found.labels().items() for kind in kinds}
    proved = {(one.component, one.kind) for one in found.findings if one.grade == "proved"}
    units = sum({report.sort: report.units for report in found.kinds if not report.missing}.values())
    false = sum(report.false_labels for report in found.kinds)
    also = known | TOO.get(name, set())
    counts = [len(known), len(labels & known), len(proved & known), len(labels - also), false]
    counts += [len(proved & (also - known)), len(proved - also)]
    why = {report.kind: report.missing or report.unproved for report in found.kinds}
    lines = [
        f"{name}: {unit} {kind} has no label ({why[kind] or 'looked for'})" for unit, kind in sorted(known - labels)
    ]
    lines += [
        f"{name}: {unit} {kind} is not proved ({why[kind] or 'tried'})"
        for unit, kind in sorted((known & labels) - proved)
    ]
    roles = {str(node): role for node, role in organism.circuit.roles.items()}
    lines += [
        f"{name}: {unit} proved as {kind}; built as {roles.get(unit, '–')}" for unit, kind in sorted(proved - also)
    ]
    return [name, units, *counts], lines


def atlas_of(organism: Organism, n_texts: int) -> Atlas:
    """Its atlas on random words, of all kinds of heads and neurons that need no labels."""
    draw = torch.Generator().manual_seed(1)
    length = max(4, (organism.model.context or 12) - 2)
    texts = torch.randint(1, organism.model.d_vocab, (n_texts, length), generator=draw).tolist()
    kinds = [name for name, one in KINDS.items() if one.sort in ("head", "neuron") and not name.startswith(LEFT_OUT)]
    return atlas(organism.model, texts, kinds=kinds)


if __name__ == "__main__":
    main()
