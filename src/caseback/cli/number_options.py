"""One door for the numbers of every command: finite, no smaller than their option says, no larger than anything is.

Options say what is smallest (`Option(min=1)`); what is largest is said here, since no model, prompt or task has more of
anything, unless the option says it (`Option(max=...)`, tokens of a corpus). So a number is refused as the line is read,
before a model is loaded or a loop is entered that has no end.
"""

from __future__ import annotations

import math
from copy import copy
from typing import Annotated, Any, get_args

from typer.models import OptionInfo

from caseback.errors import CasebackError

MOST = 1_000_000
LARGEST_SEED = 2**32 - 1  # of numpy, torch, scikit-learn and Python's random the smallest


def with_bounds(name: str, annotation: Any) -> Any:
    """The annotation of an option, which refuses what no number of its kind can be; others as they are.

    Parameters
    ----------
    name
        Of the parameter.
    annotation
        ``Annotated[int | None, Option(...)]`` or the like.
    """
    kind, *declared = get_args(annotation) or (None,)
    option = next((one for one in declared if isinstance(one, OptionInfo)), None)
    numbers = {int, float} & ({kind} | {*get_args(kind)})
    if option is None or not numbers or option.callback is not None:
        return annotation
    bounded, least, most = copy(option), option.min, LARGEST_SEED if name == "seed" else option.max or MOST
    flags = [one for one in (option.default, *(option.param_decls or ())) if isinstance(one, str)]
    flag = next((one for one in flags if one.startswith("--")), f"--{name.replace('_', '-')}")

    def expect(value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise CasebackError(f"{flag} {value}: expected a finite number")
        if value is not None and least is not None and value < least:
            raise CasebackError(f"{flag} {_shown(value)}: expected at least {least:,}")
        if value is not None and int in numbers and not -most <= value <= most:
            raise CasebackError(f"{flag} {_shown(value)}: expected at most {most:,} either way from 0")
        return value

    bounded.callback, bounded.min, bounded.max = expect, None, None  # one refusal, in words of ours
    return Annotated[kind, bounded]


def _shown(value: float) -> str:
    return f"{value}" if abs(value) < 10**20 else f"{'-' if value < 0 else ''}1e{len(str(abs(int(value)))) - 1} or more"
