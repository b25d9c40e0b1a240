"""PRIMER 3.2.7, 3.2.8, 3.2.12: a patch is one edited run; recovery, gates, windows, pairs."""

import numpy as np
import pytest
import torch
from gates import ASK, OFF, ON, gate

import caseback as cb
import shelf
from caseback.errors import CasebackError, EditError, OutOfRange, TokensError, UnknownSite
from caseback.localize.components.machinery.site_grid import windowed
from caseback.localize.components.patching import patch
from exact import exact

METRIC = cb.logit_diff(3, 5)
CLEAN, CORRUPT = shelf.ids((7, 7)), shelf.ids((7, 7), seed=9)
FAMILIES = ("gpt2", "llama", "gemma2", "gptj", "bloom", "mixtral")
SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "v", "pattern", "head_out")


def alone(model, base, edits):
    return METRIC(model.run(base, edits=edits)).numpy()


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_patch_is_a_run_of_its_own(name, direction):
    model = shelf.model(name)
    base, other = (CORRUPT, CLEAN) if direction == "denoising" else (CLEAN, CORRUPT)
    with exact():
        source = model.run(other, read=list(SITES))
        for site in SITES:
            found = patch(model, CLEAN, CORRUPT, METRIC, site=site, direction=direction)
            second = found.metric.dims[1]
            for layer, place in ((0, 0), (1, 1), (2, found.sizes[second] - 1)):
                where = {"pos": place} if second == "pos" else {"head": place}
                run = alone(model, base, cb.Resample(site, source, layer=layer, **where))
                np.testing.assert_allclose(found.metric[layer, place], run, atol=1e-9)
        m_clean, m_corrupt = METRIC(model.run(CLEAN)).numpy(), METRIC(model.run(CORRUPT)).numpy()
        np.testing.assert_allclose(found.clean, m_clean, atol=1e-9)
        np.testing.assert_allclose(found.recovery, (found.metric - m_corrupt) / (m_clean - m_corrupt), atol=1e-9)
        started = m_corrupt if direction == "denoising" else m_clean
        np.testing.assert_allclose(found.effect, found.metric - started, atol=1e-9)


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_2_7_patching_oneself_changes_nothing(name):
    model = shelf.model(name)
    with exact():
        for site in ("resid_post", "mlp_out", "z"):
            found = patch(model, CLEAN, CLEAN, METRIC, site=site, normalise=False)
            assert np.abs(found.effect).max() < 1e-10 and "recovery" not in found


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_2_7_the_whole_stream_is_the_other_run_and_3_2_12_recovery_is_1(name):
    model = shelf.model(name)
    with exact():
        for direction, other in (("denoising", 1.0), ("noising", 0.0)):
            whole = patch(model, CLEAN, CORRUPT, METRIC, by="layer", direction=direction)
            assert whole.recovery.dims == ("layer", "batch")
            np.testing.assert_allclose(whole.recovery, other, atol=1e-8)
            nothing = patch(model, CLEAN, CORRUPT, METRIC, site="resid_post", pos=[0], layers=[2], direction=direction)
            np.testing.assert_allclose(nothing.recovery, 1 - other, atol=1e-8)  # past it only the last position counts


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "opt_projected"])
def test_3_2_7_the_embeddings_are_the_other_run(name):
    model = shelf.model(name)
    with exact():
        found = patch(model, CLEAN, CORRUPT, METRIC, site="embed", by="d_model", units=None)
        assert found.metric.dims == ("d_model", "batch")
        source = model.run(CLEAN, read=["embed"])
        whole = alone(model, CORRUPT, cb.Resample("embed", source))
        np.testing.assert_allclose(whole, METRIC(model.run(CLEAN)), atol=1e-8)
        first = alone(model, CORRUPT, cb.Resample("embed", source, unit=4))
        np.testing.assert_allclose(found.metric.sel(d_model=4), first, atol=1e-9)


def test_neurons_heads_and_positions_together_or_apart():
    model = shelf.model("llama")
    with exact():
        source = model.run(CLEAN, read=["mlp_post", "z", "k", "pattern"])
        neurons = patch(model, CLEAN, CORRUPT, METRIC, site="mlp_post", by=("layer", "neuron"), layers=[1, -1], pos=-1)
        assert neurons.layer.values.tolist() == [1, 2]
        one = alone(model, CORRUPT, cb.Resample("mlp_post", source, layer=2, pos=-1, unit=3))
        np.testing.assert_allclose(neurons.metric.sel(layer=2, neuron=3), one, atol=1e-9)
        all_three = patch(
            model, CLEAN, CORRUPT, METRIC, site="z", by=("layer", "head", "pos"), pos=[2, -1], heads=[1, 3]
        )
        assert all_three.metric.shape == (3, 2, 2, 2)
        one = alone(model, CORRUPT, cb.Resample("z", source, layer=1, head=3, pos=-1))
        np.testing.assert_allclose(all_three.metric.sel(layer=1, head=3, pos=-1), one, atol=1e-9)
        some = patch(model, CLEAN, CORRUPT, METRIC, site="k", by="layer", heads=[0], pos=slice(1, 4))
        one = alone(model, CORRUPT, cb.Resample("k", source, layer=0, head=[0], pos=slice(1, 4)))
        np.testing.assert_allclose(some.metric[0], one, atol=1e-9)
        edges = patch(
            model, CLEAN, CORRUPT, METRIC, site="pattern", by=("query", "key"), layers=[1], heads=[2], pos=[-1]
        )
        one = alone(model, CORRUPT, cb.Resample("pattern", source, layer=1, head=2, pos=-1, unit=4))
        np.testing.assert_allclose(edges.metric.sel(query=-1, key=4), one, atol=1e-9)


