"""Logistic regression of many sites at once, to the optimum: what one site costs is a few products with its data.

    min  mean_i -log p(y_i | x_i)  +  l2 / 2 |W|^2,      p = softmax(x W + b),   x standardized, b not penalized

Two classes have one column of logits, (0, z), and |W| is its length. scikit-learn's ``C`` is 1 / (n l2).

L-BFGS from a good start: the Hessian is at most h X^T X / n + l2 with h = 1/4 for two classes and 1/2 for more
(Boehning 1992), whose Cholesky factor is the first guess of the inverse. Two classes that are told apart well have a
far smaller one, X^T diag(p (1 - p)) X / n + l2: sites that have not arrived after 10, 20, 40 … steps go on from that.
The step along a direction is found by Newton in one dimension on logits alone, since they are linear in the step. Sites
whose data fit into a CPU's caches walk together, each with steps of its own; standardizing is folded into the products,
so that the data are never copied.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from caseback.decode.probes.standard import Standard, loaded
from caseback.jobs.budget import limit

FIRST_REFRESH = 10  # steps; a Hessian costs as much as ten of them


def fit_logistic(
    standard: Standard,
    y: Int[Tensor, " example"],
    n_classes: int,
    *,
    l2: float | Float[Tensor, " site"],
    start: tuple[Tensor, Tensor] | None = None,
    steps: int = 200,
    tolerance: float | None = None,
    pairs: int = 10,
) -> tuple[Float[Tensor, "site d k"], Float[Tensor, "site k"]]:
    """Weights and intercepts at each site, of standardized features.

    Parameters
    ----------
    standard
        Features.
    y
        Classes from 0 on.
    n_classes
        How many.
    l2
        The penalty on the mean loss, one or of each site.
    start
        Weights and intercepts to begin with, those of another penalty, say.
    steps
        At most so many.
    tolerance
        The largest entry of the gradient at which a site stops; by default 1e-9 in float64 and 1e-5 in float32.
    pairs
        How many steps, with what they changed of the gradient, L-BFGS goes by.
    """
    x = standard.centered
    l2 = torch.as_tensor(l2, dtype=x.dtype, device=x.device).expand(len(x))
    if tolerance is None:
        tolerance = 1e-9 if x.dtype == torch.float64 else 1e-5
    together = max(1, limit("walking_numbers", x.device) // max(1, x[0].numel()))
    walked = []
    for first in range(0, len(x), together):
        some = slice(first, first + together)
        begin = None if start is None else (start[0][some], start[1][some])
        walked.append(_walk(standard.at(some), y, n_classes, l2[some], begin, steps, tolerance, pairs))
    return torch.cat([w for w, _ in walked]), torch.cat([b for _, b in walked])


def _walk(
    standard: Standard,
    y: Tensor,
    n_classes: int,
    l2: Tensor,
    start: tuple[Tensor, Tensor] | None,
    steps: int,
    tolerance: float,
    pairs: int,
) -> tuple[Tensor, Tensor]:
    x = standard.centered
    n, d = x.shape[1:]
    binary = n_classes == 2
    k = 1 if binary else n_classes
    bound = 0.25 if binary else 0.5
    target = (y[:, None] if binary else one_hot(y, n_classes)).to(x.dtype)
    # a guess of the Hessian, which also has to be invertible where features hang together and nothing is penalized
    least = l2.clamp_min(100 * torch.finfo(x.dtype).eps)
    factor, refresh = torch.linalg.cholesky(loaded(bound * standard.gram, least)), FIRST_REFRESH
    if start is None:
        share = torch.bincount(y, minlength=n_classes).to(x.dtype).clamp_min(0.5) / n
        b = (share[1:] / share[:1]).log() if binary else share.log() - share.log().mean()
        w, b = x.new_zeros(len(x), d, k), b.expand(len(x), k).clone()
    else:
        w, b = start[0].clone(), start[1].clone()
    z = standard.times(w) + b[:, None]

    def gradient(w: Tensor, z: Tensor) -> Tensor:
        rest = (_probability(z) - target) / n
        return torch.cat([standard.transposed(rest) + l2[:, None, None] * w, rest.sum(1, keepdim=True)], 1)

    def preconditioned(g: Tensor) -> Tensor:
        return torch.cat([torch.cholesky_solve(g[:, :-1], factor), g[:, -1:] / bound], 1)

    g = gradient(w, z)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    for taken in range(steps):
        going = g.abs().amax((1, 2)) > tolerance
        if not bool(going.any()):
            break
        if binary and taken == refresh:
            refresh *= 2
            factor, history = torch.linalg.cholesky(loaded(standard.weighted_gram(_variance(z)), least)), []
        step = -_two_loops(g, history, preconditioned)
        step = torch.where(_inner(step, g)[:, None, None] < 0, step, -preconditioned(g)) * going[:, None, None]
        change = standard.times(step[:, :-1]) + step[:, -1:]
        t = _along(z, change, target, w, step[:, :-1], l2)[:, None, None]
        step = t * step
        z = z + t * change
        w, b = w + step[:, :-1], b + step[:, -1]
        new = gradient(w, z)
        difference = new - g
        curvature = _inner(step, difference)
        history = [*history[1 - pairs :], (step, difference, torch.where(curvature > 0, 1 / curvature, 0))]
        g = new
    return w, b


def _probability(z: Tensor) -> Tensor:
    return z.sigmoid() if z.shape[-1] == 1 else z.softmax(-1)


def _variance(z: Tensor) -> Tensor:
    """Of p, p (1 - p), not so small that rounding decides where no example is in doubt."""
    p = z.sigmoid()
    return (p * (1 - p)).clamp_min(torch.finfo(z.dtype).eps ** 0.5)


def _inner(one: Tensor, other: Tensor) -> Float[Tensor, " site"]:
    return (one * other).sum((1, 2))


def _two_loops(g: Tensor, history: list[tuple[Tensor, Tensor, Tensor]], first: Callable[[Tensor], Tensor]) -> Tensor:
    """The inverse Hessian times a gradient, by L-BFGS's two loops around a first guess (Nocedal & Wright, 7.4)."""
    q, along = g, []
    for step, difference, rho in reversed(history):
        a = rho * _inner(step, q)
        along.append(a)
        q = q - a[:, None, None] * difference
    r = first(q)
    for (step, difference, rho), a in zip(history, reversed(along), strict=True):
        r = r + (a - rho * _inner(difference, r))[:, None, None] * step
    return r


