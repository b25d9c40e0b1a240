"""How much a story measures, by the depth asked for.

Quick leaves out the circuit and the checks on other prompts; deep has more of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from caseback.errors import CasebackError, did_you_mean


@dataclass(frozen=True)
class Depth:
    """How many of each: words tried in a place, shuffled prompts, layers at which the stream is exchanged, heads and
    MLPs that are exchanged for the story and in each of its trials, parts that are named, sizes of circuits, random
    circuits beside each, prompts and counterfactuals that the story is tried on, and components ablated; at how many
    points integrated gradients end; whether integrated gradients and what compares them are left out.
    """

    k: int
    shuffled: int
    rows: int
    exchanged: int
    again: int
    parts: int
    sizes: tuple[float, ...]
    random: int
    fresh: int
    others: int
    ablated: int
    points: int | None
    short: bool


_SIZES = (0.001, 0.003, 0.01, 0.03, 0.1)
DEPTHS = {
    "quick": Depth(5, 16, 10, 64, 0, 8, (), 0, 0, 0, 48, None, True),
    "normal": Depth(8, 16, 256, 512, 64, 8, _SIZES, 3, 3, 1, 96, 32, False),
    "deep": Depth(12, 32, 256, 8192, 512, 12, (*_SIZES, 0.2, 0.3), 5, 8, 3, 2048, None, False),
}
NONE = "none"


def depth_of(name: str) -> Depth | None:
    """A depth by its name; None where no story is asked for.

    Raises
    ------
    CasebackError
        For another name.
    """
    if name == NONE:
        return None
    if name not in DEPTHS:
        raise CasebackError(f"depth {name!r} is unknown. {did_you_mean(name, (*DEPTHS, NONE))}")
    return DEPTHS[name]
