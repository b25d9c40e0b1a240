"""Code lengths of labels given representations, all sites at once: what it takes to send the labels, model included.

Both sides know x and not y. All codes are of logistic regression on standardized features, with weights from
N(0, 1 / precision). Each class has one example more, at the mean of the features: the rule of succession, which keeps
a class that has not been seen from costing an infinity. As a prior of intercepts it is (K - 1)! prod_k softmax(b)_k,
whose integral is 1.

    online       t_1 log2 K - sum_i log2 p(y_{t_i + 1 .. t_{i+1}} | x; fitted to the first t_i)
    laplace      -log2 p(y, w, b) + 1/2 log2 det H - (dim / 2) log2 2 pi          at the most probable w, b
    variational  E_q[-log2 p(y | w, b)] + KL(q | prior) / ln 2                    q: independent Gaussians

Laplace's det H is taken over one block for each column of weights, of which two classes have one, and one for
intercepts, of which the product bounds it from above (Fischer). Several precisions are tried; naming the best costs
log2 of their number.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.probes.logistic import fit_logistic
from caseback.decode.probes.penalties import scores_of_classes
from caseback.decode.probes.standard import Standard

PRECISIONS = (1e4, 1e3, 1e2, 1e1, 1.0)
"""What is tried, the strongest first: weights' squared size is 1 / precision, of standardized features."""
_STEPS, _RATE, _DRAWS = 200, 0.02, 32  # of the variational code


def online_bits(
    x: Float[Tensor, "site example d"], y: Int[Tensor, " example"], n_classes: int, cuts: list[int]
) -> Float[Tensor, "precision site"]:
    """The online code's length for examples in the order in which they stand.

    Parameters
    ----------
    x, y
        Representations and classes.
    n_classes
        How many both sides know of.
    cuts
        t_1 < t_2 < ... < the number of examples.
    """
    bits = torch.full((len(PRECISIONS), len(x)), cuts[0] * math.log2(n_classes), dtype=torch.float64, device=x.device)
    for seen, end in pairwise(cuts):
        standard, labels = _with_prior(x[:, :seen], y[:seen], n_classes)
        start = None
        for i, precision in enumerate(PRECISIONS):
            start = fit_logistic(standard, labels, n_classes, l2=precision / len(labels), start=start)
            w, b = standard.folded(*start)
            log_p = scores_of_classes(x[:, seen:end] @ w + b[:, None]).log_softmax(-1)
            bits[i] += _surprise(log_p, y[seen:end]) / math.log(2)
    return bits


def laplace_bits(
    x: Float[Tensor, "site example d"], y: Int[Tensor, " example"], n_classes: int
) -> Float[Tensor, "precision site"]:
    """The length by Laplace's approximation of the evidence: one fit at each precision."""
    standard, labels = _with_prior(x, y, n_classes)
    lengths, start = [], None
    for precision in PRECISIONS:
        start = fit_logistic(standard, labels, n_classes, l2=precision / len(labels), start=start)
        lengths.append(_laplace_nats(standard, labels, n_classes, precision, *start))
    return torch.stack(lengths) / math.log(2)


def variational_bits(
    x: Float[Tensor, "site example d"], y: Int[Tensor, " example"], n_classes: int, seed: int
) -> Float[Tensor, "precision site"]:
    """The length of the code of Gaussian weights, each independent; noise falls on logits, not on weights.

    The precision is the one that Laplace's code likes best. Intercepts are sent with a standard normal prior.
    """
    standard, labels = _with_prior(x, y, n_classes)
    lengths, starts = [], []
    for precision in PRECISIONS:
        start = starts[-1] if starts else None
        starts.append(fit_logistic(standard, labels, n_classes, l2=precision / len(labels), start=start))
        lengths.append(_laplace_nats(standard, labels, n_classes, precision, *starts[-1]))
    best = torch.stack(lengths).argmin(0)
    site = torch.arange(len(x), device=x.device)
    w, b = (torch.stack(part)[best, site] for part in zip(*starts, strict=True))
    nats = _variational_nats(x, y, standard, w, b, torch.tensor(PRECISIONS, dtype=x.dtype).to(x.device)[best], seed)
    bits = torch.full((len(PRECISIONS), len(x)), torch.inf, dtype=torch.float64, device=x.device)
    bits[best, site] = nats / math.log(2)
    return bits


