"""Metrics of any site, and answers of several tokens: what a run says, sweeps and gradients say."""

import pytest
import torch
from test_registered_sites import Rotation

import caseback as cb
import shelf
from caseback.errors import EditError, LoadError, TargetError
from caseback.localize.circuits import edge_attribution
from caseback.localize.components import ablate, attribution_patching, logit_attribution, patch
from caseback.localize.inputs import integrated_gradients, occlusion, shapley_sampling
from caseback.model.anatomy.registered_sites import registered_site
from exact import exact


def metrics(model):
    """One of every site of the middle layer that has one, with where it is in a run."""
    for name in shelf.readable(model.anatomy):
        site = shelf.middle(model.anatomy, name)
        if name in ("embed", "pos_embed", "logits"):
            continue
        if site.kind.dims[-1] == "pos":
            continue  # a norm's denominator is no vector
        heads = any(d in ("head", "kv_head") for d in site.kind.dims)
        unit = 2 if name in ("scores", "pattern") else -1
        for pos in (-1, 3):
            yield cb.activation(name, layer=site.layer, head=0 if heads else None, unit=unit, pos=pos), site, pos


def by_hand(run, site, unit, pos):
    """The same number by plain indexing, prompt by prompt."""
    values = []
    for b, (start, n) in enumerate(zip(run.tokens.first.tolist(), run.tokens.lengths.tolist(), strict=True)):
        at = start + (pos if pos >= 0 else n + pos)
        x = run[site][b]
        if site.name in ("scores", "pattern"):
            values.append(x[0, at, start + unit])
        else:
            values.append(x[at][0, unit] if x.ndim == 3 else x[at][unit])
    return torch.stack(values)


@pytest.mark.parametrize("name", shelf.FEW)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_run_and_a_sweep_say_what_the_site_holds(name, padding):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids((8, 8) if padding == "left" else (9, 6)), padding=padding)
    variants = [cb.Zero("z", layer=0, head=1), cb.Scale("resid_post", 0.5, layer=0, pos=2), cb.Zero("mlp_out", layer=1)]
    variants += [cb.Scale("embed", 2.0, pos=1), [cb.Zero("z", layer=1, head=0), cb.Zero("mlp_out", layer=2)]]
    variants += [
        cb.Scale("resid_post", 0.5, layer=1),
        cb.Zero("resid_post", layer=2),
        cb.Scale("resid_pre", 2.0, layer=1),
    ]
    with exact():
        runs = [model.run(tokens, edits=edits, read=shelf.readable(model.anatomy)) for edits in ([], *variants)]
        for metric, site, pos in metrics(model):
            unit = 2 if site.name in ("scores", "pattern") else -1
            expected = torch.stack([by_hand(run, site, unit, pos) for run in runs]).double()
            torch.testing.assert_close(metric(runs[0]).double(), expected[0], rtol=0, atol=0, msg=str(site))
            swept = model.sweep(tokens, variants, metric)
            for ours, theirs in ((swept.values, expected[1:]), (swept.clean.values, expected[0])):
                torch.testing.assert_close(torch.tensor(ours), theirs, rtol=1e-9, atol=1e-9, msg=f"{site} at {pos}")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_gradients_and_estimates_reach_back_from_a_site(name):
    model = shelf.model(name)
    clean, corrupt = shelf.ids((7,)), shelf.ids((7,), seed=1)
    metric = cb.activation("mlp_post", layer=1, unit=3)
    with exact():
        estimate = attribution_patching(model, clean, corrupt, metric, sites=["resid_post"])
        source = model.run(corrupt, read=["resid_post", "mlp_post"])
        run = model.run(clean, read=["resid_post", "mlp_post"], grad=True)
        gradient = run.grad(metric, ["resid_post"])["resid_post", 0]
        run = run.detached()
        slope = ((source["resid_post", 0] - run["resid_post", 0]) * gradient).sum(-1)[0]
        scores = integrated_gradients(model, clean, metric, steps=400, baseline="mean")
        patched = patch(model, clean, corrupt, metric, site="resid_post", direction="noising")
        gone = occlusion(model, clean, metric)
        shapley = shapley_sampling(model, clean, metric, seed=0)
        losses = ablate(model, clean, metric, components=["L0H1", "L2H0", "MLP 1"], kind="zero")
        edges = edge_attribution(model, clean, corrupt, metric)
    found = next(iter(estimate.data_vars.values())) if hasattr(estimate, "data_vars") else estimate
    torch.testing.assert_close(torch.tensor(found.sel(layer=0).squeeze().values), slope, rtol=1e-9, atol=1e-12)
    assert max(map(abs, scores.completeness_gap)) < 0.05
    whole = float(metric(source) - metric(run))
    moved = patched.patched - patched.clean if "patched" in patched else patched.effect
    assert float(abs(abs(moved.sel(layer=0).sum("pos")).max())) > 0 and whole != 0
    assert float(abs(losses.sel(component="L2H0")).max()) == 0 < float(abs(losses.sel(component="L0H1")).max())
    assert gone.dims == shapley.dims == ("batch", "pos")
    assert float(abs(edges.sel(reader="logits")).max()) == 0 if "reader" in edges.coords else True


def test_a_sweep_stops_at_the_site(monkeypatch, hooks_only_look):
    model = shelf.model("llama")
    calls = []
    handles = [
        p.layer.register_forward_pre_hook(lambda _, args, i=i: calls.append(i))
        for i, p in enumerate(model.anatomy.layers)
    ]
    try:
        model.sweep([1, 2, 3, 4], [cb.Zero("z", layer=0, head=0)], cb.activation("mlp_post", layer=1, unit=0))
    finally:
        for handle in handles:
            handle.remove()
    assert calls.count(2) == 1 < calls.count(1)  # the recorded run alone goes to the end