def _along(z: Tensor, change: Tensor, target: Tensor, w: Tensor, step: Tensor, l2: Tensor) -> Float[Tensor, " site"]:
    """How far to go along a direction: Newton's method on the loss as a function of t, kept where it falls."""
    n = z.shape[1]
    t = z.new_ones(len(z))
    squared, linear = _inner(step, step), _inner(w, step)
    low, high = z.new_zeros(len(z)), z.new_full((len(z),), torch.inf)
    for _ in range(4):
        p = _probability(z + t[:, None, None] * change)
        slope = ((p - target) * change).sum((1, 2)) / n + l2 * (linear + t * squared)
        if z.shape[-1] == 1:
            second = (p * (1 - p) * change**2).sum((1, 2)) / n + l2 * squared
        else:
            mean = (p * change).sum(-1, keepdim=True)
            second = (p * (change - mean) ** 2).sum((1, 2)) / n + l2 * squared
        # the loss is convex along t, so that the sign of its slope says on which side the best t lies
        low = torch.where(slope < 0, torch.maximum(low, t), low)
        high = torch.where(slope > 0, torch.minimum(high, t), high)
        new = t - slope / second.clamp_min(torch.finfo(z.dtype).tiny)
        inside = (new > low) & (new < high)
        t = torch.where(inside, new, torch.where(high.isfinite(), (low + high) / 2, 2 * low.clamp_min(0.5)))
    return t
