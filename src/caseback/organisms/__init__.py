"""Models that ship with the package: small trained ones, made by the scripts beside them."""

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
