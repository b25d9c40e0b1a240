"""What a representation says (the Primer's section 4)."""

from importlib import import_module
from typing import Any

_PARTS = ("probes", "vocabulary")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: its parts are {', '.join(_PARTS)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS})
