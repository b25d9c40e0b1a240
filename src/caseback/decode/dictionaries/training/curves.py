"""How trainings go: a curve of points, a loss that must be finite, and a checkpoint to go on from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary, Losses
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.errors import CasebackError
from caseback.jobs.checkpoint import Checkpoint, Saved
from caseback.model.arguments import checked
from caseback.model.results import labelled

COLUMNS = ("tokens", "error", "explained", "l0", "dead", "penalty", "coefficient", "auxiliary")


@checked
@dataclass(frozen=True, eq=False)
class Trained:
    """A dictionary and how its training went.

    Attributes
    ----------
    name
        Of its recipe.
    dictionary
        What was trained.
    curve
        (step, measure): at some steps, of their batch, the tokens seen, the squared error and the share of variance
        explained of normalized states, active features a token, the share of dead features, penalty, coefficient and
        auxiliary loss.
    """

    name: str
    dictionary: Dictionary
    curve: xr.DataArray

    def __repr__(self) -> str:
        last = dict(zip(self.curve.measure.values, self.curve.values[-1].tolist(), strict=True))
        return (
            f"Trained({self.name}: {self.dictionary!r}, explained {last['explained']:.3f}, "
            f"L0 {last['l0']:.1f}, dead {last['dead']:.1%})"
        )


def point_of(trainer: Trainer, losses: Losses, target: Tensor) -> list[float]:
    """A point of the curve: ``COLUMNS`` of a step's batch."""
    own = trainer.dictionary
    with torch.no_grad():
        wanted = target * own.out_scale if own.facts.is_transcoder else own.normalized(target)
        spread = (wanted - wanted.mean(0)).flatten(1).square().sum(-1).mean()
        explained = 1 - losses.error / spread
        dead = trainer.dead.float().mean()
        numbers = [losses.error, explained, losses.l0, dead, losses.penalty, trainer.coefficient, losses.auxiliary]
    return [float(trainer.seen), *torch.stack([x.detach().float() for x in numbers]).tolist()]


def curve_of(points: Sequence[Sequence[float]], columns: Sequence[str] = COLUMNS) -> xr.DataArray:
    """Points as a table."""
    values = torch.tensor(points, dtype=torch.float64)
    return labelled(values, ("step", "measure"), {"measure": list(columns)}, name="training")


def expect_finite(trainers: Mapping[str, Trainer], file: Checkpoint) -> None:
    """Stop where a loss is not finite.

    Raises
    ------
    CasebackError
        With the step at which it began.
    """
    broken = torch.stack([trainer.broken_at for trainer in trainers.values()]).tolist()
    for name, at in zip(trainers, broken, strict=True):
        if at >= 0:
            why = f"{name}: the loss is not finite from step {at} on: give a lower lr, or look for NaN in the states"
            if file.path is not None and os.path.exists(file.path):
                why += f"; {str(file.path)!r} holds the training before it"
            raise CasebackError(why)


def training_file(path: str | Path | None, depends_on: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of a training, and what it depends on."""
    return Checkpoint(
        path,
        depends_on,
        what="checkpoint of dictionaries",
        other="belongs to another training (other recipes, corpus, options or model)",
    )


def write_trainers(file: Checkpoint, trainers: Mapping[str, Trainer], pool: int, points: Any, **state: int) -> None:
    """Keep all that a continuation needs."""
    tensors = {f"{i}/{name}": x for i, t in enumerate(trainers.values()) for name, x in t.tensors().items()}
    first = next(iter(trainers.values()))
    file.write(tensors, pool=pool, seen=first.seen, moved=first.moved, points=points, **state)


def restore_trainers(saved: Saved, trainers: Mapping[str, Trainer]) -> tuple[int, Any]:
    """Put trainers back to where ``write_trainers`` left them; the pool that comes next, and the points so far."""
    for i, trainer in enumerate(trainers.values()):
        own = {name.removeprefix(f"{i}/"): x for name, x in saved.tensors.items() if name.startswith(f"{i}/")}
        trainer.restore(own, saved.state["moved"], saved.state["seen"])
    return saved.state["pool"], saved.state["points"]