def _with_prior(x: Tensor, y: Tensor, n_classes: int) -> tuple[Standard, Int[Tensor, " example"]]:
    """Features and labels with one example more of each class, at the mean."""
    mean = x.mean(1, keepdim=True).expand(-1, n_classes, -1)
    return Standard.of(torch.cat([x, mean], 1), in_place=True), torch.cat([y, torch.arange(n_classes, device=y.device)])


def _surprise(log_p: Float[Tensor, "site example class"], y: Int[Tensor, " example"]) -> Float[Tensor, " site"]:
    """The sum of -log p of the labels."""
    return -log_p.gather(-1, y.expand(len(log_p), -1)[..., None]).double().sum((1, 2))


def _laplace_nats(
    standard: Standard, labels: Tensor, n_classes: int, precision: float, w: Tensor, b: Tensor
) -> Float[Tensor, " site"]:
    log_p = scores_of_classes(standard.times(w) + b[:, None]).log_softmax(-1)
    p = log_p.exp()
    nats = _surprise(log_p, labels) + precision / 2 * w.double().square().sum((1, 2))
    of_intercepts = torch.diag_embed(p.sum(1)) - p.mT @ p
    nats = nats + of_intercepts[:, 1:, 1:].double().logdet() / 2
    nats = nats - (n_classes - 1) / 2 * math.log(2 * math.pi) - math.lgamma(n_classes)
    for c in range(n_classes - w.shape[-1], n_classes):  # a block for each column of weights
        curvature = len(labels) * standard.weighted_gram((p[..., c] * (1 - p[..., c]))[..., None])
        # divided by the precision, so that it is close to the identity where data say little
        identity = torch.eye(curvature.shape[-1], dtype=torch.float64, device=p.device)
        nats = nats + (curvature.double() / precision + identity).logdet() / 2
    return nats


def _variational_nats(
    x: Tensor, y: Tensor, standard: Standard, w: Tensor, b: Tensor, precision: Float[Tensor, " site"], seed: int
) -> Float[Tensor, " site"]:
    n = x.shape[1]
    data = (standard.centered[:, :n]) / standard.scale[:, None]
    squared = data.square()
    p = scores_of_classes(data @ w + b[:, None]).softmax(-1)[..., -w.shape[-1] :]
    curvature = p * (1 - p)
    precision = precision[:, None, None]
    means = [w.clone(), b.clone()[:, None]]
    log_scales = [
        -(squared.mT @ curvature + precision).log() / 2,
        -(curvature.sum(1, keepdim=True) + 1).log() / 2,
    ]
    parameters = [values.requires_grad_() for values in means + log_scales]
    draw = torch.Generator().manual_seed(seed)

    def nats() -> tuple[Tensor, Tensor]:
        """Of the labels in one draw of the logits, and of the weights."""
        mean, intercept, log_scale, log_spread = parameters
        center = data @ mean + intercept
        spread = (squared @ (2 * log_scale).exp() + (2 * log_spread).exp()).sqrt()
        noise = torch.randn(center.shape[1:], generator=draw, dtype=torch.float64).to(center)  # the same at all sites
        log_p = scores_of_classes(center + spread * noise).log_softmax(-1)
        divergence = _divergence(mean, log_scale, precision) + _divergence(
            intercept, log_spread, torch.ones_like(b[:, :1, None])
        )
        return _surprise(log_p, y), divergence

    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    with torch.enable_grad():
        for _ in range(_STEPS):
            optimizer.zero_grad()
            surprise, divergence = nats()
            (surprise + divergence).sum().backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        draws = [nats() for _ in range(_DRAWS)]
    return torch.stack([surprise for surprise, _ in draws]).mean(0) + draws[0][1]


def _divergence(mean: Tensor, log_scale: Tensor, precision: Tensor) -> Float[Tensor, " site"]:
    """KL of independent Gaussians from N(0, 1 / precision)."""
    ratio = (2 * log_scale).exp() * precision
    return (ratio + precision * mean.square() - 1 - ratio.log()).double().sum((1, 2)) / 2
