"""PRIMER 3.2.15, 3.2.16: real patches on what was ranked, and a bound on what was not."""

import numpy as np
import pytest
import torch
import wired_by_hand
from scipy import stats

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.components.atp_star import atp_star
from caseback.localize.components.attribution_patching import attribution_patching
from caseback.localize.components.machinery.first_order import VARIABLES
from caseback.localize.components.missed import missed_effects
from caseback.localize.components.verify_top import verify_top
from exact import exact

METRIC = cb.logit_diff(3, 5)
PAIR = shelf.ids((6, 4)), shelf.ids((6, 4), seed=9)


@pytest.mark.parametrize(
    "name, site",
    [
        ("gpt2", "mlp_post"),
        ("llama", "k"),
        ("gemma2", "z"),
        ("mixtral", "expert"),
        ("gptj", "resid_post"),
        ("bloom", "embed"),
        ("llama", "head_out"),
    ],
)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_exact_effects_are_those_of_whole_runs(name, site, direction):
    model = shelf.model(name)
    with exact():
        found = attribution_patching(model, *PAIR, METRIC, sites=site, direction=direction)[VARIABLES.get(site, site)]
        verified = verify_top(model, *PAIR, METRIC, found, top=4, sample=2, seed=3)
        base, other = PAIR if direction == "noising" else PAIR[::-1]
        source, clean = model.run(other, read=[site]), METRIC(model.run(base))
        for i in range(6):
            at = {
                d: int(verified[d][i]) for d in ("layer", "head", "kv_head", "neuron", "expert", "pos") if d in verified
            }
            head, unit = at.get("head", at.get("kv_head")), at.get("neuron", at.get("expert"))
            where = {"layer": at.get("layer"), "head": head, "unit": unit, "pos": slice(at["pos"], at["pos"] + 1)}
            told = METRIC(model.run(base, edits=cb.Resample(site, source, **where))) - clean
            here = torch.tensor([at["pos"] < len(prompt) for prompt in base])
            assert np.allclose(verified.exact[i, here], told[here], atol=1e-10)
            assert np.isnan(verified.exact[i, ~here]).all()
            assert np.allclose(verified.estimate[i], found.sel(at), equal_nan=True)
    assert verified.top.values.tolist() == [True] * 4 + [False] * 2 and len(set(verified.component.values)) == 6


def test_the_top_is_the_top_and_the_sample_is_of_the_rest():
    model = shelf.model("gpt2")
    found = attribution_patching(model, *PAIR, METRIC)["z"]
    sizes = np.sort(np.nan_to_num(np.abs(found.values)).mean(-1).ravel())[::-1]
    verified = verify_top(model, *PAIR, METRIC, found, top=5, sample=1000)
    mine = np.nan_to_num(np.abs(verified.estimate.values)).mean(1)
    assert np.allclose(mine[:5], sizes[:5]) and len(mine) == sizes.size
    again = verify_top(model, *PAIR, METRIC, found, top=5, sample=7, seed=1)
    assert (
        again.component.values.tolist()
        == verify_top(model, *PAIR, METRIC, found, top=5, sample=7, seed=1).component.values.tolist()
    )


def test_agreement_is_scipys_and_full_where_the_estimate_is_exact():
    model = wired_by_hand.additive()
    pair = [[2], [4]], [[1], [1]]
    found = attribution_patching(model, *pair, cb.logit(3), sites="mlp_out")["mlp_out"]
    verified = verify_top(model, *pair, cb.logit(3), found, top=4)
    assert np.allclose(verified.exact, verified.estimate)
    assert np.allclose(verified.spearman, 1) and np.allclose(verified.kendall, 1)
    assert np.allclose(verified.sign_agreement, 1)
    model = shelf.model("llama")
    found = attribution_patching(model, *PAIR, METRIC)["z"]
    verified = verify_top(model, *PAIR, METRIC, found, top=12)
    a, b = verified.estimate.values[:, 0], verified.exact.values[:, 0]
    assert np.isclose(verified.spearman[0], stats.spearmanr(np.abs(a), np.abs(b)).statistic)
    assert np.isclose(verified.kendall[0], stats.kendalltau(np.abs(a), np.abs(b)).statistic)
    assert np.isclose(verified.sign_agreement[0], (np.sign(a) == np.sign(b)).mean())


def test_sizes_have_no_sign_to_agree_and_zeros_are_patched_as_zeros():
    model = shelf.model("gpt2")
    found = atp_star(model, *PAIR, METRIC, sites="k")["k"]
    assert "sign_agreement" not in verify_top(model, *PAIR, METRIC, found, top=3)
    zeroed = attribution_patching(model, PAIR[0], None, METRIC)["mlp_out"]
    verified = verify_top(model, PAIR[0], None, METRIC, zeroed, top=1)
    where = {"layer": int(verified.layer[0]), "pos": slice(int(verified.pos[0]), int(verified.pos[0]) + 1)}
    told = METRIC(model.run(PAIR[0], edits=cb.Zero("mlp_out", **where))) - METRIC(model.run(PAIR[0]))
    known = ~np.isnan(verified.exact[0].values)
    assert np.allclose(verified.exact[0, known], told[torch.from_numpy(known)], atol=1e-5)


