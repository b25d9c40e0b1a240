"""PRIMER 3.2.18: what an ablation's effect lacks of the direct effect, by the norm and by later components."""

import crystals
import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError
from caseback.localize.components.ablation import ablate, edits_of
from caseback.localize.components.logit_attribution import logit_attribution
from caseback.localize.components.machinery.repair_warning import self_repair_warning
from caseback.localize.components.self_repair import self_repair
from caseback.model.graph.units import components_of
from exact import exact

METRIC = cb.logit_diff(3, 5)


def test_3_2_18_a_backup_head_repairs_all_of_it():
    model = crystals.backed_up()
    found = self_repair(model, [[1]], cb.logit(3), components=["L0H0"], kind="zero").isel(component=0, batch=0)
    told = {name: float(found[name]) for name in ("direct", "effect", "self_repair", "norm", "repaired")}
    assert told == {"direct": 1.0, "effect": 0.0, "self_repair": 1.0, "norm": 0.0, "repaired": 1.0}
    assert float(found.compensation.sel(path="MLP 1")) == 1.0 and float(found.compensation.sum()) == 1.0


def test_3_2_18_nothing_is_repaired_where_nothing_reads_it():
    found = self_repair(crystals.erased(reads=0), [[1]], cb.logit(3), components=["L0H0"], kind="zero")
    assert float(found.direct.item()) == float(found.effect.item()) == 1.0
    assert not found.compensation.values.any() and float(found.repaired.item()) == 0.0


@pytest.mark.parametrize("name", shelf.DISTINCT)
@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_3_2_18_norm_and_components_sum_to_the_repair(name, kind):
    model, prompts = shelf.model(name), shelf.ids((6, 4))
    tokens = model.tokens(prompts, padding="left")
    with exact():
        found = self_repair(model, tokens, METRIC, kind=kind, everywhere=True)
        shares = logit_attribution(model, tokens, METRIC)
        effects = ablate(model, tokens, METRIC, kind=kind)
    assert found.attrs["gap"] < 1e-10
    assert np.allclose(found.norm + found.compensation.sum("path"), found.self_repair, atol=1e-10)
    assert np.allclose(found.direct - found.effect, found.self_repair, atol=1e-12)
    assert np.allclose(found.metric_value, shares.attrs["metric_value"], atol=1e-10)
    if kind == "zero":
        assert np.allclose(found.direct, shares.sel(component=found.component.values), atol=1e-10)
    if model.anatomy.logit_softcap is None:
        assert np.allclose(found.effect, effects, atol=1e-10)
    if model.anatomy.final_norm is None:
        assert not found.norm.values.any()
    before = found.path_layer.values[None] < found["layer"].values[:, None]
    assert not found.compensation.values[before].round(10).any()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "cohere", "olmo2"])
def test_3_2_18_a_rerun_with_the_norm_frozen_has_no_share_of_it(name):
    """The final norm's module is made to divide by the clean run's denominator: what is left are the components."""
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    names = ["L0H1", "L1H0", "MLP 1"]
    with exact():
        found = self_repair(model, prompts, METRIC, components=names, kind="zero")
        clean = model.run(prompts, read=[("resid_post", -1)])
        norm = model.weights.final_norm
        scale = norm.scale(clean["resid_post", -1].detach())

        def frozen(module, args, out):
            return norm.frozen(args[0], scale) + (0.0 if norm.beta is None else norm.beta)

        for component in names:
            site = (
                {"site": "mlp_out", "layer": 1} if component == "MLP 1" else {"site": "z", "layer": int(component[1])}
            )
            site |= {} if component == "MLP 1" else {"head": int(component[3])}
            edits = [cb.Zero(pos=-1, **site)]
            freed = METRIC(clean) - METRIC(model.run(prompts, edits=edits))
            handle = model.anatomy.final_norm.register_forward_hook(frozen)
            try:
                assert torch.allclose(METRIC(model.run(prompts)), METRIC(clean), atol=1e-10)
                held = METRIC(clean) - METRIC(model.run(prompts, edits=edits))
            finally:
                handle.remove()
            one = found.sel(component=component)
            assert np.allclose(one.effect, freed.detach(), atol=1e-10)
            assert np.allclose(one.norm, (held - freed).detach(), atol=1e-10)
            assert np.allclose(one.compensation.sum("path"), one.direct - held.detach().numpy(), atol=1e-10)
    assert np.abs(found.norm.values).max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_3_2_18_each_compensation_is_the_change_of_a_share(name):
    """From one ablated run read on its own, under the clean run's denominators."""
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        found = self_repair(model, prompts, METRIC, components=["MLP 0"], kind="zero").isel(component=0)
        read = ["mlp_out", "head_out", "resid_post"]
        clean, ablated = (model.run(prompts, read=read, edits=e) for e in ([], [cb.Zero("mlp_out", layer=0, pos=-1)]))
        norm = model.weights.final_norm
        scale = norm.scale(clean["resid_post", -1][:, -1].detach())
        direction = model.weights.W_U[:, 3] - model.weights.W_U[:, 5]
        for path, site in (("MLP 2", ("mlp_out", 2)), ("L1H0", ("head_out", 1))):
            change = (ablated[site] - clean[site])[:, -1].detach()
            change = change if change.ndim == 2 else change[:, 0]
            told = norm.frozen(change, scale) @ direction * model.anatomy.logit_scale
            assert np.allclose(found.compensation.sel(path=path), told, atol=1e-10)


