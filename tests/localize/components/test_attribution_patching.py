"""PRIMER 3.2.15: the estimate is the derivative along the patch; exact where linear, else off by its square."""

import numpy as np
import pytest
import torch
import wired_by_hand

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, OutOfRange, SiteAbsent, TokensError, UnknownSite
from caseback.localize.components.attribution_patching import attribution_patching
from caseback.localize.components.machinery.first_order import VARIABLES, nodes
from caseback.model.anatomy.sites import SITES
from exact import exact

METRIC = cb.logit_diff(3, 5)
SITES_OF_NODES = [n for n, kind in SITES.items() if kind.editable and n not in ("scores", "pattern", "logits")]


def here(model):
    return [name for name in SITES_OF_NODES if name not in model.anatomy.lacks]


def runs(model, clean, corrupt, sites):
    return model.run(clean, read=sites), model.run(corrupt, read=sites)


def patched(model, prompts, edit):
    """What an edit changes, by a whole run."""
    return (METRIC(model.run(prompts, edits=edit)) - METRIC(model.run(prompts))).double()


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_3_2_15_the_estimate_at_every_site_is_the_derivative_along_the_patch(name):
    """A step of 1e-6 of the way at a whole site of one layer, against the sum of its parts' estimates."""
    model, clean, corrupt = shelf.model(name), shelf.ids((6, 6)), shelf.ids((6, 6), seed=9)
    names, step = here(model), 1e-6
    with exact():
        found = attribution_patching(model, clean, corrupt, METRIC, sites=names)
        sites = [shelf.middle(model.anatomy, name) for name in names]
        a, b = runs(model, clean, corrupt, sites)
        for at in sites:
            key = at.name if at.layer is None else (at.name, at.layer)
            way = step * (b[key] - a[key])
            up, down = (METRIC(model.run(clean, edits=cb.Add(at.name, x, layer=at.layer))) for x in (way, -way))
            told = found[VARIABLES.get(at.name, at.name)]
            told = told if at.layer is None else told.sel(layer=at.layer)
            parts = [d for d in told.dims if d != "batch"]
            off = np.abs(told.sum(parts) - (up - down).numpy() / (2 * step)).max()
            assert off <= 2e-6 * np.abs(told).sum(parts).max(), at


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_2_15_the_error_falls_a_hundredfold_for_a_tenth_of_the_patch(name):
    model, clean, corrupt = shelf.model(name), shelf.ids((6, 6)), shelf.ids((6, 6), seed=9)
    with exact():
        found = attribution_patching(model, clean, corrupt, METRIC, sites="z")
        a, b = runs(model, clean, corrupt, ["z"])
        change = (b["z", 0] - a["z", 0])[:, 2, 1]
        told = found["z"].sel(layer=0, head=1, pos=2).values
        errors = []
        for scale in (1e-3, 1e-4):
            edit = cb.Add("z", scale * change, layer=0, head=1, pos=2)
            errors.append(np.abs(patched(model, clean, edit).numpy() - scale * told))
    ratio = errors[0] / errors[1]
    assert ((ratio > 90) & (ratio < 110)).all(), ratio


