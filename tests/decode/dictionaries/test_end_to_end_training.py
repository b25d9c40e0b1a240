"""Trained through the rest of a model: what it uses is found, what is large is not; gradients; going on bit for bit."""

import signal
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from transformers import LlamaConfig, LlamaForCausalLM

import caseback as cb
from caseback.decode.dictionaries import Recipe, train_dictionaries, train_end_to_end
from caseback.decode.dictionaries.training.end_to_end import Through, _clean, sources_of
from caseback.decode.dictionaries.training.pools import ModelPools
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.errors import ArgumentError, CasebackError, LoadError, OutOfRange
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.verify import unembed
from caseback.stream.documents import documents
from caseback.stream.packing import rows_of
from exact import exact

FEATURES, TOKENS, D = 8, 400, 24
TEXTS = ["Mary went to the store and John gave a drink to Mary.", "The cat sat. The dogs run to the red house."] * 6


def _model(layers: int = 2) -> tuple[Model, torch.Tensor, torch.Tensor]:
    """Each token has two of eight features that the unembedding reads, and two of eight larger ones that nothing reads."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": TOKENS, "hidden_size": D, "intermediate_size": 8, "rms_norm_eps": 1e4}
    config = LlamaConfig(**sizes, num_hidden_layers=layers, num_attention_heads=2, max_position_embeddings=32)
    hf = LlamaForCausalLM(config).eval()
    rows = torch.linalg.qr(torch.randn(D, D)).Q
    used, large = rows[:FEATURES], rows[FEATURES : 2 * FEATURES]
    codes = [torch.zeros(TOKENS, FEATURES).scatter(1, torch.rand(TOKENS, FEATURES).topk(2).indices, 1.0) for _ in "ab"]
    codes = [on * (0.5 + torch.rand(TOKENS, FEATURES)) for on in codes]
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        hf.model.embed_tokens.weight.copy_(codes[0] @ used + 3 * codes[1] @ large)
        hf.lm_head.weight.copy_(200 * torch.randn(TOKENS, FEATURES) @ used)  # the norm divides by 100
    return cb.load(hf), used, large


def _moving() -> tuple[Model, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same, but that the second layer moves what is used to eight other directions, which the unembedding reads.

    What stands in these before it is taken out, so that the first layer's states are used along the former alone.
    """
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": TOKENS,
        "hidden_size": D,
        "intermediate_size": 2 * FEATURES,
        "rms_norm_eps": 1e4,
    }
    config = LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32, mlp_bias=True)
    hf = LlamaForCausalLM(config).eval()
    rows = torch.linalg.qr(torch.randn(D, D)).Q
    used, large, moved = rows.split(FEATURES)
    codes = [torch.zeros(TOKENS, FEATURES).scatter(1, torch.rand(TOKENS, FEATURES).topk(2).indices, 1.0) for _ in "ab"]
    codes = [on * (0.5 + torch.rand(TOKENS, FEATURES)) for on in codes]
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "gate_proj.weight", "proj.bias")):
                parameter.zero_()
        mlp = hf.model.layers[1].mlp
        mlp.gate_proj.bias.fill_(10.0)  # the gate is the same for all: SiLU(10), so that the MLP is linear
        mlp.up_proj.weight.copy_(torch.cat([used, moved]))
        gate = float(torch.nn.functional.silu(torch.tensor(10.0)))
        mlp.down_proj.weight.copy_((100 / gate) * torch.cat([moved - used, -moved]).T)
        hf.model.embed_tokens.weight.copy_(codes[0] @ used + 3 * codes[1] @ large)
        hf.lm_head.weight.copy_(200 * torch.randn(TOKENS, FEATURES) @ moved)
    return cb.load(hf), used, large, moved


def _rows(n: int, length: int = 16) -> list[list[int]]:
    return torch.randint(0, TOKENS, (n, length), generator=torch.Generator().manual_seed(1)).tolist()


def _found(dictionary: Any, model: Model, truth: torch.Tensor) -> float:
    """The mean cosine of true features and rows' parts in their span, one to one; a dead row finds nothing."""
    states = model.run([[i] for i in range(TOKENS)], read=["embed"])["embed"][:, 0]
    alive = (dictionary.encode(states) != 0).any(0)
    within = torch.nn.functional.normalize(dictionary.W_dec.detach() @ truth.T, dim=1) * alive[:, None]
    return float(within.numpy()[linear_sum_assignment(within.numpy(), maximize=True)].mean())


