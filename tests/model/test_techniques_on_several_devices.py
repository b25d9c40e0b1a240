"""Dictionaries, fitted lenses, attribution graphs and relevance rules on a spread model are those of one device."""

import pytest
import torch

import caseback as cb
import graph_parts
import shelf
import zoo
from caseback.decode.dictionaries import Facts, Standard, TopK, attached, features_on
from caseback.decode.steering.ablation import orthogonalized
from caseback.decode.vocabulary import fit_tuned_lens, read_lens
from caseback.localize.circuits import attribution_graph, edge_attribution
from caseback.localize.circuits.features import feature_circuit, feature_effects
from caseback.localize.inputs.gradients.relevance import attn_lrp, lrp_epsilon
from caseback.localize.inputs.gradients.site_relevance import site_relevance
from logical_devices import FIRST, HOST, SECOND, logical_devices, numbers, spread

pytest.importorskip("accelerate", reason="device_map needs accelerate")

METRIC = cb.logit_diff(3, 5)
IDS, OTHER = shelf.ids((9, 6), seed=1), shelf.ids((9, 6), seed=2)


def dictionaries(model, site="resid_post"):
    ones = []
    for layer in range(model.n_layers):
        options = {"facts": Facts(site=f"{site}.{layer}"), "seed": layer, "dtype": torch.float64}
        ones.append(TopK(model.d_model, 40, k=5, **options) if layer else Standard(model.d_model, 40, **options))
    return ones


def features(model):
    with attached(model, dictionaries(model)):
        run, other = (model.run(ids, read=["feature", "feature_error"], grad=ids is IDS) for ids in (IDS, OTHER))
        yield from (run[site, i] for site in ("feature", "feature_error") for i in (0, model.n_layers - 1))
        yield from run.grad(METRIC, ["feature"])["feature"]
        edits = [
            cb.Add("feature", 2.5, layer=2, pos=2, unit=3),
            cb.Zero("feature", layer=0),
            cb.Scale("feature", 2.0, layer=1, pos=-1),
            cb.Resample("feature", other, layer=2, pos=1),
            cb.Zero("feature_error", layer=2),
        ]
        yield from (model.run(IDS, edits=edit).logits for edit in (*edits, edits))
        yield torch.tensor(model.sweep(IDS, edits, METRIC).values).to(model.device)
        metric = cb.activation("feature", unit=3, layer=2)
        yield torch.tensor(model.sweep(IDS, edits[:1], metric).values).to(model.device)
        yield edge_attribution(model, IDS, OTHER, METRIC)


def effects(model):
    with attached(model, dictionaries(model)):
        for method in ("attribution", "integrated_gradients", "exact"):
            yield feature_effects(model, IDS, OTHER, METRIC, method=method, steps=3)
        circuit = feature_circuit(model, IDS, OTHER, METRIC, steps=3)
        scores = {str(name): value for name, value in circuit.scores.items()}
        assert len(scores) > 10
        yield torch.tensor([scores[name] for name in sorted(scores)]).to(model.device)


def lens(model):
    lenses = fit_tuned_lens(model, shelf.ids((8,) * 6, seed=3), steps=3, tokens_per_step=32, batch=2, length=8)
    return [read_lens(model, IDS, lenses)]


def without_a_direction(model):
    direction = torch.linspace(-1, 1, model.d_model, dtype=torch.float64, device=model.device)
    twin = orthogonalized(model, direction, untie=True)
    return [twin.run(IDS).logits, twin.weights.W_O.stack(), twin.weights.W_out.stack(), twin.weights.W_E]


def graphs(kind):
    def job(model):
        replaced = graph_parts.KINDS[kind](model)
        return [attribution_graph(model, graph_parts.PROMPT, replaced, first=1, most_logits=2)]

    return job


JOBS = {
    "features": features,
    "features of a prompt": lambda m: [features_on(m, dictionaries(m)[2], IDS)],
    "feature effects": effects,
    "tuned lens": lens,
    **{f"attribution graph, {kind}": graphs(kind) for kind in ("neurons", "topk", "across")},
    "AttnLRP": lambda m: [attn_lrp(m, IDS, METRIC), attn_lrp(m, IDS, METRIC, epsilon=1e-3)],
    "LRP": lambda m: [lrp_epsilon(m, IDS, METRIC)],
    "relevance of sites": lambda m: [site_relevance(m, IDS, METRIC, sites=["resid_post", "z", "mlp_out"])],
    "orthogonalized": without_a_direction,
}


@pytest.mark.parametrize("what", JOBS)
@pytest.mark.parametrize(
    ("name", "places"),
    [(name, (FIRST, SECOND)) for name in ("llama", "gpt2", "mixtral")] + [("llama", (HOST, FIRST))],
    ids=lambda value: value if isinstance(value, str) else " and ".join(map(str, value)),
)
def test_a_spread_model_gives_what_one_device_gives(name, places, what):
    expected = numbers(JOBS[what](cb.load(zoo.tiny(name))))
    with logical_devices() as devices:
        model = cb.load(spread(zoo.tiny(name), places))
        results = list(JOBS[what](model))
        assert all(devices.of(x) == places[0] for x in results if isinstance(x, torch.Tensor))
        came = numbers(results)
    for ours, theirs in zip(came, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, equal_nan=True)
