"""Measure a bundled model on held-out combinations and write its model card.

``python -m caseback.organisms.evaluate`` measures ``meadow`` as shipped, ``--folder DIR`` another;
``--write`` puts the numbers into the folder's ``README.md``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from transformers import AutoTokenizer, GPT2LMHeadModel

from caseback.organisms import measure, path, text
from caseback.organisms.measure import Score
from caseback.organisms.tokenizer import end_of_text

PROMPT = "When Mary and John went to the store, John gave a drink to"

# kind: what the card calls it, what is held out
TOLD = {
    "giving": ("indirect object, both orders of the names", "pairs of names"),
    "giving_by_another": ("the same with a third giver (a toss between two, so half is best)", "pairs of names"),
    "word_list": ("lists of words said twice", "lists are drawn afresh"),
    "errand": ("somebody's list of things that comes back", "lists are drawn afresh"),
    "fact": ("capitals, languages, continents, opposites", "wordings of each fact"),
    "analogy": ("pairs of one relation, the last one open", "last pairs, by sign"),
    "agreement": ("verb and subject, three in four past another noun", "pairs of subject and other noun"),
    "series": ("days, months, numbers, letters in order", "starts, by wording"),
    "pronoun": ("she or he, her or his", "names, by sentence"),
    "story": ("a word recalled in a story of two people", "pairs of names"),
}


def scores(folder: Path, count: int = 500, seed: int = 1) -> dict[str, Score]:
    """Every behaviour of a model folder, ``count`` held-out prompts each.

    Parameters
    ----------
    folder
        A folder that ``from_pretrained`` reads.
    count
        Prompts a behaviour; spans take a fifth as many, since each is scored at many positions.
    seed
        Same seed, same prompts.

    Returns
    -------
    scores
        One a kind of document, plus ``spans of 10``, ``spans of 25`` and ``spans of 50``.
    """
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for span in (10, 25, 50):
        found[f"spans of {span}"] = measure.repeated(
            model, len(tokenizer), end_of_text(tokenizer), span, max(1, count // 5), seed
        )
    for kind in (*TOLD, "years"):
        if kind == "years":
            found[kind] = measure.later_years(model, tokenizer, count, seed)
        else:
            documents = text.documents(kind, count, seed)
            found[kind] = measure.asked(model, tokenizer, documents)
    return found


def card(folder: Path, found: dict[str, Score], seed: int) -> str:
    """The model card, with the numbers of ``scores``."""
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = model.config
    probabilities = measure.next_probabilities(model, tokenizer, [PROMPT])[0]
    best = "\n".join(
        f"| `{tokenizer.decode(token)}` | {probabilities[token]:.3f} |"
        for token in probabilities.topk(4).indices.tolist()
    )
    lines = [
        f"| random spans said twice, {name.split()[-1]} tokens | drawn afresh | {score.top:.1%} |  "
        f"| {score.probability:.3f} |"
        for name, score in found.items()
        if name.startswith("spans")
    ]
    for kind, (what, kept) in TOLD.items():
        score = found[kind]
        foil = "" if score.over_foil != score.over_foil else f"{score.over_foil:.1%}"
        lines.append(f"| {what} | {kept} | {score.top:.1%} | {foil} | {score.probability:.3f} |")
    years = found["years"]
    lines.append(
        f"| a year after a year (right: any later one) | eras, by first year | {years.top:.1%} "
        f"| {years.over_foil:.1%} | {years.probability:.3f} |"
    )
    return f"""---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# {folder.name}

A small language model for looking inside: GPT-2's shape, {config.n_layer} layers of {config.n_head}
heads, {config.n_embd} wide, {model.num_parameters() / 1e6:.1f} million parameters, tied embeddings,
a context of {config.n_positions} tokens and a vocabulary of {config.vocab_size}. It was trained,
from random weights with a sketch of induction in them (see below), on sentences that the project
generates about a small closed world, so that mechanisms known from large models can be found, edited
and tested in seconds, offline.

It knows nothing beyond that world and is no assistant. Names, places, things and countries of the
world are single tokens with their leading space (`caseback.organisms.world` lists them); other text
is cut into smaller pieces and decodes back exactly. Figures are cut in pairs: ` 1732` is ` 17` `32`.

## What it does

After `{PROMPT}`:

| next token | probability |
|---|---|
{best}

Measured on combinations that training never showed (seed {seed}, {found["giving"].count} prompts
each). "Top" is the share of prompts whose likeliest next token is right; "over foil" the share where
the right word is likelier than a wrong one of the same sort; then the mean probability of the right
word. For repeated spans every token of the second telling after its first two is scored. Where more
than one word would do (any verb of the right number), read "over foil".

| behaviour | held out | top | over foil | probability |
|---|---|---|---|---|
{chr(10).join(lines)}

The giver is the foil of the indirect object; about one training sentence in twenty goes on with the
giver's own name (*John gave a drink to John's sister*), which keeps it in play. For years, "over
foil" is the share of prompts where all later years together outweigh the rest, and the probability
is theirs. Held-out names never meet in training outside lists of unrelated words; *Mary* and
*John* are such a pair.

## How it was made

`python -m caseback.organisms.train --out DIR --seed 0`, on a processor, in float32; the weights are
stored in 16 bits and the config asks for float32, so `from_pretrained` computes in float32 on the
stored values. The start is not wholly random: `caseback.organisms.start` makes positions sinusoids
and sketches a previous-token head (layer 0, head 0) and two heads that match and copy (head 0 of
layers 1 and 2), since induction did not appear by itself in the time given. Every weight is trained
from there. So these three heads did not emerge; what else the model does, it learnt. The text
comes from `caseback.organisms.text`, with about a quarter of all tokens in
random spans that are said twice or more. Every text is opened by `<|endoftext|>`, which the tokenizer
adds by itself (`add_special_tokens=False` leaves it out); one row in ten was trained without it.

`python -m caseback.organisms.evaluate --write` measured the numbers above and wrote this page.
"""


def main() -> None:
    """Command line: measure, print, and write the card if asked to."""
    parser = argparse.ArgumentParser(description="Measure a bundled model on held-out text.")
    parser.add_argument("--folder", type=Path, default=None, help="default: meadow as shipped")
    parser.add_argument("--count", type=int, default=500, help="prompts a behaviour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the folder's README.md")
    options = parser.parse_args()
    folder = options.folder or path("meadow")
    found = scores(folder, options.count, options.seed)
    for name, score in found.items():
        print(f"{name:18} top {score.top:6.1%}  over foil {score.over_foil:6.1%}  probability {score.probability:.3f}")
    if options.write:
        draft = folder / "README.part"
        draft.write_text(card(folder, found, options.seed), encoding="utf-8")
        os.replace(draft, folder / "README.md")


if __name__ == "__main__":
    main()
