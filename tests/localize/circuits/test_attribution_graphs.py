"""Rows are exact sums of what the model computed, whatever stands in MLPs' places; influence is conserved."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import caseback as cb
import shelf
from caseback.decode.dictionaries import CrossLayerTopK, Facts, Gated, JumpReLU, TopK
from caseback.errors import (
    ArgumentError,
    CasebackError,
    EditError,
    LoadError,
    OutOfRange,
    ResultError,
    SiteAbsent,
    TargetError,
    TokensError,
)
from caseback.jobs import budget
from caseback.localize.circuits import (
    attribution_graph,
    circuit_graph,
    edge_influence,
    graph_circuit,
    graph_effects,
    graph_scores,
    head_loadings,
    load_graph,
    node_influence,
    prune_graph,
    query_key_attribution,
    save_graph,
)
from caseback.localize.circuits.attribution_graphs.frozen import Frozen
from caseback.localize.circuits.attribution_graphs.heads import contracted
from caseback.localize.circuits.attribution_graphs.restored import errors_of, readers_in, replaced_of
from caseback.localize.circuits.attribution_graphs.rows import in_parts, readers_of
from caseback.localize.circuits.attribution_graphs.sources import replacement, sites_of
from caseback.localize.circuits.attribution_graphs.streams import own_writes, streams
from caseback.localize.circuits.attribution_graphs.targets import logit_readers
from caseback.model.algebra.scalings import score_scalings
from caseback.model.backward.rules import Rules
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.organisms.compiled import programs
from exact import exact

DENSE = "gpt2 opt gpt_neox falcon gptj cohere llama qwen3 gemma2 olmo2 granite mpt_clipped bloom phi stablelm crystal".split()
MIXED = "mixtral gpt_oss granitemoe".split()
PROMPT = shelf.ids((7,))


def normed(model):
    return "mlp_in" if "mlp_norm" in model.anatomy.lacks else "mlp_norm"


def transcoders(model, kind="topk", site=None, width=24, **facts):
    d, made, site = model.d_model, [], site or normed(model)
    for layer in range(model.n_layers):
        own = Facts(site=f"{site}.{layer}", target=f"mlp_out.{layer}", **facts)
        options = {"facts": own, "dtype": torch.float64, "seed": layer}
        if kind == "topk":
            one = TopK(d, width, k=4, **options)
        elif kind == "skip":
            one = TopK(d, width, k=4, skip=True, **options)
        elif kind == "gated":
            one = Gated(d, width, **options)
        else:
            one = JumpReLU(d, width, **options)
        draw = torch.Generator().manual_seed(layer)
        with torch.no_grad():
            for parameter in one.parameters():
                noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
                parameter.add_(0.1 * noise)
        made.append(one)
    return made


def across(model, **more):
    one = CrossLayerTopK(
        model.d_model, 12 * model.n_layers, n_layers=model.n_layers, k=6, dtype=torch.float64,
        facts=Facts(site=normed(model), target="mlp_out"), **more,
    )  # fmt: skip
    with torch.no_grad():
        one.b_dec.add_(0.1)
    return one


KINDS = {
    "neurons": lambda model: "neurons",
    "topk": transcoders,
    "skip": lambda model: transcoders(model, "skip"),
    "gated": lambda model: transcoders(model, "gated", site="mlp_in"),
    "jump_relu": lambda model: transcoders(model, "jump_relu", normalization="layer_norm"),
    "across": across,
    "across_shared": lambda model: across(model, shared=True),
}


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
    made = graph.assign(weight=(("reader", "writer"), weight))
    influence = node_influence(made).values
    assert influence[[unit, x, error]].tolist() == pytest.approx([0.75, 0.25 + 0.375, 0.375])
    scores = graph_scores(made)
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


def test_a_foil_takes_the_place_of_the_mean():
    model = shelf.model("llama")
    with exact():
        graph = attribution_graph(model, PROMPT, "neurons", targets=[3, 5], foil=8, max_nodes=5)
        logits = model.run(PROMPT).logits[0, -1]
    np.testing.assert_allclose(graph.value[-2:].values, (logits[[3, 5]] - logits[8]).numpy(), atol=1e-9)
    assert graph.target_weight.values[-2:].tolist() == [0.5, 0.5]


def test_a_prompt_of_one_token_and_half_precision():
    model = cb.load(shelf.model("llama").hf.to(torch.bfloat16), tokenizer=shelf.model("llama").tokenizer)
    try:
        graph = attribution_graph(model, [[5]], "neurons", max_nodes=10)
        assert graph.weight.dtype == np.float32 and np.isfinite(graph.weight.values).all()
    finally:
        model.hf.to(torch.float64)


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


def test_a_graph_is_the_same_graph_after_a_circuit_and_a_viewers_file(tmp_path):
    model = shelf.model("llama")
    graph = prune_graph(attribution_graph(model, PROMPT, transcoders(model), first=1, mass=0.5), node=0.9)
    save_graph(graph, tmp_path / "one.json", model=model)
    for read in (circuit_graph(graph_circuit(graph)), load_graph(tmp_path / "one.json")):
        xr.testing.assert_allclose(
            read.weight.reset_coords(drop=True), graph.weight.reset_coords(drop=True).sortby("writer").sel(
                reader=read.reader.values, writer=read.writer.values)
        )  # fmt: skip
        assert graph_scores(read) == pytest.approx(graph_scores(graph))
        np.testing.assert_allclose(read.activation.sel(writer=graph.writer.values), graph.activation, atol=1e-6)
        assert read.id.values.tolist() == PROMPT[0]


def test_a_viewers_file_has_what_viewers_require(tmp_path):
    """The published schema: ids that are told apart, features paired with layers, logits above the last layer."""
    model = shelf.model("llama")
    graph = prune_graph(attribution_graph(model, PROMPT, transcoders(model), first=1, most_logits=2), node=0.95)
    save_graph(graph, tmp_path / "one.json", model=model)
    data = json.loads((tmp_path / "one.json").read_text())
    needed = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"}
    assert all(needed <= set(node) for node in data["nodes"])
    ids = [node["node_id"] for node in data["nodes"]]
    assert len(set(ids)) == len(ids) == graph.sizes["writer"] + 2 - 1  # logits are none of the writers, biases no node
    kinds = {node["feature_type"] for node in data["nodes"]}
    assert kinds <= {"embedding", "cross layer transcoder", "mlp reconstruction error", "logit"}
    logits = [node for node in data["nodes"] if node["feature_type"] == "logit"]
    assert {node["layer"] for node in logits} == {str(model.n_layers + 1)}
    assert sum(node["token_prob"] for node in logits) == pytest.approx(float(graph.target_weight.sum()))
    feature = next(node for node in data["nodes"] if node["feature_type"] == "cross layer transcoder")
    layer, index, pos = map(int, feature["node_id"].split("_"))
    assert feature["feature"] == (layer + index) * (layer + index + 1) // 2 + index and feature["ctx_idx"] == pos
    held = sorted(node["influence"] for node in data["nodes"] if node["influence"] is not None)
    assert 0 < held[0] <= held[-1] <= 1 + 1e-6
    assert data["metadata"]["schema_version"] == 1 and data["metadata"]["prompt_tokens"]


def test_a_circuit_of_heads_is_no_attribution_graph():
    with pytest.raises(ResultError, match="is no attribution graph"):
        circuit_graph(cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits"))
    with pytest.raises(ResultError, match="is no attribution graph: it has no"):
        node_influence(xr.Dataset())


def test_in_a_linear_model_a_graph_says_what_every_intervention_does():
    """No norms, attention uniform, MLPs linear: along all paths of all units, to the last digit."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 3}
    hf = CrystalForCausalLM(CrystalConfig(**sizes, hidden_act="linear", initializer_range=0.3)).double().eval()
    for layer in hf.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    model = cb.load(hf)
    graph = attribution_graph(model, [[3, 1, 4, 1, 5]], "neurons", first=0, max_nodes=10_000, most_logits=3)
    units = graph.reader.values[graph.reader_kind == "neuron"]
    for factor in (0.0, -1.0, 2.5):
        groups = {**{name: [name] for name in units[::9]}, "several": units[:40].tolist(), "word": ["embed@2"]}
        effects = graph_effects(model, graph, groups=groups, factor=factor)
        for other in ("measured", "measured_held"):
            np.testing.assert_allclose(effects.predicted, effects[other], atol=1e-9)
        assert abs(effects.measured).max() > 1e-3 and abs(effects.predicted - effects.direct).max() > 1e-4
    assert effects.attrs["correlation"] == pytest.approx(1)


