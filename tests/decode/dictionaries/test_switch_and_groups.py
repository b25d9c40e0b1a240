"""Experts behind a router, and groups of features: against ten lines of their formulas, and planted truths of their own."""

from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import caseback as cb
import shelf
from caseback.decode.dictionaries import (
    Dictionary,
    Facts,
    GroupTopK,
    Recipe,
    Switch,
    TopK,
    attached,
    dictionary,
    folded,
    save,
    train_dictionaries,
)
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.errors import ArgumentError, OutOfRange
from exact import exact
from planted_features import Planted, recovered

D, F = 12, 36
ALL: list[tuple[type[Dictionary], dict[str, Any]]] = [
    (Switch, {"k": 3, "n_experts": 4}),
    (GroupTopK, {"k": 6, "group_size": 3}),
]


def made(kind: type[Dictionary], options: dict, **more) -> Any:
    one = kind(D, F, dtype=torch.float64, seed=1, **options, **more)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in one.parameters():
            value += 0.1 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
    return one


def states(n: int = 64, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def switch_by_hand(one: Switch, row: Tensor) -> tuple[Tensor, int]:
    logits = one.W_router @ (row - one.b_dec - one.b_router)
    chances = logits.exp() / logits.exp().sum()
    e, size = int(chances.argmax()), F // one.n_experts
    block = slice(e * size, (e + 1) * size)
    scores = (one.W_enc[block] @ (row - one.b_dec) + one.b_enc[block]).clamp_min(0)
    kept = scores >= scores.sort(descending=True).values[one.k - 1]
    codes = torch.zeros(F, dtype=torch.float64)
    codes[block] = chances[e] * scores * kept
    return codes, e


def groups_by_hand(one: GroupTopK, row: Tensor) -> Tensor:
    scores = one.W_enc @ (row - one.b_dec) + one.b_enc
    norms = torch.stack([scores[i : i + one.group_size].square().sum() for i in range(0, F, one.group_size)])
    codes = torch.zeros(F, dtype=torch.float64)
    for g in norms.sort(descending=True).indices[: one.k // one.group_size].tolist():
        at = slice(g * one.group_size, (g + 1) * one.group_size)
        codes[at] = scores[at]
    return codes


def test_a_token_is_read_by_the_expert_of_highest_chance_alone():
    one, x = made(*ALL[0]), states()
    with torch.no_grad():
        wanted = [switch_by_hand(one, row) for row in x]
        codes = torch.stack([codes for codes, _ in wanted])
        torch.testing.assert_close(one.encode(x), codes, rtol=0, atol=1e-12)
        torch.testing.assert_close(one(x), codes @ one.W_dec + one.b_dec, rtol=0, atol=1e-12)
        torch.testing.assert_close(one.encode(x.view(4, 16, D)), codes.view(4, 16, F), rtol=0, atol=1e-12)
        experts = [e for _, e in wanted]
        assert one.experts(x).tolist() == experts and len(set(experts)) == 4
        assert one.encode(x[:0]).shape == (0, F)


def test_groups_of_the_largest_norm_are_active_with_their_signs():
    one, x = made(*ALL[1]), states()
    with torch.no_grad():
        codes = torch.stack([groups_by_hand(one, row) for row in x])
        torch.testing.assert_close(one.encode(x), codes, rtol=0, atol=1e-12)
        torch.testing.assert_close(one(x), codes @ one.W_dec + one.b_dec, rtol=0, atol=1e-12)
    assert bool((codes < 0).any())


def test_groups_of_one_are_abs_topk():
    one, x = made(GroupTopK, {"k": 3, "group_size": 1}), states()
    kept = one.scores(x).abs().topk(3).indices
    assert bool((one.encode(x).gather(1, kept) != 0).all()) and float(one.losses(x).l0) == 3


def test_an_unused_expert_is_paid_for_by_the_formula_of_the_balance():
    x = states()
    loss = [made(Switch, {**ALL[0][1], "balance": balance}).losses(x) for balance in (0.0, 0.5)]
    one = made(*ALL[0])
    logits = (x - one.b_dec - one.b_router) @ one.W_router.T
    share = torch.nn.functional.one_hot(logits.argmax(1), 4).double().mean(0)
    wanted = 0.5 * D * 4 * (share * logits.softmax(1).mean(0)).sum()
    torch.testing.assert_close(loss[1].auxiliary - loss[0].auxiliary, wanted)
    assert float(loss[0].auxiliary.detach()) == 0


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(("kind", "options"), ALL)
def test_gradients_are_those_of_differences(monkeypatch, kind, options, sparse):
    """Of every parameter, along a random direction; what is selected does not change within the step."""
    one, x, step = made(kind, options), states(), 1e-6
    if not sparse:
        select = one.select
        monkeypatch.setattr(dictionary, "DENSE_ABOVE", -1.0)
        one.select = lambda scores: select(scores).dense(torch.ones(len(x) * one.k, dtype=torch.float64)) > 0
    one.losses(x).total.backward()
    draw = torch.Generator().manual_seed(8)
    for name, value in one.named_parameters():
        way, ends = torch.randn(value.shape, generator=draw, dtype=torch.float64), []
        for sign in (1, -1):
            with torch.no_grad():
                value += sign * step * way
                ends.append(float(one.losses(x).total.detach()))
                value -= sign * step * way
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float((value.grad * way).sum()), rel=1e-6, abs=1e-7), name


@pytest.mark.parametrize("normalization", ["none", "scale", "layer_norm", "unit_norm"])
def test_around_a_state_codes_are_affine_with_the_chance_held(normalization):
    one = made(*ALL[0], facts=Facts(normalization=normalization))
    one.scale.fill_(0.7)
    one.out_scale.fill_(0.7)
    x = states(8)
    codes = one.encode(x)
    token, feature = codes.nonzero(as_tuple=True)
    shift, factor = one._factors(x)
    inner = (x if shift is None else x - shift) * (1 if factor is None else factor) - one.b_dec
    chance = one.route(inner)[1].amax(-1)[token]
    read = (one.reads(x, token, feature) * x[token]).sum(-1)
    bias = chance * (one.b_enc[feature] - one.W_enc[feature] @ one.b_dec)
    torch.testing.assert_close(read + bias, codes[token, feature], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_a_transcoder_of_unlike_scales_is_folded(kind, options):
    one, x = made(kind, options, facts=Facts(normalization="scale")), states()
    one.scale.fill_(0.3)
    one.out_scale.fill_(0.7)
    torch.testing.assert_close(folded(one)(x), one(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "options"), ALL)
@pytest.mark.parametrize("layout", ["saelens", "sparsify", "circuit_tracer"])
def test_layouts_of_others_do_not_hold_them(tmp_path, kind, options, layout):
    with pytest.raises(ArgumentError):
        save(made(kind, options, facts=Facts(site="mlp_in.0", target="mlp_out.0")), tmp_path, format=layout)


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        (Switch, {"k": 3, "n_experts": 5}, "n_experts is 5: expected a divisor of 36"),
        (Switch, {"k": 3, "n_experts": 0}, "n_experts is 0"),
        (Switch, {"k": 10, "n_experts": 4}, "k is 10: expected 1 to 9, the number of features of an expert"),
        (Switch, {"k": 3, "n_experts": 4, "balance": -0.1}, "balance is -0.1: expected 0 or more"),
        (GroupTopK, {"k": 5, "group_size": 5}, "group_size is 5: expected a divisor of 36"),
        (GroupTopK, {"k": 4, "group_size": 3}, "k is 4: expected a multiple of 3"),
        (GroupTopK, {"k": 39, "group_size": 3}, "up to 36"),
    ],
)
def test_what_cannot_be_is_refused(kind, options, why):
    with pytest.raises(OutOfRange, match=why):
        kind(D, F, **options)


