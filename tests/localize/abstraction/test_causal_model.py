"""PRIMER 3.2.32: high-level causal models, their order, and their interchanges."""

import itertools

import pytest

from caseback.errors import CasebackError
from caseback.localize.abstraction import CausalModel

SUM = (["left", "c"], lambda left, c: left + c)
LEFT = (["a", "b"], lambda a, b: a + b)
INPUTS = {"a": range(3), "b": range(3), "c": range(3)}


def test_3_2_32_an_interchange_takes_one_variable_of_the_source_and_all_else_of_the_base():
    model = CausalModel(INPUTS, {"left": LEFT, "sum": SUM})
    base, source = {"a": 1, "b": 2, "c": 0}, {"a": 2, "b": 2, "c": 2}
    assert model.run(base) == {**base, "left": 3, "sum": 3}
    assert model.interchange(base, {"left": source}) == {**base, "left": 4, "sum": 4}
    assert model.interchange(base, {"c": source})["sum"] == 5
    assert model.interchange(base, {"left": source, "c": source})["sum"] == model.run(source)["sum"]
    assert model.interchange(base, {"sum": source})["sum"] == 6
    assert model.output == "sum" and model.variables == ("a", "b", "c", "left", "sum")


def test_3_2_32_a_base_that_is_its_own_source_changes_nothing():
    model = CausalModel(INPUTS, {"left": LEFT, "sum": SUM})
    for inputs in model.all_inputs():
        for some in itertools.chain.from_iterable(itertools.combinations(model.variables, n) for n in (1, 2, 5)):
            assert model.interchange(inputs, dict.fromkeys(some, inputs)) == model.run(inputs)
    assert sum(1 for _ in model.all_inputs()) == 27


def test_draws_are_the_same_for_the_same_seed():
    model = CausalModel(INPUTS, {"left": LEFT})
    first, again, other = (list(itertools.islice(model.draws(seed), 9)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    "inputs, mechanisms, output, message",
    [
        (INPUTS, {"sum": SUM, "left": LEFT}, "", "'sum' stands before its parent 'left'.* serves: left, sum"),
        (INPUTS, {"u": (["v"], str), "v": (["u"], str)}, "", "cyclic: (u -> v -> u|v -> u -> v)"),
        (INPUTS, {"u": (["u"], str)}, "", "cyclic: u -> u"),
        (INPUTS, {"left": (["a", "bee"], str)}, "", "unknown parent 'bee'.*Choose|unknown parent 'bee'"),
        (INPUTS, {"left": LEFT}, "lift", "no variable is called 'lift'. Did you mean left"),
        (INPUTS, {"a": LEFT}, "", "'a' is an input and has a function too"),
        (INPUTS, {"left": (["a"], 3)}, "", "got 3 as function"),
        ({"a": []}, {"left": (["a"], str)}, "", "input 'a' has no values"),
        ({}, {"left": ([], str)}, "", "needs inputs"),
    ],
)
def test_bad_models_are_refused(inputs, mechanisms, output, message):
    with pytest.raises(CasebackError, match=message):
        CausalModel(inputs, mechanisms, output)


def test_bad_values_are_refused():
    model = CausalModel(INPUTS, {"left": LEFT})
    with pytest.raises(CasebackError, match="input 'c' has no value"):
        model.run({"a": 1, "b": 2})
    with pytest.raises(CasebackError, match="no variable is called 'lefty'. Did you mean left"):
        model.run({"a": 1, "b": 2, "c": 0}, {"lefty": 1})
    with pytest.raises(CasebackError, match="no variable is called 'd'"):
        model.run({"a": 1, "b": 2, "c": 0, "d": 4})
