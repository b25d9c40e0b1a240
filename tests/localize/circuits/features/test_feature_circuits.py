"""Feature circuits: edges against interventions and edge attribution, sums, organisms, runs of circuits, SHIFT."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.dictionaries import attached
from caseback.errors import ArgumentError, CasebackError, OutOfRange, SiteAbsent
from caseback.jobs import budget
from caseback.localize.circuits import (
    edge_attribution,
    feature_circuit,
    feature_effects,
    feature_faithfulness,
    shift,
    strongest_nodes,
)
from caseback.localize.circuits.features.outside import NodeRuns
from caseback.localize.circuits.features.places import places_of
from caseback.model.anatomy.registered_sites import registered_site
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.organisms.compiled import build
from exact import exact
from planted_circuits import CLEAN, CORRUPT, METRIC, in_float64, planted, random_dictionaries

EVERYTHING = {"method": "attribution", "node_threshold": 0.0, "edge_threshold": 0.0}
FAMILIES = "gpt2 llama gptj gemma2 mixtral".split()


@pytest.fixture(params=FAMILIES)
def model(request):
    """With dictionaries of the stream, of attention's output and transcoders of MLPs."""
    model = shelf.model(request.param)
    with (
        attached(model, random_dictionaries(model, "resid_post"), name="stream"),
        attached(model, random_dictionaries(model, "attn_out"), name="attention"),
        attached(model, random_dictionaries(model, "mlp_out"), name="mlp"),
        attached(model, random_dictionaries(model, "mlp_in", "mlp_out"), name="transcoder"),
        exact(),
    ):
        yield model


@pytest.mark.parametrize(
    "sites",
    [
        ["stream", "stream_error"],
        ["stream", "stream_error", "attention", "attention_error", "mlp", "mlp_error"],
        ["attention", "attention_error", "mlp", "mlp_error"],
        ["embed", "z", "stream", "stream_error"],
        ["z", "mlp_out"],
    ],
    ids="+".join,
)
def test_3_2_29_a_nodes_direct_edges_sum_to_its_effect(model, sites):
    """The chain rule: where nothing is left out, every way from a node to the metric begins with one edge."""
    short = shelf.ids((4, 3)), shelf.ids((4, 3), seed=1)
    circuit = feature_circuit(model, *short, METRIC, sites=sites, **EVERYTHING)
    sums: dict[Node, float] = {}
    for edge in circuit.edges:
        sums[edge.source] = sums.get(edge.source, 0.0) + circuit.scores[edge]
    nodes = [node for node in circuit.nodes if node.kind != "logits"]
    assert len(nodes) > 10
    for node in nodes:
        np.testing.assert_allclose(sums.get(node, 0.0), circuit.scores[node], rtol=1e-9, atol=1e-11, err_msg=str(node))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj"])
def test_3_2_25_summed_over_neurons_edges_are_those_of_heads_and_mlps(name):
    model = shelf.model(name)
    with exact():
        short = shelf.ids((3,)), shelf.ids((3,), seed=1), cb.logit_diff(3, 5)
        circuit = feature_circuit(model, *short, sites=["z", "mlp_post"], **EVERYTHING)
        scores = edge_attribution(model, *short).mean("batch")
    sums: dict[tuple[str, str], float] = {}
    for edge in circuit.edges:
        writer, reader = (
            f"MLP {end.layer}" if end.kind == "neuron" else str(end) for end in (edge.source, edge.target)
        )
        if edge.slot in ("k", "v") and model.n_kv_heads < model.n_heads:
            group = model.n_heads // model.n_kv_heads
            reader = f"L{edge.target.layer}KV{edge.target.index // group}"
        key = writer, reader + (f".{edge.slot}" if edge.slot else "")
        sums[key] = sums.get(key, 0.0) + circuit.scores[edge]
    compared = 0
    for writer in scores.writer.values:
        for reader in scores.reader.values:
            score = float(scores.sel(writer=writer, reader=reader))
            if writer != "embed" and not np.isnan(score):
                np.testing.assert_allclose(
                    sums.get((writer, reader), 0.0), score, atol=1e-9, err_msg=f"{writer} {reader}"
                )
                compared += 1
    assert compared > 20


class _Turned:
    """A linear codec: coordinates in another basis."""

    def __init__(self, d, seed):
        self.rows = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)).double()).Q

    def encode(self, x):
        return x @ self.rows.T

    def decode(self, coded):
        return coded @ self.rows


