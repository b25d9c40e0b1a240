"""Other toolkits' names on a model say what to write, and all else is as without them."""

import copy

import pytest

import caseback as cb
from caseback.errors import ArgumentError
from caseback.model.names_elsewhere import ELSEWHERE


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_from_elsewhere_says_what_is_written_here(name):
    model = cb.load("meadow")
    with pytest.raises(AttributeError, match=f"a model has no '{name}'; here it is (model|cb)[.]"):
        getattr(model, name)
    assert not hasattr(model, name)


def test_any_other_name_is_python_s_own_error_and_copies_work():
    model = cb.load("meadow")
    with pytest.raises(AttributeError, match="'Model' object has no attribute 'nothing'"):
        _ = model.nothing
    assert copy.copy(model).name == "meadow"


def test_what_is_written_here_is_there():
    model = cb.load("meadow")
    assert model.weights.W_Q[1].shape == (5, 160, 32) and model.tokens("Mary gave").text[0][-1] == " gave"
    assert model.run("Mary gave", read=["resid_post", "z"])["z", 3].shape[2:] == (5, 32)
    assert callable(cb.localize.inputs.gradient_x_input) and model.token_id(" Mary") >= 0


def test_too_many_arguments_by_position_name_those_that_there_are():
    with pytest.raises(ArgumentError, match="generate: too many .*, expected tokens; by name .*max_new_tokens="):
        cb.load("meadow").generate("Mary gave", 5)
