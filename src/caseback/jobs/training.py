"""A training loop for few parameters: Adam, a linear warm-up and decay, early stopping, and a file to go on from.

    lr(t) = lr min(t / warm, (T - t) / (T - warm)),   T steps in all, warm of them warming up

Which examples a step sees follows from the seed and the epoch alone, so an interrupted training that goes on gives
the same numbers as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.progress import progress_bar


@dataclass
class Curve:
    """How a training went.

    Attributes
    ----------
    loss
        The mean over each epoch.
    judged
        What ``judge`` returned after each epoch; empty where there is no judge.
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
        Passes over the examples, and examples per step.
    accumulate
        Steps whose gradients are added before the parameters move.
    warmup
        The share of the moves in which the learning rate rises; it falls to 0 in the rest.
    patience
        Epochs without a better judgement after which training ends; the best epoch's parameters are kept. None: train
        to the end and keep the last.
    seed
        Same seed, same result. It draws the order of the examples.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done, after every epoch; the same training with it goes on after an interruption.
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
    job: Mapping[str, Any] | None = None,
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
    job
        What a checkpoint depends on, besides the plan: the model, the examples, where.
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
    optimizer = torch.optim.Adam([{"params": list(group), "lr": lr} for group, lr in groups])
    batches = math.ceil(count / plan.batch_size)
    moves_per_epoch = math.ceil(batches / plan.accumulate)
    moves = plan.epochs * moves_per_epoch
    warm = round(plan.warmup * moves)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: (t + 1) / (warm + 1) if t < warm else (moves - t) / max(1, moves - warm)
    )
    options = [count, [(len(g), lr) for g, lr in groups], _options(plan), judge is not None]
    file = Checkpoint(
        plan.checkpoint,
        {**(job or {}), "training": options},
        what="checkpoint of a training",
        other="belongs to another training (other examples, place, options or model)",
    )
    curve, best = _restored(file, parameters, optimizer)
    for _ in range(len(curve.loss) * moves_per_epoch):
        scheduler.step()
    moved = bool(curve.loss)
    with progress_bar(
        total=plan.epochs * batches, show=plan.progress, what=what, initial=len(curve.loss) * batches
    ) as bar:
        for epoch in range(len(curve.loss), plan.epochs):
            if _stale(curve, plan.patience):
                break
            order = torch.randperm(
                count, generator=torch.Generator().manual_seed((plan.seed * 100_003 + epoch) % 2**63)
            )
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
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                bar.update()
            if not moved and stuck is not None:
                raise stuck
            curve.loss.append(total / count)
            if judge is not None:
                curve.judged.append(judge())
                bar.set_postfix(loss=f"{curve.loss[-1]:.3g}", held_out=f"{curve.judged[-1]:.3g}")
                if plan.patience is not None and curve.best == epoch:
                    best = [p.detach().clone() for p in parameters]
            file.write(_state(parameters, best, optimizer), loss=curve.loss, judged=curve.judged)
    if best:
        with torch.no_grad():
            for parameter, value in zip(parameters, best, strict=True):
                parameter.copy_(value)
    return curve


def _stale(curve: Curve, patience: int | None) -> bool:
    return patience is not None and bool(curve.judged) and len(curve.judged) - 1 - curve.best >= patience


def _options(plan: Plan) -> tuple[Any, ...]:
    return plan.epochs, plan.batch_size, plan.accumulate, plan.warmup, plan.patience, plan.seed


def _state(parameters: list[Tensor], best: list[Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters as they are, the best epoch's, and what Adam knows of each."""
    state = {f"best.{i}": parameter for i, parameter in enumerate(best)}
    for i, parameter in enumerate(parameters):
        state[f"parameter.{i}"] = parameter
        state |= {f"{name}.{i}": value for name, value in optimizer.state[parameter].items()}
    return state


def _restored(
    file: Checkpoint, parameters: list[Tensor], optimizer: torch.optim.Optimizer
) -> tuple[Curve, list[Tensor]]:
    """Put back what a file holds; how the training went so far, and the best epoch's parameters."""
    if (saved := file.read()) is None:
        return Curve(), []
    tensors, state = saved.tensors, {}
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"parameter.{i}"])
            state[i] = {name: tensors[f"{name}.{i}"] for name in ("step", "exp_avg", "exp_avg_sq")}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    best = [tensors[f"best.{i}"].to(p) for i, p in enumerate(parameters)] if "best.0" in tensors else []
    return Curve(saved.state["loss"], saved.state["judged"]), best
