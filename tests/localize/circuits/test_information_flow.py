"""Information flow routes: weights are shares, what a threshold drops, single writers, padding, parallel blocks."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import OutOfRange, SiteAbsent
from caseback.jobs import budget
from caseback.localize.circuits import flow_attribution, flow_routes, select
from caseback.localize.circuits.information_flow import weights_of
from exact import exact

FIVE = "gpt2 gpt_neox llama gemma2 qwen3".split()
IDS = shelf.ids((6, 4))


def into(routes, parallel):
    """The sums of weights into each stream after attention, and after the MLP: (layer, pos, batch)."""
    attention = routes.attention.sum(["head", "key"], min_count=1).rename(query="pos") + routes.attention_skip
    return [attention + routes.mlp] if parallel else [attention, routes.mlp + routes.mlp_skip]


@pytest.mark.parametrize("name", FIVE)
def test_3_2_28_incoming_weights_sum_to_one_before_and_after_thresholding(name):
    model = shelf.model(name)
    parallel = model.anatomy.layers[0].parallel
    for threshold in (0.0, 0.04):
        with exact():
            routes = flow_routes(model, IDS, threshold=threshold)
        for total in into(routes, parallel):
            values = total.transpose("layer", "pos", "batch").values
            known = values[~np.isnan(values)]
            assert np.all(np.isclose(known, 1, atol=1e-9) | (known == 0))
        assert bool((routes.attention.fillna(0) >= 0).all())
    loose = flow_routes(model, IDS, threshold=0.04, renormalise=False)
    kept = loose.attention.values[np.nan_to_num(loose.attention.values) > 0]
    assert (kept > 0.04).all() and (kept < 1).all()


@pytest.mark.parametrize("name", FIVE)
def test_3_2_28_a_weight_is_how_much_nearer_its_part_brings_the_sum(name):
    model = shelf.model(name)
    with exact():
        routes = flow_routes(model, IDS[0], threshold=0.0)
        read = ["pattern", "v", "resid_pre", "resid_post", "mlp_out", "head_out", "z"]
        run = model.run(IDS[0], read=read)
        layer, query = model.n_layers - 1, len(IDS[0]) - 1
        p = model.anatomy.layers[layer]
        middle = run["resid_post", layer] if p.parallel else run["resid_post", layer] - run["mlp_out", layer]
        # a head's write split over keys by the pattern and the values: linear in z, whatever norm stands behind
        write = run["head_out", layer][0, query]
        v = run["v", layer][0].repeat_interleave(model.n_heads // model.n_kv_heads, 1)
        parts = []
        for head in range(model.n_heads):
            split = run["pattern", layer][0, head, query, :, None] * v[:, head]
            torch.testing.assert_close(split.sum(0), run["z", layer][0, query, head])
            w_o = model.weights.W_O[layer][head]
            scale = write[head] / (run["z", layer][0, query, head] @ w_o) if p.attn_post_norm is not None else 1.0
            parts += list((split @ w_o) * scale)
        others = [run["resid_pre", layer][0, query], run["mlp_out", layer][0, query]]
        parts = torch.stack([*parts, *others[: 2 if p.parallel else 1]])
        y = middle[0, query]
        near = (y.abs().sum() - (y - parts).abs().sum(-1)).clamp_min(0)
        expected = near / near.sum()
    n = len(IDS[0])
    told = routes.attention.isel(layer=-1, query=query, batch=0).values
    np.testing.assert_allclose(told, expected[: model.n_heads * n].view(-1, n), rtol=1e-7, atol=1e-10)
    assert float(routes.attention_skip[-1, query, 0]) == pytest.approx(float(expected[model.n_heads * n]))


def test_3_2_28_a_single_writer_gets_one():
    torch.testing.assert_close(weights_of(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, -2.0]])), torch.ones(1))
    flow = flow_attribution(shelf.model("llama"), IDS)
    # before the first layer there is the embedding alone
    np.testing.assert_allclose(flow.sel(writer="embed", reader="L0H2.q"), 1)


@pytest.mark.parametrize("name", FIVE)
def test_edges_weigh_one_together_into_each_reader(name):
    model = shelf.model(name)
    with exact():
        flow = flow_attribution(model, IDS)
        np.testing.assert_allclose(flow.sum("writer"), 1, rtol=1e-9)
        assert len(select(model, flow, 30, how="greedy")) == 30
        for side in ("left", "right"):
            padded = flow_attribution(model, model.tokens(IDS, padding=side))
            np.testing.assert_allclose(padded[..., 1], flow_attribution(model, IDS[1])[..., 0], rtol=1e-8, atol=1e-12)


def test_padding_and_pieces_change_no_route():
    model = shelf.model("gemma2")
    with exact():
        alone = flow_routes(model, IDS[1])
        for side in ("left", "right"):
            both = flow_routes(model, model.tokens(IDS, padding=side))
            n = len(IDS[1])
            here = both.isel(batch=1, query=slice(n), key=slice(n), pos=slice(n))
            for name in alone.data_vars:
                np.testing.assert_allclose(here[name], alone[name].isel(batch=0), rtol=1e-8, atol=1e-12)
            assert both.mlp.isel(batch=1, pos=slice(n, None)).isnull().all()
        with budget.override(flow_numbers=1):
            pieces = flow_routes(model, IDS[1])
        for name in alone.data_vars:
            np.testing.assert_allclose(pieces[name], alone[name], rtol=1e-9, atol=1e-12)


def test_routes_begin_at_the_position_asked_for_and_go_down_only_what_is_reached():
    model = shelf.model("llama")
    routes = flow_routes(model, IDS[0], pos=2, threshold=0.05)
    top = routes.mlp.isel(layer=-1, batch=0).values + routes.mlp_skip.isel(layer=-1, batch=0).values
    assert top[2] == pytest.approx(1) and not top[[0, 1, 3, 4, 5]].any()
    for layer in range(1, model.n_layers):
        # a stream that no edge above starts from has no edges into it below
        before = routes.reached.isel(layer=layer, batch=0).values.astype(bool)
        below = (routes.mlp + routes.mlp_skip).isel(layer=layer - 1, batch=0).values
        assert not below[~before].any()
    assert not routes.attention.isel(query=slice(3, None)).any()


def test_what_has_no_routes_is_refused():
    for threshold in (-0.1, 1.0):
        with pytest.raises(OutOfRange, match="expected a number from 0"):
            flow_routes(shelf.model("gpt2"), IDS, threshold=threshold)
    with pytest.raises(SiteAbsent):
        flow_routes(cb.load(zoo.tiny("bitnet")), IDS)