def test_predictions_run_along_all_paths():
    """An MLP of one slope, or nearly: what is added little by little passes on as the graph says."""
    model = shelf.model("crystal")
    with exact():
        graph = attribution_graph(model, PROMPT, "neurons", first=0, max_nodes=10_000, targets=[3])
        names = graph.reader.values[(graph.reader_layer == 0) & (graph.reader_kind == "neuron")][:6]
        effects = graph_effects(model, graph, groups=names.tolist(), factor=0.5)
        # by hand, from the last layer down: the series (I - W / a)^-1
        rows, value = graph.weight.values, graph.value.values
        places = {name: i for i, name in enumerate(graph.writer.values)}
        change = np.zeros((len(names), len(places)))
        for i, name in enumerate(names):
            change[i, places[name]] = -0.5
        for reader, row, a in zip(graph.reader.values[:-1], rows[:-1], value[:-1], strict=True):
            change[:, places[reader]] += change @ row / a
    np.testing.assert_allclose(effects.predicted.values[:, 0], change @ rows[-1], atol=1e-9)
    assert abs(effects.predicted - effects.direct).max() > 1e-4


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, g: graph_effects(m, g, groups=["L9N1@0"]), ArgumentError, "is no unit or embedding of this graph"),
        (lambda m, g: graph_effects(m, g, groups={"a": []}), ArgumentError, "a group has no nodes"),
        (lambda m, g: graph_effects(m, g, factor=float("nan")), OutOfRange, "factor=nan"),
        (lambda m, g: graph_effects(m, g, transcoders(m)), ResultError, "give the model and the dictionaries"),
        (lambda m, g: graph_effects(shelf.model("gpt2"), g), ResultError, "give the model and the dictionaries"),
    ],
)
def test_effects_of_what_is_not_in_the_graph_are_refused(call, error, says):
    model = shelf.model("llama")
    with pytest.raises(error, match=says):
        call(model, attribution_graph(model, PROMPT, "neurons", max_nodes=10))


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox", "llama", "cohere"])
@pytest.mark.parametrize("kind", ["topk", "skip", "across", "neurons"])
def test_b_5_loadings_are_what_is_lost_without_a_head(name, kind):
    """And forward products, the other way round, give the same weights."""
    model = shelf.model(name)
    dictionaries = KINDS[kind](model)
    with exact():
        graph = attribution_graph(model, PROMPT, dictionaries, first=1, most_logits=2, max_nodes=40)
        every = model.n_layers * model.n_heads
        heads = head_loadings(model, graph, dictionaries, top=every)
        replaced = replaced_of(model, graph, dictionaries)
        order, readers = readers_in(replaced, graph)
        names = heads.writer.values.tolist()
        errors = errors_of(replaced, names)
        written = own_writes(replaced, names, errors)
        weights = graph.weight.sel(writer=names).values
        np.testing.assert_allclose(contracted(readers, streams(replaced, written)), weights[order], atol=1e-9)
        # each head's values taken out of the frozen network
        for layer, head in ((0, 0), (1, 1)):
            attention = replaced.network.attention[layer]
            pattern = attention.pattern.clone()
            pattern[head] = 0
            replaced.network.attention[layer] = replace(attention, pattern=pattern)
            without = contracted(readers, streams(replaced, written)).numpy()
            replaced.network.attention[layer] = attention
            own = np.where(heads["head"].values == f"L{layer}H{head}", heads.loading.values, 0).sum(-1)
            np.testing.assert_allclose(own[order], weights[order] - without, atol=1e-9)
        assert abs(heads.direct).max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma2", "gpt_neox", "falcon_alibi", "gpt_neo", "cohere"])
