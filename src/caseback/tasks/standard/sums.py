"""Arithmetic: the result of two numbers and an operator. (PRIMER 5.4.10)

    14 + 5 = ->  19

The counterfactual has other operands, or the other operator, and another result. Where a tokenizer cuts numbers, the
answer is the first token in which the two results differ, and what they share stands at the prompt's end:
``14 + 5 = 1`` ->  ``9``, not ``5``.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.tasks.digits import cutting, first_difference
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import Text, fill

WORDINGS = {
    "symbols": ("{a} {operator} {b} =", {"+": "+", "-": "-", "*": "*"}),
    "words": ("{a} {operator} {b} is", {"+": "plus", "-": "minus", "*": "times"}),
    "noun": ("The {operator} of {a} and {b} is", {"+": "sum", "-": "difference", "*": "product"}),
}
RESULTS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
CORRUPTIONS = ("operands", "a", "b", "operator")
TRIES = 100


def arithmetic(
    *,
    operators: str = "+-",
    largest: int = 20,
    form: str = "all",
    shots: int = 0,
    corruption: str = "operands",
) -> Task:
    """The result of one operation.

    Positions: ``a``, ``operator``, ``b``, ``end``. The foil is the counterfactual's result. Results are 0 or more.

    Parameters
    ----------
    operators
        Characters of ``+-*``.
    largest
        The largest summand or factor. In ``a - b`` it bounds ``b`` and the result, since differences undo sums.
    form
        ``"symbols"``: ``14 + 5 =``; ``"words"``: ``14 plus 5 is``; ``"noun"``: ``The sum of 14 and 5 is``; or
        ``"all"``.
    shots
        How many solved problems stand before the one asked.
    corruption
        What the counterfactual changes: ``"operands"``, one of them (``"a"``, ``"b"``), or the ``"operator"``.

    Raises
    ------
    CasebackError
        For an unknown operator, form or corruption.

    References
    ----------
    Stolfo et al. 2023, "A mechanistic interpretation of arithmetic reasoning in language models".

    Examples
    --------
    >>> pair = arithmetic(operators="+", form="symbols").draw(random.Random(0), {})
    >>> a, _, b, _ = pair.clean.text.split()
    >>> int(a) + int(b) == int(pair.target[0])
    True
    """
    if not operators or set(operators) - set(RESULTS):
        raise CasebackError(f"operators {operators!r}: expected characters of {''.join(RESULTS)}")
    if form not in (*WORDINGS, "all"):
        raise CasebackError(f"form {form!r} is unknown: expected one of {', '.join(WORDINGS)}, all")
    if corruption not in CORRUPTIONS:
        raise CasebackError(f"corruption {corruption!r} is unknown: expected one of {', '.join(CORRUPTIONS)}")
    if corruption == "operator" and len(set(operators)) < 2:
        raise CasebackError(
            f"no other operator than {operators!r} to put in its place: expected two of {''.join(RESULTS)}"
        )
    if largest < 2 or shots < 0:
        raise CasebackError(f"largest={largest}, shots={shots}: expected at least 2 and 0")

    def operands(rng: random.Random, operator: str) -> tuple[int, int]:
        a, b = rng.randint(1, largest), rng.randint(1, largest)
        return (a + b, b) if operator == "-" else (a, b)

    def problem(rng: random.Random) -> tuple[int, str, int]:
        operator = rng.choice(operators)
        a, b = operands(rng, operator)
        return a, operator, b

    def changed(rng: random.Random, a: int, operator: str, b: int) -> tuple[int, str, int]:
        if corruption == "operator":
            return a, rng.choice([sign for sign in operators if sign != operator]), b
        c, d = operands(rng, operator)
        return a if corruption == "b" else c, operator, b if corruption == "a" else d

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        pieces = fillers["cut"][0] if "cut" in fillers else _whole
        wording = rng.choice(list(WORDINGS)) if form == "all" else form
        solved = [problem(rng) for _ in range(shots)]
        shown = "".join(f"{_asked(wording, one)} {_result(one)}, " for one in solved)
        for _ in range(TRIES):
            clean = problem(rng)
            corrupt = changed(rng, *clean)
            if _result(clean) == _result(corrupt) or _result(corrupt) < 0:
                continue
            differ = first_difference(pieces, f" {_result(clean)}", f" {_result(corrupt)}")
            if differ is not None:
                break
        else:
            raise CasebackError(
                f"no other result of 0 or more with operators={operators!r}, largest={largest}: widen them"
            )
        shared, answer, other = differ
        return Pair.of(
            Text(shown).then(_asked(wording, clean)).then(shared),
            Text(shown).then(_asked(wording, corrupt)).then(shared),
            answer,
            other,
            corrupt_target=other,
            group=f"{clean[1]} {wording}",
        )

    return Task(
        "arithmetic",
        "Two numbers and an operator: the result over that of another problem.",
        draw,
        {"cut": cutting},
        entry="5.4.10",
        citation="Stolfo et al. 2023",
    )


def _whole(text: str) -> list[str]:
    return [text]


def _result(problem: tuple[int, str, int]) -> int:
    a, operator, b = problem
    return RESULTS[operator](a, b)


def _asked(form: str, problem: tuple[int, str, int]) -> Text:
    a, operator, b = problem
    template, signs = WORDINGS[form]
    return fill(template, a=str(a), operator=signs[operator], b=str(b))
