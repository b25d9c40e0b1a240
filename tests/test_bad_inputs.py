"""Bad inputs at every door, from fixed seeds; ``make bad-inputs`` tries more of them and prints how many at each door."""

import json
from pathlib import Path

import pytest

import caseback as cb
from bad_inputs import commands, python_doors, trying
from bad_inputs.outcome import fault_of

pytestmark = pytest.mark.slow
INPUTS = 50
# Doors at which faults are still known, by a part of their name: each is a promise to mend, none may join.
OPEN = json.loads((Path(__file__).parent / "bad_inputs" / "open.json").read_text(encoding="utf-8"))
ROOMS = ["caseback ", "behaviors", "decode", "localize.abstraction", "localize.circuits", "localize.components"]
ROOMS += ["localize.inputs", "model", "tasks"]


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    return list(trying.doors(tmp_path_factory.mktemp("doors")))


def test_every_public_name_is_a_door(doors):
    names = {door.name for door in doors}
    functions = {f"{t.function.__module__}.{t.function.__qualname__}" for t in cb.techniques()}
    assert functions <= names and {f"caseback {name}" for name in commands.doors()} <= names
    assert len(python_doors.published()) + len(commands.doors()) == len(names) > 300


@pytest.mark.parametrize("room", ROOMS)
def test_bad_inputs_are_refused_in_words(room, doors, monkeypatch):
    monkeypatch.setenv("CASEBACK_DEBUG", "0")
    faults = []
    for door in doors:
        place = door.name if room == "caseback " else door.name.removeprefix("caseback.")
        if place.startswith(room) and door.name not in OPEN:
            tried, wrong = trying.trial(door, INPUTS)
            faults += wrong
    assert not faults, "\n".join(map(str, faults))


def _raised(function):
    try:
        function()
    except Exception as error:
        return fault_of(error)


@pytest.mark.parametrize(
    ("function", "faulty"),
    [
        (lambda: cb.logit("no such token")(cb.load("meadow").run("Mary")), False),
        (lambda: cb.load(), False),
        (lambda: cb.load("meadow").run("Mary").logits[9], True),
    ],
)
def test_the_rule_tells_faults_from_refusals(function, faulty):
    """The last is torch's own IndexError, met outside our code."""
    assert (_raised(function) is not None) == faulty
