"""A training loop for few parameters: Adam, a linear warm-up and decay, early stopping, and a file to go on from.

    lr(t) = lr min(t / warm, (T - t) / (T - warm)),   T steps in all, warm of them warming up

Which examples a step sees follows from the seed and the epoch alone, so an interrupted training that goes on gives
the same numbers as one that was not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from caseback.errors import CasebackError, LoadError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.jobs.whole_file import whole_file


@dataclass
class Curve:
    """How a training went.

    Attributes
    ----------
    loss
        The mean over each epoch.
    judged
        What ``judge`` said after each epoch; empty where there is none.
    """

    loss: list[float] = field(default_factory=list)
    judged: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The first epoch with the highest judgement, counted from 0."""
        return max(range(len(self.judged)), key=lambda i: (self.judged[i], -i))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train.

    Attributes
    ----------
    epochs, batch_size
        Passes over the examples, and examples a step.
    accumulate
        Steps whose gradients are added before the parameters move.
    warmup
        The share of the moves in which the learning rate rises; it falls to 0 in the rest.
    patience
        Epochs without a better judgement after which training ends; the best epoch's parameters are kept. None: train
        to the end and keep the last.
    seed
        For the order of the examples.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps the state after every epoch.
    """

    epochs: int
    batch_size: int
    accumulate: int = 1
    warmup: float = 0.1
    patience: int | None = None
    seed: int = 0
    progress: bool = False
    checkpoint: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise OutOfRange(f"{name} is {getattr(self, name)}: expected at least 1")
        if not 0 <= self.warmup < 1:
            raise OutOfRange(f"warmup is {self.warmup}: expected a share of the steps, from 0 to less than 1")
        if self.patience is not None and self.patience < 1:
            raise OutOfRange(f"patience is {self.patience}: expected at least 1 epoch, or None")


def fit(
    groups: Sequence[tuple[Sequence[Tensor], float]],
    loss: Callable[[Tensor, float], Tensor],
    count: int,
    plan: Plan,
    *,
    judge: Callable[[], float] | None = None,
    mark: Iterable[Any] = (),
    what: str = "training",
    stuck: CasebackError | None = None,
) -> Curve:
    """Train parameters in place.

    Parameters
    ----------
    groups
        Parameters and their learning rate.
    loss
        From the examples of a step, and the share of the training that is done, to the mean loss.
    count
        How many examples there are.
    plan
        How.
    judge
        A number after each epoch, more being better.
    mark
        What a checkpoint must agree with.
    what
        For the progress bar.
    stuck
        Raised where every gradient of the first epoch is zero.

    Raises
    ------
    CasebackError
        For a loss that is not finite, or patience without a judge.
    LoadError
        For a checkpoint of another training.
    """
    if plan.patience is not None and judge is None:
        raise CasebackError("patience needs examples that are held out: give held_out=, or patience=None")
    parameters = [p for group, _ in groups for p in group]
    optimiser = torch.optim.Adam([{"params": list(group), "lr": lr} for group, lr in groups])
    batches = math.ceil(count / plan.batch_size)
    moves_an_epoch = math.ceil(batches / plan.accumulate)
    moves = plan.epochs * moves_an_epoch
    warm = round(plan.warmup * moves)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: (t + 1) / (warm + 1) if t < warm else (moves - t) / max(1, moves - warm)
    )
    kept = _Kept(plan.checkpoint, [*mark, count, [(len(g), lr) for g, lr in groups], *_said(plan)])
    curve, best = kept.read(parameters, optimiser)
    for _ in range(len(curve.loss) * moves_an_epoch):
        scheduler.step()
    moved = bool(curve.loss)
    with progress_bar(
        total=plan.epochs * batches, show=plan.progress, what=what, initial=len(curve.loss) * batches
    ) as bar:
        for epoch in range(len(curve.loss), plan.epochs):
            if _stale(curve, plan.patience):
                break
            order = torch.randperm(count, generator=torch.Generator().manual_seed(plan.seed * 100_003 + epoch))
            total = 0.0
            for i, rows in enumerate(order.split(plan.batch_size)):
                value = loss(rows, (epoch * batches + i) / (plan.epochs * batches))
                if not bool(value.isfinite()):
                    raise CasebackError(f"the loss became {float(value)} in epoch {epoch}: lower the learning rate")
                in_move = min(plan.accumulate, batches - i // plan.accumulate * plan.accumulate)
                (value / in_move).backward()
                moved = moved or stuck is None or any(p.grad is not None and bool(p.grad.any()) for p in parameters)
                total += float(value.detach()) * len(rows)
                if (i + 1) % plan.accumulate == 0 or i + 1 == batches:
                    optimiser.step()
                    scheduler.step()
                    optimiser.zero_grad()
                bar.update()
            if not moved and stuck is not None:
                raise stuck
            curve.loss.append(total / count)
            if judge is not None:
                curve.judged.append(judge())
                bar.set_postfix(loss=f"{curve.loss[-1]:.3g}", held_out=f"{curve.judged[-1]:.3g}")
                if plan.patience is not None and curve.best == epoch:
                    best = [p.detach().clone() for p in parameters]
            kept.write(parameters, best, optimiser, curve)
    if best:
        with torch.no_grad():
            for parameter, value in zip(parameters, best, strict=True):
                parameter.copy_(value)
    return curve


def _stale(curve: Curve, patience: int | None) -> bool:
    return patience is not None and bool(curve.judged) and len(curve.judged) - 1 - curve.best >= patience


def _said(plan: Plan) -> tuple[Any, ...]:
    return plan.epochs, plan.batch_size, plan.accumulate, plan.warmup, plan.patience, plan.seed


def fingerprint(values: Iterable[Any]) -> str:
    """A digest of numbers, texts and tensors."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().double().contiguous().numpy().tobytes())
        else:
            digest.update(f"{value!r}|".encode())
    return digest.hexdigest()