@pytest.mark.parametrize("kind", [Switch, TopK])
def test_parameters_that_are_no_features_are_not_resampled(kind):
    """Though there are as many features as dimensions."""
    recipe = Recipe(site="resid_post.0", architecture=kind.architecture, width=D, options={"k": 1}, dead_after=5)
    if kind is Switch:
        recipe = Recipe(**{**vars(recipe), "options": {"k": 1, "n_experts": 4}})
    trainer, x = Trainer(recipe, recipe.start(D, D), 10_000), states().float() + 1
    trainer.begin(x, x)
    trainer.step(x)
    trainer.clock[:5] = 10
    own: Any = trainer.dictionary
    before = {name: value.clone() for name, value in own.named_parameters()}
    assert trainer.resample(x, None, 0) == 5
    for name, value in own.named_parameters():
        assert torch.equal(value, before[name]) == (name in ("b_dec", "W_router", "b_router")), name


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_their_features_are_sites_of_a_model(kind, options):
    model = shelf.model("llama")
    facts = Facts(site="resid_post.0")
    one = kind(model.d_model, 4 * F, facts=facts, dtype=torch.float64, **options)
    tokens = model.tokens(shelf.ids((7,)))
    with attached(model, [one]), exact():
        run = model.run(tokens, read=["feature.0", "resid_post.0"])
        torch.testing.assert_close(run["feature", 0], one.encode(run["resid_post", 0]).detach())
        at = int(run["feature", 0][0, -1].abs().argmax())
        edited = model.run(tokens, read=["resid_post.0"], edits=cb.Zero("feature", layer=0, unit=at))
        change = edited["resid_post", 0] - run["resid_post", 0]
        torch.testing.assert_close(change, -run["feature", 0][..., at, None] * one.W_dec[at].detach())


