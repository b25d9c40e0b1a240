"""What each architecture promises: gradients, sparse codes, equal forms, files. One step of each against dense autograd."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from caseback.decode.dictionaries import (
    AbsTopK,
    BatchTopK,
    BatchTopKCrosscoder,
    CrossLayerBatchTopK,
    CrossLayerJumpReLU,
    CrossLayerStandard,
    CrossLayerTopK,
    Dictionary,
    Facts,
    Gated,
    GroupTopK,
    JumpReLU,
    JumpReLUCrosscoder,
    MatchingPursuit,
    Matryoshka,
    PAnnealing,
    Standard,
    StandardCrosscoder,
    Switch,
    Temporal,
    TopK,
    TopKCrosscoder,
    architectures,
    as_jump_relu,
    dictionary,
    folded,
    load_dictionary,
    save_dictionary,
)
from caseback.decode.dictionaries.sparse import Pattern
from caseback.errors import ArgumentError, OutOfRange

JUMP: dict[str, Any] = {"bandwidth": 0.5, "threshold": 0.2, "sparsity": "l0"}
ALL: list[tuple[type[Dictionary], dict[str, Any]]] = [
    (Standard, {}),
    (TopK, {"k": 3}),
    (BatchTopK, {"k": 2.5}),
    (JumpReLU, JUMP),
    (Gated, {}),
    (Gated, {"frozen": False}),
    (Matryoshka, {"k": 2.5, "prefixes": [4, 15, 42], "weights": [1.0, 0.5, 2.0]}),
    (Temporal, {"k": 2.5, "prefixes": [15, 42]}),
    (PAnnealing, {}),
    (AbsTopK, {"k": 3}),
    (GroupTopK, {"k": 6, "group_size": 3}),
    (Switch, {"k": 3, "n_experts": 3}),
    (StandardCrosscoder, {"n_sources": 3}),
    (TopKCrosscoder, {"n_sources": 3, "k": 3}),
    (BatchTopKCrosscoder, {"n_sources": 3, "k": 2.5}),
    (JumpReLUCrosscoder, {"n_sources": 3, **JUMP}),
    (CrossLayerStandard, {"n_layers": 3}),
    (CrossLayerTopK, {"n_layers": 3, "k": 5}),
    (CrossLayerTopK, {"n_layers": 3, "k": 2, "each_layer": True}),
    (CrossLayerTopK, {"n_layers": 3, "k": 5, "shared": True}),
    (CrossLayerBatchTopK, {"n_layers": 3, "k": 4.5}),
    (CrossLayerJumpReLU, {"n_layers": 3, **JUMP}),
]
D, F = 16, 42


def made(kind: type[Dictionary], options: dict, **more) -> Any:
    """A dictionary whose every parameter is somewhere in particular."""
    one = kind(D, F, dtype=torch.float64, seed=1, **options, **more)
    draw = torch.Generator().manual_seed(3)
    for name, value in one.named_parameters():
        if name != "threshold":
            value.data += 0.1 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
    return one


def states(one: Dictionary, n: int = 64, seed: int = 0) -> Tensor:
    several = (getattr(one, "n_sources", 0),) if hasattr(one, "n_sources") else ()
    return torch.randn(n, *several, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def target(one: Dictionary) -> Tensor | None:
    return states(one, seed=5) if hasattr(one, "n_layers") else None


def mask(selected: Any) -> Any:
    if isinstance(selected, Pattern):
        return selected.dense(torch.ones(len(selected.token), dtype=torch.float64)) > 0
    return selected


def test_all_registered_architectures_are_tried():
    assert {kind for kind, _ in ALL} | {MatchingPursuit} == set(architectures().values())


@pytest.mark.parametrize("by_norm", [False, True])
@pytest.mark.parametrize(("kind", "options"), ALL)
def test_a_step_has_the_gradients_of_dense_autograd(monkeypatch, kind, options, by_norm):
    grads = []
    for sparse in (True, False):
        one = made(kind, options, facts=Facts(by_norm=by_norm))
        one.at(0.7)
        monkeypatch.setattr(dictionary, "DENSE_ABOVE", 2.0 if sparse else -1.0)
        if not sparse:
            select = one.select
            one.select = lambda scores, select=select: mask(select(scores))
        losses = one.losses(states(one), target(one), coefficient=0.1, dead=torch.arange(F) > 30)
        losses.total.backward()
        grads.append([losses.total.detach(), losses.fired, *(p.grad for p in one.parameters())])
    for got, wanted in itertools.zip_longest(*grads):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "options"), [*ALL, (MatchingPursuit, {"k": 4})])
def test_the_loss_is_that_of_the_reconstruction_and_sparse_codes_are_the_dense_ones(kind, options):
    one = made(kind, options)
    with torch.no_grad():
        one.after_step()
    x, y = states(one), target(one)
    losses = one.losses(x, y)
    codes = one.codes(x)
    torch.testing.assert_close(codes.to_dense(), one.encode(x).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(one.decode(codes), one(x), rtol=0, atol=1e-12)
    if kind not in (BatchTopK, BatchTopKCrosscoder, CrossLayerBatchTopK, Matryoshka, Temporal, Gated):
        error = ((x if y is None else y) - one(x)).flatten(1).square().sum(-1).mean()
        torch.testing.assert_close(losses.error, error, rtol=0, atol=1e-11)
        assert losses.fired.tolist() == (codes.to_dense() != 0).sum(0).tolist()


@pytest.mark.parametrize("sparse", [True, False])
def test_the_gate_learns_from_its_own_term_whose_decoder_is_constant(monkeypatch, sparse):
    """Against the paper's formula, written out with whole matrices."""
    monkeypatch.setattr(dictionary, "DENSE_ABOVE", 2.0 if sparse else -1.0)
    one = made(Gated, {})
    x = states(one)
    one.losses(x, coefficient=0.3).total.backward()
    got = {name: p.grad.clone() for name, p in one.named_parameters()}
    one.zero_grad()
    read = x - one.b_dec
    gate = read @ one.W_enc.T + one.b_enc
    size = read @ (one.W_enc * one.r_mag.exp()[:, None]).T + one.b_mag
    error = x - ((gate > 0) * size.relu()) @ one.W_dec - one.b_dec
    gates_alone = x - gate.relu() @ one.W_dec.detach() - one.b_dec.detach()
    penalty = (gate.relu() * one.W_dec.norm(dim=1)).sum(-1)
    (error.square().sum(-1) + gates_alone.square().sum(-1) + 0.3 * penalty).mean().backward()
    for name, p in one.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "options"), [(kind, o) for kind, o in ALL if kind not in (AbsTopK, TopK, PAnnealing)])
