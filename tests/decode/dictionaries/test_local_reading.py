"""Around a state a code is affine in it, and what is written is the sum of what features write and a rest."""

import pytest
import torch

from caseback.decode.dictionaries import (
    AbsTopK,
    CrossLayerBatchTopK,
    CrossLayerStandard,
    Facts,
    Gated,
    GroupTopK,
    JumpReLU,
    Standard,
    TopK,
)
from caseback.errors import ArgumentError

KINDS = {
    "standard": lambda **more: Standard(6, 24, **more),
    "topk": lambda **more: TopK(6, 24, k=4, **more),
    "abs_topk": lambda **more: AbsTopK(6, 24, k=4, **more),
    "group_topk": lambda **more: GroupTopK(6, 24, k=4, **more),
    "jump_relu": lambda **more: JumpReLU(6, 24, **more),
    "gated": lambda **more: Gated(6, 24, **more),
}


def states(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def shaken(dictionary, seed=0):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in dictionary.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
        for name in ("scale", "out_scale"):
            value = getattr(dictionary, name)
            value.add_(torch.rand(value.shape, generator=draw, dtype=value.dtype))
    return dictionary


def jacobian(dictionary, x, token, feature):
    """Codes' gradients with the factors of normalization held, by torch."""
    normalized = dictionary.normalized

    def held(states):
        shift, factor = dictionary._factors(x)
        centered = states - states.mean(-1, keepdim=True) if shift is not None else states
        return centered * factor if factor is not None else centered

    dictionary.normalized = held
    try:
        leaf = x.clone().requires_grad_()
        codes = dictionary.encode(leaf)
        rows = [
            torch.autograd.grad(codes[t, f], leaf, retain_graph=True)[0][t] for t, f in zip(token, feature, strict=True)
        ]
    finally:
        dictionary.normalized = normalized
    return torch.stack(rows)


@pytest.mark.parametrize("normalization", ["none", "scale", "layer_norm", "unit_norm"])
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_writes_are_affine_around_a_state(kind, normalization):
    one = shaken(KINDS[kind](facts=Facts(normalization=normalization), dtype=torch.float64))
    x = states(5, 6)
    codes = one.encode(x)
    token, feature = codes.nonzero(as_tuple=True)
    assert len(token)
    torch.testing.assert_close(one.reads(x, token, feature), jacobian(one, x, token, feature))
    written = one.rest(x)
    written = written.index_add(0, token, codes[token, feature, None] * one.writes(x, token, feature)[:, 0])
    torch.testing.assert_close(written, one(x))


def test_a_skip_is_no_rest():
    one = shaken(TopK(6, 24, k=4, skip=True, facts=Facts(site="mlp_in.1", target="mlp_out.1"), dtype=torch.float64))
    x = states(5, 6)
    codes = one.encode(x)
    token, feature = codes.nonzero(as_tuple=True)
    written = (one.rest(x) + x @ one.W_skip).index_add(
        0, token, codes[token, feature, None] * one.writes(x, token, feature)[:, 0]
    )
    torch.testing.assert_close(written, one(x))


@pytest.mark.parametrize("normalization", ["none", "scale", "layer_norm", "unit_norm"])
@pytest.mark.parametrize("shared", [False, True])
def test_features_of_all_layers_write_from_their_own_on(shared, normalization):
    facts = Facts(site="mlp_in", target="mlp_out", normalization=normalization)
    one = shaken(CrossLayerStandard(6, 36, n_layers=3, shared=shared, facts=facts, dtype=torch.float64))
    x = states(5, 3, 6)
    codes = one.encode(x)
    written = one.rest(x)
    for layer in range(3):
        token, feature = codes[:, 12 * layer : 12 * (layer + 1)].nonzero(as_tuple=True)
        feature = feature + 12 * layer
        each = codes[token, feature, None, None] * one.writes(x, token, feature)
        written[:, layer:] = written[:, layer:].index_add(0, token, each)
        rows = jacobian(one, x, token, feature)
        torch.testing.assert_close(one.reads(x, token, feature), rows[:, layer])
    torch.testing.assert_close(written, one(x))


def test_features_of_several_layers_are_asked_for_one_layer_at_a_time():
    one = CrossLayerBatchTopK(6, 36, n_layers=3, k=4)
    with pytest.raises(ArgumentError, match="one layer at a time"):
        one.writes(torch.randn(2, 3, 6), torch.tensor([0, 1]), torch.tensor([3, 30]))