def test_3_2_15_exact_where_the_metric_is_linear_in_the_part():
    """Without a final norm, what the last layer writes at the last position is in the logits as it is."""
    hf = zoo.tiny("gpt2")
    hf.transformer.ln_f = torch.nn.Identity()
    with exact():
        model, clean, corrupt = cb.load(hf), shelf.ids((6, 6)), shelf.ids((6, 6), seed=9)
        found = attribution_patching(model, clean, corrupt, METRIC, sites=["mlp_out", "mlp_post"])
        other, last = model.run(corrupt, read=["mlp_out", "mlp_post"]), model.n_layers - 1
        whole = patched(model, clean, cb.Resample("mlp_out", other, layer=last, pos=-1))
        one = patched(model, clean, cb.Resample("mlp_post", other, layer=last, pos=-1, unit=7))
    assert np.allclose(found["mlp_out"].sel(layer=last, pos=5), whole, atol=1e-11) and whole.abs().min() > 1e-3
    assert np.allclose(found["mlp_post"].sel(layer=last, pos=5, neuron=7), one, atol=1e-11)


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_2_15_zeros_patched_in_are_the_head_pruning_score(name):
    """Michel et al.'s |d metric / d gate| of a gate on each head's output, here by finite differences."""
    model, prompts, step = shelf.model(name), shelf.ids((6, 6)), 1e-6
    with exact():
        found = attribution_patching(model, prompts, None, METRIC, sites="z")["z"].sum("pos")
        for head in range(model.n_heads):
            up, down = (
                METRIC(
                    model.run(
                        prompts, edits=cb.Scale("z", torch.tensor(1 + s, dtype=torch.float64), layer=1, head=head)
                    )
                )
                for s in (step, -step)
            )
            assert np.allclose(-found.sel(layer=1, head=head), (up - down) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2", "granite", "gptj"])
def test_heads_writes_by_z_are_those_written_out(name):
    """The change of head_out itself times the gradient at it, post-norms and multipliers included."""
    model, clean, corrupt = shelf.model(name), shelf.ids((6, 6)), shelf.ids((6, 6), seed=9)
    with exact():
        found = attribution_patching(model, clean, corrupt, METRIC, sites="head_out")["head_out"]
        run = model.run(clean, read=["head_out"], grad=True)
        change = model.run(corrupt, read=["head_out"])["head_out"] - run["head_out"].detach()
        told = (change * run.grad(METRIC, ["head_out"])["head_out"]).sum(-1)
    assert np.allclose(found.transpose("layer", "batch", "pos", "head"), told, atol=1e-11)
    assert np.abs(found).max() > 1e-2


def test_denoising_differentiates_at_the_corrupt_run():
    model, clean, corrupt = shelf.model("llama"), shelf.ids((6, 6)), shelf.ids((6, 6), seed=9)
    with exact():
        found = attribution_patching(model, clean, corrupt, METRIC, direction="denoising")
        turned = attribution_patching(model, corrupt, clean, METRIC)
    assert np.allclose(found["z"], turned["z"]) and np.allclose(found.clean, turned.corrupt)
    assert found.clean_token.values.tolist() == turned.corrupt_token.values.tolist()


@pytest.mark.parametrize(
    "name, rule", [("gpt2", "gauss_legendre"), ("mistral", "gauss_legendre"), ("llama", "riemann_middle")]
)
def test_integrated_the_embeddings_estimate_is_complete(name, rule):
    """Integrated along the inputs, the estimate for all embeddings is the true change; at one point it is not."""
    model, clean, corrupt = shelf.model(name), shelf.ids((6, 6), seed=1), shelf.ids((6, 6), seed=2)
    with exact():
        once = attribution_patching(model, clean, corrupt, METRIC, sites="embed")
        many = attribution_patching(model, clean, corrupt, METRIC, sites="embed", steps=128, rule=rule)
    true = (many.corrupt - many.clean).values
    assert np.allclose(many["embed"].sum("pos"), many.estimated_change)
    assert np.allclose(many.estimated_change, true, atol=1e-5 if rule == "gauss_legendre" else 2e-2)
    assert np.abs(once.estimated_change - true).max() > 1e-2


def test_integrated_by_plain_runs():
    """Two points of the middle rule, written out: gradients at embeddings a quarter and three quarters of the way."""
    model, clean, corrupt = shelf.model("llama"), shelf.ids((6, 4)), shelf.ids((6, 4), seed=9)
    with exact():
        found = attribution_patching(model, clean, corrupt, METRIC, sites="mlp_out", steps=2, rule="riemann_middle")
        a, b = runs(model, clean, corrupt, ["embed", "mlp_out"])
        mean = 0
        for share in (0.25, 0.75):
            there = cb.Replace("embed", a["embed"] + share * (b["embed"] - a["embed"]))
            run = model.run(clean, read=["mlp_out"], edits=there, grad=True)
            mean = mean + 0.5 * run.grad(METRIC, ["mlp_out"])["mlp_out"]
        told = ((b["mlp_out"] - a["mlp_out"]) * mean).sum(-1)
    assert np.allclose(found["mlp_out"].transpose("layer", "batch", "pos")[:, 0], told[:, 0], atol=1e-11)
    assert np.allclose(found["mlp_out"].transpose("layer", "batch", "pos")[:, 1, :4], told[:, 1, :4], atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "gemma2"])
