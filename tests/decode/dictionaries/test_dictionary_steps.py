"""One training step of each architecture: sums over bags against dense autograd, and thresholds against differences."""

import itertools
from typing import Any

import pytest
import torch

from caseback.decode.dictionaries import BatchTopK, Dictionary, Facts, JumpReLU, Standard, TopK, dictionary
from caseback.decode.dictionaries.sparse import Pattern
from caseback.errors import ArgumentError, TokensError

ALL = [
    (TopK, {"k": 3}),
    (TopK, {"k": 3, "relu": False}),
    (BatchTopK, {"k": 2.5}),
    (Standard, {}),
    (JumpReLU, {"bandwidth": 0.5, "threshold": 0.2, "sparsity": "l0"}),
    (JumpReLU, {"bandwidth": 0.5, "threshold": 0.2, "sparsity": "tanh", "to_scores": True}),
    (JumpReLU, {"bandwidth": 0.5, "threshold": 0.2, "sparsity": "quadratic", "l0": 4.0}),
]


def _made(kind: type[Dictionary], options: dict, **more) -> Any:
    one = kind(16, 40, dtype=torch.float64, seed=1, **options, **more)
    draw = torch.Generator().manual_seed(3)
    for bias in (one.b_enc, one.b_dec):
        bias.data = 0.1 * torch.randn(bias.shape, generator=draw, dtype=torch.float64)
    return one


def _states(n: int = 64, d: int = 16) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("by_norm", [False, True])
@pytest.mark.parametrize(("kind", "options"), ALL)
def test_sums_over_bags_have_the_gradients_of_dense_products(monkeypatch, kind, options, by_norm):
    x, dead = _states(), torch.arange(40) > 30
    grads = []
    for sparse in (True, False):
        one = _made(kind, options, facts=Facts(by_norm=by_norm))
        one.W_dec.data *= torch.linspace(0.5, 2, 40, dtype=torch.float64)[:, None]
        monkeypatch.setattr(dictionary, "DENSE_ABOVE", 2.0 if sparse else -1.0)
        if not sparse:
            select = one.select
            one.select = lambda scores, select=select: _mask(select(scores))
        losses = one.losses(x, coefficient=0.1, dead=dead)
        losses.total.backward()
        grads.append([losses.total.detach(), losses.fired, *(p.grad for p in one.parameters())])
    for got, wanted in itertools.zip_longest(*grads):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def _mask(selected):
    if isinstance(selected, Pattern):
        return selected.dense(torch.ones(len(selected.token), dtype=torch.float64)) > 0
    return selected


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_sparse_codes_are_the_dense_ones(kind, options):
    one, x = _made(kind, options), _states()
    if kind is BatchTopK:
        one.losses(x)
    codes = one.codes(x)
    torch.testing.assert_close(codes.to_dense(), one.encode(x).detach())
    torch.testing.assert_close(one.decode(codes), one(x))


def test_nothing_of_tokens_by_features_waits_for_the_backward_pass():
    one, x = _made(TopK, {"k": 2}), _states(512)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
        one.losses(x)
    assert max(held) < 512 * 40


def test_batch_topk_keeps_as_many_as_asked_and_is_topk_for_one_token():
    one, x = _made(BatchTopK, {"k": 2.5}), _states()
    assert float(one.losses(x).l0) == 2.5
    alone, topk = _made(BatchTopK, {"k": 3}), _made(TopK, {"k": 3})
    for row in x:
        torch.testing.assert_close(alone.losses(row[None]).error, topk.losses(row[None]).error)


def test_batch_topk_chooses_the_same_whatever_threshold_it_guesses_from():
    one, x = _made(BatchTopK, {"k": 3}), _states()
    scores = one.scores(x).detach()
    wanted = torch.zeros_like(scores).flatten()
    wanted[scores.relu().flatten().topk(3 * 64).indices] = 1
    for guess in (0.0, 0.5, 1e9):
        one.threshold.fill_(guess)
        assert torch.equal(_mask(one.select(scores)), wanted.view_as(scores) > 0)


def test_thresholds_learn_what_differences_of_the_blurred_loss_say():
    """E over a smooth density: the kernel's gradient is that of the expected number of active features."""
    one = _made(JumpReLU, {"bandwidth": 0.2, "threshold": 0.3, "sparsity": "l0"})
    x = _states(200_000)
    one.losses(x, coefficient=1.0).penalty.backward()
    scores, width = one.scores(x).detach(), 0.1

    def mean_l0(shift: float) -> torch.Tensor:
        return (scores > one.threshold.detach() + shift).double().mean(0)

    wanted = (mean_l0(width) - mean_l0(-width)) / (2 * width)
    torch.testing.assert_close(one.threshold.grad, wanted, rtol=1e-9, atol=1e-9)


def test_the_gradient_of_a_jump_is_the_thresholds_times_the_kernel():
    one = _made(JumpReLU, {"bandwidth": 0.2, "threshold": 0.3})
    x = _states()
    scores = one.scores(x).detach()
    one.activate(one.scores(x), slice(None)).sum().backward()
    inside = ((scores - 0.3).abs() <= 0.1).double().sum(0)
    torch.testing.assert_close(one.threshold.grad, -0.3 / 0.2 * inside)


def test_dead_features_learn_by_the_auxiliary_loss_alone():
    x = _states()
    one = _made(TopK, {"k": 2})
    one.b_enc.data[30:] = -100
    dead = torch.arange(40) >= 30
    one.losses(x).total.backward()
    assert not one.W_enc.grad[30:].any() and not one.W_dec.grad[30:].any()
    one.b_enc.data[30:] = 0
    fired = one.losses(x, dead=dead)
    one.zero_grad()
    fired.auxiliary.backward()
    assert one.W_enc.grad[30:].any() and one.W_dec.grad[30:].any() and not one.W_dec.grad[:30].any()


@pytest.mark.parametrize("normalization", ["none", "scale", "layer_norm", "unit_norm"])
def test_states_are_restored_from_any_normalization(normalization):
    """With identity rows nothing is lost: the reconstruction is the state."""
    eye = torch.eye(16, dtype=torch.float64)
    one = Standard(16, 32, facts=Facts(normalization=normalization), dtype=torch.float64)
    if normalization == "scale":
        one.scale.fill_(3.0)
        one.out_scale.fill_(3.0)
    one.W_enc.data = one.W_dec.data = torch.cat([eye, -eye])
    x = _states() * 5 + 2
    wanted = x
    if normalization == "layer_norm":  # as published: its epsilon stands below what is read, not in what is restored
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        wanted = mean + (x - mean) * std / (std + 1e-5)
    torch.testing.assert_close(one(x), wanted, rtol=0, atol=1e-12)
    if normalization in ("layer_norm", "unit_norm"):
        with pytest.raises(ArgumentError, match="give decode the states too"):
            one.decode(one.encode(x))


def test_a_skip_transcoder_adds_a_map_of_its_input():
    one = TopK(16, 40, 8, k=2, skip=True, facts=Facts(site="mlp_in.0", target="mlp_out.0"), dtype=torch.float64)
    x = _states()
    assert one.W_skip is not None
    one.W_skip.data.normal_()
    torch.testing.assert_close(one(x) - x @ one.W_skip, one.encode(x) @ one.W_dec + one.b_dec)
    y = one(x).detach()
    assert float(one.losses(x, y).error.detach()) < 1e-20


def test_states_of_another_width_are_refused():
    with pytest.raises(TokensError, match=r"reads 16 at resid_post\.1"):
        Standard(16, 32, facts=Facts(site="resid_post.1")).encode(torch.zeros(2, 15))
