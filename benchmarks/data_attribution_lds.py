"""Which methods foresee retraining: their linear datamodelling score on a small organism that is trained in a second.

    python benchmarks/data_attribution_lds.py [--subsets 40]

The organism is a one-layer decoder that learns which object answers to which subject and relation from 96 short rows,
some of which contradict each other; queries ask for the object. It is trained anew on random halves of the rows; a
method's score is the rank correlation of its sums over a half with what the model trained on that half says. Every
method sees the model trained on all rows, TRAK and TracIn their checkpoints besides.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import numpy as np
import torch

import caseback as cb
from caseback.localize.inputs import (
    Projection,
    bm25,
    datainf,
    gradient_similarity,
    influence_functions,
    linear_datamodeling_score,
    random_subsets,
    representation_similarity,
    retrained_outcomes,
    tracin,
    trak,
)
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM

SUBJECTS, RELATIONS, OBJECTS = range(1, 9), range(9, 11), range(11, 17)
ROWS, RATE, STEPS = 96, 1e-2, 200
PARTS = ("attn", "mlp", "embed", "unembed")


def world(seed: int = 0) -> tuple[list[list[int]], list[tuple[list[int], list[int]]]]:
    """Rows "subject relation object", and a query (prompt, object) for each subject and relation."""
    draw = np.random.default_rng(seed)
    facts = [(s, r) for s in SUBJECTS for r in RELATIONS]
    right = {fact: int(draw.choice(OBJECTS)) for fact in facts}
    rows = []
    for i in range(ROWS):
        fact = facts[i % len(facts)]
        told = right[fact] if draw.random() < 0.65 else int(draw.choice(OBJECTS))
        rows.append([*fact, told])
    return rows, [([*fact], [right[fact]]) for fact in facts]


def train(rows: list[list[int]], seed: int = 0, steps: int = STEPS, keep: int = 0) -> list[cb.Model]:
    """The model after training, and before it ``keep`` checkpoints at even distances."""
    torch.manual_seed(seed)
    config = CrystalConfig(
        vocab_size=17,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        hidden_act="gelu",
        norm="layernorm",
        initializer_range=0.1,
    )
    hf, ids, kept = CrystalForCausalLM(config), torch.tensor(rows), []
    optimizer = torch.optim.AdamW(hf.parameters(), lr=RATE, weight_decay=0.1)
    for step in range(steps):
        if keep and step % (steps // keep) == steps // keep // 2:
            kept.append(_copy(hf))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 10) * (1 - step / steps)
        logits = hf(ids[:, :-1], use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [*kept, cb.load(hf.eval())]


def _copy(hf: CrystalForCausalLM) -> cb.Model:
    made = CrystalForCausalLM(hf.config)
    made.load_state_dict(hf.state_dict())
    return cb.load(made.eval())


def methods(rows, queries, model, checkpoints, halves):
    """Scores by every method."""
    shared = {"parts": PARTS}
    yield "EK-FAC influence", influence_functions(model, queries, rows, damping=0.1, **shared)
    yield "K-FAC influence", influence_functions(model, queries, rows, curvature="kfac", damping=0.1, **shared)
    yield "Fisher influence", influence_functions(model, queries, rows, curvature="fisher", damping=0.1, **shared)
    exact = {"curvature": "gauss_newton", "tolerance": 1e-3, "steps": 50, "damping": 0.1}
    yield "Gauss-Newton, CG", influence_functions(model, queries, rows, **exact, **shared)
    yield "DataInf", datainf(model, queries, rows, **shared)
    for name, kind in (("sparse", Projection("sparse", 512)), ("LoGra", Projection("logra", 8))):
        yield f"TRAK x 1, {name}", trak(model, queries, rows, projection=kind, **shared)
        yield f"TRAK x {len(halves)}, {name}", trak(model, queries, rows, checkpoints=halves, projection=kind, **shared)
    yield "TracInCP", tracin(model, queries, rows, checkpoints=checkpoints, **shared)
    yield "gradient dot", gradient_similarity(model, queries, rows, kind="dot", **shared)
    yield "gradient cosine", gradient_similarity(model, queries, rows, **shared)
    yield "BM25", bm25(model, queries, rows)
    yield "representations", representation_similarity(model, queries, rows, pool="last")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--subsets", type=int, default=40)
    options.add_argument("--ensemble", type=int, default=5, help="models on random halves, for TRAK")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    rows, queries = world(chosen.seed)
    *checkpoints, model = train(rows, keep=5)
    others = random_subsets(len(rows), chosen.ensemble, seed=chosen.seed + 1)
    halves = [train([rows[i] for i in np.flatnonzero(half)], seed=1 + n)[0] for n, half in enumerate(others)]
    subsets = random_subsets(len(rows), chosen.subsets, seed=chosen.seed)

    def retrain(seed):
        return retrained_outcomes(lambda kept: train([rows[i] for i in kept], seed=seed)[0], subsets, queries)

    first, second = retrain(0), retrain(1)
    outcomes = (first + second) / 2
    print(f"{len(rows)} rows, {len(queries)} queries, {len(subsets)} halves, two trainings each")
    # what one training says of another on the same half bounds what any method can say
    agreement = np.mean([np.corrcoef(first[:, q], second[:, q])[0, 1] for q in range(len(queries))])
    print(f"correlation between two trainings on the same halves: {agreement:.2f}")
    print(f"{'method':22s} {'LDS':>6s}  {'+-':>5s}  seconds")
    began = time.process_time()
    for name, scores in methods(rows, queries, model, checkpoints, halves):
        lds = linear_datamodeling_score(scores, subsets, outcomes)
        now = time.process_time()
        print(f"{name:22s} {lds.attrs['mean']:6.2f}  {lds.attrs['standard_error']:5.2f}  {now - began:7.1f}")
        began = now


if __name__ == "__main__":
    main()
