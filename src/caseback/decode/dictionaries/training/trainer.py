"""One dictionary in training: its optimizer, its coefficient, and how long each feature has been silent.

    clock_i = 0 where feature i fired in the step, else clock_i + its tokens          dead: clock_i > dead_after

The trainer reads nothing back from the device in a step: rates follow from the tokens seen, the coefficient and the
clock are tensors there. (A dictionary whose active entries vary in number, or some of which are dead, asks how many.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.temporal import Pairs
from caseback.decode.dictionaries.dictionary import Dictionary, Losses
from caseback.decode.dictionaries.training.recipe import Recipe
from caseback.errors import ArgumentError

MANY = 8.0
"""Features that are active at the start, in multiples of the target, where thresholds can be set so."""
AHEAD = 3.0
"""How far the coefficient looks ahead: active features answer late, and it would overshoot."""
RESAMPLES = 20
"""How often dead features start again in a training, unless its recipe says after how many steps."""
DRAWN_FROM = 2**14
"""States of a pool that resampled features are drawn from."""
_SCALARS = ("coefficient", "level", "broken_at")


class Trainer:
    """Trains one dictionary, step by step.

    Parameters
    ----------
    recipe, dictionary
        How, and what ``recipe.start`` gave, on its device.
    tokens
        How many it will see.
    """

    def __init__(self, recipe: Recipe, dictionary: Dictionary, tokens: int):
        self.recipe, self.dictionary, self.tokens = recipe, dictionary, tokens
        if recipe.finish and len(self._encoder()) < 2:
            raise ArgumentError(f"{recipe.architecture} has no encoder of its own: leave out finish")
        device, width = dictionary.W_enc.device, dictionary.n_features
        lr = recipe.lr if recipe.lr is not None else 2e-4 / (width / 2**14) ** 0.5
        self.lr = lr
        self.optimizer = torch.optim.Adam(dictionary.parameters(), lr=lr, betas=recipe.betas, fused=True)
        self.dead_after = recipe.dead_after or min(1_000_000, max(1, tokens // 50))
        self.clock = torch.zeros(width, dtype=torch.int64, device=device)
        start = recipe.coefficient if recipe.coefficient is not None else 0.0
        self.coefficient = torch.tensor(float(start), device=device)
        self.level = torch.tensor(torch.nan, device=device)  # log(L0 / target), smoothed
        self.k: float | None = getattr(dictionary, "k", None)
        self.before, self.seen, self.moved = 0, 0, 0  # tokens before the last step, tokens, steps
        self.broken_at = torch.tensor(-1, device=device)

    def begin(self, x: Tensor, y: Tensor) -> None:
        """Set scales and the center from the first states (token, d), before the first step."""
        own = self.dictionary
        with torch.no_grad():
            if own.facts.normalization == "scale":
                for scale, states, width in ((own.scale, x, own.d_in), (own.out_scale, y, own.d_out)):
                    length = states.norm(dim=-1).mean(0).clamp_min(1e-12)  # of each source
                    scale.copy_((width**0.5 / length).view_as(scale))
                if not own.facts.is_transcoder:
                    own.out_scale.copy_(own.scale)
            inner = y * own.out_scale if own.facts.is_transcoder else own.normalized(x)
            own.b_dec.copy_(inner.mean(0))
            if self.recipe.l0 is not None and isinstance(own, JumpReLU):
                own.start_active(own.scores(x[:4096]), MANY * self.recipe.l0)

    @property
    def dead(self) -> Tensor:
        """A mask of the features that are dead."""
        return self.clock > self.dead_after

    def step(
        self,
        x: Tensor,
        y: Tensor | None = None,
        objective: Callable[[Losses], Tensor] | None = None,
        pairs: Pairs | None = None,
    ) -> Losses:
        """One step on a batch of states, and for transcoders what they are to become.

        Parameters
        ----------
        x, y
            States, and what is to be reconstructed.
        objective
            What is minimized in place of the squared error, where it is another.
        pairs
            Which tokens have one before them, for dictionaries whose loss takes that.
        """
        own, recipe = self.dictionary, self.recipe
        share = self.seen / self.tokens
        finishing = share >= 1 - recipe.finish
        self._set_rate(share)
        self._set_k(share)
        own.at(share)
        rising = min(1.0, share / recipe.warmup) if recipe.warmup else 1.0
        coefficient = self.coefficient * (0.0 if finishing else rising)
        y = y if own.facts.is_transcoder else None
        more = {} if pairs is None else {"pairs": pairs}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.products == "bfloat16"):
            losses = own.losses(x, y, coefficient=coefficient, dead=self.dead, **more)
        main = losses.error
        if objective is not None:
            main = objective(losses)
            losses = losses._replace(total=losses.total - losses.error + main)
        self.optimizer.zero_grad()
        losses.total.backward(inputs=list(own.parameters()))
        with torch.no_grad():
            if finishing:
                for parameter in self._encoder().values():
                    parameter.grad = None
            if own.facts.unit_rows and own.W_dec.grad is not None:  # what would only change a row's norm
                rows, grad = own.W_dec, own.W_dec.grad
                grad.addcmul_((grad * rows).sum(1, keepdim=True), rows, value=-1)
            parameters = [p for p in own.parameters() if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            self.optimizer.step()
            own.after_step()
            self._count(losses, len(x))
            self._follow(losses, main, share, started=rising >= 1)
            bad = ~losses.total.isfinite() & (self.broken_at < 0)
            self.broken_at = torch.where(bad, self.moved, self.broken_at)
        self.moved += 1
        self.before, self.seen = self.seen, self.seen + len(x)
        return losses

    def _encoder(self) -> dict[str, nn.Parameter]:
        """What features read by, where that is not what they write, and what says which of them do."""
        return {
            name: p
            for name, p in self.dictionary.named_parameters()
            if name in ("W_enc", "b_enc", "W_router", "b_router")
        }

    def _set_rate(self, share: float) -> None:
        warm, decay = self.recipe.warmup, self.recipe.decay
        rise = min(1.0, (share + 1e-3) / (warm + 1e-3))
        fall = min(1.0, (1 - share) / decay) if decay else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * rise * max(0.0, fall)

    def _set_k(self, share: float) -> None:
        if self.recipe.k_start is not None and self.k is not None:
            own: Any = self.dictionary
            k = self._falling(self.k, share)
            own.k = k if isinstance(self.k, float) else round(k)

    def _falling(self, active: float, share: float) -> float:
        """How many are to be active: from ``k_start`` on it falls by equal factors over half the training."""
        start = self.recipe.k_start
        return active if start is None else active * (start / active) ** max(0.0, 1 - 2 * share)

    def _count(self, losses: Losses, tokens: int) -> None:
        self.clock += tokens
        self.clock.masked_fill_(losses.fired > 0, 0)

    def _follow(self, losses: Losses, main: Tensor, share: float, *, started: bool) -> None:
        """Move the coefficient toward the target of active features."""
        if self.recipe.l0 is None:
            return
        if self.moved == 0:  # a tenth of the error to begin with
            self.coefficient.copy_(0.1 * main / losses.penalty.clamp_min(1e-12))
        elif started:
            level = (losses.l0.clamp_min(1e-3) / self._falling(self.recipe.l0, share)).log()
            trend = torch.where(self.level.isnan(), 0, level - self.level)  # since about a hundred steps ago
            self.level.copy_(torch.where(self.level.isnan(), level, self.level + 0.01 * (level - self.level)))
            self.coefficient.mul_((self.recipe.gain * (level + AHEAD * trend).clamp(-1, 1)).exp())

    @property
    def resamples(self) -> bool:
        """Whether dead features are to start again now: every so many steps, until the rate falls."""
        if self.seen >= self.tokens * (1 - self.recipe.decay) or not isinstance(self.recipe.site, str):
            return False
        if self.recipe.resample_every is None:
            return self.seen * RESAMPLES // self.tokens > self.before * RESAMPLES // self.tokens
        return self.recipe.resample_every > 0 and self.moved % self.recipe.resample_every == 0

    def resample(self, x: Tensor, y: Tensor | None, seed: int) -> int:
        """Start dead features again at states that are badly reconstructed; how many.

        A state is drawn with a probability proportional to its squared error's square. The feature's row becomes what
        is left of it, at norm 1, and reads it with ``reborn`` times the mean norm of the others; its bias and what Adam
        knows of it are 0, and what else it has (a threshold, a magnitude) is the others' mean.
        """
        own = self.dictionary
        with torch.no_grad():
            dead = self.dead
            some = dead.nonzero()[:, 0]
            if not len(some):
                return 0
            x, y = x[:DRAWN_FROM], (x if y is None else y)[:DRAWN_FROM]
            errors = y - torch.cat([own(part) for part in x.split(1024)])
            draw = torch.Generator().manual_seed(seed)
            weights = errors.square().sum(-1).cpu().double().square().nan_to_num(0, 0, 0)
            if not bool(weights.sum() > 0):
                return 0
            rows = torch.multinomial(weights, len(some), replacement=True, generator=draw).to(x.device)
            left = errors[rows].to(own.W_dec.dtype)
            left = left / left.norm(dim=1, keepdim=True).clamp_min(1e-12)
            reads = left
            if own.facts.is_transcoder:
                reads = own.normalized(x[rows])
                reads = reads / reads.norm(dim=1, keepdim=True).clamp_min(1e-12)
            size = own.W_enc[~dead].norm(dim=1).mean() if len(some) < len(dead) else own.W_enc.new_ones(())
            fresh = {"W_dec": left, "W_enc": reads * (size * own.reborn), "b_enc": 0.0}
            for name, parameter in own.named_parameters():
                if name in own.of_all:
                    continue
                if name in fresh or len(some) < len(dead):
                    parameter[some] = fresh[name] if name in fresh else parameter[~dead].mean(0)
                for moment in ("exp_avg", "exp_avg_sq"):
                    self.optimizer.state[parameter][moment][some] = 0
            self.clock[some] = 0
            return len(some)

    def tensors(self) -> dict[str, Tensor]:
        """All that a continuation needs."""
        own = {f"weight.{name}": value for name, value in self.dictionary.state_dict().items()}
        for name, parameter in self.dictionary.named_parameters():
            own |= {f"adam.{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        return own | {"clock": self.clock, **{name: getattr(self, name) for name in _SCALARS}}

    def restore(self, tensors: Mapping[str, Tensor], moved: int, seen: int) -> None:
        """Go on from what ``tensors`` gave after so many steps and tokens."""
        weights = {name[7:]: value for name, value in tensors.items() if name.startswith("weight.")}
        self.dictionary.load_state_dict(weights)
        state = {}
        for i, (name, _) in enumerate(self.dictionary.named_parameters()):
            held = {key: tensors.get(f"adam.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
            state[i] = {key: value for key, value in held.items() if value is not None}
        known = {i: held for i, held in state.items() if held}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": known})
        device = self.clock.device
        self.clock = tensors["clock"].to(device)
        for name in _SCALARS:
            setattr(self, name, tensors[name].to(device))
        self.moved, self.seen = moved, seen
