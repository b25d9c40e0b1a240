"""The door of arguments: what plainly means the same passes, all else is refused in words.

Expected values are plain Python.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

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


Pairs = Annotated[Sequence[tuple[str, int]], "an alias with a note that is none of the door's"]


@checked
def held(
    pairs: Pairs = (),
    nested: Sequence[Sequence[int]] = (),
    sizes: int | Mapping[str, int] = 1,
    one: tuple[int, int | None] = (0, None),
    weights: torch.Tensor | None = None,
    layers: Sequence[int] | None = None,
    where: slice | None = None,
    either: str | Sequence[str | Sequence[int]] = "",
):
    """All arguments, by name."""
    return locals()


@checked
@dataclass
class Point:
    x: int
    name: str = ""


@pytest.mark.parametrize(
    ("name", "value", "passed"),
    [
        ("pairs", [("a", np.int64(1))], [("a", 1)]),
        ("pairs", [["a", 1]], [("a", 1)]),
        ("nested", [np.array([1, 2]), [3]], [[1, 2], [3]]),
        ("sizes", {"a": np.int64(2)}, {"a": 2}),
        ("one", [np.int64(3), None], (3, None)),
        ("either", ["a", [1, 2]], ["a", [1, 2]]),
        ("layers", np.arange(2), [0, 1]),
        ("where", slice(1, 2), slice(1, 2)),
    ],
)
def test_containers_are_walked(name, value, passed):
    assert held(**{name: value})[name] == passed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("pairs", bad) for bad in ("ab", [("a",)], [("a", "b")], [1], {"a": 1}, 3)],
        *[("nested", bad) for bad in ([1, 2], [["a"]], [[1.5]], [[True]], 3)],
        *[("sizes", bad) for bad in ({"a": 1.5}, {1: 1}, [("a", 1)], None)],
        *[("one", bad) for bad in ((1,), (1, 2, 3), ("a", 1), 1)],
        *[("weights", bad) for bad in ("a", 3, [[1.0], [1.0, 2.0]], torch.empty(2, device="meta"))],
        *[("layers", bad) for bad in ([], range(0), "0", {0: 1})],
        *[("where", bad) for bad in (1, "a", [1])],
        *[("either", bad) for bad in (3, [3], [[1.5]], {"a": 1})],
    ],
)
def test_containers_of_another_kind_are_refused(name, value):
    with pytest.raises((ArgumentError, OutOfRange), match=rf"held\({name}=.*expected"):
        held(**{name: value})


def test_lists_become_tensors_and_iterators_lists():
    assert torch.equal(held(weights=[[1.0, 2.0]])["weights"], torch.tensor([[1.0, 2.0]]))
    assert held(nested=iter([[1], [2]]))["nested"] == [[1], [2]]


def test_a_constructor_stands_behind_the_door():
    assert Point(np.int64(3)) == Point(3)
    with pytest.raises(ArgumentError, match=r"Point\(x=1.5\): expected a whole number"):
        Point(1.5)


def test_a_name_in_place_of_a_path_is_told_apart_from_a_text():
    @checked
    def read(corpus: Path | Iterable[Any], folder: str | os.PathLike[str] = ""):
        return corpus, folder

    assert read(Path("texts"), "here") == (Path("texts"), "here")
    with pytest.raises(ArgumentError, match=r"expected a pathlib.Path or"):
        read("texts.txt")


@pytest.mark.parametrize("rate", [1e39, -1e300])
def test_a_learning_rate_is_one_that_single_precision_holds(rate):
    """An optimizer multiplies by it in the parameters' own precision, in which torch refuses it in words of its own."""

    @checked
    def descend(lr: float = 0.1, penalty: float = 0.1, share: float = 0.5):
        return lr, penalty, share

    for name in ("lr", "penalty"):
        with pytest.raises(OutOfRange, match="expected a number that single precision holds"):
            descend(**{name: rate})
    assert descend(lr=3e38, penalty=-3e38, share=rate) == (3e38, -3e38, rate)