def _recipe(**more: Any) -> Recipe:
    return Recipe(
        **{
            "site": "resid_post.0",
            "architecture": "topk",
            "options": {"k": 2},
            "width": 2 * FEATURES,
            "lr": 1e-2,
            "k_start": 6,
            **more,
        }
    )


HOW: Any = {"n_tokens": 60_000, "step_tokens": 128, "sink": None, "bos": False}
SLOW = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)])
def test_end_to_end_finds_what_is_used_and_squared_error_what_is_large(seed):
    model, used, large = _model()
    rows = _rows(128)
    (through,) = train_end_to_end(model, rows, _recipe(seed=seed), **HOW)
    (alone,) = train_dictionaries(model, rows, _recipe(seed=seed), pool_tokens=2048, **HOW)
    assert _found(through.dictionary, model, used) > 0.98 and _found(alone.dictionary, model, large) > 0.98
    assert _found(through.dictionary, model, large) < 0.75 and _found(alone.dictionary, model, used) < 0.75
    assert float(through.curve.sel(measure="kl")[-1]) < 0.1 and float(through.curve.sel(measure="explained")[-1]) < 0.2


def test_a_fine_tune_of_a_trained_one_lowers_the_divergence_and_keeps_what_it_reconstructs():
    model, rows = cb.load("meadow"), TEXTS
    recipe = Recipe(site="resid_post.1", options={"k": 8}, width=320)
    (alone,) = train_dictionaries(model, rows, recipe, n_tokens=8000, step_tokens=200, pool_tokens=400)
    how: Any = {"n_tokens": 2000, "step_tokens": 200, "report_every": 1}
    (tuned,) = train_end_to_end(model, rows, recipe, start=[alone.dictionary], beside="error", **how)
    first, last = (dict(zip(tuned.curve.measure.values, point, strict=True)) for point in tuned.curve.values[[0, -1]])
    assert last["kl"] < 0.8 * first["kl"] and last["error"] < 1.5 * first["error"]


BOTH = ["resid_post.0", "resid_post.1"]


def _found_in_both(dictionary: Any, model: Model, truths: list[torch.Tensor]) -> list[float]:
    """The mean cosine, source by source, of true features and rows' parts in their span, one pairing for both."""
    run = model.run([[i] for i in range(TOKENS)], read=["resid_post"])
    states = torch.stack([run["resid_post", layer][:, 0] for layer in (0, 1)], 1)
    alive = (dictionary.encode(states) != 0).any(0)
    rows = dictionary.rows().detach()
    cosines = [
        torch.nn.functional.normalize(rows[:, i] @ truth.T, dim=1) * alive[:, None] for i, truth in enumerate(truths)
    ]
    pairing = linear_sum_assignment(sum(cosines).numpy(), maximize=True)
    return [float(one.numpy()[pairing].mean()) for one in cosines]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)])
def test_a_crosscoder_finds_what_each_layer_uses_and_squared_error_what_is_large_in_both(seed):
    model, used, large, moved = _moving()
    rows = _rows(128)
    recipe = _recipe(seed=seed, site=BOTH, architecture="topk_crosscoder")
    (through,) = train_end_to_end(model, rows, recipe, **HOW)
    (alone,) = train_dictionaries(model, rows, recipe, pool_tokens=2048, **HOW)
    assert min(_found_in_both(through.dictionary, model, [used, moved])) > 0.98
    assert min(_found_in_both(alone.dictionary, model, [large, large])) > 0.98
    assert max(_found_in_both(through.dictionary, model, [large, large])) < 0.75
    assert max(_found_in_both(alone.dictionary, model, [used, moved])) < 0.75
    assert float(through.curve.sel(measure="kl")[-1]) < 0.1