def test_a_registered_site_a_module_and_a_direction_are_measured():
    model = shelf.model("llama")
    rotation, tokens = Rotation(model.d_model), model.tokens(shelf.ids((7, 7)))
    path = next(n for n, m in model.hf.named_modules() if m is model.anatomy.layers[1].w_out)
    variants = [
        cb.Zero("z", layer=0, head=0),
        cb.Scale("resid_post", 0.5, layer=1, pos=-1),
        cb.Zero("mlp_out", layer=0),
    ]
    with registered_site("rotated", "resid_post", {1: rotation}), exact():
        for metric in (
            cb.activation("rotated", unit=2),
            cb.activation("resid_post", layer=1, direction=rotation.rows[2]),
            cb.activation(f"{path}.input", unit=5),
            cb.activation("final_norm", unit=1),
        ):
            swept = model.sweep(tokens, variants, metric)
            alone = [metric(model.run(tokens, edits=edit, read=metric.reads)) for edit in variants]
            torch.testing.assert_close(torch.tensor(swept.values), torch.stack(alone).double(), rtol=1e-9, atol=1e-9)
        one, other = (
            model.sweep(tokens, variants, m)
            for m in (
                cb.activation("rotated", unit=2),
                cb.activation("resid_post", layer=1, direction=rotation.rows[2]),
            )
        )
    torch.testing.assert_close(torch.tensor(one.values), torch.tensor(other.values), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_the_log_probability_of_an_answer_of_several_tokens(name, padding):
    model = shelf.model(name)
    prompts, answers = shelf.ids((6, 4)), [[5, 9, 2], [7]]
    whole = model.with_answer(prompts, answers)
    whole = model.tokens([row[mask].tolist() for row, mask in zip(whole.ids, whole.mask, strict=True)], padding=padding)
    metric = cb.answer_log_prob(answers)
    with exact():
        expected = []
        for prompt, answer in zip(prompts, answers, strict=True):
            log_p = model.hf(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            expected.append(sum(log_p[len(prompt) - 1 + i, token] for i, token in enumerate(answer)))
        torch.testing.assert_close(metric(model.run(whole)), torch.stack(expected), rtol=1e-9, atol=1e-9)
        edits = [cb.Zero("z", layer=0, head=1), cb.Zero("mlp_out", layer=1, pos=2)]
        swept = model.sweep(whole, edits, metric)
        alone = torch.stack([metric(model.run(whole, edits=edit)) for edit in edits])
    torch.testing.assert_close(torch.tensor(swept.values), alone.double(), rtol=1e-9, atol=1e-9)


def test_what_cannot_be_measured_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(TargetError, match="give unit= or"):
        cb.activation("mlp_post", layer=1)
    with pytest.raises(TargetError, match="cb.logit reads the logits"):
        cb.activation("logits", unit=3)
    with pytest.raises(TargetError, match="'mlp_post' is in 3 layers"):
        model.sweep([1, 2, 3], [cb.Zero("z", layer=0)], cb.activation("mlp_post", unit=0))
    with pytest.raises(TargetError, match="head 9 is not a head of 'z'"):
        model.sweep([1, 2, 3], [cb.Zero("z", layer=0)], cb.activation("z", layer=1, head=9, unit=0))
    with pytest.raises(TargetError, match="unit 999 is out of range"):
        model.sweep([1, 2, 3], [cb.Zero("z", layer=0)], cb.activation("mlp_post", layer=1, unit=999))
    with pytest.raises(EditError, match="is in no layer, so a sweep cannot end there"):
        model.sweep([1, 2, 3], [cb.Zero("z", layer=0)], cb.activation("transformer.wte.output", unit=0))
    with pytest.raises(TargetError, match="a direct effect needs a metric of the logits"):
        logit_attribution(model, [1, 2, 3], cb.activation("mlp_post", layer=1, unit=0))
    with pytest.raises(TargetError, match="prompt 0 ends with"):
        model.run([1, 2, 3]) and cb.answer_log_prob([9, 9])(model.run([1, 2, 3]))
    with pytest.raises(TargetError, match="2 answers for 1 prompts"):
        model.with_answer([1, 2, 3], [[1], [2]])
    with pytest.raises(TargetError, match="expected one token or more"):
        model.with_answer([1, 2, 3], [])


def test_a_checkpoint_tells_directions_and_standing_edits_apart(tmp_path):
    model, tokens = shelf.model("llama"), [[1, 2, 3, 4]]
    variants = [cb.Zero("z", layer=0, head=0)]
    one, other = torch.eye(model.d_model, dtype=torch.float64)[:2]
    file = tmp_path / "sweep.npz"
    measured = cb.activation("resid_post", layer=1, direction=one)
    model.sweep(tokens, variants, measured, checkpoint=file)
    assert model.sweep(tokens, variants, measured, checkpoint=file).shape == (1, 1)
    with pytest.raises(LoadError, match="what differs: metric"):
        model.sweep(tokens, variants, cb.activation("resid_post", layer=1, direction=other), checkpoint=file)
    with pytest.raises(LoadError, match="what differs: .*model"):
        model.edited(cb.Zero("mlp_out", layer=2)).sweep(tokens, variants, measured, checkpoint=file)
