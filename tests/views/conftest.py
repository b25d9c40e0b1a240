"""A made-up explanation document: the right shapes, seeded numbers that hang together, any token texts."""

import numpy as np
import pytest

from caseback.reports.explain_document import VERSION
from caseback.reports.explain_patching import MAPS
from hostile import HOSTILE

SENTENCE = [
    "<|bos|>",
    "When",
    " Mary",
    " and",
    " John",
    " went",
    " to",
    " the",
    " store",
    ",",
    " John",
    " gave",
]
SENTENCE += [" a", " drink", " to"]

VOCABULARY = " Mary, John, the, a, him, her, them, it, Tom, Alice, his, someone, drink, store, she, who".split(",")


def synthetic_explanation(texts=None, n_layers=12, n_heads=12, seed=0, target=" Mary", foil=" John", n_patterns=6):
    """Why ``target`` and not ``foil`` after the tokens ``texts``; equal arguments give equal documents."""
    texts = list(SENTENCE if texts is None else texts)
    rng = np.random.default_rng(seed)
    n, rows = len(texts), n_layers + 1
    depth = np.linspace(0, 1, rows)

    # A lens whose target rises with depth, mostly at the last position.
    vocabulary = list(dict.fromkeys([target, foil, *VOCABULARY, *texts]))
    logits = rng.normal(0, 1, (rows, n, len(vocabulary))) + np.linspace(0, 1, rows)[:, None, None]
    for place, following in enumerate(texts[1:]):
        logits[:, place, vocabulary.index(following)] += 6.5 * depth**2 * rng.random()
    logits[:, -1, 0] = -2 + 9.1 * depth**2.4
    logits[:, -1, 1] = -1 + 6.2 * depth**1.8
    top = np.argsort(-logits, axis=-1)
    # As if two hundred more words shared what is left.
    prob = np.exp(logits) / (np.exp(logits).sum(-1, keepdims=True) + 200)
    rank = np.argsort(top, axis=-1) + 1
    entropy = -(prob * np.log(prob)).sum(-1)
    kl = (prob[-1] * (np.log(prob[-1]) - np.log(prob))).sum(-1)
    metric = float(logits[-1, -1, 0] - logits[-1, -1, 1])

    head = rng.normal(0, 0.05, (n_layers, n_heads))
    late = np.arange(n_layers) >= n_layers * 2 // 3
    head[late] += rng.normal(0, 0.3, (late.sum(), n_heads)) * (rng.random((late.sum(), n_heads)) < 0.25)
    mlp = rng.normal(0, 0.16, n_layers)
    attn_bias = rng.normal(0, 0.01, n_layers)
    embed, pos_embed = 0.11, -0.02
    bias = 0.04
    # The heads carry what the rest leaves of the metric.
    head[late] += (metric - float(head.sum() + mlp.sum() + attn_bias.sum()) - embed - pos_embed - bias) / head[
        late
    ].size
    gap = 3.1e-6

    order = np.argsort(-np.abs(head), axis=None)
    heads, ablated = [], []
    for index in order[: max(n_patterns, 8)]:
        layer, which = divmod(int(index), n_heads)
        name, attributed = f"L{layer}H{which}", float(head[layer, which])
        effect = float(0.8 * attributed + rng.normal(0, 0.07))
        ablated.append({"name": name, "layer": layer, "head": which, "attributed": attributed, "effect": effect})
        if len(heads) < n_patterns:
            heads.append(
                {
                    "layer": layer,
                    "head": which,
                    "name": name,
                    "dla": attributed,
                    "ablation": effect,
                    "pattern": _pattern(rng, n),
                }
            )
    for layer in np.argsort(-np.abs(mlp))[:4].tolist():
        effect = float(0.6 * mlp[layer] + rng.normal(0, 0.06))
        ablated.append(
            {
                "name": f"MLP {layer}",
                "layer": layer,
                "head": None,
                "attributed": float(mlp[layer]),
                "effect": effect,
            }
        )

    gradient = rng.normal(0, 0.25, n)
    gradient[np.array([text == target for text in texts])] += 1.3
    gradient[np.array([text == foil for text in texts])] -= 0.7
    integrated = gradient + rng.normal(0, 0.15, n)
    integrated += (metric - 0.013 - integrated.sum()) / n

    ids = {text: index for index, text in enumerate(vocabulary)}
    final = logits[-1, -1]
    return {
        "kind": "caseback.explanation",
        "version": VERSION,
        "model": {
            "name": "gpt2",
            "family": "gpt2",
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": n_heads,
            "d_model": 768,
            "vocab": 50257,
            "dtype": "float32",
            "parameters": 124_439_808,
        },
        "prompt": "".join(texts),
        "tokens": [{"id": ids[text], "text": text} for text in texts],
        "position": n - 1,
        "target": {"id": ids[target], "text": target},
        "foil": {"id": ids[foil], "text": foil},
        "metric": {"name": "logit_diff", "value": metric},
        "predictions": [
            {
                "id": ids[vocabulary[i]],
                "text": vocabulary[i],
                "logit": float(final[i]),
                "prob": float(prob[-1, -1, i]),
            }
            for i in top[-1, -1, :10].tolist()
        ],
        "lens": {
            "layers": ["embed", *map(str, range(n_layers))],
            "k": 5,
            "top_text": [[[vocabulary[i] for i in cell[:5]] for cell in row] for row in top.tolist()],
            "top_prob": np.take_along_axis(prob, top[..., :5], -1).tolist(),
            "target_prob": prob[..., 0].tolist(),
            "target_rank": rank[..., 0].tolist(),
            "foil_prob": prob[..., 1].tolist(),
            "foil_rank": rank[..., 1].tolist(),
            "entropy": entropy.tolist(),
            "kl": np.abs(kl).tolist(),
            "logit_diff": (logits[:, -1, 0] - logits[:, -1, 1]).tolist(),
        },
        "inputs": {
            "methods": [
                {
                    "name": "gradient_x_input",
                    "label": "Gradient × input",
                    "scores": gradient.tolist(),
                    "entry": "3.1.2",
                },
                {
                    "name": "integrated_gradients",
                    "label": "Integrated gradients",
                    "scores": integrated.tolist(),
                    "entry": "3.1.3",
                    "steps": 50,
                    "completeness_gap": -0.013,
                    "baseline": "zero",
                },
            ]
        },
        "components": {
            "head": head.tolist(),
            "mlp": mlp.tolist(),
            "attn_bias": attn_bias.tolist(),
            "embed": embed,
            "pos_embed": pos_embed,
            "bias": bias,
            "total": metric - gap,
            "gap": gap,
            "entry": "3.2.2",
        },
        "heads": heads,
        "ablations": {"kind": "mean", "rows": ablated, "spearman": 0.874, "entry": "3.2.9"},
        "story": None,
        "patching": _patching(rng, ids, texts, n_layers, n_heads),
        "checks": [
            {
                "name": "logit attribution sums to the metric",
                "value": gap,
                "limit": 1e-3,
                "passed": True,
                "detail": "direct attributions of all components against the logit difference",
            },
            {
                "name": "integrated gradients are complete",
                "value": 0.013,
                "limit": 0.05,
                "passed": True,
                "detail": "sum of scores against the change of the metric from the baseline, relative",
            },
            {
                "name": "attribution agrees with ablation",
                "value": 0.874,
                "limit": 0.5,
                "passed": True,
                "detail": "rank correlation of attributed and measured effects",
            },
            {
                "name": "the two input methods agree",
                "value": 0.31,
                "limit": 0.5,
                "passed": False,
                "detail": "rank correlation of gradient × input and integrated gradients",
            },
        ],
        "provenance": {
            "caseback": "0.1.0",
            "transformers": "5.23.0",
            "torch": "2.13.0",
            "device": "cpu",
            "seed": seed,
            "seconds": 4.2,
        },
    }


