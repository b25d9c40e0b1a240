"""What is said of a circuit: 1 for the model, 0 for nothing, a planted circuit complete and minimal, the benchmark's areas."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.localize.circuits import (
    circuit_size,
    completeness,
    edge_attribution,
    edge_roc,
    faithfulness,
    faithfulness_curve,
    judge,
    minimality,
    patch_edges,
    run_circuit,
)
from caseback.localize.circuits.curve import FRACTIONS, areas
from caseback.localize.circuits.machinery.bootstrap import interval
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.organisms.compiled import build
from exact import exact

FAMILIES = "gpt2 gpt_neox llama gemma2 qwen3 mixtral".split()
CLEAN, CORRUPT = shelf.ids((7, 5)), shelf.ids((7, 5), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])
BOTH = ("embed", "pos_embed")


def some(graph, share=0.6, seed=0, count=1):
    masks = torch.rand(count, *graph.exists.shape, generator=torch.Generator().manual_seed(seed)) < share
    return masks & graph.exists


@pytest.fixture(scope="module")
def planted():
    """A compiled model, prompts, counterfactuals, a metric of every position and its true circuit."""
    organism = build("induction", alphabet="abcd", max_length=6)
    clean, corrupt = ["acabda", "bacbdb", "cdcabc"], ["dacacd", "cabbdc", "abccda"]
    tokens, other = (organism.tokens([list(p) for p in prompts]) for prompts in (clean, corrupt))
    metric = cb.logit([organism.predict([list(p)])[0][-1] for p in clean])
    return organism, tokens, other, metric


@pytest.mark.parametrize("name", FAMILIES)
def test_3_2_21_the_model_recovers_all_and_nothing_recovers_none(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    ends = torch.stack([graph.exists, torch.zeros_like(graph.exists)])
    with exact():
        for side in ("left", "right"):
            tokens = model.tokens(CLEAN, padding=side)
            found = faithfulness(
                model, tokens, CORRUPT, METRIC, ends, ablations=["resample", "mean", "zero"], with_kl=True
            )
            np.testing.assert_allclose(found.recovered, [1, 0] * 3, atol=1e-9)
            np.testing.assert_allclose(found.difference[::2], 0, atol=1e-9)
            np.testing.assert_allclose(found.ratio[::2], 1, atol=1e-9)
            np.testing.assert_allclose(found.kl[::2], 0, atol=1e-9)
            np.testing.assert_allclose(found.metric[1], METRIC(model.run(CORRUPT)), rtol=1e-9)
            assert (found.kl[1::2] > 0).all()


def test_3_2_21_each_convention_is_what_it_is_called():
    model = shelf.model("llama")
    graph = Graph.of(model.anatomy)
    mask = graph.connected(some(graph)[0])
    with exact():
        found = faithfulness(model, CLEAN, CORRUPT, METRIC, mask, with_kl=True)
        m = run_circuit(model, CLEAN, CORRUPT, METRIC, mask)
        empty = METRIC(model.run(CORRUPT)).numpy()
        kl = run_circuit(model, CLEAN, CORRUPT, cb.kl(model.run(CLEAN)), mask).values.mean()
    part, none, whole = (float(np.mean(x)) for x in (m.values, empty, m.whole.values))
    for name, value in {
        "recovered": (part - none) / (whole - none),
        "ratio": part / whole,
        "difference": abs(whole - part),
        "kl": kl,
    }.items():
        assert float(found[name][0]) == pytest.approx(value, rel=1e-9), name
        assert float(found[f"{name}_low"][0]) <= float(found[f"{name}_high"][0])


def test_intervals_are_those_of_drawing_prompts_anew():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(3, 40)), rng.normal(size=40) + 5
    low, high = interval(lambda x, y: x / y, a, b, resamples=2000, level=0.9, seed=3)
    drawn = np.random.default_rng(3).integers(40, size=(2000, 40))
    by_hand = a[:, drawn].mean(-1) / b[drawn].mean(-1)
    np.testing.assert_allclose(low, np.quantile(by_hand, 0.05, axis=-1), rtol=1e-9)
    np.testing.assert_allclose(high, np.quantile(by_hand, 0.95, axis=-1), rtol=1e-9)
    with pytest.raises(OutOfRange, match="level=1.5"):
        interval(lambda x: x, a, level=1.5)


def test_padding_and_what_is_judged_beside_it_change_nothing():
    model = shelf.model("qwen3")
    graph = Graph.of(model.anatomy)
    masks = some(graph, count=3)
    with exact():
        right = faithfulness(model, CLEAN, CORRUPT, METRIC, masks, ablations=["resample", "mean"])
        left = faithfulness(model, model.tokens(CLEAN, padding="left"), CORRUPT, METRIC, masks[1:2], ablations=["mean"])
    np.testing.assert_allclose(left.recovered[0], right.recovered[4], rtol=1e-9)
    assert right.circuit.values.tolist() == [0, 1, 2] * 2 and right.ablation.values.tolist()[2:4] == [
        "resample",
        "mean",
    ]


def test_3_2_9_the_best_constants_lose_less_than_means():
    model = shelf.model("gpt2")
    graph = Graph.of(model.anatomy)
    with exact():
        kl = cb.kl(model.run(CLEAN))
        found = faithfulness(model, CLEAN, None, kl, some(graph, 0.5), ablations=["mean", "optimal"])
    mean, optimal = found.metric.mean("batch").values
    assert optimal < 0.9 * mean


def test_a_circuit_may_name_positions():
    model = shelf.model("llama")
    whole = Graph.of(model.anatomy).circuit(Graph.of(model.anatomy).exists)
    cut = Circuit.of(*(f"{edge.source} -> {edge.target}{'.' + edge.slot if edge.slot else ''}" + ("@end" if str(edge.target) == "logits" else "") for edge in whole.edges))  # fmt: skip
    with exact():
        found = faithfulness(model, CLEAN, CORRUPT, METRIC, cut, positions={"end": -1})
        np.testing.assert_allclose(found.recovered, 1, rtol=1e-9)
        told = judge(model, CLEAN, CORRUPT, METRIC, cut, positions={"end": -1}, ablations=["resample"])
    assert told.completeness is None and told.minimality is None


def test_3_2_21_a_planted_circuit_is_complete_and_minimal(planted):
    organism, tokens, other, metric = planted
    # counterfactuals share the positions, so only cutting to zero shows the edges that carry them
    for of, ablation in (("nodes", "resample"), ("nodes", "zero"), ("edges", "zero")):
        told = {"inputs": BOTH, "ablation": ablation}
        for search in ({"subsets": "random", "count": 6}, {"subsets": "greedy", "depth": 3}):
            found = completeness(organism.model, tokens, other, metric, organism.circuit, of=of, **search, **told)
            np.testing.assert_allclose(found.gap, 0, atol=1e-4)
        least = minimality(organism.model, tokens, other, metric, organism.circuit, of=of, count=4, **told)
        assert least.attrs["least"] > 1e-3, least.score.to_series()
    found = faithfulness(organism.model, tokens, other, metric, organism.circuit, inputs=BOTH)
    np.testing.assert_allclose(found.recovered, 1, atol=1e-5)


def test_3_2_21_a_circuit_with_a_part_left_out_or_too_many_is_told(planted):
    organism, tokens, other, metric = planted
    lacking = organism.circuit - Circuit.of("L0H0 -> L1H0.k")
    found = faithfulness(organism.model, tokens, other, metric, lacking, inputs=BOTH)
    assert float(found.recovered[0]) < 0.5
    spare = Circuit(organism.circuit.edges | Circuit.of("embed -> MLP 0", "MLP 0 -> logits").edges)
    least = minimality(organism.model, tokens, other, metric, spare, inputs=BOTH, count=4)
    assert least.attrs["least_part"] == "MLP 0" and least.attrs["least"] < 1e-5
    gap = completeness(organism.model, tokens, other, metric, spare - Circuit.of("embed -> L1H0.v"), inputs=BOTH)
    assert gap.attrs["worst_share"] > 0.3


def test_completeness_sets_by_role_and_by_name():
    organism = build("backup_head")
    words = organism.inputs
    tokens, other = organism.tokens([[word] for word in words]), organism.tokens([[word] for word in reversed(words)])
    metric = cb.logit([row[-1] for row in organism.predict([t[1:] for t in tokens.text])])
    by_role = completeness(organism.model, tokens, other, metric, organism.circuit, subsets="roles", inputs=BOTH)
    assert by_role.sizes["variant"] == len(set(organism.circuit.roles.values()))
    named = completeness(organism.model, tokens, other, metric, organism.circuit, subsets=[["L0H0"], []], inputs=BOTH)
    assert named.removed.values.tolist() == ["L0H0", ""] and named["size"].values.tolist() == [1, 0]
    with pytest.raises(CasebackError, match="'L7H7' is not a part of this circuit"):
        completeness(organism.model, tokens, other, metric, organism.circuit, subsets=[["L7H7"]], inputs=BOTH)


def test_minimality_counts_a_part_only_by_what_it_changes():
    model = shelf.model("gpt2")
    graph = Graph.of(model.anatomy)
    circuit = graph.circuit(graph.exists)
    with exact():
        found = minimality(model, CLEAN, CORRUPT, METRIC, circuit, count=3)
        for at, name in enumerate(found.component.values):
            gone = [] if not str(found.given.values[at]) else str(found.given.values[at]).split(", ")
            without = [w for w, node in enumerate(graph.writers) if str(node) in gone]
            before, after = graph.exists.clone(), graph.exists.clone()
            before[without] = after[without] = False
            after[[str(node) for node in graph.writers].index(str(name))] = False
            ran = run_circuit(model, CLEAN, CORRUPT, METRIC, torch.stack([before, after])).mean("batch")
            assert abs(float(ran[1] - ran[0])) == pytest.approx(float(found.score[at]), rel=1e-9, abs=1e-12)
            assert name not in gone


def test_mib_areas_are_trapezoids_of_the_benchmarks_points():
    f = np.linspace(-0.2, 1.0, 10)
    by_weight = np.array([0.0005, 0.002, 0.004, 0.0075, 0.02, 0.04, 0.075, 0.2, 0.4, 0.25])
    found = areas(np.array(FRACTIONS), f)
    assert found["cpr"] == pytest.approx(by_weight @ f) and found["cmd"] == pytest.approx(by_weight @ abs(1 - f))
    nothing = areas(np.array(FRACTIONS), np.array([0.0] * 9 + [1.0]))
    assert nothing["cpr"] == pytest.approx(0.25) and nothing["cmd"] == pytest.approx(0.749)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_curve_runs_each_sizes_best_edges(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    with exact():
        scores = edge_attribution(model, CLEAN, CORRUPT, METRIC)
        curve = faithfulness_curve(model, CLEAN, CORRUPT, METRIC, scores)
        assert curve.edges.values.tolist() == [int(share * len(graph.edges)) for share in FRACTIONS]
        assert float(curve.recovered[-1]) == pytest.approx(1) and (curve.kept <= curve.edges).all()
        by_size = faithfulness_curve(model, CLEAN, CORRUPT, METRIC, scores, sizes=[len(graph.edges) // 2])
        circuit = cb.localize.circuits.select(model, scores, len(graph.edges) // 2)
        one = faithfulness(model, CLEAN, CORRUPT, METRIC, circuit)
        np.testing.assert_allclose(by_size.recovered[0], one.recovered[0], rtol=1e-9)
        assert by_size.fraction.values[-1] == 1
        several = faithfulness_curve(model, CLEAN, CORRUPT, METRIC, [circuit])
        np.testing.assert_allclose(several.recovered, by_size.recovered, rtol=1e-9)
        signed = faithfulness_curve(model, CLEAN, CORRUPT, METRIC, -scores, absolute=False)
        assert not np.allclose(signed.recovered[:-1], curve.recovered[:-1])


def test_size_counts_as_the_benchmark_does():
    model = shelf.model("llama")
    circuit = Circuit.of("embed -> MLP 0", "MLP 0 -> logits", "L0H1 -> logits", "embed -> L0H1.q", "MLP 0 N3")
    size = circuit_size(model, circuit)
    assert (size["edges"], size["nodes"], size["heads"], size["mlps"], size["neurons"]) == (4, 5, 1, 1, 1)
    assert size["weighted_edges"] == pytest.approx(3 + 1 / model.anatomy.d_mlp)
    assert size["share"] == 4 / len(Graph.of(model.anatomy).edges) and size["dangling"] == 0
    with pytest.raises(CasebackError, match="of another model"):
        circuit_size(model, Circuit.of("L8H0 -> logits"))


def test_3_2_21_roc_ranks_true_edges_above_others(planted):
    organism, tokens, other, metric = planted
    model, truth = organism.model, organism.circuit
    effects = patch_edges(model, tokens, None, metric, ablation="zero", inputs=BOTH)
    assert edge_roc(model, effects, truth, reduce="mean_of_abs").attrs["auroc"] == 1.0
    graph = Graph.of(model.anatomy, BOTH)
    perfect = effects.copy(data=torch.where(graph.mask(truth), 1.0, 0.0)[..., None].repeat(1, 1, 3).numpy())
    for flipped, expected in ((perfect, 1.0), (-perfect, 0.0), (0 * perfect, 0.5)):
        assert edge_roc(model, flipped, truth, reduce="mean").attrs["auroc"] == expected
    roc = edge_roc(model, truth - Circuit.of("embed -> L0H0.v"), truth)
    n = len(truth)
    assert roc.attrs["auroc"] == pytest.approx(1 - 0.5 / n) and roc.attrs["true_edges"] == n
    with pytest.raises(CasebackError, match="0 of"):
        edge_roc(model, effects, Circuit())
    with pytest.raises(CasebackError, match="reduce 'max' is unknown"):
        edge_roc(model, effects, truth, reduce="max")


def test_3_2_37_a_judgement_tells_what_speaks_against_it(planted):
    organism, tokens, other, metric = planted
    spare = Circuit(
        organism.circuit.edges | Circuit.of("embed -> MLP 0", "MLP 0 -> logits", "L1H0 -> MLP 1").edges,
        roles=organism.circuit.roles,
    )
    told = judge(organism.model, tokens, other, metric, spare, groups=["a", "a", "b"], sets=2)
    text = " ".join(told.caveats)
    assert "MLP 0" in text and "1 edges lie on no path" in text and "given by hand" in text
    assert set(told.groups) == {"a", "b"} and told.size["dangling"] == 1
    made = told.to_json()
    assert [row["ablation"] for row in made["faithfulness"]] == ["resample", "mean", "zero"]
    assert made["minimality"]["least_part"] == "MLP 0"


def test_what_cannot_be_judged_is_refused():
    model = shelf.model("gpt2")
    graph = Graph.of(model.anatomy)
    circuit = graph.circuit(graph.exists)
    scores = edge_attribution(model, CLEAN, CORRUPT, METRIC)
    other = Circuit.of("L9H9 -> logits")
    dangling = Circuit.of("L0H0 -> L1H1.q", "L0H0 -> MLP 1")
    for call, error, says in (
        (lambda: faithfulness(model, CLEAN, CORRUPT, METRIC, other), CasebackError, "of another model"),
        (
            lambda: faithfulness(model, CLEAN, CORRUPT, METRIC, dangling),
            CasebackError,
            "is disconnected|disconnected and",
        ),
        (lambda: faithfulness(model, CLEAN, [[1, 2], [3]], METRIC, circuit), TokensError, "not token-aligned"),
        (lambda: faithfulness(model, CLEAN, CLEAN, METRIC, circuit), CasebackError, "nothing to recover"),
        (lambda: faithfulness(model, CLEAN, CORRUPT, METRIC, circuit, ablations="noise"), CasebackError, "'noise' is"),
        (lambda: faithfulness_curve(model, CLEAN, CORRUPT, METRIC, scores, sizes=[0]), OutOfRange, "0 edges asked"),
        (lambda: faithfulness_curve(model, CLEAN, CORRUPT, METRIC, scores, fractions=[2, 3]), OutOfRange, "rising"),
        (lambda: faithfulness_curve(model, CLEAN, CORRUPT, METRIC, []), CasebackError, "no circuit given"),
        (lambda: faithfulness_curve(model, CLEAN, CORRUPT, METRIC, scores[:3]), CasebackError, "not of this model"),
        (lambda: faithfulness_curve(model, CLEAN, CORRUPT, METRIC, scores, how="best"), CasebackError, "how 'best'"),
        (lambda: completeness(model, CLEAN, CORRUPT, METRIC, Circuit()), CasebackError, "no nodes to take away"),
        (lambda: completeness(model, CLEAN, CORRUPT, METRIC, circuit, subsets="all"), CasebackError, "subsets 'all'"),
        (lambda: completeness(model, CLEAN, CORRUPT, METRIC, circuit, subsets="roles"), CasebackError, "no roles"),
        (lambda: completeness(model, CLEAN, CORRUPT, METRIC, circuit, of="layers"), CasebackError, "of 'layers'"),
        (lambda: completeness(model, CLEAN, CORRUPT, METRIC, circuit, count=0), OutOfRange, "count=0"),
        (lambda: minimality(model, CLEAN, CORRUPT, METRIC, circuit, count=-1), OutOfRange, "count=-1"),
    ):
        with pytest.raises(error, match=says):
            call()
