"""Perturbation on compiled organisms, where the words that an answer is made from are known.

Run as a script, it prints the share of prompts in which each technique puts a true source first.
"""

import random
from functools import cache, partial

import numpy as np
import pytest

import caseback as cb
from caseback.localize.inputs.perturbation.atman import atman
from caseback.localize.inputs.perturbation.kernel_shap import kernel_shap
from caseback.localize.inputs.perturbation.lime import lime
from caseback.localize.inputs.perturbation.occlusion import occlusion
from caseback.localize.inputs.perturbation.partition_shap import partition_shap
from caseback.localize.inputs.perturbation.reagent import reagent
from caseback.localize.inputs.perturbation.shapley import exact_shapley, shapley_sampling
from caseback.organisms.compiled import build

N, LENGTH = 20, 7
CERTAIN = {
    "occlusion": partial(occlusion, baseline="zero"),
    "lime": partial(lime, samples=300, baseline="zero"),
    "exact_shapley": partial(exact_shapley, baseline="zero"),
    "shapley_sampling": partial(shapley_sampling, baseline="zero"),
    "kernel_shap": partial(kernel_shap, baseline="zero"),
    "partition_shap": partial(partition_shap, baseline="zero"),
}
OTHERS = {
    "occlusion, deleting": partial(occlusion, removal="delete"),
    "atman": atman,
    "atman, how='weight', factor=1": partial(atman, how="weight", factor=1.0),
    "reagent": partial(reagent, probes=8, max_steps=100),
}


def _recall(rng, organism):
    return [rng.choice("abcd" if i % 2 else "pqrs") for i in range(LENGTH)]


def _any(rng, organism):
    return [rng.choice(organism.inputs) for _ in range(LENGTH)]


def _decisive(prompt):
    """One trigger, against the tone of all other words: without it the answer is another one."""
    tone = sum((word in ("good", "fine")) - (word in ("bad", "dull")) for word in prompt)
    return prompt.count("oscar") == 1 and tone < 0


CASES = {
    "recall": ("recall", _recall, lambda prompt: True),
    "induction": ("induction", _any, lambda prompt: True),
    "shortcut, decisive": ("shortcut", _any, _decisive),
    "shortcut, any": ("shortcut", _any, lambda prompt: "oscar" in prompt),
}


@cache
def drawn(case):
    """An organism, prompts with an answer, and the true sources of each answer as positions of the tokens."""
    name, draw, wanted = CASES[case]
    organism, rng, found = build(name), random.Random(0), []
    while len(found) < N:
        prompt = draw(rng, organism)
        sources = organism.sources(prompt, LENGTH - 1)
        if sources and wanted(prompt):
            found.append((prompt, organism.function(prompt)[-1], {1 + i for i in sources}))
    prompts, answers, sources = zip(*found, strict=True)
    metric_targets = [organism.model.token_id(a) for a in answers]
    return organism.model, organism.tokens(prompts), metric_targets, sources


def share(case, technique):
    model, tokens, targets, sources = drawn(case)
    scores = technique(model, tokens, cb.logit(targets)).values
    return float(np.mean([int(np.nanargmax(row)) in mine for row, mine in zip(scores, sources, strict=True)]))


@pytest.mark.parametrize("case", ["recall", "induction", "shortcut, decisive"])
@pytest.mark.parametrize("name", CERTAIN)
def test_a_true_source_comes_first(name, case):
    assert share(case, CERTAIN[name]) == 1.0


@pytest.mark.parametrize("case", ["recall", "induction", "shortcut, decisive"])
@pytest.mark.parametrize("name", ["atman", "reagent"])
def test_others_find_a_true_source_far_oftener_than_chance(name, case):
    chance = np.mean([len(mine) for mine in drawn(case)[3]]) / (LENGTH + 1)
    assert share(case, OTHERS[name]) > 1.5 * chance


if __name__ == "__main__":
    for name, technique in (CERTAIN | OTHERS).items():
        print(f"{name:32s}" + "".join(f"{case} {share(case, technique):4.0%}   " for case in CASES))
