"""PRIMER 3.1.28: models with a known source, and methods that find it or do not."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs import attribute, known_source_test, removal_curves, source_first
from caseback.localize.inputs.trust.known_source import ORGANISMS, known_prompts
from caseback.model.prompts.per_token import token_scores


@pytest.mark.parametrize("name", sorted(ORGANISMS))
def test_the_prompts_have_the_answer_and_the_sources_that_they_say(name):
    """The model is right, the sources alone are enough for it, and without any of them it knows no answer."""
    known = known_prompts(name, 12)
    n = known.tokens.shape[1]
    is_source = torch.tensor([[float(p in sources) for p in range(n)] for sources in known.sources])
    curves = removal_curves(known.model, known.tokens, known.metric, is_source, baseline="zero")
    assert (curves.value > 1).all() and is_source.sum(-1).unique().numel() == 1
    at = int(is_source[0].sum())
    assert np.allclose(curves.insertion[:, at], curves.value, atol=1e-3)
    assert (curves.deletion[:, at] < curves.value / 2).all()
    if name == "shortcut":
        assert all(known.tokens.text[row][p] == "oscar" for row, (p,) in enumerate(known.sources))


def test_the_planted_shortcut_is_found_by_gradients_along_a_path_and_not_by_a_place():
    def last_first(model, tokens, metric):
        places = torch.arange(tokens.ids.shape[1]).double().expand(len(tokens), -1)
        return token_scores(places, model, tokens, metric, technique=None, name="last_first")

    found = known_source_test(["integrated_gradients", last_first], n=12)
    assert found["variant"].values.tolist() == list(ORGANISMS)
    assert (found.first.sel(attribution="integrated_gradients") == 1).all()
    assert float(found.first.sel(attribution="last_first", variant="shortcut")) == 0
    assert float(found.precision.sel(attribution="integrated_gradients", variant="shortcut")) == 1


def test_a_method_that_refuses_says_why_and_a_tie_is_a_miss():
    def refuses(model, tokens, metric):
        raise CasebackError("not on this model")

    def all_alike(model, tokens, metric):
        return token_scores(torch.ones(tokens.ids.shape), model, tokens, metric, technique=None, name="all_alike")

    found = known_source_test([refuses, all_alike], organisms=["shortcut"], n=3)
    assert np.isnan(found.first.values[0]).all() and (found.first.values[1] == 0).all()
    assert json.loads(found.attrs["refused"]) == {"refuses": {"shortcut": "not on this model"}}


def test_source_first_counts_strictly_and_its_precision_takes_as_many_as_there_are_sources():
    scores = xr.DataArray([[[3.0, 2.0, 1.0, np.nan], [0.0, -5.0, 1.0, 2.0]]], dims=["attribution", "batch", "pos"])
    found = source_first(scores, [{0, 2}, {-3}])
    assert found.first.values.tolist() == [[1.0, 0.0]] and found.precision.values.tolist() == [[0.5, 0.0]]
    assert source_first(scores, [{0, 2}, {1}], absolute=True).first.values.tolist() == [[1.0, 1.0]]
    tied = xr.DataArray([[1.0, 1.0, 0.0]], dims=["batch", "pos"])
    assert source_first(tied, [{0}]).first.values.tolist() == [0.0]
    assert source_first(tied, [{0}]).precision.values.tolist() == [0.0]


def test_scores_of_attribute_go_straight_in():
    known = known_prompts("recall", 4)
    scores = attribute(known.model, known.tokens, known.metric, ["gradient_x_input", "gradient_norm"])
    found = source_first(scores, known.sources)
    assert found.first.dims == ("attribution", "batch") and (found.first.sel(attribution="gradient_x_input") == 1).all()


def test_bad_input_is_told():
    scores = xr.DataArray([[1.0, 2.0]], dims=["batch", "pos"])
    for sources, said in (([{0}, {1}], "sources of 2 prompts"), ([set()], "expected some"), ([{0, 1}], "not all")):
        with pytest.raises(CasebackError, match=said):
            source_first(scores, sources)
    with pytest.raises(CasebackError, match="Did you mean recall"):
        known_prompts("recal")
    with pytest.raises(OutOfRange, match="n is 0"):
        known_prompts("recall", 0)
    with pytest.raises(CasebackError, match="no input attribution is called"):
        known_source_test("nothing")
