"""Which score tells a translation from one of another source? English words to French, right and detached.

    python benchmarks/translation_scores.py MODEL ASSETS

A text is a few examples, a word and a French word: its own translation, or that of another word, which nothing in the
source calls for. AUROC of each score, .5 by chance; a detector needs no reference.
"""

import json
import sys
from pathlib import Path

import numpy as np

import caseback as cb
from caseback.behaviors import translation_scores
from caseback.behaviors.truth.measures import auroc, interval, resampled

SHOTS, WORDS = 4, 60
# whether a translation that was made from its source is expected to have more of it
MORE = {
    **{"log_prob": True, "mean_log_prob": True, "dispersion": False, "least_dispersion": False},
    **{"transport": False, "typical": False, "source": True, "prefix": False, "rest": False},
}


def main() -> None:
    """Print the table."""
    model, assets = cb.load(sys.argv[1]), Path(sys.argv[2])
    file = assets / "data/function_vectors/dataset_files/abstractive/english-french.json"
    pairs = [(row["input"], row["output"]) for row in json.loads(file.read_text())]
    rng = np.random.default_rng(0)
    pairs = [pairs[i] for i in rng.permutation(len(pairs))[: SHOTS + WORDS]]
    shown = "".join(f"English: {one}\nFrench: {other}\n\n" for one, other in pairs[:SHOTS])
    rows: list[tuple[list[int], list[int], int, bool, int]] = []
    for number, (word, right) in enumerate(pairs[SHOTS:]):
        other = pairs[SHOTS + (number + 1) % WORDS][1]
        before, asked = f"{shown}English:", f"{shown}English: {word}\nFrench:"
        for answer, own in ((right, True), (other, False)):
            ids, first, start = (model.tokens(text).ids[0].tolist() for text in (f"{asked} {answer}", before, asked))
            end = len(model.tokens(f"{before} {word}").ids[0])
            rows.append((ids, list(range(len(first), end)), len(start), own, number))
    scores = translation_scores(model, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])
    true, fact = np.array([row[3] for row in rows]), np.array([row[4] for row in rows])
    weights = resampled(fact, 1000, 0)
    print(f"{WORDS} words, each with its translation and with another's; {model.name}")
    print("| score | right | detached | AUROC | 95 % |\n|---|---|---|---|---|")
    for name, more in MORE.items():
        values = scores[name].values * (1 if more else -1)
        low, high = interval(auroc(values, true, weights))
        means = (float(scores[name].values[some].mean()) for some in (true, ~true))
        shown_means = " | ".join(f"{mean:.3f}" for mean in means)
        print(f"| {name} | {shown_means} | {float(auroc(values, true)[0]):.3f} | {low:.3f}–{high:.3f} |")


if __name__ == "__main__":
    main()
