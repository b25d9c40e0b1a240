"""Rows are exact sums of what the model computed, whatever stands in MLPs' places."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.decode.dictionaries import Facts, TopK
from caseback.errors import (
    ArgumentError,
    CasebackError,
    EditError,
    LoadError,
    OutOfRange,
    SiteAbsent,
    TargetError,
    TokensError,
)
from caseback.jobs import budget
from caseback.localize.circuits import (
    attribution_graph,
    graph_scores,
    node_influence,
)
from caseback.localize.circuits.attribution_graphs.frozen import Frozen
from caseback.localize.circuits.attribution_graphs.rows import in_parts, readers_of
from caseback.localize.circuits.attribution_graphs.sources import replacement, sites_of
from caseback.localize.circuits.attribution_graphs.targets import logit_readers
from caseback.model.backward.rules import Rules
from exact import exact
from graph_parts import KINDS, PROMPT, transcoders

DENSE = "gpt2 opt gpt_neox falcon gptj cohere llama qwen3 gemma2 olmo2 granite mpt_clipped bloom phi stablelm crystal".split()
MIXED = "mixtral gpt_oss granitemoe".split()


@pytest.mark.parametrize("name", [*DENSE, *MIXED])
@pytest.mark.parametrize("kind", KINDS)
def test_b_4_a_row_sums_to_what_its_reader_is(name, kind):
    model = shelf.model(name)
    with exact():
        graph = attribution_graph(model, PROMPT, KINDS[kind](model), first=1, most_logits=3)
        logits = model.run(PROMPT).logits[0, -1]
    assert graph.gap < 1e-9
    units = graph.reader_kind != "logits"
    if kind == "neurons" and name in MIXED:
        assert graph.without_units == model.n_layers and not units.any()
    else:
        assert units.sum() > 4
        mine = graph.activation.sel(writer=graph.reader[units].values).values
        np.testing.assert_allclose(graph.value[units].values, mine, atol=1e-9)
    if model.anatomy.logit_softcap is None:
        ids = graph.reader_index[~units].values
        np.testing.assert_allclose(graph.value[~units].values, (logits[ids] - logits.mean()).numpy(), atol=1e-8)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("kind", ["topk", "neurons", "across"])
def test_b_4_products_through_heads_are_gradients_of_the_frozen_model(name, kind):
    """The other way to the same numbers: MLPs' writes held, rules hold patterns and denominators, torch goes back."""
    model = shelf.model(name)
    if name in ("mpt_clipped",):
        pytest.skip("clipped values have a slope of their own here, torch's is 0 or 1")
    dictionaries = KINDS[kind](model)
    with exact():
        graph = attribution_graph(model, PROMPT, dictionaries, first=1, most_logits=2, max_nodes=100_000)
        network = Frozen(model, PROMPT, sites_of(model, dictionaries if kind != "across" else [dictionaries]))
        replaced = replacement(network, dictionaries if kind != "across" else [dictionaries], "half", 1)
        held = [cb.Replace("mlp_out", network.run["mlp_out", i], layer=i) for i in range(model.n_layers)]
        rules = Rules(norm="held", softmax="held", product="gradient", activation="gradient")
        run = model.run(PROMPT, read=["mlp_in", "resid_post", ("resid_pre", 0)], edits=held, grad=True, rules=rules)
        streams = [run["resid_post", i] for i in range(model.n_layers)]
        start = run["resid_pre", 0]
        last = model.n_layers - 1
        some = torch.arange(len(replaced.sources[last].pos))[::5]
        readers = readers_of(replaced, last, some)
        names = graph.reader.values[(graph.reader_layer == last) & (graph.reader_kind != "logits")][some.numpy()]
        for reader, row, pos in zip(names, readers.rows, readers.pos, strict=True):
            read = run["mlp_in", last][0, pos] @ row
            grads = torch.autograd.grad(read, [start, *streams[:last]], retain_graph=True, allow_unused=True)
            own = graph.weight.sel(reader=reader)
            expected = (grads[0][0] * start[0]).sum(-1).detach()
            np.testing.assert_allclose(own[graph.kind.values == "embed"].values, expected.numpy(), atol=1e-9)
            for layer in range(last):
                sources, total = replaced.sources[layer], 0
                for target in sources.reached():
                    if target < last:
                        every = torch.arange(len(sources.pos))
                        above = grads[1 + target][0].double()
                        each = (sources.each_written(every, target) * above[sources.pos]).sum(-1)
                        total = total + each.detach()
                units = (graph.layer.values == layer) & np.isin(graph.kind.values, ("feature", "neuron"))
                np.testing.assert_allclose(own[units].values, total.numpy(), atol=1e-9)


