"""What a representation says (the Primer's section 4)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caseback.decode.moments import ClassMoments, class_moments, collected_moments
    from caseback.decode.states import Place, States, read_gradients, read_states

_PARTS = ("dictionaries", "directions", "erasure", "probes", "steering", "vocabulary")
_NAMES = {
    **dict.fromkeys(("ClassMoments", "class_moments", "collected_moments"), "moments"),
    **dict.fromkeys(("Place", "States", "read_gradients", "read_states"), "states"),
}

__all__ = ["ClassMoments", "Place", "States", "class_moments", "collected_moments", "read_gradients", "read_states"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: its parts are {', '.join(_PARTS)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS})
