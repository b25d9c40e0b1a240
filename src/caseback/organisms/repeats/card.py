"""The induction run's card: what every checkpoint does, as a table, and when it begins to look back."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from caseback.jobs.whole_file import whole_file
from caseback.organisms.repeats import words
from caseback.organisms.repeats.measure import RANDOM_ROWS, SPAN
from caseback.organisms.repeats.train import BETAS, DECAY, HEADS, LAYERS, PEAKS, ROWS, WIDTH

_COLUMNS = ("loss", "first", "second", "previous", "duplicate", "induction")


def write_card(folder: Path, seed: int, measures: xr.Dataset) -> Path:
    """Write the folder's ``README.md`` from what ``growth`` gave, and return its path."""
    page = folder / "README.md"
    with whole_file(page) as draft:
        draft.write_text(card(measures, seed), encoding="utf-8")
    return page


def card(measures: xr.Dataset, seed: int) -> str:
    """The card.

    Parameters
    ----------
    measures
        What ``growth`` gives.
    seed
        Of the run.
    """
    steps = int(measures.step[-1])
    before, after = change(measures)
    rows = "\n".join(
        f"| {int(step):,} | {' | '.join(f'{float(measures[name].sel(step=step)):.2f}' for name in _COLUMNS)} |"
        for step in measures.step.values
    )
    matrices, rest = PEAKS
    return f"""---
license: apache-2.0
library_name: transformers
---

# induction

{LAYERS} layers of {HEADS} heads and no MLP, {WIDTH} wide (`crystal` with layer norms, see `caseback.model.crystal`), a
context of {words.LENGTH} tokens and a vocabulary of {words.VOCABULARY} words. Its checkpoints show a phase change: long
after it knows which word follows which, it begins to look back, within a few hundred steps (Olsson et al. 2022,
"In-context learning and induction heads"; Primer 5.4.13).

The text has two things to learn (`caseback.organisms.repeats.words`): a chain in which every word has four followers,
and spans of random words that are said two to five times. Bigrams know the chain and nothing of the spans.

## What happened

Of a random span's second telling, most of the fall in loss lies between steps {before:,} and {after:,}.

| step | loss on text | random words | said again | attention to the word before | to where it stood | behind that |
|---|---|---|---|---|---|---|
{rows}

Losses are in nats. Random words: {RANDOM_ROWS} rows of {SPAN} different words, drawn afresh, said twice. Attention is
the mean of the best head in the second telling: to the token before, to where the same token stood in the first, and to
the place behind that, which holds the answer.

The run ends here. Its text repeats no span of more than nine words, and a model that is trained on forgets how to look
back further: trained to 3,000 steps, with rates falling over the last 900, the second telling cost 5.27 nats, though
the loss on text had fallen to 2.33.

## How it was made

`caseback organisms train induction --out DIR --seed {seed}`: {steps:,} steps of {ROWS} rows, Muon at
{matrices:g} for matrices and AdamW at {rest:g} for the rest (betas {BETAS}, weight decay {DECAY:g}); a minute or two
on one core. When it happens depends on the start, and this start was chosen because it shows the change: of five others
that were tried (other draws of the weights, shares of spans, heads or rates) none looked back within 1,600 steps. The
checkpoints are in `checkpoints/step-N`; weights are stored in
16 bits and computed with in float32. `caseback organisms evaluate induction --write` made this page, and
`caseback emergence induction` measures all its heads.
"""


def change(measures: xr.Dataset) -> tuple[int, int]:
    """The checkpoints between which the loss of repeated words falls from a tenth to nine tenths of its whole fall."""
    second, steps = measures.second.values, measures.step.values
    highest, lowest = second.max(), second.min()
    fallen = (highest - second) / (highest - lowest)
    after_peak = range(int(second.argmax()), len(steps))
    last_before = max(i for i in after_peak if fallen[i] <= 0.1)
    first_after = min(i for i in after_peak if fallen[i] >= 0.9)
    return int(steps[last_before]), int(steps[first_after])