@pytest.mark.parametrize("by_norm", [False, True])
def test_a_threshold_alone_selects_as_these_do(kind, options, by_norm):
    one = made(kind, options, facts=Facts(by_norm=by_norm))
    one.losses(states(one), target(one))
    if isinstance(one, TopKCrosscoder | CrossLayerTopK | JumpReLU | GroupTopK | Switch):
        with pytest.raises(ArgumentError, match="no threshold of a feature's own"):
            as_jump_relu(one)
        return
    other, x = as_jump_relu(one), states(one, 512, seed=2)
    torch.testing.assert_close(other.encode(x), one.encode(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(other(x), one(x), rtol=0, atol=1e-12)


def test_a_gate_whose_magnitude_is_negative_is_closed_in_the_jump_relu_too():
    one = made(Gated, {})
    one.b_mag.data -= 0.5
    x = states(one, 512)
    gate = one.scores(x)
    assert ((gate > 0) & (one.encode(x) == 0)).any()
    torch.testing.assert_close(as_jump_relu(one).encode(x), one.encode(x), rtol=0, atol=1e-12)


def test_nested_reconstructions_are_those_of_the_first_features():
    one = made(Matryoshka, {"k": 3, "prefixes": [4, 15, 42]}, facts=Facts(normalization="layer_norm"))
    x = 3 * states(one) + 1
    one.losses(x)
    codes, nested = one.encode(x), one.nested(x)
    for i, m in enumerate([4, 15, 42]):
        wanted = one.decode(codes * (torch.arange(F) < m), x)
        torch.testing.assert_close(nested[:, i], wanted, rtol=0, atol=1e-12)


def test_errors_of_prefixes_are_weighed():
    one, x = made(Matryoshka, {"k": 3, "prefixes": [4, 15, 42], "weights": [1.0, 0.5, 2.0]}), torch.randn(1, D).double()
    loss = one.losses(x).error
    one.threshold.fill_(one.threshold * (1 - 1e-9))  # what was the smallest active is active
    errors = (x[:, None] - one.nested(x)).square().sum(-1)[0]
    torch.testing.assert_close(loss, errors @ torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "options", [{"prefixes": [4, 4, 42]}, {"prefixes": [4, 41]}, {"weights": [1.0]}, {"prefixes": []}]
)
def test_prefixes_that_are_none_are_refused(options):
    with pytest.raises(OutOfRange, match=r"prefixes|weights"):
        Matryoshka(D, F, k=3, **options)


def test_p_falls_and_the_penalty_is_that_of_p_at_the_height_of_l1():
    one = made(PAnnealing, {"p_end": 0.5, "begin": 0.2, "eps": 1e-3})
    ps = []
    for share in (0.0, 0.2, 0.6, 1.0):
        one.at(share)
        ps.append(float(one.p))
    assert ps == pytest.approx([1.0, 1.0, 0.75, 0.5])
    codes = torch.tensor([0.5, 2.0, 1e-4], dtype=torch.float64, requires_grad=True)
    at = torch.tensor([0, 1, 2])
    one.W_dec.data /= one.W_dec.norm(dim=1, keepdim=True)
    penalty = one.penalty(codes, codes, at, 1)
    penalty.backward()
    torch.testing.assert_close(penalty.detach(), codes.detach().sum())
    bent = 0.5 * (codes.detach() + 1e-3) ** -0.5
    height = codes.detach().sum() / ((codes.detach() + 1e-3) ** 0.5 - 1e-3**0.5).sum()
    torch.testing.assert_close(codes.grad, bent * height)


def test_at_p_1_it_is_the_l1_penalty():
    x = states(made(Standard, {}))
    ends = []
    for kind in (Standard, PAnnealing):
        one = made(kind, {})
        one.losses(x, coefficient=0.3).total.backward()
        ends.append([p.grad for p in one.parameters()])
    for got, wanted in zip(*ends, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_abs_topk_keeps_the_largest_with_their_sign():
    one, x = made(AbsTopK, {"k": 3}), states(made(AbsTopK, {"k": 3}))
    codes, scores = one.encode(x), one.scores(x)
    assert (codes < 0).any() and (codes > 0).any() and bool(((codes != 0).sum(-1) == 3).all())
    smallest = codes.abs().masked_fill(codes == 0, torch.inf).amin(-1)
    assert bool((scores.abs().masked_fill(codes != 0, 0).amax(-1) <= smallest).all())
    torch.testing.assert_close(codes[codes != 0], scores[codes != 0])
    turned = made(AbsTopK, {"k": 3})
    turned.b_enc.data, turned.b_dec.data = -turned.b_enc.data, -turned.b_dec.data
    torch.testing.assert_close(turned.encode(-x), -codes)  # a direction and its opposite are one feature


def test_matching_pursuit_finds_orthonormal_codes_exactly():
    draw = torch.Generator().manual_seed(0)
    one = MatchingPursuit(D, D, k=5, enough=0.0, dtype=torch.float64)
    one.W_dec.data = torch.linalg.qr(torch.randn(D, D, generator=draw, dtype=torch.float64))[0]
    one.b_dec.data = torch.randn(D, generator=draw, dtype=torch.float64)
    planted = torch.zeros(200, D, dtype=torch.float64)
    for row in planted:
        row[torch.randperm(D, generator=draw)[:5]] = 0.1 + torch.rand(5, generator=draw, dtype=torch.float64)
    x = planted @ one.W_dec.data + one.b_dec.data
    torch.testing.assert_close(one.encode(x), planted, rtol=0, atol=1e-12)
    torch.testing.assert_close(one(x), x, rtol=0, atol=1e-12)
    assert float(one.losses(x).error.detach()) < 1e-24 and sorted(dict(one.named_parameters())) == ["W_dec", "b_dec"]


def test_matching_pursuit_is_one_step_after_the_other():
    """Against a loop over tokens, with its gradient."""
    one = made(MatchingPursuit, {"k": 4})
    one.W_dec.data /= one.W_dec.data.norm(dim=1, keepdim=True)
    x = states(one, 16)
    one.losses(x).total.backward()
    got = [one.W_dec.grad.clone(), one.b_dec.grad.clone()]
    one.zero_grad()
    total: Any = 0.0
    codes = torch.zeros(16, F, dtype=torch.float64)
    for n, row in enumerate(x):
        left = row - one.b_dec
        for _ in range(4):
            match = one.W_dec @ left
            i = int(match.argmax())
            if match[i] <= 0 or codes[n, i] != 0:
                break
            codes[n, i] = match[i].detach()
            left = left - match[i] * one.W_dec[i]
        total = total + left.square().sum() / len(x)
    total.backward()
    for mine, wanted in zip(got, (one.W_dec.grad, one.b_dec.grad), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(one.encode(x).detach(), codes, rtol=0, atol=1e-12)


def test_a_pursuit_ends_where_enough_is_taken_or_a_feature_comes_again():
    one = MatchingPursuit(2, 2, k=2, enough=0.5, dtype=torch.float64)
    one.W_dec.data = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.3], [0.0, 1.0]], dtype=torch.float64)
    assert one.encode(x)[0].tolist() == [1.0, 0.0]
    again = MatchingPursuit(2, 2, k=50, enough=0.0, repeat=True, dtype=torch.float64)
    again.W_dec.data = torch.tensor([[1.0, 0.0], [-0.6, 0.8]], dtype=torch.float64)  # each step undoes some of the last
    x = torch.tensor([[0.3, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(again(x), x, atol=1e-9, rtol=0)
    assert again.encode(x)[0].tolist() == pytest.approx([1.05, 1.25])
    again.repeat = False
    assert again.encode(x)[0].tolist() == pytest.approx([0.672, 0.62])


def _scaled(kind, options, *, uneven: bool, by_norm: bool = False) -> Any:
    one = made(kind, options, facts=Facts(normalization="scale", by_norm=by_norm))
    draw = torch.Generator().manual_seed(4)
    one.scale.copy_(0.3 + uneven * torch.rand(one.scale.shape, generator=draw))
    one.out_scale.copy_(one.scale if not hasattr(one, "n_layers") else one.scale + uneven * 0.2)
    with torch.no_grad():
        one.after_step()
    one.losses(4 * states(one), target(one))
    return one


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("by_norm", [False, True])
@pytest.mark.parametrize(("kind", "options"), [*ALL, (MatchingPursuit, {"k": 4})])
def test_scales_and_norms_go_into_the_weights(kind, options, by_norm, norms):
    several = "n_sources" in options or "n_layers" in options
    one = _scaled(kind, options, uneven=several and not options.get("shared", False), by_norm=by_norm)
    x = 4 * states(one, 256, seed=6)
    if norms and not by_norm and "k" in options and kind is not MatchingPursuit:
        with pytest.raises(ArgumentError, match="it would select other features"):
            folded(one, norms=True)
        return
    if not by_norm and several and "k" in options:
        one.facts = Facts(**{**vars(one.facts), "by_norm": False})
    other = folded(one, norms=norms)
    assert other.facts.normalization == "none" and one.facts.normalization == "scale"
    torch.testing.assert_close(other(x), one(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(other.decode(other.codes(x)), one(x), rtol=0, atol=1e-12)
    if norms and kind is not MatchingPursuit and not several:
        torch.testing.assert_close(other.norms(), torch.full_like(other.norms(), 1 / float(one.out_scale)))


def test_a_transcoder_whose_sides_have_unlike_scales_is_folded():
    one = made(TopK, {"k": 3}, facts=Facts(normalization="scale", centered=True))
    one.scale.fill_(0.3)
    one.out_scale.fill_(0.7)
    x = states(one)
    torch.testing.assert_close(folded(one)(x), one(x), rtol=0, atol=1e-12)


def test_what_is_done_to_each_token_cannot_be_folded():
    with pytest.raises(ArgumentError, match="treats each token by itself"):
        folded(made(TopK, {"k": 3}, facts=Facts(normalization="layer_norm")))


@pytest.mark.parametrize(("kind", "options"), [*ALL, (MatchingPursuit, {"k": 4})])
def test_files_give_the_same_function(tmp_path, kind, options):
    one = made(kind, options)
    x = states(one)
    one.losses(x, target(one))
    save_dictionary(one, tmp_path / "a.safetensors")
    other = load_dictionary(tmp_path / "a.safetensors")
    assert repr(other) == repr(one)
    assert torch.equal(other.encode(x), one.encode(x)) and torch.equal(other(x), one(x))


def test_nothing_of_tokens_by_features_waits_for_the_backward_pass():
    tried: list[Any] = [Gated(8, 400), Matryoshka(8, 400, k=1), CrossLayerTopK(8, 400, n_layers=2, k=2)]
    tried += [Switch(8, 400, k=2), GroupTopK(8, 400, k=2)]
    for one in tried:
        if isinstance(one, Gated):
            one.b_enc.data -= 2.2
        x = torch.randn(256, *([2] if isinstance(one, CrossLayerTopK) else []), 8)
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.numel()) or t, lambda t: t):
            losses = one.losses(x)
        assert losses.l0 > 0 and max(held) < 256 * 400