class _Kept:
    """The state of a training in a file, or nowhere."""

    def __init__(self, path: str | Path | None, mark: list[Any]):
        self.path = None if path is None else Path(path)
        self.mark = "" if path is None else fingerprint(mark)

    def read(self, parameters: list[Tensor], optimiser: torch.optim.Optimizer) -> tuple[Curve, list[Tensor]]:
        if self.path is None or not self.path.exists():
            return Curve(), []
        try:
            with safe_open(self.path, "pt") as file:
                told = (file.metadata() or {}).get("mark")
            kept = load_file(self.path)
        except (SafetensorError, OSError) as error:
            raise LoadError(f"{str(self.path)!r} is no checkpoint of a training: {error}") from error
        if told != self.mark:
            raise LoadError(
                f"{str(self.path)!r} belongs to another training (other examples, place, options or model): remove it, "
                "or give another file"
            )
        state: dict[int, Any] = {}
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                parameter.copy_(kept[f"parameter.{i}"])
                state[i] = {name: kept[f"{name}.{i}"] for name in ("step", "exp_avg", "exp_avg_sq")}
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        best = [kept[f"best.{i}"].to(p) for i, p in enumerate(parameters)] if "best.0" in kept else []
        return Curve(kept["loss"].tolist(), kept["judged"].tolist()), best

    def write(
        self, parameters: list[Tensor], best: list[Tensor], optimiser: torch.optim.Optimizer, curve: Curve
    ) -> None:
        if self.path is None:
            return
        made = {f"best.{i}": p for i, p in enumerate(best)}
        for i, parameter in enumerate(parameters):
            made[f"parameter.{i}"] = parameter.detach()
            made |= {f"{name}.{i}": value for name, value in optimiser.state[parameter].items()}
        made["loss"] = torch.tensor(curve.loss, dtype=torch.float64)
        made["judged"] = torch.tensor(curve.judged, dtype=torch.float64)
        with whole_file(self.path) as draft:
            save_file({name: value.contiguous() for name, value in made.items()}, draft, {"mark": self.mark})
