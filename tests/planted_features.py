"""States made of known features, and how many of them a dictionary finds."""

from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from caseback.decode.dictionaries import Dictionary, Recipe, architecture_of, train_dictionaries

QUICK: dict[str, Any] = {"lr": 1e-2, "k_start": 8}
CHOSEN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("topk", "batch_topk", "abs_topk", "standard", "p_annealing"), {}),
    "gated": {"lr": 1e-2},
    "jump_relu": QUICK,
    "matryoshka": {**QUICK, "options": {"weights": [1.0, 1.0, 1.0, 1.0, 12.0]}},
    "matching_pursuit": QUICK,
}
"""What a recipe has beside its width and k, or target, so that planted features are found."""


class Planted:
    """States x = sum_i a_i f_i: random unit directions, few of them active in each state.

    Parameters
    ----------
    d, n_features, active
        Width, features, and how many of them are active in each state.
    signed
        Whether a feature is as often negative as positive.
    """

    def __init__(
        self,
        d: int = 48,
        n_features: int = 64,
        active: int = 3,
        *,
        signed: bool = False,
        varies: bool = False,
        seed: int = 0,
    ):
        self.draw = torch.Generator().manual_seed(seed)
        rows = torch.randn(n_features, d, generator=self.draw)
        self.rows = rows / rows.norm(dim=1, keepdim=True)
        self.active, self.signed, self.varies = active, signed, varies

    def codes(self, n: int) -> Tensor:
        shape = (n, len(self.rows))
        chance = torch.rand(shape, generator=self.draw)
        if self.varies:
            on = (chance < self.active / len(self.rows)).float()
        else:
            on = torch.zeros(shape).scatter(1, chance.topk(self.active, dim=1).indices, 1.0)
        size = 0.5 + torch.rand(shape, generator=self.draw)
        sign = torch.rand(shape, generator=self.draw).sub(0.5).sign() if self.signed else 1.0
        return on * size * sign

    def states(self, n: int) -> Tensor:
        return self.codes(n) @ self.rows

    def shuffled(self, n: int) -> Tensor:
        """States whose coordinates come from different states: the same histograms, and no features."""
        x = self.states(n)
        return torch.stack([column[torch.randperm(n, generator=self.draw)] for column in x.T], 1)


def trained(
    one: Dictionary,
    states: Callable[[int], Any],
    *,
    steps: int = 1500,
    n: int = 512,
    lr: float = 3e-3,
    dead_after: int = 100,
) -> Dictionary:
    """A dictionary after so many steps of Adam, whose rate falls over the last third.

    ``states`` gives states, or states and their targets.
    """
    optimizer = torch.optim.Adam(one.parameters(), lr=lr)
    silent = torch.zeros(one.n_features)
    for step in range(steps):
        share = step / steps
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, 3 * (1 - share))
        one.at(share)
        given = states(n)
        x, y = given if isinstance(given, tuple) else (given, None)
        losses = one.losses(x, y, dead=silent > dead_after)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        with torch.no_grad():
            one.after_step()
        silent = torch.where(losses.fired > 0, 0.0, silent + 1)
    return one.eval()


def recovered(one: Dictionary, planted: Planted, n: int = 4096) -> float:
    """The mean cosine of planted features and the rows matched to them one to one; a dead row counts 0."""
    with torch.no_grad():
        alive = (one.encode(planted.states(n)) != 0).any(0)
        rows = one.W_dec / one.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)
        cosines = planted.rows @ rows.T * alive
    if planted.signed:
        cosines = cosines.abs()
    at = linear_sum_assignment(cosines.numpy(), maximize=True)
    return float(cosines.numpy()[at].mean())


def recipe_of(kind: str, seed: int, **more: Any) -> Recipe:
    """A recipe of as many features as there are, two active at once."""
    options = more.pop("options", {})
    asked: dict[str, Any] = (
        {"options": {"k": 2, **options}} if "k" in architecture_of(kind).options else {"l0": 2.0, "options": options}
    )
    how = {"resample_every": None, **asked, **more}
    return Recipe(site="resid_post.0", architecture=kind, width=64, seed=seed + 10, **how)


def found(kind: str, seed: int, *, shuffled: bool = False, **more: Any) -> float:
    """How much of the planted features a training finds."""
    planted = Planted(active=2, signed=kind == "abs_topk", seed=seed)
    states = {"resid_post.0": (planted.shuffled if shuffled else planted.states)(200_000)}
    how: Any = {"n_tokens": 1_000_000, "step_tokens": 512, "pool_tokens": 2**15, "seed": seed}
    (one,) = train_dictionaries(None, states, recipe_of(kind, seed, **more), **how)
    return recovered(one.dictionary, planted)