def _small(sites: Any, **more: Any) -> tuple[Model, Any, Any, Any]:
    """A model with attention and MLPs in float64, a dictionary whose codes change smoothly, where it is, and pools."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"vocab_size": 30, "hidden_size": 12, "intermediate_size": 16, "initializer_range": 0.5}
    config = LlamaConfig(**sizes, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=32)
    model = cb.load(LlamaForCausalLM(config).double().eval())
    kind = "standard" if isinstance(sites, str) else "standard_crosscoder"
    recipe = Recipe(site=sites, architecture=kind, width=20, coefficient=0.1, **more)
    own = recipe.start(12, 12).double()
    with torch.no_grad():
        own.scale.mul_(torch.arange(1.0, own.scale.numel() + 1).view_as(own.scale))
        own.out_scale.copy_(own.scale)
    rows = rows_of(model, documents(torch.randint(0, 30, (3, 8)).tolist()))
    return model, own, sources_of(model, recipe, own), ModelPools(model, rows, recipe.sites, 24, 0, None)


def test_each_layers_reconstruction_stands_alone():
    """As passes by hand; all in one, what stands at the last layer would leave the first without any effect."""
    model, own, sources, pools = _small(BOTH)
    last = Site("resid_post", 2)
    with exact(), torch.no_grad():
        clean = _clean(model, pools, 0, sources, None, later=True)
        x, _ = clean.of(sources)
        through = Through(model, own, sources, clean, "later", 1.0)
        through(own.losses(x))
        parts = [part.unflatten(0, (-1, 8)) for part in own(x).unbind(1)]
        assert clean.batch.taken.all()

        def changed(edits: list[cb.Replace]) -> tuple[float, list[float]]:
            run = execute(model.anatomy, clean.batch.tokens, read=["resid_post"], edits=edits, logits=False)
            log_q = unembed(model.anatomy, run[last]).log_softmax(-1).flatten(0, 1)
            shares = []
            for layer in range(3):
                now, was = (one["resid_post", layer].flatten(0, 1) for one in (run, clean.run))
                shares.append(float((now - was).square().sum() / (was - was.mean(0)).square().sum()))
            return float((clean.log_p.exp() * (clean.log_p - log_q)).sum(-1).mean()), shares

        edits = [cb.Replace("resid_post", part, layer=layer) for layer, part in enumerate(parts)]
        (first, of_first), (second, of_second) = (changed([edit]) for edit in edits)
        assert float(through.parts[0]) == pytest.approx((first + second) / 2, rel=1e-12)
        later = (sum(of_first[1:]) / 2 + of_second[2]) / 2
        assert float(through.parts[1]) == pytest.approx(later, rel=1e-12)
        assert changed(edits)[0] == pytest.approx(second, rel=1e-12) and abs(first - second) > 1e-3


@pytest.mark.parametrize("beside", ["nothing", "later", "error"])
@pytest.mark.parametrize("normalization", ["scale", "unit_norm", "layer_norm"])
@pytest.mark.parametrize("sites", ["resid_post.0", BOTH], ids=["one", "crosscoder"])
def test_gradients_are_those_of_finite_differences(beside, normalization, sites):
    """Through the rest of a model with attention and MLPs, in float64."""
    model, own, sources, pools = _small(sites, normalization=normalization)
    with exact():
        clean = _clean(model, pools, 0, sources, None, later=True)
        x, y = clean.of(sources)
        through = Through(model, own, sources, clean, beside, 1.0)
        through(own.losses(x))
        kl, rest = through.parts.tolist()

        def objective() -> torch.Tensor:
            losses = own.losses(x, coefficient=0.1)
            return losses.total - losses.error + through(losses)

        def value() -> float:
            """Of the step's own scale of the divergence, which is a constant in it."""
            losses = own.losses(x, coefficient=0.1)
            through(losses)
            now, beside_now = through.parts.tolist()
            return (
                float((losses.total - losses.error).detach())
                + now * (rest / kl if beside == "error" else 1.0)
                + beside_now
            )

        before = {name: p.grad for name, p in model.hf.named_parameters()}
        objective().backward(inputs=list(own.parameters()))
        assert all(p.grad is before[name] for name, p in model.hf.named_parameters())
        draw = torch.Generator().manual_seed(0)
        for name, parameter in own.named_parameters():
            assert parameter.grad is not None
            way = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            slope, held = float((parameter.grad * way).sum()), parameter.data.clone()
            values = []
            for side in (1e-6, -1e-6):
                parameter.data = held + side * way
                values.append(value())
            parameter.data = held
            assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("stop", [1, 7])
