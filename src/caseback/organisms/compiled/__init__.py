"""Organisms that are written, not trained: programs compiled to weights, and gadgets built by hand.

>>> organism = build("induction", max_length=8)
>>> organism.predict([["a", "b", "c", "a"]])[0][-1]
'b'
"""

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from caseback.errors import CasebackError, did_you_mean
from caseback.model.arguments import checked

if TYPE_CHECKING:
    from caseback.organisms.compiled.compile import compile_program
    from caseback.organisms.compiled.edges import ablate_edge
    from caseback.organisms.compiled.organism import Organism, Variable

BUILDERS = {
    "and_gate": "gadgets.and_gate",
    "backup_head": "gadgets.backup_head",
    "bracket_pairs": "programs.bracket_pairs",
    "brackets": "programs.brackets",
    "cancellation": "gadgets.cancellation",
    "copy_suppression": "suppression.copy_suppression",
    "count": "programs.count",
    "duplicate": "programs.duplicate",
    "entropy_neuron": "entropy_neuron.entropy_neuron",
    "erasure": "gadgets.erasure",
    "fraction": "programs.fraction",
    "illusion": "gadgets.illusion",
    "indirect_object": "indirect_object.indirect_object",
    "induction": "programs.induction",
    "modular_addition": "modular_addition.modular_addition",
    "or_gate": "gadgets.or_gate",
    "planted_neurons": "planted.planted_neurons",
    "previous_token": "programs.previous_token",
    "rank": "programs.rank",
    "recall": "programs.recall",
    "saturated_query": "gadgets.saturated_query",
    "shortcut": "programs.shortcut",
    "sort": "programs.sort",
    "superposition": "superposition.superposition",
}
"""Where each organism is built: a file in this folder and a function in it."""

_HOMES = {
    "Organism": "organism",
    "Variable": "organism",
    "ablate_edge": "edges",
    "compile_program": "compile",
}
__all__ = ["BUILDERS", "Organism", "Variable", "ablate_edge", "build", "compile_program", "names"]


def names() -> list[str]:
    """The names of the organisms that ``build`` knows."""
    return sorted(BUILDERS)


@checked
def build(name: str, **sizes: Any) -> "Organism":
    """Build a written organism.

    Parameters
    ----------
    name
        One of ``names()``.
    **sizes
        What its builder takes: for most, ``alphabet`` and ``max_length``.

    Raises
    ------
    CasebackError
        For an unknown name, or sizes that the builder refuses.

    Examples
    --------
    >>> build("count", alphabet="ab", max_length=4).predict([["a", "b", "a"]])
    [['1', '1', '2']]
    """
    if not isinstance(name, str) or name not in BUILDERS:
        raise CasebackError(f"no organism is called {name!r}. {did_you_mean(str(name), names())}")
    home, _, function = BUILDERS[name].rpartition(".")
    builder = getattr(import_module(f"{__name__}.{home}"), function)
    parameters = signature(builder).parameters
    takes = [size for size, of in parameters.items() if of.kind is not of.VAR_KEYWORD]
    takes += ["dtype"] * (len(takes) < len(parameters))  # handed on to compile_program
    if unknown := [size for size in sizes if size not in takes]:
        raise CasebackError(f"{name!r} takes no {unknown[0]}. {did_you_mean(unknown[0], takes)}")
    return builder(**sizes)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
