"""Which inputs and which components caused a prediction (the Primer's section 3)."""

from importlib import import_module
from typing import Any

_PARTS = ("abstraction", "circuits", "components", "counterfactuals", "inputs")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: its parts are {', '.join(_PARTS)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS})