def test_a_selection_keeps_its_names():
    model = shelf.model("gpt2")
    found = attribution_patching(model, *PAIR, METRIC)["z"].isel(layer=[2], head=[3], pos=[1, 2])
    verified = verify_top(model, *PAIR, METRIC, found, top=2)
    assert sorted(verified.component.values) == ["z L2H3 @1", "z L2H3 @2"]


def test_3_2_16_the_bound_holds_over_every_part_that_was_not_verified():
    """Where effects add up, a subset's is their sum: each part's mean is its effect, and the bound is above them all."""
    model = wired_by_hand.additive()
    pair = [[2], [2]], [[1], [2]]
    found = attribution_patching(model, *pair, cb.logit(3), sites="mlp_out")["mlp_out"]
    told = missed_effects(model, *pair, cb.logit(3), found, verified=1, subsets=400, seed=1)
    effects = np.array([0.5, -1.25, 0.125])
    mean = told["mean"].isel(pos=0, batch=0)
    assert np.isnan(mean.sel(layer=2)) and np.allclose(mean.sel(layer=[0, 1, 3]), effects, atol=0.15)
    assert 1.25 <= told.bound[0] < 1.5 and told.bound[1] == 0
    all_verified = missed_effects(model, *pair, cb.logit(3), found, verified=2, subsets=400, seed=1)
    assert 0.5 <= all_verified.bound[0] < 0.6


@pytest.mark.parametrize(
    "site, parts", [("z", {"head": [0, 2]}), ("k", {}), ("mlp_post", {"neuron": [1, 5, 30], "pos": [1, 3, 4]})]
)
def test_3_2_16_a_subset_is_patched_where_its_parts_are(site, parts):
    """The regression of the subsets' metrics, once by the sweep and once by whole runs with one edit a part."""
    model, seed = shelf.model("llama"), 5
    with exact():
        found = attribution_patching(model, *PAIR, METRIC, sites=[(site, 1)])[site].sel(parts)
        told = missed_effects(model, *PAIR, METRIC, found, verified=3, subsets=16, seed=seed)
        sizes = np.nan_to_num(np.abs(found.values)).mean(-1).ravel()
        open_ = np.setdiff1d(np.arange(sizes.size), np.argsort(-sizes, kind="stable")[:3])
        masks = np.random.default_rng(seed).random((16, len(open_))) < 0.5
        source, base = model.run(PAIR[1], read=[site]), METRIC(model.run(PAIR[0])).numpy()
        changes = []
        for mask in masks:
            edits = []
            for flat in open_[mask]:
                unit, pos = (
                    found[d].values[i] for d, i in zip(found.dims[1:3], divmod(flat, found.sizes["pos"]), strict=True)
                )
                at = {"unit": int(unit)} if site == "mlp_post" else {"head": int(unit)}
                pos = int(pos)
                edits.append(cb.Resample(site, source, layer=1, pos=slice(pos, pos + 1), **at))
            changes.append(METRIC(model.run(PAIR[0], edits=edits)).numpy() - base)
        changes = np.stack(changes)
    for b in range(2):
        for j, flat in enumerate(open_):
            with_, without = changes[masks[:, j], b], changes[~masks[:, j], b]
            mine = told["mean"].values.reshape(-1, 2)[flat, b]
            if found["pos"].values[flat % found.sizes["pos"]] >= len(PAIR[0][b]):
                assert np.isnan(mine)
                continue
            test = stats.ttest_ind(with_, without, equal_var=False)
            error = told["standard_error"].values.reshape(-1, 2)[flat, b]
            assert np.isclose(mine, with_.mean() - without.mean(), atol=1e-9)
            assert np.isclose(mine / error, test.statistic, rtol=1e-6)
            reach = abs(mine) + stats.t.ppf(0.99, test.df) * error
            assert told.bound[b] >= reach - 1e-9


def test_bad_input_is_refused():
    model = shelf.model("gpt2")
    whole = attribution_patching(model, *PAIR, METRIC)
    verify = lambda x, **how: verify_top(model, *PAIR, METRIC, x, **how)  # noqa: E731
    bound = lambda x=whole["z"], **how: missed_effects(model, *PAIR, METRIC, x, **how)  # noqa: E731
    with pytest.raises(CasebackError, match="expected one site"):
        verify(whole)
    with pytest.raises(CasebackError, match="expected one site"):
        verify(whole["z"].drop_attrs())
    with pytest.raises(CasebackError, match="keep them"):
        verify(whole["z"].sum("pos", keep_attrs=True))
    with pytest.raises(CasebackError, match="the estimate is of 1 prompts"):
        verify(whole["z"].isel(batch=[0]))
    with pytest.raises(OutOfRange, match="top is 0"):
        verify(whole["z"], top=0)
    with pytest.raises(OutOfRange, match="confidence is 1"):
        bound(confidence=1)
    with pytest.raises(OutOfRange, match="at least 8"):
        bound(subsets=4)
    with pytest.raises(OutOfRange, match="too few for a mean"):
        bound(subsets=8, probability=0.01)
    with pytest.raises(CasebackError, match="nothing is left"):
        bound(verified=10_000)
