"""What a graph says of interventions, of heads and of their scores, beside what the model does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import (
    ArgumentError,
    OutOfRange,
    ResultError,
)
from caseback.jobs.budget import override
from caseback.localize.circuits import (
    attribution_graph,
    graph_effects,
    head_loadings,
    query_key_attribution,
)
from caseback.localize.circuits.attribution_graphs.heads import contracted
from caseback.localize.circuits.attribution_graphs.restored import errors_of, readers_in, replaced_of
from caseback.localize.circuits.attribution_graphs.streams import own_writes, streams
from caseback.model.algebra.scalings import score_scalings
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.organisms.compiled import programs
from exact import exact
from graph_parts import KINDS, PROMPT, transcoders


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
        with override(graph_stream=1):  # writers one at a time
            alone = head_loadings(model, graph, dictionaries, top=every)
        for part in ("loading", "direct"):
            np.testing.assert_allclose(alone[part], heads[part], atol=1e-12)
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
