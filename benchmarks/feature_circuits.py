"""Features against neurons: how many of each carry a task of the bundled model?

    python benchmarks/feature_circuits.py [--tokens 500000] [--tasks agreement,greater_than]

BatchTopK dictionaries of every layer's MLP output and stream are trained on the model's own kind of text. For each task
nodes are ranked by integrated gradients on 40 prompts, and on 40 others the strongest k are kept while all others of
the same sites take their mean. Features of MLPs' outputs and neurons are two ways to cut the same writes, so these
two rows compare; errors are kept in one row and ablated in another. Those of the stream cut everything that passes.
"""

import argparse
import time

import caseback as cb
from caseback.decode.dictionaries import Recipe, attached, train_dictionaries
from caseback.localize.circuits import feature_circuit, feature_effects, feature_faithfulness
from caseback.organisms.prose.text import KINDS, documents

SIZES = (4, 16, 64, 256)


def main() -> None:
    """Train, rank, judge, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--tasks", default="agreement,greater_than")
    given = parser.parse_args()
    model = cb.load("meadow")
    texts = [d.text for i, kind in enumerate(KINDS) for d in documents(kind, 400, seed=i, heldout=False)]
    options = {"architecture": "batch_topk", "options": {"k": 16}, "width": 1280}
    recipes = [
        Recipe(site=f"{site}.{layer}", **options)
        for site in ("mlp_out", "resid_post")
        for layer in range(model.n_layers)
    ]
    began = time.perf_counter()
    ones = [one.dictionary for one in train_dictionaries(model, texts, recipes, n_tokens=given.tokens)]
    print(f"{len(ones)} dictionaries of {ones[0].n_features} features in {time.perf_counter() - began:.0f} s")
    mlps, streams = ones[: model.n_layers], ones[model.n_layers :]
    with attached(model, mlps, name="mlp"), attached(model, streams, name="stream"):
        for task in given.tasks.split(","):
            prompts = getattr(cb.tasks, task)().prompts(model, 80, seed=0)
            finding, judging = prompts[:40], prompts[40:]
            for label, sites in (
                ("neurons", ["mlp_post"]),
                ("MLP features", ["mlp", "mlp_error"]),
                ("stream features", ["stream", "stream_error"]),
            ):
                pair = finding.clean, finding.corrupt, finding.metric
                began = time.perf_counter()
                how = {"sites": sites, "node_threshold": 0.0, "edges": False}
                circuit = feature_circuit(model, *pair, **how)
                seconds = time.perf_counter() - began
                effects = feature_effects(model, *pair, sites=sites, method="integrated_gradients", top=1)
                judged = feature_faithfulness(
                    model, judging.clean, judging.corrupt, judging.metric, circuit, sites=sites, sizes=SIZES
                )
                print(f"\n{task}, {label}: {len(circuit.nodes)} nodes with an effect, found in {seconds:.0f} s")
                gap = abs(effects["gap"]).mean() / abs(effects["measured"]).mean()
                print(f"  gap of integrated gradients: {float(gap):.3f} of the effect of a site")
                share = abs(effects["errors"].sum()) / abs(effects["estimated"].sum())
                print(f"  errors' share of all effects: {float(share):.2f}")
                print(f"  m(M) {float(judged.whole.mean()):.3f}; sizes {SIZES}")
                for way in judged.measure.values[1:]:
                    row = judged.sel(measure=way)
                    shown = " ".join(f"{x:6.3f}" for x in row["faithfulness"].values)
                    rest = " ".join(f"{x:6.3f}" for x in row["completeness"].values)
                    print(f"  {way:10} m(empty) {float(row['empty'].mean()):.3f}  faithful {shown}   without {rest}")


if __name__ == "__main__":
    main()
