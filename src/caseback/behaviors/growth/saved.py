"""What emergence measured as a file of JSON."""

from __future__ import annotations

from pathlib import Path

from caseback.artifacts.artifact import load_json, save_json
from caseback.artifacts.kinds import EMERGENCE
from caseback.behaviors.growth.report import Emergence
from caseback.errors import CasebackError, LoadError
from caseback.model.arguments import checked


@checked
def save_emergence(emergence: Emergence, path: str | Path) -> None:
    """Write what ``emergence`` measured to a file.

    Parameters
    ----------
    emergence
        What ``emergence`` gave.
    path
        The file, JSON; one that exists is replaced.

    Raises
    ------
    WriteError
        Where it cannot be written.
    """
    save_json(emergence.to_json(), EMERGENCE, path)


@checked
def load_emergence(path: str | Path) -> Emergence:
    """Read what ``save_emergence`` wrote.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    LoadError
        Where there is none, or it is damaged or of another kind.
    """
    try:
        return Emergence.from_json(load_json(path, EMERGENCE))
    except LoadError:
        raise
    except CasebackError as error:
        raise LoadError(f"{str(path)!r}: {error}") from error
