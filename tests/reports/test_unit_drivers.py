"""What drives a unit: rows that sum to what the model itself holds there, for heads, neurons and features."""

import html
import io

import pytest
import torch
from rich.console import Console

import caseback as cb
import shelf
from caseback.errors import ArgumentError, CasebackError
from caseback.localize.circuits import feature_attribution
from caseback.model.anatomy.sites import Site
from caseback.reports.quick.drivers import unit_drivers
from caseback.views.numbers_text import signed
from caseback.views.page.kinds import page_html
from caseback.views.text.inputs.drivers import driver_rows, print_drivers
from exact import exact
from explorer_shelf import shelf_of
from graph_parts import PROMPT

TEXT = "When Mary and John went to the store, John gave a drink to"


def total(document):
    return sum(row["weight"] for row in document["rows"]) + document["rest"]


@pytest.mark.parametrize("name", "gpt2 llama qwen3 gemma2 gptj stablelm olmo2".split())
def test_what_a_neuron_reads_is_the_sum_of_what_was_written(name):
    model = shelf.model(name)
    layer = model.n_layers - 1
    site = "mlp_gate" if model.anatomy.has(Site("mlp_gate", layer)) else "mlp_pre"
    with exact():
        for pos in (-1, 1):
            value = float(model.run(PROMPT, read=[site])[site, layer][0, pos, 3])
            found = feature_attribution(model, PROMPT, f"L{layer}N3", [], pos=pos, top=None)
            assert found.attrs["gap"] < 1e-9
            assert float(found.weight.sum()) == pytest.approx(value, abs=1e-9)
    assert {"embed", "head", "mlp"} <= set(found.kind.values.tolist())


def test_every_kind_of_unit_is_split_and_what_is_not_listed_is_summed():
    model = cb.load("meadow")
    one = shelf_of(model).dictionaries["words"]
    tokens = model.tokens(TEXT)
    run = model.run(tokens, read=["mlp_pre", "scores", "resid_post"])
    head = unit_drivers(model, TEXT, "L2H3", [one], top=7)
    key = head["of"]["key"]
    assert len(head["rows"]) == 7 and all(len(row["writers"]) == 2 for row in head["rows"])
    assert total(head) == pytest.approx(float(run["scores", 2][0, 3, -1, key]), abs=1e-3)
    assert unit_drivers(model, TEXT, "L2H3", key=2)["of"]["key"] == 2
    neuron = unit_drivers(model, TEXT, "L3N17", [one], pos=5)
    assert total(neuron) == pytest.approx(float(run["mlp_pre", 3][0, 5, 17]), abs=1e-3)
    assert any(row["writers"][0]["name"].startswith("L2F") for row in neuron["rows"] if row["writers"][0]["name"])
    codes = one.encode(run["resid_post", 2][0]).detach()
    at = int(codes[:, 0].argmax())
    feature = unit_drivers(model, TEXT, "L2F0:resid_post", [one], pos=at)
    assert total(feature) == pytest.approx(float(codes[at, 0]), abs=1e-2)
    weights = torch.tensor([row["weight"] for row in feature["rows"]]).abs()
    assert bool((weights.diff() <= 0).all())


@pytest.mark.parametrize("unit, columns", [("L2H3", "at the query"), ("L3N17", "written by")])
def test_rows_are_printed_and_drawn_with_what_is_left(unit, columns):
    document = unit_drivers(cb.load("meadow"), TEXT, unit, top=5)
    file = io.StringIO()
    print_drivers(document, console=Console(file=file, width=120))
    printed = file.getvalue()
    page = page_html(document)
    assert columns in printed and columns in page
    assert "all others" in printed and signed(document["rest"]) in printed
    for names, weight in driver_rows(document):
        assert all(name in printed and html.escape(name) in page for name in names)
        assert signed(weight) in printed and signed(weight) in page


@pytest.mark.parametrize("unit", ["MLP 2", "poem", "L2N999999", "L9N0", "L2F0:resid_post", "L2H99"])
def test_units_that_are_not_there_are_refused(unit):
    with pytest.raises(CasebackError):
        unit_drivers(cb.load("meadow"), TEXT, unit)


def test_only_a_head_has_a_key():
    with pytest.raises(ArgumentError, match="only a head"):
        unit_drivers(cb.load("meadow"), TEXT, "L3N17", key=2)