def test_b_5_a_score_is_the_sum_over_pairs_of_writers(name):
    """Rotations, biases, norms of queries and keys and grouped heads included."""
    model = shelf.model(name)
    dictionaries = transcoders(model)
    with exact():
        graph = attribution_graph(model, PROMPT, dictionaries, first=1, most_logits=2)
        run = model.run(PROMPT, read=["q", "k"])
        layer, head = model.n_layers - 1, model.n_heads - 1
        for some in (graph, graph.isel(writer=slice(0, 12))):
            every = query_key_attribution(model, some, f"L{layer}H{head}", dictionaries, query=4, centered=False)
            assert every.attrs["gap"] < 1e-9 and every.dims == ("query_writer", "key_writer", "key")
        q, k = run["q", layer][0, 4, head], run["k", layer][0, :5, head * run["k", layer].shape[2] // model.n_heads]
        scaling = score_scalings(model.anatomy)[layer]
        np.testing.assert_allclose(every.sum(["query_writer", "key_writer"]), (k @ q) * scaling, atol=1e-9)
        centered = query_key_attribution(model, graph, f"L{layer}H{head}", dictionaries, query=4)
        assert abs(centered.sum("key")).max() < 1e-9
        one = query_key_attribution(model, graph, f"L{layer}H{head}", dictionaries, query=4, key=2)
    np.testing.assert_allclose(one, centered.sel(key=2), atol=1e-12)
    if name in ("gpt2", "llama", "qwen3", "gpt_neox", "gpt_neo"):  # no soft-cap, no position bias
        scores = model.run(PROMPT, read=["scores"])["scores", layer][0, head, 4, :5]
        seen = scores > -1e30  # others lie outside of a window
        np.testing.assert_allclose(((k @ q) * scaling)[seen], scores[seen], atol=1e-5)


def test_b_5_a_planted_induction_head_looks_because_of_the_word_before():
    """The pair behind its attention: the word at the query, and the same word, copied from one place before the key."""
    organism = programs.induction()
    words = ["a", "b", "c", "d", "a"]
    graph = attribution_graph(
        organism.model, organism.ids([words]).tolist(), "neurons", first=0, max_nodes=0, targets="b"
    )
    (looks,) = (
        node
        for node in organism.circuit.nodes
        if node.kind == "head" and organism.circuit.roles.get(node) != "previous token" and node.layer > 0
    )
    pairs = query_key_attribution(organism.model, graph, str(looks), "neurons", key=2)
    strongest = pairs.stack(pair=("query_writer", "key_writer")).to_series().idxmax()
    assert strongest == ("embed@5", "embed@1")


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


def test_a_graph_with_a_foil_comes_back_from_netcdf_and_from_a_file(tmp_path):
    model = cb.load("meadow")
    graph = attribution_graph(model, "Mary gave the ball to", targets=" John", foil=" Mary", max_nodes=20)
    graph.to_netcdf(tmp_path / "graph.nc")
    stored = xr.load_dataset(tmp_path / "graph.nc")
    save_graph(stored, tmp_path / "graph.json", model=model)
    back = load_graph(tmp_path / "graph.json")
    effects = graph_effects(model, graph, groups=["embed@1"])
    for other in (stored, back):
        again = graph_effects(model, other, groups=["embed@1"])
        np.testing.assert_allclose(again.measured, effects.measured, rtol=1e-6)
        np.testing.assert_allclose(again.predicted, effects.predicted, rtol=1e-6)
    (label,) = [n["clerp"] for n in json.loads((tmp_path / "graph.json").read_text())["nodes"] if n["is_target_logit"]]
    assert label.endswith(f"(p={float(graph.probability[-1]):.3f})")  # and not the weight, which is 1
    assert float(back.probability[-1]) == pytest.approx(float(graph.probability[-1]))


def test_a_node_named_twice_is_cut_once():
    model = shelf.model("gpt2")
    graph = attribution_graph(model, PROMPT, first=1, most_logits=2, max_nodes=20)
    once, twice = (graph_effects(model, graph, groups={"one": names}) for names in ("embed@2", ["embed@2"] * 2))
    assert once.equals(twice)


def test_effects_are_measured_before_a_soft_cap():
    model = shelf.model("gemma2")
    cap = model.anatomy.logit_softcap
    with exact():
        graph = attribution_graph(model, PROMPT, first=0, targets=[5], max_nodes=20)
        effects = graph_effects(model, graph, groups=["embed@6"])
        run = [model.run(PROMPT, edits=e) for e in ([], [cb.Zero("resid_pre", layer=0, pos=6)])]
    clean, cut = (cap * torch.atanh(one.logits[0, -1] / cap) for one in run)
    expected = (cut[5] - cut.mean()) - (clean[5] - clean.mean())
    assert effects.measured.item() == pytest.approx(float(expected), abs=1e-6)
    assert abs(float(clean[5] - run[0].logits[0, -1, 5])) > 1e-3


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