def test_a_limit_on_numbers_changes_no_row():
    model = shelf.model("gemma2")
    with exact():
        whole = attribution_graph(model, PROMPT, transcoders(model), first=0)
        with budget.override(graph_numbers=1):
            parts = attribution_graph(model, PROMPT, transcoders(model), first=0)
    np.testing.assert_allclose(parts.weight.values, whole.weight.values, atol=1e-12)


@pytest.mark.parametrize("kind", ["topk", "across", "neurons"])
def test_units_left_out_count_as_errors_and_rows_stay_exact(kind):
    model = shelf.model("llama")
    with exact():
        whole = attribution_graph(model, PROMPT, KINDS[kind](model), first=0)
        some = attribution_graph(model, PROMPT, KINDS[kind](model), first=0, max_nodes=15)
    assert (
        some.gap < 1e-9
        and some.dropped == whole.sizes["reader"] - len(whole.reader[whole.reader_kind == "logits"]) - 15
    )
    both = some.reader.values
    shared = some.writer.values[~np.isin(some.kind.values, ("error", "bias"))]
    np.testing.assert_allclose(
        some.weight.sel(reader=both, writer=shared).values,
        whole.weight.sel(reader=both, writer=shared).values,
        atol=1e-12,
    )
    np.testing.assert_allclose(some.weight.sel(writer="bias"), whole.weight.sel(writer="bias", reader=both), atol=1e-9)
    # those of most influence are taken: the least of them in the last layer has more than any that was left out there
    last, influence = model.n_layers - 1, node_influence(whole, biases=True)
    of_last = whole.writer.values[(whole.layer.values == last) & np.isin(whole.kind.values, ("feature", "neuron"))]
    taken = np.isin(of_last, some.writer.values)
    if taken.any() and not taken.all():
        values = influence.sel(writer=of_last).values
        assert values[taken].min() >= values[~taken].max()


def test_neurons_have_no_error_and_dictionaries_that_are_exact_have_none():
    model = shelf.model("llama")
    with exact():
        graph = attribution_graph(model, PROMPT, "neurons", first=0)
        errors = graph.weight.values[:, graph.kind.values == "error"]
    assert abs(errors).max() < 1e-10
    assert graph_scores(graph)["replacement"] == pytest.approx(1, abs=1e-9)


def test_neurons_of_a_layer_sum_to_its_mlp():
    """As in the graph of heads and MLPs: an MLP's share of a reader is the sum of its neurons' and its biases'."""
    model = shelf.model("gpt2")
    with exact():
        fine = attribution_graph(model, PROMPT, "neurons", first=0, targets=[3])
        coarse = attribution_graph(model, PROMPT, "neurons", first=0, targets=[3], max_nodes=0)

    def of(graph, layer):
        here = (graph.layer.values == layer) & (graph.kind.values != "embed")
        return graph.weight.values[-1][here].sum()

    for layer in range(model.n_layers):
        assert of(fine, layer) == pytest.approx(of(coarse, layer), abs=1e-9)


def test_a_foil_takes_the_place_of_the_mean():
    model = shelf.model("llama")
    with exact():
        graph = attribution_graph(model, PROMPT, "neurons", targets=[3, 5], foil=8, max_nodes=5)
        logits = model.run(PROMPT).logits[0, -1]
    np.testing.assert_allclose(graph.value[-2:].values, (logits[[3, 5]] - logits[8]).numpy(), atol=1e-9)
    assert graph.target_weight.values[-2:].tolist() == [0.5, 0.5]


