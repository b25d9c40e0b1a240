"""PRIMER 3.1.14 and 3.1.15: products of maps, maximum flows through them, and their gradient-weighted form."""

import itertools

import mixers
import networkx as nx
import numpy as np
import pytest
import torch
import xarray as xr

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize import inputs
from caseback.localize.inputs.mixing.mixing import row_shares
from caseback.model.running.tokens import Tokens
from exact import exact


def maps_of(values):
    return xr.DataArray(values, dims=["batch", "layer", "query", "key"], coords={"layer": range(values.shape[1])})


def random_maps(layers=3, n=5, seed=0):
    values = np.tril(np.random.default_rng(seed).random((1, layers, n, n)))
    return values / values.sum(-1, keepdims=True)


def test_3_1_14_a_rollout_of_identities_is_the_identity():
    eyes = np.broadcast_to(np.eye(4), (2, 3, 4, 4))
    for residual in (0.0, 0.3, 0.5):
        assert (inputs.rollout(maps_of(eyes), residual=residual).values == np.eye(4)).all()


def test_3_1_14_is_the_product_written_out():
    values = random_maps()
    half = 0.5 * values[0] + 0.5 * np.eye(5)
    assert np.allclose(inputs.rollout(maps_of(values)).values[0], half[2] @ half[1] @ half[0], atol=1e-14)
    each = inputs.rollout(maps_of(values), residual=0.0, each_layer=True)
    assert each.dims == ("batch", "layer", "query", "key")
    assert np.allclose(each.values[0, 1], values[0, 1] @ values[0, 0], atol=1e-14)


@pytest.mark.parametrize("maps", [m for m in mixers.MAPS if m is not inputs.decompx_maps])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma2", "gptj"])
def test_3_1_14_rows_sum_to_one_and_are_causal(name, maps):
    with exact():
        whole = inputs.rollout(maps(shelf.model(name), shelf.ids((6, 6))))
    assert np.allclose(whole.sum("key"), 1, atol=1e-12) and (np.triu(whole.values, 1) == 0).all()


def test_3_1_14_only_maps_without_the_residual_are_given_the_identity():
    model, prompt = shelf.model("llama"), shelf.ids((5,))
    shares = {m.__name__: inputs.rollout(m(model, prompt)).attrs["residual"] for m in mixers.MAPS[:5]}
    assert shares == {
        "attention_maps": 0.5,
        "norm_maps": 0.5,
        "globenc_maps": 0.0,
        "alti_maps": 0.0,
        "value_zeroing_maps": 0.0,
    }
    assert inputs.rollout(inputs.norm_maps(model, prompt, residual=True)).attrs["residual"] == 0.0
    assert inputs.globenc(model, prompt, mixers.METRIC).attrs["residual"] == 0.0


def test_3_1_14_what_a_sink_keeps_is_shared_out():
    with exact():
        model, prompt = shelf.model("gpt_oss"), shelf.ids((6,))
        maps = inputs.attention_maps(model, prompt)
        whole = inputs.rollout(maps)
    assert maps.sum("key").values.max() < 1 and np.allclose(whole.sum("key"), 1, atol=1e-12)