@pytest.mark.parametrize("sides", [("left", "left"), ("right", "right"), ("left", "right")])
def test_padding_moves_nothing(name, sides):
    """A batch of three lengths, clean and corrupt padded on whichever sides, against each pair alone."""
    model, clean, corrupt = shelf.model(name), shelf.ids((7, 4, 6)), shelf.ids((7, 4, 6), seed=9)
    sites = ["z", "mlp_out", "embed", "k"]
    pair = [model.tokens(p, padding=side) for p, side in zip((clean, corrupt), sides, strict=True)]
    with exact():
        together = attribution_patching(model, *pair, METRIC, sites=sites, steps=2)
        for b, length in enumerate((7, 4, 6)):
            alone = attribution_patching(model, [clean[b]], [corrupt[b]], METRIC, sites=sites, steps=2)
            for site in sites:
                mine = together[site].isel(batch=b)
                assert np.allclose(mine.isel(pos=slice(0, length)), alone[site].isel(batch=0), atol=1e-10)
                assert bool(mine.isel(pos=slice(length, None)).isnull().all())
    assert together.clean_token.values[1].tolist() == [*map(str, clean[1]), "", "", ""]


def test_one_counterfactual_serves_all_prompts():
    model, clean, corrupt = shelf.model("gpt2"), shelf.ids((6, 6)), shelf.ids((6,), seed=9)
    with exact():
        once = attribution_patching(model, clean, corrupt, METRIC)
        twice = attribution_patching(model, clean, corrupt * 2, METRIC)
    assert np.array_equal(once["z"], twice["z"])


def test_what_results_say_of_themselves():
    model = shelf.model("llama")
    found = attribution_patching(model, shelf.ids((6, 6)), shelf.ids((6, 6), seed=9), METRIC, sites=["k", "mlp_post"])
    assert found["k"].dims == ("layer", "kv_head", "pos", "batch") and found["k"].sizes["kv_head"] == model.n_kv_heads
    assert found["mlp_post"].dims == ("layer", "neuron", "pos", "batch")
    assert found["k"].attrs["site"] == "k" and found.attrs["entry"] == "3.2.15" and "site" not in found.attrs
    assert found.attrs["direction"] == "noising" and found.attrs["metric"] == "logit_diff"


def test_a_site_of_one_layer_and_one_without_layers():
    model, pair = shelf.model("gpt2"), (shelf.ids((6,)), shelf.ids((6,), seed=9))
    found = attribution_patching(model, *pair, METRIC, sites=[("z", 1), "blocks.0.hook_mlp_out", "embed"])
    whole = attribution_patching(model, *pair, METRIC, sites=["z", "mlp_out"])
    z, mlp = (found[site].dropna("layer", how="all") for site in ("z", "mlp_out"))
    assert z.layer.values.tolist() == [1] and found["embed"].dims == ("pos", "batch")
    assert np.allclose(z, whole["z"].sel(layer=[1])) and np.allclose(mlp, whole["mlp_out"].sel(layer=[0]))


def test_an_equal_pair_changes_nothing_and_the_model_is_left_as_it_was():
    model, prompts = shelf.model("llama"), shelf.ids((6, 6))
    before = shelf.tensors(model.anatomy)
    found = attribution_patching(model, prompts, prompts, METRIC, sites=here(model))
    assert all(float(np.abs(found[name]).max()) == 0 for name in found.data_vars)
    assert all(torch.equal(value, before[key]) for key, value in shelf.tensors(model.anatomy).items())
    assert all(p.requires_grad and p.grad is None for p in model.hf.parameters())