def test_a_prompt_of_one_token_and_half_precision():
    model = cb.load(zoo.tiny("llama", torch.bfloat16))
    graph = attribution_graph(model, [[5]], "neurons", max_nodes=10)
    assert graph.weight.dtype == np.float32 and np.isfinite(graph.weight.values).all()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: attribution_graph(m, [[1, 2], [3, 4]]), TokensError, "2 prompts: an attribution graph is of one"),
        (lambda m: attribution_graph(m, PROMPT, "neuron"), ArgumentError, "expected transcoders or 'neurons'"),
        (lambda m: attribution_graph(m, PROMPT, []), ArgumentError, "an empty list cannot stand"),
        (lambda m: attribution_graph(m, PROMPT, 3), ArgumentError, "3 cannot stand in the place of an MLP"),
        (lambda m: attribution_graph(m, PROMPT, targets=[]), TargetError, "no target given"),
        (lambda m: attribution_graph(m, PROMPT, targets=[3, 3]), TargetError, "given twice"),
        (lambda m: attribution_graph(m, PROMPT, targets=[10**6]), CasebackError, "1000000"),
        (lambda m: attribution_graph(m, PROMPT, mass=0), OutOfRange, "mass=0"),
        (lambda m: attribution_graph(m, PROMPT, gate="open"), ArgumentError, "gate 'open' is unknown"),
        (
            lambda m: attribution_graph(m, PROMPT, TopK(m.d_model, 8, k=2, facts=Facts(site="resid_post.1"))),
            ArgumentError,
            "reads resid_post.1 and writes resid_post.1: a graph's features stand in the place of an MLP",
        ),
        (
            lambda m: attribution_graph(m, PROMPT, [*transcoders(m), *transcoders(m)]),
            ArgumentError,
            "two dictionaries stand in the place of layer 0's MLP",
        ),
        (
            lambda m: attribution_graph(
                m, PROMPT, TopK(m.d_model + 1, 8, k=2, facts=Facts(site="mlp_in.1", target="mlp_out.1"))
            ),
            LoadError,
            "is of width",
        ),
        (
            lambda m: attribution_graph(
                m, PROMPT, TopK(m.d_model, 8, k=2, facts=Facts(site="mlp_in.9", target="mlp_out.9"))
            ),
            LoadError,
            "the model has layers 0 to",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_graph_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call(shelf.model("llama"))


def test_a_family_whose_values_are_not_linear_is_refused():
    with pytest.raises(SiteAbsent, match="has no attribution graph"):
        attribution_graph(shelf.model("deepseek_v2"), PROMPT)


def test_layers_without_a_dictionary_are_errors_and_said_to_be():
    model = shelf.model("llama")
    graph = attribution_graph(model, PROMPT, transcoders(model)[:1], first=0)
    assert graph.without_units == model.n_layers - 1
    assert set(graph.layer.values[graph.kind.values == "feature"]) == {0}


def test_the_padding_of_one_prompt_is_no_part_of_it():
    model = shelf.model("llama")
    graph = attribution_graph(model, PROMPT, first=1, most_logits=2, max_nodes=20)
    for side in ("left", "right"):
        padded = model.tokens([shelf.ids((7,))[0], shelf.ids((9,))[0]]).padded_on(side)[0]
        assert padded.padded
        assert attribution_graph(model, padded, first=1, most_logits=2, max_nodes=20).equals(graph)


def test_a_graph_under_edits_is_exact_or_refused():
    model = shelf.model("llama")
    with exact():
        for site in ("mlp_out", "mlp_post", "pattern"):
            under = model.edited(cb.Scale(site, 0.5, layer=1))
            assert attribution_graph(under, PROMPT, first=0, most_logits=2).gap < 1e-9
    for site in ("z", "v", "attn_out", "resid_post"):
        with pytest.raises(EditError, match=f"{site}.1 is edited"):
            attribution_graph(model.edited(cb.Scale(site, 0.5, layer=1)), PROMPT)


def test_dictionaries_without_a_site_are_refused():
    model = shelf.model("llama")
    with pytest.raises(ArgumentError, match="does not say which site"):
        attribution_graph(model, PROMPT, TopK(model.d_model, 12, k=2))


def test_rows_are_taken_some_at_a_time_where_units_are_many():
    model = shelf.model("llama")
    one = replacement(Frozen(model, PROMPT, sites_of(model, "neurons")), "neurons", "half", 0)
    every = logit_readers(one.network, torch.arange(20), None)
    units = sum(len(sources.pos) for sources in one.sources.values())
    with budget.override(graph_numbers=4 * units):
        parts = list(in_parts(one, every))
    assert max(len(some) for some, _ in parts) <= 4
