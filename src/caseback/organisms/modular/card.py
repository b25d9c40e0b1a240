"""The grokking run's card: its progress measures as a table, and when each phase was reached."""

from __future__ import annotations

import math
from pathlib import Path

import xarray as xr

from caseback.jobs.whole_file import whole_file
from caseback.organisms.modular.progress import phases, progress
from caseback.organisms.modular.train import BETAS, DECAY, RATE

_ALGORITHM = (
    *("gradient_symmetry", "distance_irrelevance", "formula_share", "single_neurons", "active_neurons"),
    *("active_at_random", "efficiency"),
)
_COLUMNS = ("train_loss", "test_loss", "test_accuracy", "restricted_loss", "excluded_loss", "squared_weights", "gini")


def write_card(folder: Path) -> Path:
    """Measure every checkpoint of a run and write the folder's ``README.md``."""
    text, page = card(progress(folder)), folder / "README.md"
    with whole_file(page) as draft:
        draft.write_text(text, encoding="utf-8")
    return page


def card(measures: xr.Dataset) -> str:
    """The card.

    Parameters
    ----------
    measures
        What ``progress`` gives.
    """
    p, share, seed = measures.attrs["p"], measures.attrs["share"], measures.attrs["seed"]
    steps = int(measures.step[-1])
    keys = ", ".join(map(str, measures.attrs["key_frequencies"]))
    reached = "\n".join(
        f"- **{name}**: " + ("not reached" if step is None else f"by step {step:,}")
        for name, step in phases(measures).items()
    )
    return f"""---
license: apache-2.0
library_name: transformers
---

# grokking

One layer, 4 heads, 128 wide, an MLP of 512, no norms (`crystal`, see `caseback.model.crystal`), which adds modulo {p}:
`"3 4 ="` is followed by `7`. It was trained on {share:.0%} of the {p * p} pairs, long after it knew them by heart, and
its checkpoints show what happens then (Nanda et al. 2023, "Progress measures for grokking via mechanistic
interpretability"; Primer 5.4.17). The paper has p = 113 and 30 % of the pairs; the modulus is smaller here so that the
run takes minutes, and the share larger since a small modulus has fewer pairs to learn from.

## What happened

{reached}

Restricted loss is that of the logits' key frequencies alone, over all pairs; excluded loss that of all but them, over
the pairs trained on. The key frequencies of the last checkpoint are {keys}: with w = 2πk/{p}, the fewest k whose
cos(w(a + b)) and sin(w(a + b)) hold 95 % of what all frequencies of the sum hold of the logits. Chance is
{_chance(p)}. Losses are in nats; the last column is the Gini coefficient of the embedding's norms over frequencies.

| step | training loss | held-out loss | held-out accuracy | restricted loss | excluded loss | squared weights | Gini |
|---|---|---|---|---|---|---|---|
{_rows(measures, _COLUMNS)}

Training loss rises now and then for some tens of steps, as large steps of Adam with small gradients do.

## By which algorithm it adds

Two ways to add are known (Zhong et al. 2023): a clock multiplies the waves of both numbers, a pizza reads only their
mean. Of a clock gradients at the two numbers differ (symmetry .33 in the paper, .99 of a pizza) and their distance
does not matter to the right logit (irrelevance .85, of a pizza .17). Formula: the share of the logits' variance that
cosines of a + b − c at their key frequencies explain; neurons of one frequency: those of which its waves hold 85 % of
the variance (Nanda et al. 2023). Active: how many of the 512 neurons, largest norms first, give 99 % of the model's
own answers, beside neurons in a random order (Merrill et al. 2023). Efficiency: the mean margin of
the right answer on trained pairs over the norm of the weights (Varma et al. 2023).

| step | symmetry | irrelevance | formula | neurons of one frequency | active neurons | at random | efficiency |
|---|---|---|---|---|---|---|---|
{_rows(measures, _ALGORITHM)}

## How it was made

`caseback organisms train grokking --out DIR --seed {seed}`: {steps:,} steps of AdamW on all training pairs
at once, rate {RATE:g}, weight decay {DECAY:g}, betas {BETAS}. The checkpoints are in `checkpoints/step-N`; weights are
stored in 16 bits and computed with in float32. `caseback organisms evaluate grokking --write` made this page.
"""


_SHARES = ("test_accuracy", "formula_share", "single_neurons")


def _chance(p: int) -> str:
    return f"log {p} = {math.log(p):.2f}"


def _rows(measures: xr.Dataset, columns: tuple[str, ...]) -> str:
    lines = []
    for step in measures.step.values:
        row = measures.sel(step=step)
        cells = [f"{float(row[name]):.1%}" if name in _SHARES else _short(float(row[name])) for name in columns]
        lines.append(f"| {int(step):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:.1e}" if abs(value) < 0.01 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
