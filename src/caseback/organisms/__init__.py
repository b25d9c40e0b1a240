"""Models that ship with the package: small trained ones, each made by the scripts in this folder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from caseback.errors import CasebackError


def bundled() -> list[str]:
    """Names of the models that ship with the package.

    Examples
    --------
    >>> "meadow" in bundled()
    True
    """
    here = Path(str(resources.files(__name__)))
    return sorted(config.parent.name for config in here.glob("*/config.json"))


def path(name: str) -> Path:
    """The folder of a bundled model, as ``from_pretrained`` wants it.

    Parameters
    ----------
    name
        One of ``bundled()``.

    Raises
    ------
    CasebackError
        If no bundled model has this name.

    Examples
    --------
    >>> path("meadow").name
    'meadow'
    """
    if name not in bundled():
        raise CasebackError(f"No bundled model is called {name!r}: expected one of {', '.join(bundled())}.")
    return Path(str(resources.files(__name__))) / name


def checkpoints(name: str | Path) -> dict[int, Path]:
    """The intermediate checkpoints of a bundled model, or of a training run's folder, by step.

    Parameters
    ----------
    name
        One of ``bundled()``, or a folder that ``caseback organisms train`` wrote.

    Raises
    ------
    CasebackError
        If there are none: not all bundled models ship theirs, but ``caseback organisms train`` makes them again.

    Examples
    --------
    >>> list(checkpoints("grokking"))[:3]
    [0, 100, 200]
    """
    if not isinstance(name, str | Path):
        raise CasebackError(f"a model {name!r}: expected one of {', '.join(bundled())}, or a folder")
    folder = path(str(name)) if str(name) in bundled() else Path(name)
    try:
        steps = sorted(int(part.name.removeprefix("step-")) for part in folder.glob("checkpoints/step-*"))
    except (OSError, ValueError) as error:
        raise CasebackError(f"{str(folder)[:80]!r} cannot be read as a training run's folder: {error}"[:300]) from None
    if not steps:
        raise CasebackError(
            f"{str(name)!r} has no checkpoints: expected folders checkpoints/step-N; `caseback organisms train` keeps "
            "them on the way"
        )
    return {step: folder / "checkpoints" / f"step-{step}" for step in steps}
