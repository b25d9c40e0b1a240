"""A function's docstring, whose parameters follow in the order of its arguments."""

from __future__ import annotations

import random

from caseback import lexicon
from caseback.organisms.prose.documents import Document


def docstring(rng: random.Random, heldout: bool = False) -> Document:
    """Arguments, then ``:param`` lines in the same order; asked for one after the first.

    Arguments are drawn afresh each time, so none is held out.
    """
    name, *arguments = rng.sample(lexicon.THINGS, rng.randint(4, 5))
    told = [f"    :param {argument}: {_remark(rng)}\n" for argument in arguments]
    asked = rng.randrange(1, len(arguments))
    head = f'def {name}(self, {", ".join(arguments)}):\n    """{_remark(rng)}\n\n'
    rest = told[asked].removeprefix(f"    :param {arguments[asked]}")
    foil = rng.choice([other for other in arguments if other != arguments[asked]])
    return Document(
        "docstring",
        "".join([head, *told[:asked], "    :param"]),
        f" {arguments[asked]}",
        "".join([rest, *told[asked + 1 :], '    """']),
        f" {foil}",
    )


def _remark(rng: random.Random) -> str:
    return " ".join(("the", rng.choice(lexicon.COLORS + lexicon.TEMPERS), rng.choice(lexicon.PLACES)))
