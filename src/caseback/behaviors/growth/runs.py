"""A training run as its models by step: a folder of checkpoints, or models and folders that are given one by one.

FOLDER/step-N or FOLDER/checkpoints/step-N  ->  {N: folder}, rising
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from caseback.errors import CasebackError
from caseback.model.loading.load import load
from caseback.model.running.model import Model
from caseback.organisms import bundled, checkpoints


def steps_of(given: str | Path | Mapping[int, Model | str | Path]) -> dict[int, Model | Path]:
    """The models of a run by step.

    Parameters
    ----------
    given
        A folder with ``step-N`` in it or in its ``checkpoints``, the name of a bundled model that ships its
        checkpoints, or models and their folders by step.

    Raises
    ------
    CasebackError
        For a folder that is not there, fewer than two checkpoints, and steps that are no whole numbers from 0 on.

    Examples
    --------
    >>> list(steps_of("grokking"))[:3]
    [0, 100, 200]
    """
    run: dict[int, Model | Path]
    if isinstance(given, Mapping):
        if odd := [step for step in given if type(step) is not int or step < 0]:
            raise CasebackError(f"a checkpoint of step {odd[0]!r}: expected whole numbers from 0 on")
        run = {step: model if isinstance(model, Model) else Path(model) for step, model in sorted(given.items())}
    elif str(given) not in bundled() and not os.path.lexists(given):
        raise CasebackError(
            f"there is no {str(given)[:80]!r}: expected a folder of checkpoints step-N, or such as 'grokking', bundled"
        )
    elif str(given) not in bundled() and (own := _directly_in(Path(given))):
        run = own
    else:
        run = {**checkpoints(given)}
    if len(run) < 2:
        raise CasebackError(f"{len(run)} checkpoint: expected two or more, between which something can arise")
    return run


def _directly_in(folder: Path) -> dict[int, Model | Path]:
    try:
        names = os.listdir(folder) if os.path.isdir(folder) else []
    except (OSError, ValueError) as error:
        raise CasebackError(f"{str(folder)[:80]!r} cannot be read as a folder of checkpoints: {error}"[:300]) from None
    steps = {int(end): folder / name for name in names if (end := name.removeprefix("step-")).isdecimal()}
    return {step: steps[step] for step in sorted(steps) if steps[step].name == f"step-{step}"}


def opened(model: Model | Path) -> Model:
    """The model itself, read where a folder was given.

    Raises
    ------
    CasebackError
        For a folder without a model.
    """
    return model if isinstance(model, Model) else load(str(model))