def test_a_window_reaches_from_half_before_to_half_after_and_stops_at_the_ends():
    assert [list(windowed(i, 4, 6)) for i in (0, 2, 5)] == [[0, 1], [0, 1, 2, 3], [3, 4, 5]]
    assert [list(windowed(i, 3, 6)) for i in (0, 2, 5)] == [[0, 1], [1, 2, 3], [4, 5]]
    model = shelf.model("gpt2")
    with exact():
        source = model.run(CLEAN, read=["mlp_out"])
        found = patch(model, CLEAN, CORRUPT, METRIC, site="mlp_out", window=2)
        one = alone(model, CORRUPT, cb.Resample("mlp_out", source, layer=[1, 2], pos=4))
        np.testing.assert_allclose(found.metric.sel(layer=2, pos=4), one, atol=1e-9)
    assert found.attrs["window"] == 2
    for window in (0, 4):
        with pytest.raises(OutOfRange, match="this model has 3 layers, so a window holds 1 to 3"):
            patch(model, CLEAN, CORRUPT, METRIC, site="mlp_out", window=window)
    with pytest.raises(EditError, match="put 'layer' into by"):
        patch(model, CLEAN, CORRUPT, METRIC, site="mlp_out", window=2, by="pos")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_pairs_of_different_lengths_are_as_each_alone(name, side):
    model, clean, corrupt = shelf.model(name), shelf.ids((8, 5)), shelf.ids((8, 5), seed=4)
    with exact():
        both = patch(model, model.tokens(clean, padding=side), model.tokens(corrupt, padding="right"), METRIC)
        last = patch(
            model, model.tokens(clean, padding=side), corrupt, METRIC, site="z", by=("layer", "pos"), pos=[0, -1]
        )
        for b in range(2):
            n = len(clean[b])
            one = patch(model, clean[b], corrupt[b], METRIC)
            np.testing.assert_allclose(both.recovery[:, :n, b], one.recovery[..., 0], atol=1e-8)
            np.testing.assert_allclose(both.effect[:, :n, b], one.effect[..., 0], atol=1e-8)
            alone_last = patch(model, clean[b], corrupt[b], METRIC, site="z", by=("layer", "pos"), pos=[0, -1])
            np.testing.assert_allclose(last.metric[..., b], alone_last.metric[..., 0], atol=1e-8)
        assert np.isnan(both.metric[:, 5:, 1]).all() and not np.isnan(both.metric[..., 0]).any()
        assert both.clean_token.dims == ("batch", "pos") and both.clean_token.values[1].tolist()[5:] == [""] * 3


def test_positions_by_name_and_by_text():
    model = cb.load("meadow")
    pair = "Mary and John went to the park. Mary gave", "Lily and John went to the park. Lily gave"
    metric = cb.logit(" John")
    spots = {"subject": "Mary", "place": "to the park", "end": -1}
    named = patch(model, *pair, metric, pos=spots, layers=[0, 2])
    assert named.pos.values.tolist() == ["subject", "place", "end"]
    assert named.clean_token.values[0].tolist() == ["Mary", " to the park", " gave"]
    row = model.tokens(pair[0]).text[0]
    numbered = patch(
        model, *pair, metric, pos=[row.index("Mary"), [row.index(" to") + i for i in range(3)], -1], layers=[0, 2]
    )
    np.testing.assert_array_equal(named.metric, numbered.metric)
    several = [pair[0], "The cow and Mary went away. Mary gave"], [pair[1], "The cow and Lily went away. Lily gave"]
    both = patch(model, *several, metric, site="mlp_out", pos={"name": "Mary"})
    alone_second = patch(model, several[0][1], several[1][1], metric, site="mlp_out", pos={"name": "Mary"})
    np.testing.assert_allclose(both.metric[..., 1], alone_second.metric[..., 0], atol=1e-4)
    with pytest.raises(TokensError, match="prompt 0 does not hold 'Nobody'"):
        patch(model, *pair, metric, pos={"who": "Nobody"})


