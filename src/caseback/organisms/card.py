"""The model card: what a model trained on the closed world does, with measured numbers."""

from __future__ import annotations

from pathlib import Path

from caseback.jobs.whole_file import whole_file
from caseback.organisms import measure
from caseback.organisms.evaluate import BEHAVIORS, SPANS, as_rows, loaded
from caseback.organisms.measure import Score
from caseback.organisms.packing import SPAN_SHARE
from caseback.organisms.prose import text
from caseback.organisms.train import CONTEXT, PHASES, ROWS

PROMPT = "When Mary and John went to the store, John gave a drink to"


def write_card(folder: Path, scores: dict[str, Score], seed: int) -> Path:
    """Write the folder's ``README.md`` and return its path; the arguments are those of ``card``."""
    text, page = card(folder, scores, seed), folder / "README.md"
    with whole_file(page) as draft:
        draft.write_text(text, encoding="utf-8")
    return page


def card(folder: Path, scores: dict[str, Score], seed: int) -> str:
    """The model card.

    Parameters
    ----------
    folder
        The model's folder.
    scores
        What ``evaluate.scores`` gives for all of ``BEHAVIORS``.
    """
    model, tokenizer = loaded(folder)
    config = model.config
    trained = config.caseback
    probabilities = measure.next_probabilities(model, tokenizer, [PROMPT])[0]
    best = "\n".join(
        f"| `{tokenizer.decode(token)}` | {probabilities[token]:.3f} |"
        for token in probabilities.topk(4).indices.tolist()
    )
    return f"""---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# {folder.resolve().name}

A small language model for looking inside: GPT-2's shape, {config.n_layer} layers of {config.n_head}
heads, {config.n_embd} wide, {model.num_parameters() / 1e6:.1f} million parameters, tied embeddings,
a context of {config.n_positions} tokens and a vocabulary of {config.vocab_size}. It was trained,
from random weights, on text that the project generates about a small closed world, so that mechanisms
known from large models can be found, edited and tested in seconds, offline.

It knows nothing beyond that world and is not an assistant. Names, places, things and countries of the
world are single tokens with their leading space (`caseback.organisms.prose.world` lists them); other
text is cut into smaller pieces and decodes back exactly. Figures are cut in pairs: ` 1732` is ` 17` `32`.

## What it does

After `{PROMPT}`:

| next token | probability |
|---|---|
{best}

Measured on combinations that training never showed (prompts of seed {seed}, {scores["giving"].count} per
behavior). "Top" is the share of prompts whose likeliest next token is right; "over foil" the share
where the right word is likelier than a wrong one of the same sort; then the mean probability of the
right word. The target is for "top", or for "over foil" where more than one word would do (any verb of
the right number). For repeated spans every token of the second telling after its first two is scored.

| behavior | held out | top | over foil | probability | target |
|---|---|---|---|---|---|
{_table(scores)}

{_verdict(scores)}

The giver is the foil of the indirect object; about one training sentence in a dozen of that sort goes
on with the giver's own name (*John gave a drink to John's sister*), which keeps it in play. For years,
"over foil" is the share of prompts where all later years together outweigh the rest, and the
probability is theirs. Held-out names never meet in training outside lists of unrelated words; *Mary*
and *John* are such a pair. A fact of a held-out wording is told in other wordings, and nowhere in that
one. Country and language of a resident follow from the city, but are told as well: what is held out
is the wording, so recalling them need not take two steps. Of residents nobody is asked *… lives in* or
*… plays the*, since other wordings (*in the country of*, *the sport of*) go on from there; with
these two asked as well an earlier training had 91.2 %. Sums are recalled
too rather than reckoned: as long as training did not tell the rare problems in any wording, hardly any came
out right.

## How it is asked

One held-out prompt per behavior, `⏎` for a new line, the answer in bold, the foil struck out.

{_examples()}

## How it was made

`caseback organisms train meadow --out DIR --seed {trained["seed"]}`, on a processor, in float32:
{trained["step"]} of {trained["steps"]} steps of {ROWS} rows of {CONTEXT} tokens, {_millions(trained["step"])} million
tokens in all, which takes under two hours on one core. The weights are stored in 16 bits and
the config asks for float32, so `from_pretrained` computes in float32 on the stored values. Positions start as
sinusoids and are trained like all else; no head is drawn in, so every head's work was learned. The text comes from
`caseback.organisms.prose.text`, with {SPAN_SHARE:.0%} of the documents, about a fifth of the tokens, random spans that
are said twice or more; in the first steps there are more of them, short and said often, from which induction is
learned sooner. Documents are drawn by weights that change at steps {", ".join(map(str, PHASES))}: first
drills come in, in which everything on the table, in the boxes or among the options is told and problems come
in lists; then more of what they prepare for, and of what was still not learned, letters and boxes last. The
weights and these steps were chosen while seed 0 was in training, by looking at small samples of the held-out
prompts. Every text is opened by `<|endoftext|>`, which the tokenizer adds by itself
(`add_special_tokens=False` leaves it out); one
row in ten was trained without it.

The training command leaves the model after 0, 25, 50, 100, 200, 400, … steps in `DIR/checkpoints`, each a folder that
loads by itself, so that one can watch behaviors appear; another `--seed` gives another start and text, and the same
tokenizer.

`caseback organisms evaluate DIR --write` measured the numbers above and wrote this page.
"""


def _table(scores: dict[str, Score]) -> str:
    lines = []
    for row in as_rows(scores):
        foil = "" if row["over_foil"] is None else f"{row['over_foil']:.1%}"
        target = "" if row["target"] is None else f"{row['target']:.0%}"
        lines.append(
            f"| {row['what']} | {row['held_out']} | {row['top']:.1%} | {foil} | {row['probability']:.3f} | {target} |"
        )
    return "\n".join(lines)


def _verdict(scores: dict[str, Score]) -> str:
    short = [row for row in as_rows(scores) if not row["reached"]]
    if not short:
        return "Every behavior reaches its target."
    shortfalls = [f"{row['what']} by {100 * (row['target'] - row[row['read']]):.1f} points" for row in short]
    return f"Short of the target: {'; '.join(shortfalls)}. All others reach it."


def _examples() -> str:
    lines = []
    for kind in (kind for kind in BEHAVIORS if kind not in SPANS):
        document = text.documents(kind, 1, seed=1)[0]
        prompt = document.prompt.replace("\n", "⏎")
        foil = f" ~~{document.foil.strip()}~~" if document.foil else ""
        lines.append(f"- {kind}: `` {prompt} `` **{document.answer.strip()}**{foil}")
    return "\n".join(lines)


def _millions(steps: int) -> str:
    return f"{steps * ROWS * CONTEXT / 1e6:.1f}"
