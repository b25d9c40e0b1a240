"""A made-up graph document of any size: the right shapes, seeded numbers, any token texts."""

from __future__ import annotations

import numpy as np

from caseback.reports.graph import GRAPH, cumulative_shares

TOKENS = "<|bos|>,Fact,:, the, capital, of, the, state, containing, Dallas, is".split(",")


def planted_graph(n_nodes=40, n_edges=120, n_layers=6, tokens=TOKENS, seed=0, target=" Austin", foil=" Dallas"):
    """Features, errors, embeddings and two logits with random edges upwards; equal arguments give equal documents."""
    rng = np.random.default_rng(seed)
    n, last = len(tokens), len(tokens) - 1
    rows = [(f"embed@{i}", "embed", -1, i, None, "") for i in range(n)]
    inner = n_nodes - n - 2
    for layer in sorted(rng.integers(0, n_layers, inner).tolist()):
        at = int(n - 1 - min(n - 1, rng.exponential(n / 3)))
        if rng.random() < 0.15:
            rows.append((f"L{layer}E@{at}", "error", layer, at, None, ""))
        else:
            index = int(rng.integers(0, 6144))
            rows.append((f"L{layer}F{index}@{at}", "feature", layer, at, index, f"say {tokens[at].strip()}"))
    rows += [(f"logits[{i}]@{last}", "logits", n_layers, last, i, text) for i, text in ((262, target), (318, foil))]
    names, kinds, layers, places, indices, texts = map(list, zip(*rows, strict=True))
    ends: set[tuple[int, int]] = set()
    above = [
        [j for j, (_, _, layer, pos, *_) in enumerate(rows) if layer > rows[i][2] and pos >= rows[i][3]]
        for i in range(len(rows))
    ]
    sources = [i for i, readers in enumerate(above) if readers]
    for i in sources:
        ends.add((i, above[i][-1 - int(rng.integers(0, min(2, len(above[i]))))]))
    # no more than there are
    while len(ends) < min(n_edges, sum(map(len, above))):
        i = sources[int(rng.integers(0, len(sources)))]
        ends.add((i, above[i][int(rng.integers(0, len(above[i])))]))
    ordered = sorted(ends)
    weights = (rng.standard_t(3, len(ordered)) * 0.4).tolist()
    features = [kind == "feature" for kind in kinds]
    influence = [float(x) for x in rng.exponential(1, len(rows)) ** 2]
    words = {"up": [" Austin", " Texas", "tx"], "down": [" Dallas", "\n"]}
    example = {"tokens": [" went", " to", " Austin", ", Texas"], "activations": [0.0, 0.1, 2.5, 1.0]}
    heads = [[["L3H2", 0.6], ["L2H0", 0.4]] if e % 5 == 0 else None for e in range(len(ordered))]
    headed = next((e for e, own in enumerate(heads) if own and places[ordered[e][0]] != places[ordered[e][1]]), 0)
    key, query = (places[i] for i in ordered[headed])
    on = [i for i, is_feature in enumerate(features) if is_feature]
    picked = [*on[: len(on) // 2 : max(1, len(on) // 6)][:3], *on[-1 : len(on) // 2 : -max(1, len(on) // 5)][:2]]
    return GRAPH.document(
        {"name": "planted", "family": "llama", "n_layers": n_layers, "n_heads": 8, "d_model": 64, "dtype": "float32"},
        about={"method": "attribution", "frozen": "attention, norms"},
        tokens=[{"text": text} for text in tokens],
        predictions=[{"text": target, "prob": 0.41}, {"text": foil, "prob": 0.2}],
        targets=[
            {"text": target, "id": 262, "probability": 0.41, "weight": 1.0},
            {"text": foil, "id": 318, "probability": 0.2, "weight": -1.0},
        ],
        nodes={
            "name": names,
            "kind": kinds,
            "layer": layers,
            "pos": places,
            "index": indices,
            "activation": [float(rng.exponential(3)) if active else None for active in features],
            "influence": influence,
            "share": cumulative_shares(influence),
            "text": texts,
            "words": [words if active else None for active in features],
            "examples": [[example] * 3 if active else None for active in features],
            "probability": [{262: 0.41, 318: 0.2}.get(i) if k == "logits" else None for i, k in zip(indices, kinds, strict=True)],
        },
        edges={
            "source": [source for source, _ in ordered],
            "target": [reader for _, reader in ordered],
            "weight": weights,
            "share": cumulative_shares(weights),
            "heads": heads,
        },
        thresholds={"node": 0.8, "edge": 0.9},
        scores=[
            {"name": "replacement", "value": 0.62, "words": "of the targets’ weight comes from features and tokens"},
            {"name": "completeness", "value": 0.81, "words": "of what nodes read comes from features and tokens"},
        ],
        supernodes=[{"name": "Texas", "nodes": picked[:3]}, {"name": "capital", "nodes": picked[3:5]}],
        interventions=[
            {"name": "Texas", "nodes": picked[:3], "factor": -2.0, "predicted": -3.1, "measured": -2.4},
            {"name": "capital", "nodes": picked[3:5], "factor": 0.0, "predicted": 0.8, "measured": -0.1},
        ],
        attention=[
            {
                **{"head": "L3H2", "query": query, "key": key, "share": 0.2, "pattern": 0.9, "score": 3.5},
                "pairs": [[names[ordered[headed][1]], names[ordered[headed][0]], 2.5], ["bias", "rest", -0.25]],
            }
        ],
        warnings=["Error nodes carry 38 % of the answer: what they hold is not explained."],
        provenance={"model": "planted", "dtype": "float32"},
    )  # fmt: skip