@pytest.mark.parametrize(("needed", "noised", "denoised"), [(2, 1.0, 0.0), (1, 0.0, 1.0)])
def test_3_2_12_noising_shows_both_inputs_of_an_and_denoising_both_of_an_or(needed, noised, denoised):
    model = cb.load(gate(needed))
    pair, metric = ([ON, ON, ASK], [OFF, OFF, ASK]), cb.logit(0)
    lost = patch(model, *pair, metric, site="z", layers=[0], direction="noising")
    won = patch(model, *pair, metric, site="z", layers=[0])
    np.testing.assert_allclose(1 - lost.recovery[0, :, 0], [noised] * 2, atol=1e-9)
    np.testing.assert_allclose(won.recovery[0, :, 0], [denoised] * 2, atol=1e-9)
    together = patch(model, *pair, metric, site="z", by="layer", layers=[0])
    np.testing.assert_allclose(together.recovery, 1.0, atol=1e-9)


def test_one_counterfactual_may_serve_many_prompts_and_one_prompt_many_counterfactuals():
    model = shelf.model("llama")
    with exact():
        for clean, corrupt in ((CLEAN, CORRUPT[:1]), (CLEAN[:1], CORRUPT)):
            found = patch(model, clean, corrupt, METRIC, layers=[1])
            for b in range(2):
                one = patch(model, clean[b % len(clean)], corrupt[b % len(corrupt)], METRIC, layers=[1])
                np.testing.assert_allclose(found.recovery[..., b], one.recovery[..., 0], atol=1e-8)


def test_an_interrupted_sweep_goes_on_with_the_same_result(tmp_path):
    model, path = shelf.model("gpt2"), tmp_path / "patch.npz"
    calls, stop = [], [10**9]

    def read(logits):
        calls.append(len(logits))
        if len(calls) > stop[0]:
            raise KeyboardInterrupt
        return logits[:, 3] - logits[:, 5]

    metric = cb.function(read, name="difference")
    whole = patch(model, CLEAN, CORRUPT, metric, site="z", by=("layer", "head", "pos"))
    needed = len(calls)
    many = shelf.ids((40,)), shelf.ids((40,), seed=3)
    calls.clear()
    long = patch(model, *many, metric, checkpoint=None)
    needed = len(calls)
    assert needed > 4  # several passes, or nothing could be interrupted
    stop[0], calls[:] = needed - 1, []
    with pytest.raises(KeyboardInterrupt):
        patch(model, *many, metric, checkpoint=path)
    kept = np.load(path)["done"]
    assert kept.any() and not kept.all()
    stop[0], calls[:] = 10**9, []
    resumed = patch(model, *many, metric, checkpoint=path)
    assert len(calls) < needed
    np.testing.assert_array_equal(resumed.metric, long.metric)
    assert whole.metric.shape == (3, 4, 7, 2)


def test_bad_input_is_refused_and_says_why():
    model = shelf.model("gpt2")
    with pytest.raises(TokensError) as said:
        patch(model, [[4, 5, 6, 7]], [[4, 5, 9]], METRIC)
    for part in ("4 tokens: '4' '5' →'6'← '7'", "3 tokens: '4' '5' →'9'←", "first differ at position 2"):
        assert part in str(said.value)
    with pytest.raises(TokensError, match="→end←"):
        patch(model, [[4, 5, 6]], [[4, 5]], METRIC)
    with pytest.raises(CasebackError, match=r"have the same metric \(prompt 0: .*not defined.*normalise=False"):
        patch(model, CLEAN, CLEAN, METRIC)
    for given, error, told in (
        ({"site": "resid_pots"}, UnknownSite, "resid_post"),
        ({"site": "router"}, UnknownSite, "no mixture"),
        ({"site": "attn_norm.scale"}, EditError, "read-only"),
        ({"direction": "denoise"}, CasebackError, "Did you mean denoising"),
        ({"by": "head"}, EditError, "'resid_pre' has no dimension 'head'"),
        ({"by": ("pos", "pos")}, EditError, "each once"),
        ({"heads": [0]}, EditError, "has no heads"),
        ({"layers": [3]}, UnknownSite, "layers 0 to 2"),
        ({"site": "z", "heads": [4]}, OutOfRange, "head 4 is out of range"),
        ({"pos": [7]}, OutOfRange, "prompt 0 has 7 tokens"),
        ({"pos": []}, EditError, "the list is empty"),
        ({"by": ("layer", "d_model"), "units": [32]}, OutOfRange, "0 to 31"),
        ({"site": "embed", "layers": [0]}, EditError, "not in a layer"),
    ):
        with pytest.raises(error, match=told):
            patch(model, CLEAN, CORRUPT, METRIC, **given)


def test_the_result_says_how_it_was_made_and_can_be_kept(tmp_path):
    found = patch(shelf.model("llama"), CLEAN, CORRUPT, METRIC, layers=[0])
    assert found.attrs["technique"] == "localize.components.patch" and found.attrs["direction"] == "denoising"
    found.to_netcdf(tmp_path / "found.nc")
    assert torch.tensor(found.recovery.values).dtype == torch.float64
