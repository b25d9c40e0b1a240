"""Contextual decomposition beside edge attribution: edges of organisms whose circuits are known, and tasks of meadow.

    python benchmarks/contextual_decomposition.py

The metric is the logit of the model's own answer at the last position less that of its second. For organisms AUROC of
each method's scores against the true edges (those out of position embeddings left out, as no counterfactual of the same
positions shows them), for tasks the areas CMD, linear and logarithmic, on other prompts.
"""

from __future__ import annotations

import caseback as cb
from caseback.localize.circuits import cdt, edge_attribution, edge_roc, faithfulness_curve
from caseback.localize.circuits.on_organisms import INPUTS, words
from caseback.model.circuit import Circuit
from caseback.organisms import compiled

METHODS = {
    "CD-T": lambda *pair, **of: cdt(*pair, **of),
    "CD-T, Shapley": lambda *pair, **of: cdt(*pair, activation="shapley", **of),
    "EAP": lambda *pair, **of: edge_attribution(*pair, **of),
    "EAP-IG": lambda *pair, **of: edge_attribution(*pair, steps=5, **of),
}
TASKS = ("ioi", "agreement")


def contrast(model, tokens):
    """The logit of the model's own last answer less that of its second."""
    first, second = model.run(tokens).logits[:, -1].detach().topk(2).indices.T.tolist()
    return cb.logit_diff(first, second)


def organisms() -> None:
    print(f"| organism | {' | '.join(METHODS)} |")
    for name in compiled.names():
        organism = compiled.build(name)
        truth = Circuit(organism.circuit.at_all_positions().edges)
        clean, corrupt = (organism.tokens(words(organism, 16, part)) for part in (0, 1))
        metric, row = contrast(organism.model, clean), []
        for method in METHODS.values():
            try:
                scores = method(organism.model, clean, corrupt, metric, inputs=INPUTS)
            except cb.errors.CasebackError as error:
                row.append(str(error).partition(":")[0][:40])
                continue
            roc = edge_roc(organism.model, scores, truth, reduce="mean_of_abs", without=("pos_embed",))
            row.append(f"{roc.attrs['auroc']:.2f}")
        print(f"| {name} | {' | '.join(row)} |", flush=True)


def tasks() -> None:
    model = cb.load("meadow")
    print(f"| task | {' | '.join(METHODS)} |")
    for task in TASKS:
        drawn, row = cb.tasks.get(task).prompts(model, 80), []
        finding, judging = drawn[:40], drawn[40:]
        for method in METHODS.values():
            scores = method(model, finding.clean, finding.corrupt, finding.metric)
            curve = faithfulness_curve(model, judging.clean, judging.corrupt, judging.metric, scores, how="greedy")
            row.append(f"{curve.attrs['cmd']:.3f}, {curve.attrs['cmd_log']:.2f}")
        print(f"| {task} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    organisms()
    tasks()
