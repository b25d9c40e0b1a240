"""Checks of the Triton kernels, which ``test_triton_sums`` runs: with Triton's interpreter, and on a GPU where one is.

The plain way in float64 is what they are held to, and steps of whole dictionaries are equal both ways.
"""

import itertools
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from caseback.decode.dictionaries import (
    BatchTopK,
    CrossLayerTopK,
    Dictionary,
    Facts,
    Gated,
    Matryoshka,
    Temporal,
    TopK,
    TopKCrosscoder,
    bags,
    sparse,
)
from caseback.decode.dictionaries.sparse import Pattern, pattern_of_rows, sparse_decode, with_gradient

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available() else "cuda"


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(bags, "uses_triton", lambda like: True)


def random(*size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def uneven(n_tokens: int = 9, n_features: int = 7) -> Pattern:
    """Tokens with none, one and more than a block of features, some of them twice; features without tokens."""
    draw = torch.Generator().manual_seed(1)
    counts = torch.tensor([0, 1, 3, 17, 0, 0, 33, 16, 0])[:n_tokens]
    token = torch.arange(n_tokens).repeat_interleave(counts)
    feature = torch.randint(0, n_features - 1, (len(token),), generator=draw)
    return Pattern(token.to(DEVICE), feature.to(DEVICE), n_tokens, n_features)


def by_rows(k: int, n_tokens: int = 5, n_features: int = 40) -> Pattern:
    draw = torch.Generator().manual_seed(k)
    return pattern_of_rows(torch.rand(n_tokens, n_features, generator=draw).topk(k).indices.to(DEVICE), n_features)


PATTERNS = {
    "uneven": uneven(),
    "k = 1": by_rows(1),
    "k = 3": by_rows(3),
    "k = 32": by_rows(32),
    "no entry": Pattern(*torch.zeros(2, 0, dtype=torch.int64, device=DEVICE), 4, 6),
    "no token": Pattern(*torch.zeros(2, 0, dtype=torch.int64, device=DEVICE), 0, 6),
}
EPS = {torch.float64: 2.0**-50, torch.float32: 2.0**-21, torch.bfloat16: 2.0**-21}
# of a result to bfloat16: a GPU rounds to the nearest, the interpreter cuts
ROUNDING = {torch.float64: 0.0, torch.float32: 0.0, torch.bfloat16: 2.0**-7 if DEVICE == "cpu" else 2.0**-8}


def close(got: Tensor, wanted: Tensor, size: Tensor, dtype: torch.dtype) -> None:
    """To the rounding of sums in float32 (or float64) and of the result; ``size`` sums what is added, unsigned."""
    assert got.dtype == dtype and got.shape == wanted.shape
    assert bool(((got.double() - wanted).abs() <= EPS[dtype] * size + ROUNDING[dtype] * wanted.abs()).all())


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("d", [1, 5, 128, 300])
@pytest.mark.parametrize("name", PATTERNS)
def test_sums_and_dots_are_the_plain_ones(kernels, name, d, dtype):
    pattern = PATTERNS[name]
    values, rows = random(len(pattern.token), dtype=dtype), random(pattern.n_features, d, dtype=dtype, seed=1)
    grad = random(pattern.n_tokens, d, dtype=dtype, seed=2)
    got = bags.sums(values, rows, pattern.feature, pattern.starts)
    entries = values.double()[:, None] * rows.double()[pattern.feature]
    wanted = torch.zeros(pattern.n_tokens, d, dtype=torch.float64, device=DEVICE)
    close(got, wanted.index_add(0, pattern.token, entries), wanted.index_add(0, pattern.token, entries.abs()), dtype)
    got = bags.dots(grad, rows, pattern.token, pattern.feature)
    each = grad.double()[pattern.token] * rows.double()[pattern.feature]
    close(got, each.sum(-1), each.abs().sum(-1), dtype)


def test_the_same_call_gives_the_same_bits(kernels):
    pattern, rows = uneven(), random(7, 300, dtype=torch.float32)
    values = random(len(pattern.token), dtype=torch.float32, seed=1)
    order, token, starts = pattern.by_feature
    grad = random(9, 300, dtype=torch.float32, seed=2)
    for one in (
        lambda: bags.sums(values, rows, pattern.feature, pattern.starts),
        lambda: bags.sums(values[order], grad, token, starts),
        lambda: bags.dots(grad, rows, pattern.token, pattern.feature),
    ):
        assert torch.equal(one(), one())


@pytest.mark.parametrize("name", ["uneven", "k = 3"])
def test_gradients_are_those_of_finite_differences(kernels, name):
    pattern = PATTERNS[name]
    values = random(len(pattern.token)).requires_grad_()
    rows, x = (random(n, 5, seed=3).requires_grad_() for n in (pattern.n_features, pattern.n_tokens))
    bias = random(pattern.n_features, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, W: sparse_decode(v, W, pattern), (values, rows), fast_mode=True)

    def read(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        scores = (x.detach() @ W.detach().T + b.detach())[pattern.token, pattern.feature]
        return with_gradient(scores, x, W, b, pattern)

    assert torch.autograd.gradcheck(read, (x, rows, bias), fast_mode=True)


@pytest.mark.parametrize("name", ["uneven", "k = 32"])
def test_gradients_are_those_of_dense_products(kernels, name):
    pattern = PATTERNS[name]
    values, rows = random(len(pattern.token)).requires_grad_(), random(pattern.n_features, 33, seed=1).requires_grad_()
    to = random(pattern.n_tokens, 33, seed=2)
    entries = torch.zeros(pattern.n_tokens, pattern.n_features, dtype=torch.float64, device=DEVICE)
    dense = entries.index_put((pattern.token, pattern.feature), values, accumulate=True) @ rows
    wanted = torch.autograd.grad((dense * to).sum(), (values, rows))
    got = torch.autograd.grad((sparse_decode(values, rows, pattern) * to).sum(), (values, rows))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def dictionaries(dtype: torch.dtype) -> dict[str, Dictionary]:
    how: Any = {"dtype": dtype, "seed": 3}
    return {
        "topk": TopK(20, 160, k=3, facts=Facts(normalization="unit_norm"), **how),
        "batch_topk": BatchTopK(20, 160, k=2.5, **how),
        "gated": Gated(20, 160, **how),
        "matryoshka": Matryoshka(20, 160, k=3, prefixes=[10, 50, 160], **how),
        "temporal": Temporal(20, 160, k=3, **how),
        "crosscoder": TopKCrosscoder(20, 160, n_sources=3, k=3, **how),
        "cross_layer": CrossLayerTopK(20, 180, n_layers=3, k=3, **how),
    }


@pytest.mark.parametrize("name", dictionaries(torch.float64))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_step_of_a_dictionary_is_the_same_both_ways(monkeypatch, name, dtype):
    one = dictionaries(dtype)[name].to(DEVICE)
    if name == "gated":  # few gates open, so that entries are summed
        one.b_enc.data -= 2.0
    x = random(24, *((3,) if name.startswith("cross") else ()), 20, dtype=dtype)
    calls = itertools.count()
    results = []
    for by_kernels in (False, True):
        monkeypatch.setattr(bags, "uses_triton", lambda like, yes=by_kernels: yes and next(calls) >= 0)
        one.zero_grad()
        losses = one.losses(x, coefficient=0.1, dead=torch.arange(one.n_features, device=DEVICE) % 5 == 0)
        losses.total.backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in one.parameters()]
        results.append([losses.total.detach(), losses.errors.detach(), *grads])
    assert next(calls) > 3
    tight = 1e-12 if dtype == torch.float64 else 2e-6
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=tight, atol=tight * float(wanted.abs().max()))


def test_a_second_gradient_is_refused(kernels):
    pattern = by_rows(3)
    values = random(len(pattern.token)).requires_grad_()
    written = sparse_decode(values, random(40, 5).requires_grad_(), pattern)
    (first,) = torch.autograd.grad(written.square().sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_kernels_are_what_was_called(kernels, monkeypatch):
    called = []
    own = bags._kernels()
    monkeypatch.setattr(own, "sums", lambda *given: called.append("sums"))
    monkeypatch.setattr(own, "dots", lambda *given: called.append("dots"))
    sparse.bags.sums(*[torch.zeros(1)] * 4)
    sparse.bags.dots(*[torch.zeros(1)] * 4)
    assert called == ["sums", "dots"]
