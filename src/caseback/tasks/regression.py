"""Regression in a prompt: examples of numbers and what a function makes of them, and one more number to ask about.

3,7=5;  1,2=3;  ...  4,4=       y = round(w . (x - 9/2) + 9/2), w of length 1 drawn anew for each prompt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from caseback.errors import CasebackError, OutOfRange
from caseback.model.arguments import checked

__all__ = ["Regression", "digit_regression"]

CENTER = 4.5
"""The middle of the digits: numbers count from here, so that who knows nothing says it."""


@checked
@dataclass(frozen=True, eq=False)
class Regression:
    """Prompts that show examples of a function of numbers, with these numbers.

    Attributes
    ----------
    texts
        The prompts, which end where an answer is due.
    inputs, outputs
        Numbers of the examples: (batch, shot, feature) and (batch, shot), counted from what is said without knowledge.
    queries
        (batch, feature), the numbers that are asked about.
    targets
        (batch,), what the function makes of them.
    answers, values
        The texts that may answer, one token each, and their numbers.

    Raises
    ------
    CasebackError
        For numbers that do not fit each other.
    """

    texts: tuple[str, ...]
    inputs: Float[np.ndarray, "batch shot feature"]
    outputs: Float[np.ndarray, "batch shot"]
    queries: Float[np.ndarray, "batch feature"]
    targets: Float[np.ndarray, " batch"]
    answers: tuple[str, ...]
    values: Float[np.ndarray, " answer"]

    def __post_init__(self) -> None:
        if np.ndim(self.inputs) != 3:
            raise CasebackError(f"inputs of {np.ndim(self.inputs)} dimensions: expected (batch, shot, feature)")
        batch, shots, features = self.inputs.shape
        wanted = {"outputs": (batch, shots), "queries": (batch, features), "targets": (batch,)}
        odd = [name for name, shape in wanted.items() if getattr(self, name).shape != shape]
        if odd or len(self.texts) != batch or self.values.shape != (len(self.answers),):
            raise CasebackError(
                f"inputs of {self.inputs.shape} for {len(self.texts)} texts: {', '.join(odd) or 'texts or answers'} do "
                "not fit; expected numbers for each text and each example"
            )

    def __len__(self) -> int:
        return len(self.texts)


@checked
def digit_regression(count: int = 60, shots: int = 12, features: int = 2, seed: int = 0) -> Regression:
    """Prompts about digits: a linear function of them, rounded to a digit, with other weights in every prompt.

    Parameters
    ----------
    count
        How many prompts.
    shots
        Examples in each.
    features
        Digits that a number of the function is made of.
    seed
        Same seed, same result.

    Raises
    ------
    OutOfRange
        For no prompts, examples or digits.

    Examples
    --------
    >>> asked = digit_regression(count=1, shots=2)
    >>> asked.texts[0], asked.inputs.shape
    ('8,6=4;5,2=7;3,0=', (1, 2, 2))
    """
    if min(count, shots, features) < 1:
        raise OutOfRange(f"{count} prompts of {shots} examples of {features} digits: expected one of each or more")
    rng = np.random.default_rng(seed)
    digits = rng.integers(0, 10, (count, shots + 1, features))
    weights = rng.standard_normal((count, features))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    exact = np.einsum("bsf,bf->bs", digits - CENTER, weights) + CENTER
    outputs = np.clip(np.rint(exact), 0, 9).astype(int)
    return Regression(
        tuple(_text(x, y) for x, y in zip(digits.tolist(), outputs.tolist(), strict=True)),
        digits[:, :-1] - CENTER,
        outputs[:, :-1] - CENTER,
        digits[:, -1] - CENTER,
        outputs[:, -1] - CENTER,
        tuple(map(str, range(10))),
        np.arange(10) - CENTER,
    )


def _text(x: Sequence[Sequence[int]], y: Sequence[int]) -> str:
    asked = [f"{','.join(map(str, row))}=" for row in x]
    return ";".join(f"{one}{value}" for one, value in zip(asked[:-1], y, strict=False)) + f";{asked[-1]}"
