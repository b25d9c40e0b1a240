"""What passes through a graph is conserved, what is pruned is least, and no graph makes it run for ever."""

import numpy as np
import pytest

import shelf
from caseback.errors import (
    OutOfRange,
    ResultError,
)
from caseback.localize.circuits import (
    attribution_graph,
    edge_influence,
    graph_circuit,
    graph_effects,
    graph_scores,
    node_influence,
    prune_graph,
)
from graph_parts import PROMPT, transcoders


@pytest.mark.parametrize("biases", [True, False])
def test_influence_is_conserved_and_an_edges_sums_to_its_writers(biases):
    model = shelf.model("llama_biased")
    graph = attribution_graph(model, PROMPT, transcoders(model), first=1, mass=0.5)
    influence = node_influence(graph, biases=biases)
    leaves = ~np.isin(graph.kind.values, ("feature", "neuron"))
    total = float(graph.target_weight.sum())
    assert float(influence[leaves].sum()) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(edge_influence(graph, biases=biases).sum("reader"), influence, atol=1e-6)


def test_influence_is_the_sum_over_paths():
    """By hand: t reads a (3) and x (1); a reads x (1) and its error (-1)."""
    graph = attribution_graph(shelf.model("llama"), PROMPT, "neurons", max_nodes=1, targets=[3], first=0)
    kinds, readers = graph.kind.values, graph.reader.values
    weight = np.zeros(graph["weight"].shape)
    unit = list(graph.writer.values).index(readers[0])
    x, error = int(np.flatnonzero(kinds == "embed")[0]), int(np.flatnonzero(kinds == "error")[0])
    weight[1, unit], weight[1, x] = 3, 1
    weight[0, x], weight[0, error] = 1, -1
    by_hand = graph.assign(weight=(("reader", "writer"), weight))
    influence = node_influence(by_hand).values
    assert influence[[unit, x, error]].tolist() == pytest.approx([0.75, 0.25 + 0.375, 0.375])
    scores = graph_scores(by_hand)
    assert scores["replacement"] == pytest.approx(0.625)
    # the target is complete, the unit half; with leaves: (1 + .375 + 1) / (1 + .75 + 1)
    assert scores["completeness"] == pytest.approx((1 + 0.375) / 1.75)
    assert scores["completeness_with_leaves"] == pytest.approx((1 + 0.375 + 1) / 2.75)


def test_pruning_at_1_keeps_all_that_is_read_and_smaller_shares_keep_less():
    model = shelf.model("llama")
    graph = attribution_graph(model, PROMPT, "neurons", first=1, mass=0.5)
    whole, small = prune_graph(graph, node=1, edge=1), prune_graph(graph, node=0.6, edge=0.8)
    influence = node_influence(graph)
    assert set(whole.writer.values) == {*graph.writer.values[influence.values > 0], "bias"}
    assert set(small.writer.values) < set(whole.writer.values)
    assert set(small.reader.values) <= set(graph.reader.values)
    units = small.writer.values[small.kind.values == "neuron"]
    assert set(units) == set(small.reader.values[small.reader_kind.values != "logits"])
    assert (small.weight.sel(writer=units) != 0).any("reader").all()
    with pytest.raises(OutOfRange, match="no unit is left"):
        prune_graph(attribution_graph(model, PROMPT, "neurons", max_nodes=0))


def nan_at(graph, name):
    bad = graph.copy(deep=True)
    bad[name][(-1,) * bad[name].ndim] = np.nan
    return bad


def in_a_circle(graph):
    return graph.assign(weight=graph.weight * 0 + 1)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda graph: nan_at(graph, "weight"), "NaN or infinity in 'weight'"),
        (lambda graph: nan_at(graph, "target_weight"), "NaN or infinity in 'target_weight'"),
        (in_a_circle, "in a circle"),
        (lambda graph: graph.drop_vars("token"), "it has no token"),
        (lambda graph: graph.drop_vars("reader"), "it has no reader"),
    ],
)
@pytest.mark.parametrize("use", [node_influence, prune_graph, graph_scores])
def test_what_is_no_graph_is_refused_and_does_not_hang(spoil, says, use):
    graph = attribution_graph(shelf.model("gpt2"), PROMPT, first=1, most_logits=2, max_nodes=20)
    with pytest.raises(ResultError, match=says):
        use(spoil(graph))


def test_effects_need_values_and_a_graph_without_circles():
    model = shelf.model("gpt2")
    graph = attribution_graph(model, PROMPT, first=1, most_logits=2, max_nodes=20)
    with pytest.raises(ResultError, match="what its readers are"):
        graph_effects(model, nan_at(graph, "value"))
    with pytest.raises(ResultError, match="circle"):
        graph_effects(model, in_a_circle(graph))
    with pytest.raises(ResultError, match="tokens and first"):
        graph_effects(model, graph.drop_attrs())


def test_the_order_of_dimensions_is_no_matter():
    model = shelf.model("gpt2")
    graph = attribution_graph(model, PROMPT, first=1, most_logits=2, max_nodes=20)
    turned = graph.transpose("writer", "reader", "pos")
    assert graph_circuit(turned) == graph_circuit(graph)
    assert prune_graph(turned, node=0.9).identical(prune_graph(graph, node=0.9))
    assert graph_effects(model, turned).equals(graph_effects(model, graph))