def test_an_interrupted_training_goes_on_with_the_same_bits(tmp_path, monkeypatch, stop):
    model = cb.load("meadow")
    recipes = [
        Recipe(site="resid_post.1", options={"k": 4}, width=64, resample_every=3),
        Recipe(site="mlp_in.1", target="mlp_out.1", architecture="jump_relu", l0=4.0, width=64),
        Recipe(site=BOTH, architecture="batch_topk_crosscoder", options={"k": 4}, width=64),
    ]
    how: Any = {"n_tokens": 1000, "step_tokens": 100, "report_every": 2, "beside": "later"}
    whole = train_end_to_end(model, TEXTS, recipes, **how)
    monkeypatch.setattr("caseback.decode.dictionaries.training.end_to_end.SAVE_EVERY", 0.0)
    step, steps = Trainer.step, []

    def interrupted(self, *given):
        steps.append(1)
        if len(steps) == 3 * stop:
            raise KeyboardInterrupt
        return step(self, *given)

    path = tmp_path / "training"
    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_end_to_end(model, TEXTS, recipes, checkpoint=path, **how)
    monkeypatch.setattr(Trainer, "step", step)
    resumed = train_end_to_end(model, TEXTS, recipes, checkpoint=path, **how)
    for one, other in zip(whole, resumed, strict=True):
        for name, value in one.dictionary.state_dict().items():
            assert torch.equal(value, other.dictionary.state_dict()[name]), name
        np.testing.assert_array_equal(one.curve, other.curve)
    with pytest.raises(LoadError, match="what differs: options"):
        train_end_to_end(model, TEXTS, recipes, checkpoint=path, **{**how, "beside": "nothing"})


def test_ctrl_c_waits_for_the_step_and_saves_it(tmp_path, monkeypatch):
    model, path = cb.load("meadow"), tmp_path / "training"
    recipes = [Recipe(site="resid_post.1", options={"k": 4}, width=64)]
    how: Any = {"n_tokens": 1000, "step_tokens": 100, "report_every": 2}
    whole = train_end_to_end(model, TEXTS, recipes, **how)
    step, steps = Trainer.step, []

    def interrupted(self, *given):
        steps.append(1)
        if len(steps) == 4:
            signal.raise_signal(signal.SIGINT)
        return step(self, *given)

    monkeypatch.setattr(Trainer, "step", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_end_to_end(model, TEXTS, recipes, checkpoint=path, **how)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(steps) == 4
    resumed = train_end_to_end(model, TEXTS, recipes, checkpoint=path, **how)
    assert len(steps) == resumed[0].dictionary.facts.provenance["trained end to end"]["steps"]
    for name, value in whole[0].dictionary.state_dict().items():
        assert torch.equal(value, resumed[0].dictionary.state_dict()[name]), name


def test_what_cannot_be_trained_is_refused():
    model = cb.load("meadow")
    how: Any = {"n_tokens": 100, "step_tokens": 50}
    for site, more, why in (
        (["mlp_in.0", "mlp_in.1"], {"architecture": "cross_layer_topk"}, "of several sources only crosscoders"),
        (["base", "chat"], {}, "'base', which is no site of .* One of two models would need both"),
        (["resid_post", "resid_post.1"], {}, "'resid_post', which is no site"),
        (BOTH, {"target": BOTH[::-1]}, "reconstructs what it reads, leave out target"),
    ):
        several = Recipe(**{"site": site, "architecture": "topk_crosscoder", "width": 64, **more})
        with pytest.raises(ArgumentError, match=why):
            train_end_to_end(model, TEXTS, several, **how)
    both = Recipe(site=BOTH, architecture="topk_crosscoder", width=64)
    d = model.d_model
    for other in (
        Recipe(site=BOTH[::-1], architecture="topk_crosscoder", width=64).start(d, d),
        Recipe(site=[BOTH[0]], architecture="topk_crosscoder", width=64).start(d, d),
        Recipe(site=BOTH[0], width=64).start(d, d),
    ):
        with pytest.raises(ArgumentError, match="goes on from a .* its recipe is of resid_post.0, resid_post.1"):
            train_end_to_end(model, TEXTS, both, start=[other], **how)
    recipe = Recipe(site="resid_post.0", width=64)
    with pytest.raises(ArgumentError, match="0 dictionaries to go on from, for 1 recipes"):
        train_end_to_end(model, TEXTS, recipe, start=[], n_tokens=100, step_tokens=50)
    with pytest.raises(OutOfRange, match="beside_weight is -1"):
        train_end_to_end(model, TEXTS, recipe, beside_weight=-1.0, n_tokens=100, step_tokens=50)
    with pytest.raises(CasebackError, match="corpus is empty"):
        train_end_to_end(model, [], recipe, n_tokens=100, step_tokens=50)
