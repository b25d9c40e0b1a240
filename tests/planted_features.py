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


class Slow(Planted):
    """Texts whose states have features of two kinds, as often active and as large: slow ones, which stay, and fast ones.

    48 random directions in 48 dimensions: one of the first 16 is active all along a text of 32 tokens, but for a change
    at each token with a chance of a sixteenth; two of the other 32 are active at each token, drawn anew.
    """

    slow, fast, length = 16, 32, 32

    def __init__(self, seed: int = 0):
        super().__init__(48, self.slow + self.fast, seed=seed)

    def texts(self, n: int) -> Tensor:
        """States of n texts, (text, token, d)."""
        shape = (n, self.length)
        change = torch.rand(shape, generator=self.draw) < 1 / 16
        change[:, 0] = True
        since = torch.where(change, torch.arange(self.length), 0).cummax(1).values
        topic = torch.randint(self.slow, shape, generator=self.draw).gather(1, since)
        two = torch.rand((*shape, self.fast), generator=self.draw).topk(2).indices + self.slow
        on = torch.zeros(*shape, len(self.rows)).scatter(2, torch.cat([topic[..., None], two], 2), 1.0)
        return (on * (0.5 + torch.rand(on.shape, generator=self.draw))) @ self.rows

    def states(self, n: int) -> Tensor:
        return self.texts(n // self.length).flatten(0, 1)

    def in_any_order(self, n: int) -> Tensor:
        """The same states, with tokens of all texts in a drawn order: nothing stays."""
        texts = self.texts(n)
        return texts.flatten(0, 1)[torch.randperm(n * self.length, generator=self.draw)].view_as(texts)

    def high(self, one: Any) -> tuple[float, float]:
        """The shares of slow and of fast features whose row, matched one to one, is high-level."""
        rows = one.W_dec.detach() / one.W_dec.detach().norm(dim=1, keepdim=True).clamp_min(1e-12)
        planted, row = linear_sum_assignment((self.rows @ rows.T).numpy(), maximize=True)
        high = torch.from_numpy(row < one.prefixes[0]).double()[torch.from_numpy(planted).argsort()]
        return float(high[: self.slow].mean()), float(high[self.slow :].mean())


def trained_on_texts(planted: Slow, seed: int, *, in_any_order: bool = False, **more: Any) -> Dictionary:
    """A temporal dictionary of as many features, after a million tokens of 6,250 texts."""
    options = {"k": 3, "prefixes": [planted.slow, len(planted.rows)], **more.pop("options", {})}
    recipe = Recipe(
        **{"site": "resid_post.0", "architecture": "temporal", "width": len(planted.rows), "options": options},
        **{"seed": seed + 10, "resample_every": None, **QUICK, **more},
    )
    states = (planted.in_any_order if in_any_order else planted.texts)(6_250)
    how: Any = {"n_tokens": 1_000_000, "step_tokens": 512, "pool_tokens": 2**15, "seed": seed}
    return train_dictionaries(None, {"resid_post.0": states}, recipe, **how)[0].dictionary
