"""Cross-layer transcoders: transcoders where nothing is written across, and one feature where three would be needed."""

from typing import Any

import pytest
import torch

from caseback.decode.dictionaries import (
    CrossLayerBatchTopK,
    CrossLayerTopK,
    Facts,
    TopK,
)
from caseback.decode.dictionaries.sparse import Pattern
from caseback.errors import ArgumentError, OutOfRange
from planted_features import trained

L, D, F = 4, 16, 40


def states(n: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, L, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(**options: Any) -> CrossLayerTopK:
    one = CrossLayerTopK(D, L * F, 24, n_layers=L, dtype=torch.float64, seed=1, **options)
    draw = torch.Generator().manual_seed(3)
    for bias in (one.b_enc, one.b_dec):
        bias.data = 0.1 * torch.randn(bias.shape, generator=draw, dtype=torch.float64)
    return one


def entries(codes: torch.Tensor) -> tuple[torch.Tensor, Pattern]:
    token, feature = codes.indices()
    return codes.values(), Pattern(token, feature, len(codes), codes.shape[1])


def test_what_writes_nothing_across_is_a_set_of_transcoders_bit_for_bit():
    one, x = made(k=3, each_layer=True, start_across=False), states()
    codes, written = one.encode(x), one(x)
    sparse = one.write(*entries(one.codes(x)))
    for layer in range(L):
        own = slice(layer * F, (layer + 1) * F)
        alone = TopK(D, F, 24, k=3, facts=Facts(site="a", target="b", centered=False), dtype=torch.float64)
        alone.W_enc.data, alone.b_enc.data = one.W_enc.data[own], one.b_enc.data[own]
        alone.W_dec.data, alone.b_dec.data = one.decoder(layer).data[:, 0], one.b_dec.data[layer]
        assert not one.decoder(layer)[:, 1:].any()
        assert torch.equal(codes[:, own], alone.encode(x[:, layer]))
        assert torch.equal(written[:, layer], alone(x[:, layer]))
        assert torch.equal(sparse[:, layer], alone.write(*entries(alone.codes(x[:, layer]))))


@pytest.mark.parametrize("shared", [False, True])
def test_each_layer_adds_what_all_before_it_write_there(shared):
    one, x = made(k=5, shared=shared), states()
    codes = one.encode(x)
    for target in range(L):
        total = one.b_dec[target].expand(len(x), -1)
        for source in range(target + 1):
            rows = one.decoder(source)[:, 0 if shared else target - source]
            total = total + codes[:, source * F : (source + 1) * F] @ rows
        torch.testing.assert_close(one(x)[:, target], total, rtol=0, atol=1e-12)
    squares = [one.decoder(s).square().sum((1, 2)) * (L - s if shared else 1) for s in range(L)]
    torch.testing.assert_close(one.norms(), torch.cat(squares).sqrt())


def test_k_is_of_all_layers_together_or_of_each():
    x = states()
    assert bool(((made(k=8).encode(x) != 0).sum(-1) <= 8).all())
    each = made(k=3, each_layer=True).encode(x).unflatten(-1, (L, F))
    assert bool(((each != 0).sum(-1) == 3).all())
    batch = CrossLayerBatchTopK(D, L * F, 24, n_layers=L, k=6.5, dtype=torch.float64)
    assert float(batch.losses(x, torch.zeros(64, L, 24).double()).l0) == 6.5


def test_dead_features_learn_by_the_auxiliary_loss_alone():
    one, x = made(k=3), states()
    y = torch.randn(64, L, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dead = torch.arange(L * F) % F >= F // 2
    one.b_enc.data[dead] = -100
    assert not one.losses(x, y).auxiliary
    one.b_enc.data[dead] = 0
    one.losses(x, y, dead=dead).auxiliary.backward()
    assert one.W_enc.grad is not None and one.W_dec.grad is not None
    assert one.W_enc.grad[dead].any() and not one.W_enc.grad[~dead].any()
    rows = one.by_row(dead.double()) > 0
    assert one.W_dec.grad[rows].any() and not one.W_dec.grad[~rows].any()


READS, WRITES = (torch.linalg.qr(torch.randn(24, 12, generator=torch.Generator().manual_seed(i)))[0].T for i in (5, 6))


def amplified(n: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The first layer reads two of 12 features and writes them; two later layers add a half of it each."""
    at = torch.rand(n, 12, generator=draw).topk(2, dim=1).indices
    size = (0.5 + torch.rand(n, 12, generator=draw)) * torch.zeros(n, 12).scatter(1, at, 1.0)
    first, own = size @ READS, size @ WRITES
    return torch.stack([first, first + own, first + 1.5 * own], 1), torch.stack([own, own / 2, own / 2], 1)


@pytest.mark.parametrize("across", [True, False])
def test_a_feature_that_later_layers_amplify_is_one_feature(across):
    """Two active features of all layers are enough; of transcoders that write to their own layer, six would be."""
    draw = torch.Generator().manual_seed(0)
    one = CrossLayerTopK(24, 72, n_layers=3, k=2, seed=2)

    def nothing_across() -> None:
        for layer in range(3):
            one.decoder(layer)[:, 1:] = 0

    if not across:
        one.after_step = nothing_across
    trained(one, lambda n: amplified(n, draw), steps=600, n=256, lr=1e-2, dead_after=10)
    x, y = amplified(2000, draw)
    with torch.no_grad():
        codes = one.encode(x).unflatten(-1, (3, 24))
        explained = 1 - (y - one(x)).square().sum() / (y - y.mean(0)).square().sum()
    if across:
        assert explained > 0.99
        assert bool(((codes != 0).sum(-1) == torch.tensor([2, 0, 0])).double().mean() > 0.99)
    else:
        assert explained < 0.8


def test_what_is_no_cross_layer_transcoder_is_refused():
    with pytest.raises(OutOfRange, match="a multiple of the layers"):
        CrossLayerTopK(D, 41, n_layers=L, k=2)
    with pytest.raises(OutOfRange, match="features of a layer"):
        CrossLayerTopK(D, L * F, n_layers=L, k=F + 1, each_layer=True)
    with pytest.raises(ArgumentError, match="skip is for transcoders"):
        CrossLayerTopK(D, L * F, n_layers=L, k=2, skip=True)