def _patching(rng, ids, texts, n_layers, n_heads):
    """The same prompt with its second and third token exchanged."""
    other = [texts[i] for i in (0, 2, 1, *range(3, len(texts)))]
    maps = [(site, label, rng.normal(0, 0.2, (n_layers, len(texts)))) for site, label in MAPS.items()]
    maps[0][2][: n_layers // 2, 1] += 1.2
    return {
        "corrupt": [{"id": ids[text], "text": text} for text in other],
        "clean_metric": 3.1,
        "corrupt_metric": -0.2,
        "maps": [{"site": site, "label": label, "recovery": grid.tolist()} for site, label, grid in maps],
        "heads": rng.normal(0, 0.1, (n_layers, n_heads)).tolist(),
        "entry": "3.2.7, 3.2.8, 3.2.12",
    }


def _pattern(rng, n):
    scores = rng.normal(0, 1.3, (n, n))
    scores[:, 0] += 1.5
    scores += 2.5 * (np.arange(n)[None, :] == (np.arange(n)[:, None] - rng.integers(1, 5)))
    scores[np.triu_indices(n, 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).tolist()


@pytest.fixture
def explanation():
    return synthetic_explanation()


@pytest.fixture
def hostile():
    return synthetic_explanation(HOSTILE, n_layers=3, n_heads=4, target="</script>", foil="[bold]\u202e")
