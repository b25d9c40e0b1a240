"""Input attributions by name: what counts as one, what every one of them must keep to, and several side by side."""

import json

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, RegistryError, ResultError
from caseback.localize.inputs import attribute, input_methods
from caseback.localize.inputs.gradients.gradients import gradient_x_input
from caseback.localize.inputs.methods import methods_named
from caseback.model import registry
from caseback.model.registry import technique
from caseback.organisms.compiled.organism import word_tokenizer
from exact import exact

METRIC = cb.logit_diff(3, 5)
TRIES_MANY_WORDS = {"reagent"}
PROMPTS = [[7, 2, 9, 4, 8], [5, 6, 3]]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in TRIES_MANY_WORDS else ())
        for name in sorted(input_methods())
    ],
)
def test_every_registered_input_attribution_keeps_the_contract(name):
    """One score a token by each prompt's own positions, NaN where there is none, alike on either side's padding.

    A function that is called ``(model, tokens, metric)`` and gives something else says so: ``@technique(dims=...)``.
    """
    # with words of its own, since some methods group tokens by them
    words = word_tokenizer([f"w{i}" for i in range(1, zoo.VOCAB)])
    model, method = cb.load(zoo.tiny("llama"), tokenizer=words), input_methods()[name].function
    with exact():
        right, left = (
            attribute(model, model.tokens(PROMPTS, padding=side), METRIC, [name]) for side in ("right", "left")
        )
        alone = attribute(model, PROMPTS[1:], METRIC, [method])
    assert right.dims == ("attribution", "batch", "pos") and right.shape == (1, 2, 5)
    assert np.isnan(right.values[0, 1, 3:]).all() and np.isfinite(right.values[0, 0]).any()
    assert np.allclose(right.values, left.values, atol=1e-9, equal_nan=True)
    assert np.allclose(right.values[0, 1, :3], alone.values[0, 0], atol=1e-9, equal_nan=True)
    assert right.entry.values.tolist()[0].startswith("3.1.")


def registered(function, **options):
    function.__doc__ = "Does it."
    record = {"entry": ("3.1.7",), "citation": "Someone 2020", "cost": "one forward"}
    return technique(role="input attribution", **record, **options)(function).technique


def test_what_counts_as_an_input_attribution(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})

    def good(model, tokens, metric, *, steps=3) -> "xr.DataArray": ...  # noqa: F821
    def maps(model, tokens, *, layers=None) -> "xr.DataArray": ...  # noqa: F821
    def needs_more(model, tokens, metric, corrupt) -> "xr.DataArray": ...  # noqa: F821
    def must_be_told(model, tokens, metric, *, corrupt) -> "xr.DataArray": ...  # noqa: F821
    def several(model, tokens, metric) -> "xr.Dataset": ...  # noqa: F821
    def of_heads(model, tokens, metric) -> "xr.DataArray": ...  # noqa: F821

    assert registered(good).role == "input attribution" and list(input_methods()) == ["good"]
    for function in (maps, needs_more, must_be_told, several):
        with pytest.raises(RegistryError, match=function.__name__):
            registered(function)
    with pytest.raises(RegistryError, match="dims="):
        registered(of_heads, dims=("batch", "layer", "query", "key"))
    assert list(input_methods()) == ["good"]


def test_several_methods_are_what_each_says_alone_with_its_options_and_what_it_says_of_itself():
    model = shelf.model("gpt2")
    both = attribute(
        model,
        PROMPTS,
        METRIC,
        ["integrated_gradients", "gradient_x_input"],
        options={"integrated_gradients": {"steps": 7}},
    )
    alone = gradient_x_input(model, PROMPTS, METRIC)
    assert np.array_equal(both.sel(attribution="gradient_x_input").values, alone.values, equal_nan=True)
    assert json.loads(both.attrs["said"])["integrated_gradients"]["steps"] == [7, 7]
    assert both.entry.values.tolist() == ["3.1.3", "3.1.2"]


def test_scores_of_words_are_sums_unless_the_method_perturbs_words_itself():
    model = cb.load("meadow")
    prompt, metric = "Mary went home. Mary", cb.logit(" was")

    def by_words(model, tokens, metric, *, features="token"):
        return gradient_x_input(model, tokens, metric) if features == "token" else grouped_ones(model, tokens, features)

    def grouped_ones(model, tokens, features):
        import xarray as xr

        return xr.DataArray(np.full((1, len(features[0])), 2.0), dims=["batch", "feature"])

    tokens = attribute(model, prompt, metric, "gradient_x_input")
    words = attribute(model, prompt, metric, ["gradient_x_input", by_words], features="sentence")
    assert words.dims == ("attribution", "batch", "feature") and words.token.values[0].tolist()[1] == "Mary went home."
    assert np.allclose(words.values[0].sum(), tokens.values.sum())
    assert (words.values[1] == 2.0).all()


def test_bad_input_is_told_with_near_names():
    model = shelf.model("llama")
    for methods, said in (
        ("gradient_nrom", "no input attribution is called 'gradient_nrom'. Did you mean gradient_norm"),
        ([], "no method is named"),
        (["gradient_norm", "gradient_norm"], "'gradient_norm' is named twice"),
    ):
        with pytest.raises(CasebackError, match=said):
            attribute(model, PROMPTS, METRIC, methods)
    for options, said in (
        ({"gradient_nor": {}}, "not among the methods. Did you mean gradient_norm"),
        ({"gradient_norm": {"q": 1}}, "gradient_norm takes no option 'q'. Choose one of p"),
    ):
        with pytest.raises(CasebackError, match=said):
            attribute(model, PROMPTS, METRIC, "gradient_norm", options=options)

    def a_number(model, tokens, metric):
        return torch.zeros(2, 5)

    with pytest.raises(ResultError, match="a_number returned Tensor, expected one score per token"):
        attribute(model, PROMPTS, METRIC, a_number)


def test_all_are_all():
    assert list(methods_named("all")) == list(input_methods())
    assert {"gradient_norm", "gradient_x_input", "integrated_gradients"} <= set(input_methods())
