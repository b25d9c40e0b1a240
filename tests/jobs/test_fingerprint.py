"""One digest of what a job depends on: nothing that differs has the same, and nothing that is the same differs."""

import enum
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from caseback.errors import CasebackError
from caseback.jobs.fingerprint import code_of, fingerprint, fingerprints, raw_digest


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: float
    y: float


@dataclass(frozen=True)
class Place:
    x: float
    y: float


class Told:
    def __init__(self, *parts):
        self.parts = parts

    def fingerprint_parts(self):
        return self.parts


def scaled(factor):
    def scale(x):
        return x * factor

    return scale


def doubled(x):
    return x * 2


def tripled(x):
    return x * 3


A, B, C = "a", "b", "c"
DISTINCT = [
    *[[[A, B], [C]], [[A], [B, C]], [A, B, C], [A + B, C], [A, B + C], [[A, B, C]], [[]], [], None, ""],
    *[0, 1, 2, True, False, 1.0, 2.0, "1", "1.0", b"1", "None", float("nan"), float("inf"), -0.0, 0.0, 1j],
    *[{}, {A: B}, {B: A}, {A: {B: C}}, {A: [B, C]}, {1: A}, {"1": A}, {(1, 2): A}, set(), {A}, {A, B}],
    *[torch.ones(2), torch.ones(2).double(), torch.ones(2, 1), torch.ones(2).bfloat16(), torch.ones(3), torch.ones(0)],
    *[torch.tensor(1), torch.tensor([1]), torch.tensor([True]), torch.ones(2).half(), torch.zeros(0, 2)],
    *[np.ones(2), np.ones(2, "f4"), np.ones((2, 1)), torch.float32, torch.float64, torch.device("cpu")],
    *[slice(1, 2), slice(1, 3), range(3), Path("a"), Color.RED, Color.BLUE, int, Point, Point(1, 2), Place(1, 2)],
    *[doubled, tripled, scaled(2), scaled(3), functools.partial(doubled, 1), functools.partial(doubled, 2), torch.relu],
    *[Told(A, B), Told(A), nn.Linear(2, 2), nn.Linear(2, 2)],
]


def test_what_differs_has_another_fingerprint():
    made = [fingerprint(value) for value in DISTINCT]
    assert len(set(made)) == len(DISTINCT) and all(len(digest) == 64 for digest in made)


def test_what_is_the_same_has_the_same():
    wide = torch.arange(12.0).reshape(3, 4)
    for one, other in [
        ([1, 2], (1, 2)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2, 3}, {3, 2, 1}),
        (wide.T, wide.T.contiguous()),
        (wide[:, 1], wide[:, 1].clone()),
        (wide, nn.Parameter(wide)),
        (np.int64(3), 3),
        (np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy()),
        (scaled(2), scaled(2)),
    ]:
        assert fingerprint(one) == fingerprint(other), one


def test_one_bit_of_one_weight_is_seen():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model[1].running_var[2] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert fingerprint(model) != before


def test_a_tensor_that_is_met_often_counts_each_time():
    x = torch.ones(2)
    assert fingerprint([x, x]) == fingerprint([x.clone(), x.clone()]) != fingerprint([x])


def test_parts_are_told_apart_by_name():
    one, other = (fingerprints({"prompts": [1], "options": {"lr": lr}}) for lr in (1, 2))
    assert [name for name in one if one[name] != other[name]] == ["options"]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"edit": [lambda x: x]}, r"options\['edit'\]\[0\] is a lambda .*give a function that has a name"),
        (scaled(lambda: 2), r"what scaled.<locals>.scale holds,\[2\] is a lambda"),
        ([object()], r"options\[0\] is a builtins.object, which cannot be told from another one"),
        (np.array([None]), "array of Python objects"),
        (torch.ones(2, device="meta"), "tensor on meta"),
        (torch.ones(2).to_sparse(), "sparse"),
    ],
)
def test_what_has_no_content_is_refused_by_name(value, says):
    with pytest.raises(CasebackError, match=says):
        fingerprint(value, "options")


def test_what_holds_itself_ends():
    held = [1]
    held.append(held)
    assert fingerprint(held) != fingerprint([1, [1]])

    def again(n):
        return again(n - 1) if n else 0

    assert fingerprint(again) == fingerprint(again)


def test_code_is_that_of_a_function_and_of_those_that_it_holds():
    assert code_of(scaled(2)) == code_of(scaled(3)) != code_of(doubled) != code_of(tripled)
    assert fingerprint(code_of(scaled(doubled))) != fingerprint(code_of(scaled(tripled)))


def test_raw_bytes_are_hashed_as_they_lie():
    assert raw_digest(torch.ones(2)) == raw_digest(np.ones(2, "f4")) == raw_digest(np.ones(2, "f4").tobytes())