class Kinds(Planted):
    """States of four kinds, each with features of its own, which have one direction in common."""

    def __init__(self, seed: int, d: int = 48, per: int = 16):
        super().__init__(d, 4 * per, 2, seed=10 * seed)
        self.parts = [Planted(d, per, 2, seed=10 * seed + i) for i in range(1, 5)]
        for part, common in zip(self.parts, torch.linalg.qr(torch.randn(d, 4, generator=self.draw))[0].T, strict=True):
            part.rows = torch.nn.functional.normalize(part.rows + common, dim=1)
        self.rows = torch.cat([part.rows for part in self.parts])

    def states(self, n: int) -> Tensor:
        return torch.cat([part.states(n // 4) for part in self.parts])


def trained_on(states: Tensor, seed: int, **more: Any) -> Any:
    """A dictionary of 128 features after a million tokens."""
    recipe = Recipe(site="resid_post.0", width=128, seed=seed + 10, resample_every=None, **more)
    how: Any = {"n_tokens": 1_000_000, "step_tokens": 512, "pool_tokens": 2**15, "seed": seed}
    return train_dictionaries(None, {"resid_post.0": states}, recipe, **how)[0].dictionary


def agreement(one: Switch, planted: Kinds) -> float:
    """At how many states the expert is that of their kind, one to one."""
    expert = one.experts(planted.states(4096)).view(4, -1)
    together = torch.nn.functional.one_hot(expert, 4).double().mean(1).numpy()
    return float(together[linear_sum_assignment(together, maximize=True)].mean())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_each_kind_of_state_gets_an_expert_that_has_its_features(seed):
    """64 features in 48 dimensions, 16 of each kind; an expert has twice as many."""
    planted = Kinds(seed)
    one = trained_on(planted.states(200_000), seed, architecture="switch", lr=3e-3, options={"k": 2, "n_experts": 4})
    assert agreement(one, planted) > 0.85 and recovered(one, planted) > 0.95
    start = Switch(48, 128, k=2, n_experts=4, seed=seed + 10)
    assert agreement(start, planted) < 0.8 and recovered(start, planted) < 0.6


class Planes:
    """States of 32 planes in 48 dimensions, two of them active in each, at any angle."""

    def __init__(self, seed: int):
        self.draw = torch.Generator().manual_seed(seed)
        self.planes = torch.linalg.qr(torch.randn(32, 48, 2, generator=self.draw))[0].mT

    def states(self, n: int) -> Tensor:
        on = torch.rand(n, 32, generator=self.draw).topk(2, dim=1).indices
        angle, size = 2 * torch.pi * torch.rand(n, 2, generator=self.draw), 0.5 + torch.rand(n, 2, generator=self.draw)
        return torch.einsum("nk,cnk,nkcd->nd", size, torch.stack([angle.cos(), angle.sin()]), self.planes[on])

    def found(self, one: GroupTopK) -> float:
        """The mean, over planes, of the smaller cosine with a group of its own, one to one."""
        cosines = torch.linalg.svdvals(torch.einsum("pcd,gmd->pgcm", self.planes, one.subspaces()))[..., -1].numpy()
        return float(cosines[linear_sum_assignment(cosines, maximize=True)].mean())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_planes_are_found_by_twice_as_many_groups(seed):
    planted = Planes(seed)
    one = trained_on(planted.states(200_000), seed, architecture="group_topk", lr=1e-2, options={"k": 4})
    assert planted.found(one) > 0.99
    assert planted.found(GroupTopK(48, 128, k=4, seed=seed + 10)) < 0.5