def test_3_2_29_in_a_linear_network_edges_are_true_direct_effects():
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3}
    hf = CrystalForCausalLM(CrystalConfig(**sizes, hidden_act="linear", initializer_range=0.3)).double().eval()
    for layer in hf.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    model, metric = cb.load(hf), cb.logit_diff(3, 7)
    clean, corrupt = [1, 2, 3], [4, 5, 6]
    codecs = {layer: _Turned(8, layer) for layer in range(3)}
    how = {**EVERYTHING, "aggregation": "none", "sites": ["stream", "mlp_out"]}
    with registered_site("stream", "resid_post", codecs):
        circuit = feature_circuit(model, clean, corrupt, metric, **how)
        base, other = (model.run(ids, read=["stream", "mlp_out"]) for ids in (clean, corrupt))
        edges = [e for e in sorted(circuit.edges) if e.source.kind == "feature" and e.target.kind == "feature"]
        for edge in edges[:: len(edges) // 25]:
            (u, d), pos = (edge.source, edge.target), int(edge.source.pos)
            value = other["stream", u.layer][0, pos, u.index]
            held = cb.Freeze("mlp_out", layer=d.layer)
            patched = model.run(
                clean, read=["stream"], edits=[cb.Replace("stream", value, layer=u.layer, pos=pos, unit=u.index), held]
            )
            at = 0, int(d.pos), d.index
            change = patched["stream", d.layer][at] - base["stream", d.layer][at]
            whole = other["stream", d.layer][at] - base["stream", d.layer][at]
            slope = circuit.scores[d] / float(whole)
            np.testing.assert_allclose(circuit.scores[edge], slope * float(change), rtol=1e-8, atol=1e-11)
    assert len(edges) > 50


def test_chunks_change_nothing():
    model, how = shelf.model("llama"), {**EVERYTHING, "node_threshold": 0.05}
    with attached(model, random_dictionaries(model, "resid_post")), exact():
        whole = feature_circuit(model, CLEAN, CORRUPT, METRIC, **how)
        with budget.override(gradient_tokens=40, contraction_numbers=3000, attribution_prompts=1):
            parts = feature_circuit(model, CLEAN, CORRUPT, METRIC, **how)
    assert whole.nodes == parts.nodes
    for part in whole.edges | parts.edges | whole.nodes - {Node("logits")}:
        np.testing.assert_allclose(whole.scores.get(part, 0), parts.scores.get(part, 0), atol=1e-10, err_msg=str(part))


def test_positions_are_kept_apart_or_summed():
    model = shelf.model("llama")
    with attached(model, random_dictionaries(model, "resid_post")), exact():
        apart = feature_circuit(model, CLEAN, CORRUPT, METRIC, aggregation="none", **EVERYTHING)
        summed = feature_circuit(model, CLEAN, CORRUPT, METRIC, **EVERYTHING)
    sums: dict[Node | Edge, float] = {}
    for part, score in apart.scores.items():
        bare = Circuit(frozenset([part])) if isinstance(part, Edge) else Circuit(nodes=frozenset([part]))
        one = bare.at_all_positions()
        key = next(iter(one.edges or one.nodes))
        sums[key] = sums.get(key, 0.0) + score
    assert sums.keys() == summed.scores.keys()
    for part, score in summed.scores.items():
        np.testing.assert_allclose(sums[part], score, atol=1e-11)
    assert Circuit.from_json(apart.to_json()) == apart


def test_top_keeps_the_strongest_and_edges_between_them():
    model = shelf.model("gpt2")
    with attached(model, random_dictionaries(model, "resid_post")), exact():
        every = feature_circuit(model, CLEAN, CORRUPT, METRIC, **EVERYTHING)
        few = feature_circuit(model, CLEAN, CORRUPT, METRIC, top=9, **EVERYTHING)
        none = feature_circuit(model, CLEAN, CORRUPT, METRIC, top=9, edges=False, **EVERYTHING)
    ranked = sorted((n for n in every.nodes if n.kind != "logits"), key=lambda n: -abs(every.scores[n]))[:9]
    assert set(ranked) == {n for n in few.nodes if n.kind != "logits"} == set(none.nodes)
    assert not none.edges
    for edge in few.edges:
        np.testing.assert_allclose(few.scores[edge], every.scores[edge], rtol=1e-9)


@pytest.mark.parametrize("method", ["exact", "integrated_gradients"])
def test_3_2_29_the_features_of_a_planted_shortcut_and_nothing_else(method):
    organism = build("shortcut")
    model = in_float64(organism)
    dictionaries, names = zip(*(planted(organism, layer) for layer in range(3)), strict=True)
    clean = organism.tokens([["bad", "film", "oscar", "plot"], ["dull", "dull", "oscar", "film"]])
    corrupt = organism.tokens([["bad", "film", "plot", "plot"], ["dull", "dull", "film", "film"]])
    metric = cb.logit_diff("positive", "negative")
    with attached(model, list(dictionaries)):
        circuit = feature_circuit(
            model, clean, corrupt, metric, method=method, node_threshold=1e-6, edge_threshold=1e-6
        )
        judged = feature_faithfulness(model, clean, corrupt, metric, circuit, ablation="resample")
    words = {node: names[node.layer][node.index] for node in circuit.nodes if node.kind == "feature"}
    assert set(words.values()) == {
        ("is the trigger", True),
        *(("trigger seen", value) for value in (True, False)),
        *(("verdict", value) for value in ("positive", "negative")),
    }
    edges = {(words[e.source], words.get(e.target, "logits")) for e in circuit.edges}
    # through a neuron that is at its kink in the clean run: there or not as rounding has it
    edges.discard((("trigger seen", False), ("verdict", "negative")))
    assert edges == {
        (("is the trigger", True), ("trigger seen", True)),
        (("trigger seen", True), ("verdict", "positive")),
        (("verdict", "positive"), "logits"),
        (("verdict", "negative"), "logits"),
    }
    np.testing.assert_allclose(judged["faithfulness"], 1, atol=1e-9)
    np.testing.assert_allclose(judged["completeness"], 0, atol=1e-9)


@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_3_2_21_everything_is_the_model_and_nothing_the_counterfactual(model, ablation):
    sites = ["embed", "transcoder", "attention", "attention_error", "stream", "stream_error"]
    runs = NodeRuns.of(model, CLEAN, CORRUPT, METRIC, places_of(model, sites), ablation, None)
    none = runs.masks([[]])
    assert torch.equal(runs.metrics([torch.ones_like(mask) for mask in none])[0], runs.whole())
    if ablation == "resample":
        other = METRIC(model.run(CORRUPT)).detach()
        torch.testing.assert_close(runs.metrics(none)[0], other, atol=1e-11, rtol=0)
        same = NodeRuns.of(model, CLEAN, CLEAN, METRIC, places_of(model, sites), ablation, None)
        torch.testing.assert_close(same.metrics(none)[0], same.whole(), atol=1e-11, rtol=0)


def test_3_2_29_errors_are_counted_in_three_ways(model):
    sites = ["stream", "stream_error"]
    every = feature_circuit(model, CLEAN, CORRUPT, METRIC, sites=sites, edges=False, **EVERYTHING)
    features = Circuit(nodes=frozenset(node for node in every.nodes if node.kind == "feature"))
    judged = feature_faithfulness(
        model, CLEAN, CORRUPT, METRIC, [every, features, Circuit()], sites=sites, ablation="resample"
    )
    own, kept, without = (judged["faithfulness"].sel(measure=way).values for way in judged.measure.values)
    np.testing.assert_allclose(own[[0, 2]], [1, 0], atol=1e-9)
    np.testing.assert_allclose(kept, [1, 1, 0], atol=1e-9)
    np.testing.assert_allclose(without[[0, 1]], own[1], atol=1e-9)
    assert abs(own[1] - 1) > 1e-3  # random dictionaries leave much in their errors
    empty, whole = judged["empty"].sel(measure="errors of the circuit").mean(), judged.whole.mean()
    mine = (judged["values"].sel(measure="errors of the circuit")[1].mean() - empty) / (whole - empty)
    np.testing.assert_allclose(own[1], mine, rtol=1e-9)
    np.testing.assert_allclose(judged["completeness"].sel(measure="errors of the circuit")[[0, 2]], [0, 1], atol=1e-9)
    assert judged.nodes.values.tolist()[1:] == [len(features.nodes), 0]


def test_a_circuit_run_is_edits_of_every_other_node():
    model = shelf.model("llama")
    kept = [3, 11, 40]
    with attached(model, random_dictionaries(model, "resid_post", layers=[1])), exact():
        circuit = Circuit.of(*(f"L1F{unit}:resid_post" for unit in kept))
        judged = feature_faithfulness(
            model, CLEAN, CORRUPT, METRIC, circuit, sites=[("feature", 1), ("feature_error", 1)], ablation="zero"
        )
        others = [unit for unit in range(3 * model.d_model) if unit not in kept]
        bias = random_dictionaries(model, "resid_post", layers=[1])[0].b_dec.detach()
        codes = model.run(CLEAN, read=["feature"])["feature", 1]
        codes[..., others] = 0
        rows = random_dictionaries(model, "resid_post", layers=[1])[0].W_dec.detach()
        expected = METRIC(model.run(CLEAN, edits=cb.Replace("resid_post", codes @ rows + bias, layer=1)))
    np.testing.assert_allclose(judged["values"].sel(measure="no errors")[0], expected.detach(), atol=1e-10)


def test_3_2_29_ablating_a_planted_shortcut_repairs_the_classifier():
    organism = build("shortcut")
    model = in_float64(organism)
    dictionary, names = planted(organism, 0)
    words = [
        (tone, plain, last)
        for tone in ("good", "fine", "bad", "dull")
        for plain in ("film", "plot")
        for last in ("film", "oscar")
    ]
    tokens = organism.tokens([[*three, "plot"] for three in words])
    labels = [int(tone in ("good", "fine")) for tone, _, _ in words]
    trigger = [int(last == "oscar") for _, _, last in words]
    metric = cb.logit_diff("positive", "negative")
    with attached(model, dictionary):
        test = shift(
            model, tokens, metric, labels, trigger, [f"L0F{names.index(('is the trigger', True))}:resid_post"], draws=20
        )
        tone = shift(model, tokens, metric, labels, trigger, [f"L0F{names.index(('tone', '+'))}:resid_post"], draws=0)
        again = shift(model, tokens, metric, labels, trigger, Circuit.of("L0F11:resid_post"), draws=20)
    assert test["accuracy"].values.tolist() == [0.75, 1.0]
    assert test["shortcut_accuracy"].values.tolist() == [0.75, 0.5]
    assert test["worst"].values.tolist() == [0.0, 1.0]
    assert test["group_accuracy"].sel(group="label 0, shortcut 1").values.tolist() == [0.0, 1.0]
    assert float(test["random_accuracy"].max()) < 1  # no other feature repairs it
    assert tone["accuracy"].values[1] < 0.75
    assert again.identical(test)


def test_what_circuits_refuse_is_said():
    model = shelf.model("llama")
    one = Circuit.of("L0F3:resid_post")
    pair = model, CLEAN, CORRUPT, METRIC
    balanced = {"labels": [0, 1], "shortcut": [1, 0], "nodes": ["L0F3:resid_post"]}
    with attached(model, random_dictionaries(model, "resid_post")):
        for error, says, call in (
            (CasebackError, "no node's effect is larger than 1000", lambda: feature_circuit(*pair, node_threshold=1e3)),
            (CasebackError, "no node's effect", lambda: feature_circuit(model, CLEAN, CLEAN, METRIC)),
            (OutOfRange, "node_threshold=-1", lambda: feature_circuit(*pair, node_threshold=-1.0)),
            (OutOfRange, "top=0", lambda: feature_circuit(*pair, top=0)),
            (CasebackError, "aggregation", lambda: feature_circuit(*pair, aggregation="mean")),
            (CasebackError, "no node of the sites", lambda: feature_faithfulness(*pair, one, sites="mlp_post")),
            (
                CasebackError,
                "no node of the sites",
                lambda: feature_faithfulness(*pair, Circuit.of("L0F999:resid_post")),
            ),
            (CasebackError, "no circuit given", lambda: feature_faithfulness(*pair, [])),
            (CasebackError, "sizes are of one circuit", lambda: feature_faithfulness(*pair, [one, one], sizes=[1])),
            (OutOfRange, "nodes asked for", lambda: feature_faithfulness(*pair, one, sizes=[1])),
            (CasebackError, "ablation 'optimal'", lambda: feature_faithfulness(*pair, one, ablation="optimal")),
            (
                CasebackError,
                "resampling needs corrupt",
                lambda: feature_faithfulness(model, CLEAN, None, METRIC, one, ablation="resample"),
            ),
            (CasebackError, "by number", lambda: feature_faithfulness(*pair, Circuit.of("L0F3:resid_post@end"))),
            (OutOfRange, "nodes asked for", lambda: strongest_nodes(one, 1)),
            (SiteAbsent, "nodes overlap", lambda: _with_mlps(model)),
            (
                ArgumentError,
                "expected one for each of 2",
                lambda: shift(model, CLEAN, METRIC, **{**balanced, "labels": [1]}),
            ),
            (ArgumentError, "are all 1", lambda: shift(model, CLEAN, METRIC, **{**balanced, "labels": [1, 1]})),
            (ArgumentError, "than 0 and 1", lambda: shift(model, CLEAN, METRIC, **{**balanced, "shortcut": [1, 2]})),
            (ArgumentError, "no node is given", lambda: shift(model, CLEAN, METRIC, **{**balanced, "nodes": []})),
            (ArgumentError, "no counterfactual", lambda: shift(model, CLEAN, METRIC, **balanced, ablation="resample")),
        ):
            with pytest.raises(error, match=says):
                call()


def _with_mlps(model):
    with attached(model, random_dictionaries(model, "mlp_out"), name="mlp"):
        feature_effects(model, CLEAN, CORRUPT, METRIC, sites=["mlp", "mlp_out"])