def test_a_row_of_nothing_is_the_positions_own_and_counted():
    tokens = Tokens(torch.ones(1, 3).long(), torch.ones(1, 3).bool(), [["a", "b", "c"]])
    made, empty = row_shares(torch.tensor([[[0.0, 0, 0], [1, 1, 0], [0, 0, 0]]]), tokens)
    assert made.tolist() == [[[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]] and empty == 2


def by_networkx(values, residual, position):
    n_layers, n, _ = values.shape
    graph = nx.DiGraph()
    for layer, i, j in itertools.product(range(n_layers), range(n), range(n)):
        capacity = (1 - residual) * values[layer, i, j] + residual * (i == j)
        if capacity > 0:
            graph.add_edge((layer, j), (layer + 1, i), capacity=float(capacity))
    return [
        nx.maximum_flow_value(graph, (0, j), (n_layers, position)) if graph.has_node((n_layers, position)) else 0.0
        for j in range(n)
    ]


@pytest.mark.parametrize(("name", "pos"), [("gpt2", -1), ("mistral", -1), ("llama", 3)])
def test_3_1_14_flow_is_the_maximum_flow(name, pos):
    model, prompt = shelf.model(name), shelf.ids((6,))
    metric = cb.logit_diff(3, 5, pos=pos)
    with exact():
        scores = inputs.attention_flow(model, prompt, metric).values[0]
        values = inputs.attention_maps(model, prompt).values[0]
        zeroing = inputs.value_zeroing_maps(model, prompt)
        given = inputs.attention_flow(model, prompt, metric, maps=zeroing).values[0]
    assert np.allclose(scores, by_networkx(values, 0.5, pos % 6), atol=1e-7)
    assert np.allclose(given, by_networkx(zeroing.values[0], 0.0, pos % 6), atol=1e-7)


def test_3_1_14_flow_is_at_most_any_cut():
    model, prompt = shelf.model("gpt2"), shelf.ids((6,))
    scores = inputs.attention_flow(model, prompt, mixers.METRIC).values[0]
    mixed = 0.5 * inputs.attention_maps(model, prompt).values[0] + 0.5 * np.eye(6)
    for j in range(6):
        # everything that leaves the token, or that arrives at the end
        assert scores[j] <= mixed[0, :, j].sum() + 1e-6 and scores[j] <= mixed[-1, -1].sum() + 1e-6
        # every single path is a flow
        path = max(min(mixed[0, a, j], mixed[1, b, a], mixed[2, 5, b]) for a in range(6) for b in range(6))
        assert scores[j] >= path - 1e-6


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_1_15_is_its_formula_written_out(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        scores = inputs.gradient_rollout(model, prompts, mixers.METRIC).values
        run = model.run(prompts, read=["pattern"], grad=True)
        slopes = run.grad(mixers.METRIC, ["pattern"])
        product = torch.eye(6, dtype=torch.float64).expand(2, 6, 6)
        for layer in range(model.n_layers):
            mean = (run["pattern", layer] * slopes["pattern", layer]).clamp_min(0).mean(1)
            product = (torch.eye(6) + mean).double() @ product
    assert np.allclose(scores, product[:, -1].detach(), atol=1e-12)
    assert (scores[:, -1] >= 1).all() and scores[:, :-1].max() > 1e-4


def test_3_1_15_without_gradient_only_the_identity_is_left():
    model, prompt = shelf.model("gpt2"), shelf.ids((6,))
    scores = inputs.gradient_rollout(model, prompt, cb.function(lambda logits: 0 * logits.sum(-1))).values[0]
    assert scores.tolist() == [0, 0, 0, 0, 0, 1]
    maps = inputs.gradient_attention_maps(model, prompt, cb.function(lambda logits: 0 * logits.sum(-1)))
    assert (maps.values == 0).all()


def test_3_1_15_takes_a_relevance_of_the_patterns():
    model, prompt = shelf.model("llama"), shelf.ids((5,))
    weights = inputs.attention_maps(model, prompt, heads="each")
    same = inputs.gradient_rollout(model, prompt, mixers.METRIC, relevance=weights)
    assert np.allclose(same, inputs.gradient_rollout(model, prompt, mixers.METRIC), atol=1e-6)
    nothing = inputs.gradient_rollout(model, prompt, mixers.METRIC, relevance=0 * weights)
    assert nothing.values[0].tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(CasebackError, match="expected"):
        inputs.gradient_rollout(model, prompt, mixers.METRIC, relevance=weights.isel(key=slice(3)))
    with pytest.raises(CasebackError, match="batch, layer, head"):
        inputs.gradient_rollout(model, prompt, mixers.METRIC, relevance=weights.mean("head"))


def test_what_cannot_be_rolled_out_is_refused():
    model, prompt = shelf.model("gpt2"), shelf.ids((4,))
    with pytest.raises(CasebackError, match="go back to the prompt"):
        inputs.rollout(inputs.decompx_maps(model, prompt))
    with pytest.raises(CasebackError, match="those from 0 on"):
        inputs.rollout(inputs.attention_maps(model, prompt, layers=[1, 2]))
    with pytest.raises(CasebackError, match="mean over heads"):
        inputs.rollout(inputs.attention_maps(model, prompt, heads="each"))
    with pytest.raises(CasebackError, match="negative"):
        inputs.rollout(-inputs.attention_maps(model, prompt))
    with pytest.raises(OutOfRange, match="residual is 1.5"):
        inputs.rollout(inputs.attention_maps(model, prompt), residual=1.5)
    with pytest.raises(CasebackError, match="go back to the prompt"):
        inputs.attention_flow(model, prompt, mixers.METRIC, maps=inputs.decompx_maps(model, prompt))
    with pytest.raises(CasebackError, match="the same prompts"):
        inputs.attention_flow(model, shelf.ids((6,)), mixers.METRIC, maps=inputs.attention_maps(model, prompt))
    for place in ((0, 0, 2, 1), (0, 0, 1, 1)):
        broken = inputs.attention_maps(model, prompt)
        broken.values[place] = np.nan
        with pytest.raises(CasebackError, match="NaN inside a prompt"):
            inputs.rollout(broken)
    with pytest.raises(CasebackError, match="as many of both"):
        inputs.rollout(inputs.attention_maps(model, prompt).isel(key=slice(3)))