def test_neurons_and_counterfactuals():
    model = shelf.model("llama")
    prompts, others = shelf.ids((6, 6)), shelf.ids((6, 6), seed=1)
    with exact():
        found = self_repair(
            model, prompts, METRIC, components=["L1N3", "L0H2"], kind="resample", corrupt=others, everywhere=True
        )
        effects = ablate(model, prompts, METRIC, components=["L1N3", "L0H2"], kind="resample", corrupt=others)
        mine, theirs = (logit_attribution(model, p, METRIC).sel(component="L0H2").values for p in (prompts, others))
    assert found.attrs["gap"] < 1e-10 and np.allclose(found.effect, effects, atol=1e-10)
    assert found["neuron"].values.tolist() == [3, -1]
    # the counterfactual's write is measured by this run's norm, so only nearly its own share
    assert not np.allclose(found.direct.sel(component="L0H2"), mine, atol=1e-3)
    assert found.direct.sel(component="L0H2").shape == theirs.shape


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model, prompts = shelf.model("gpt2"), shelf.ids((8, 4), seed=2)
    with exact():
        both = self_repair(model, model.tokens(prompts, padding=side), METRIC, components="heads", kind="zero")
        for row, prompt in enumerate(prompts):
            alone = self_repair(model, [prompt], METRIC, components="heads", kind="zero")
            for name in ("direct", "self_repair", "norm", "compensation"):
                assert np.allclose(both[name].isel(batch=row), alone[name].isel(batch=0), atol=1e-10)


def test_what_cannot_be_told_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="optimal"):
        self_repair(model, [1, 2, 3], METRIC, kind="optimal")
    with pytest.raises(CasebackError, match="logit_diff"):
        self_repair(model, [1, 2, 3], cb.kl(model.run([1, 2, 3])))


@pytest.mark.parametrize(("name", "kind"), [("gpt2", "mean"), ("llama", "zero"), ("olmo2", "mean")])
def test_the_warning_tells_what_the_whole_measurement_does(name, kind):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    tokens = model.tokens(prompts)
    chosen = components_of(model, None)
    with exact():
        found = self_repair(model, tokens, METRIC, kind=kind, everywhere=True)
        edits = edits_of(model, tokens, chosen, kind)
        coords, sentence = self_repair_warning(model, tokens, METRIC, chosen, edits, found.effect.values)
    direct, repaired = (coords[key][1] for key in ("direct", "repaired"))
    assert np.allclose(direct, found.direct, atol=1e-10)
    known = ~np.isnan(repaired)
    assert known.sum() > 0 and np.allclose(repaired[known], found.repaired.values[known], atol=1e-8)
    small = np.abs(direct) < 0.05 * np.abs(direct).max(0)
    assert (np.isnan(repaired) == small).all()
    assert f"of {int((~small).any(1).sum())} components" in sentence
    # of several draws a component, the mean
    with exact():
        zeros = edits_of(model, tokens, chosen, "zero")
        drawn = [edit for pair in zip(edits, zeros, strict=True) for edit in pair]
        mixed, _ = self_repair_warning(model, tokens, METRIC, chosen, drawn, found.effect.values)
        other, _ = self_repair_warning(model, tokens, METRIC, chosen, zeros, found.effect.values)
    assert np.allclose(mixed["direct"][1], (direct + other["direct"][1]) / 2, atol=1e-12)


def test_the_warning_of_a_backup_says_so():
    model = crystals.backed_up()
    tokens, chosen = model.tokens([[1]]), [(0, 0)]
    edits = edits_of(model, tokens, chosen, "zero")
    coords, sentence = self_repair_warning(model, tokens, cb.logit(3), chosen, edits, np.zeros((1, 1)))
    assert coords["repaired"][1].tolist() == [[1.0]] and sentence.startswith("1 of 1 components")


@pytest.mark.parametrize(
    ("name", "metric", "why"), [("gpt2", cb.prob(3), "not linear"), ("gemma2", METRIC, "softly capped")]
)
def test_the_warning_says_why_it_knows_nothing(name, metric, why):
    model, tokens = shelf.model(name), shelf.model(name).tokens([1, 2, 3])
    edits = edits_of(model, tokens, [(0, 0)], "zero")
    coords, sentence = self_repair_warning(model, tokens, metric, [(0, 0)], edits, np.zeros((1, 1)))
    assert not coords and sentence.startswith("not known") and why in sentence
