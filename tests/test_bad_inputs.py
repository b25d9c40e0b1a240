"""Bad inputs at every door, from fixed seeds; ``make bad-inputs`` tries more of them and prints how many at each door."""

import inspect

import pytest

import caseback as cb
from bad_inputs import commands, json_nodes, python_doors, trying
from bad_inputs.outcome import fault_of

pytestmark = pytest.mark.slow
INPUTS = 50
PARTS = 16  # of all doors, each a test of its own, so that several cores share them
# what has no valid call: an address without an action, of which edits are made; what takes away what another call made
ABSTRACT = {"caseback.model.running.edit.Edit", "caseback.decode.dictionaries.features.attach.detach"}


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    return list(trying.doors(tmp_path_factory.mktemp("doors")))


def test_every_public_name_is_a_door(doors):
    names = {door.name for door in doors}
    functions = {f"{t.function.__module__}.{t.function.__qualname__}" for t in cb.techniques()}
    assert functions <= names and {f"caseback {name}" for name in commands.doors()} <= names
    assert {f"JSON of {name}" for name in json_nodes.READERS} <= names
    assert len(names) == len(doors) > len(python_doors.published()) + len(commands.doors()) > 400


def test_every_public_function_is_behind_the_door_of_arguments():
    """Those that make edits and metrics of texts and numbers check these themselves, in words of their own."""
    own = {
        "answer_log_prob",
        "documents",
        "tables_of",
        "kl",
        "log_prob",
        "logit",
        "logit_diff",
        "prob",
        "prob_diff",
        "checkpoints",
        "path",
    }
    outside = {
        name
        for name, function in python_doors.published().items()
        if inspect.isfunction(function) and inspect.signature(function).parameters.keys() - {"self"}
        if not any("behind_the_door" in one.__code__.co_name for one in _layers(function))
    }
    assert {name.rpartition(".")[2] for name in outside} <= own


def _layers(function):
    while hasattr(function, "__wrapped__"):
        yield function
        function = function.__wrapped__


@pytest.mark.parametrize("part", range(PARTS))
def test_bad_inputs_are_refused_in_words(part, doors, monkeypatch):
    monkeypatch.setenv("CASEBACK_DEBUG", "0")
    faults, without = [], {}
    for door in doors[part::PARTS]:
        tried, wrong = trying.trial(door, INPUTS)
        faults += wrong
        if (why := door.why_not()) is not None and door.name not in ABSTRACT:
            without[door.name] = why
    assert not faults, "\n".join(map(str, faults))
    assert not without  # inputs at a door without a valid call end at what that call lacks


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
