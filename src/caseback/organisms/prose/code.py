"""A function's docstring, which lists the parameters in the order of the arguments."""

from __future__ import annotations

import random

from caseback import lexicon
from caseback.organisms.prose.documents import Document


def docstring(rng: random.Random, heldout: bool = False) -> Document:
    """Arguments, then ``:param`` lines in the same order; one after the first is asked for.

    Arguments are drawn afresh each time, so none is held out.
    """
    name, *arguments = rng.sample(lexicon.THINGS, rng.randint(4, 5))
    param_lines = [f"    :param {argument}: {_remark(rng)}\n" for argument in arguments]
    asked = rng.randrange(1, len(arguments))
    head = f'def {name}(self, {", ".join(arguments)}):\n    """{_remark(rng)}\n\n'
    rest = param_lines[asked].removeprefix(f"    :param {arguments[asked]}")
    foil = rng.choice([other for other in arguments if other != arguments[asked]])
    return Document(
        "docstring",
        "".join([head, *param_lines[:asked], "    :param"]),
        f" {arguments[asked]}",
        "".join([rest, *param_lines[asked + 1 :], '    """']),
        f" {foil}",
    )


def _remark(rng: random.Random) -> str:
    return " ".join(("the", rng.choice(lexicon.COLORS + lexicon.TEMPERS), rng.choice(lexicon.PLACES)))