def test_3_2_13_a_divergence_from_the_clean_run_has_no_slope_there():
    model, clean, corrupt = shelf.model("llama"), shelf.ids((6, 6)), shelf.ids((6, 6), seed=9)
    metric = cb.kl(model.run(clean))
    with pytest.raises(CasebackError, match=r"minimum on its own reference.*denoising"):
        attribution_patching(model, clean, corrupt, metric)
    for remedy in ({"direction": "denoising"}, {"steps": 5}):
        found = attribution_patching(model, clean, corrupt, metric, **remedy)
        assert np.abs(found["z"]).max() > 1e-4


@pytest.mark.parametrize(
    "fn, why",
    [
        (lambda x: (x.argmax(-1) == 3).double(), "not differentiable"),
        (lambda x: torch.from_numpy(x.detach().numpy()[:, 3]), "not differentiable"),
        (lambda x: x[:, 3].round(), "no gradient at the run to be patched"),
        (lambda x: 0 * x[:, 3], "no gradient at the run to be patched"),
    ],
)
def test_a_metric_without_gradient_is_refused(fn, why):
    model, pair = shelf.model("gpt2"), (shelf.ids((6,)), shelf.ids((6,), seed=9))
    with pytest.raises(CasebackError, match=why):
        attribution_patching(model, *pair, cb.function(fn, name="bad"))


def test_bad_input_is_refused():
    model, clean, corrupt = shelf.model("gpt2"), shelf.ids((6, 6)), shelf.ids((6, 6), seed=9)
    call = lambda c=corrupt, **how: attribution_patching(model, clean, c, METRIC, **how)  # noqa: E731
    with pytest.raises(TokensError, match="not token-aligned.*first differ at position"):
        call(shelf.ids((6, 5), seed=9))
    with pytest.raises(TokensError, match="3 counterfactuals for 2 prompts"):
        call(shelf.ids((6, 6, 6), seed=9))
    with pytest.raises(CasebackError, match="'noisy' is unknown.*noising"):
        call(direction="noisy")
    with pytest.raises(CasebackError, match="rule 'simpson' is unknown"):
        call(steps=3, rule="simpson")
    with pytest.raises(OutOfRange, match="steps is 0"):
        call(steps=0)
    with pytest.raises(CasebackError, match="no input to interpolate to"):
        call(None, steps=3)
    with pytest.raises(SiteAbsent, match=r"'pattern' has no parts.*take 'z'"):
        call(sites="pattern")
    with pytest.raises(SiteAbsent, match="read-only"):
        call(sites="attn_norm.scale")
    with pytest.raises(UnknownSite, match="zed"):
        call(sites="zed")
    with pytest.raises(CasebackError, match="no site to attribute to"):
        call(sites=[])
    with pytest.raises(CasebackError, match="the metric's function returned"):
        attribution_patching(model, clean, corrupt, lambda x: x)


def test_every_site_of_a_node_is_covered():
    """Between them the families above have all of them, and the rest are refused."""
    covered = {name for family in shelf.DISTINCT for name in here(shelf.model(family))}
    assert covered == set(SITES_OF_NODES)
    assert [str(s) for s in nodes(shelf.model("gpt2"), ["z", ("z", 0)])] == ["z.0", "z.1", "z.2"]


def test_3_2_16_what_saturates_and_what_cancels_is_missed():
    model = wired_by_hand.saturated()
    found = attribution_patching(model, [[1, 2, 4]], [[1, 2, 5]], cb.logit(3), sites="q")["q"]
    true = (found.corrupt - found.clean).item()
    assert round(true, 3) == -0.999 and round(found.sel(layer=0, head=0, pos=2).item(), 3) == -0.008
    model = wired_by_hand.cancelling()
    found = attribution_patching(model, [[2]], [[1]], cb.logit(3), sites="mlp_out")["mlp_out"]
    assert abs(found.sel(layer=0).item()) < 1e-12
