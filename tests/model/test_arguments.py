"""The door of arguments: what plainly means the same passes, all else is refused in words.

Expected values are plain Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
import torch

from caseback.errors import ArgumentError, OutOfRange
from caseback.model.arguments import checked


@checked
def given(
    rows: Sequence[int] | int | None = None,
    units: Sequence[int] | None = None,
    names: Sequence[str] = (),
    count: int = 1,
    share: float = 0.5,
    flag: bool = False,
    seed: int = 0,
    side: Literal["in", "out"] = "in",
    rest=None,
):
    """All arguments, by name."""
    return locals()


@pytest.mark.parametrize(
    ("name", "value", "passed"),
    [
        ("rows", 3, 3),
        ("rows", np.int64(3), 3),
        ("rows", [1, 2], [1, 2]),
        ("rows", range(2), range(2)),
        ("units", 3, [3]),
        ("units", torch.tensor([1, 2]), [1, 2]),
        ("count", torch.tensor(4), 4),
        ("share", 1, 1),
        ("share", np.float32(0.5), 0.5),
        ("flag", np.True_, True),
        ("names", ("a", "b"), ("a", "b")),
        ("names", "ab", ["ab"]),
        ("rest", object, object),
    ],
)
def test_what_plainly_means_the_same_passes(name, value, passed):
    assert given(**{name: value})[name] == passed and type(given(**{name: value})[name]) is type(passed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("rows", bad) for bad in ("a", 1.5, [1.5], True, [True], {0: 1}, 10**9, [10**9])],
        *[("names", bad) for bad in (3, [3], {"a": 1}, str)],
        *[("count", bad) for bad in (None, "1", 1.5, True, [1], 10**9, -(10**9))],
        *[("share", bad) for bad in (None, "1", float("nan"), float("inf"), 10**400, True, 1j)],
        *[("flag", bad) for bad in (0, 1, None, "yes", [])],
        *[("seed", bad) for bad in (-1, 2**63, None)],
        *[("side", bad) for bad in ("on", None, ["in"], 3)],
    ],
)
def test_all_else_is_refused_by_the_argument_s_name(name, value):
    with pytest.raises((ArgumentError, OutOfRange), match=rf"given\({name}=.*expected"):
        given(**{name: value})


def test_a_call_that_does_not_fit_is_refused_too():
    with pytest.raises(ArgumentError, match="given: got an unexpected keyword argument 'nothing'"):
        given(nothing=1)
    with pytest.raises(TypeError):
        given(nothing=1)
