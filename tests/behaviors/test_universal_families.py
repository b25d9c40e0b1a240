"""Families of universal neurons: counts and shares are those of hand-made atlases, and the page and the terminal say them."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from rich.console import Console

import caseback as cb
from caseback.behaviors import universal_families, universality
from caseback.behaviors.atlas import Atlas, KindReport
from caseback.errors import CasebackError
from caseback.model.findings import Findings
from caseback.reports.concepts.universality import universality_document
from caseback.views.page.mechanisms.universality import universality_html
from caseback.views.text.concepts.universality import print_universality

NAMES = [f"L{layer}N{i}" for layer in range(2) for i in range(4)]
TEXTS = ["Mary gave a drink to John in the park.", "the cat is on the table, and the dog ran."] * 4


def matches(excess, nearest, model="one", other="two"):
    """What ``universality`` would give of two models of two layers of four neurons."""
    data = {"correlation": np.array(excess) + 0.1, "control": np.full(8, 0.1), "excess": np.array(excess)}
    about = {"model": model, "other": other}
    variables = {name: xr.DataArray(x, dims=["component"], attrs=about) for name, x in data.items()}
    variables["nearest"] = xr.DataArray(np.array(nearest), dims=["component"])
    attrs = {"other": other, "units": "neuron", "n_tokens": 100, "universal": float((data["excess"] > 0.5).mean())}
    return xr.Dataset(variables, coords={"component": NAMES}, attrs=attrs)


def atlas_of(model, **labeled):
    """An atlas in which some neurons have the labels of some kinds."""
    reports, scores = [], {}
    for kind, own in labeled.items():
        reports.append(KindReport(kind, "neuron", "5.2.16", "", "", "", 0.5))
        score = [1.0 if name in own else 0.0 for name in NAMES]
        columns = {"score": score, "control": 0.0, "ranked_by": score, "band": 0.5}
        scores[kind] = pd.DataFrame({"unit": NAMES, **columns})
    return Atlas(tuple(reports), Findings((), {}), scores, about={"model": model})


def test_5_2_16_families_are_counted_beside_like_neurons_and_chance():
    excess = [0.9, 0.6, 0.2, 0.0, 0.8, 0.0, 0.0, 0.4]
    nearest = ["L0N0", "L0N1", "L1N3", "L1N3", "L0N0", "L1N3", "L1N3", "L1N2"]
    own = atlas_of("one", position=["L0N0", "L0N1", "L1N0"], token=[])
    others = atlas_of("two", position=["L0N0", "L0N2", "L1N3"], token=["L0N0"])
    families = universal_families(matches(excess, nearest), own, others)
    place = families.sel(group="position")
    assert place.n == 3 and place.n_universal == 3
    assert place.excess == pytest.approx((0.9 + 0.6 + 0.8) / 3)
    # two of the three are in layer 0, whose other two neurons have .2 and 0; layer 1's other three 0, 0 and .4
    assert place.rest == pytest.approx((2 * 0.1 + 0.4 / 3) / 3)
    assert place.both == pytest.approx(2 / 3)
    # all three nearest are in layer 0, of whose four neurons two have the label
    assert place.chance == pytest.approx(0.5)
    none = families.sel(group="unigram")
    assert none.n == 0 and np.isnan(none.excess) and np.isnan(none.both)
    assert families.attrs["missing"] == "alphabet, form of the token, previous token, syntax, semantic"


def test_what_does_not_belong_together_is_refused():
    matched = matches([0.0] * 8, NAMES)
    own, others = atlas_of("one", position=[]), atlas_of("two", position=[])
    with pytest.raises(CasebackError, match="the other model is of 'one', not of 'two'"):
        universal_families(matched, own, own)
    with pytest.raises(CasebackError, match="families are of neurons"):
        universal_families(matched.assign_attrs(units="head"), own, others)
    with pytest.raises(CasebackError, match="no family was looked for"):
        universal_families(matched, atlas_of("one"), others)
    with pytest.raises(CasebackError, match="expected that of universality"):
        universality_document(xr.Dataset({"correlation": matched.correlation}))


def test_the_document_counts_and_the_control_stands_beside_every_number():
    matched = matches([0.9, 0.6, 0.2, 0.0, 0.8, 0.0, 0.0, 0.4], NAMES, other="one")
    document = universality_document(matched, top=2, folders=("runs/a", "runs/b"))
    assert (document["model"]["name"], document["other"]) == ("runs/a", "runs/b")
    assert document["universal"]["share"] == 3 / 8
    assert [row["universal"] for row in document["layers"]] == [0.5, 0.25]
    assert [one["unit"] for one in document["strongest"]] == ["L0N0", "L1N0"]
    assert document["ranks"]["correlation"][0] == pytest.approx(1.0)
    console = Console(width=120, record=True)
    print_universality(document, console=console)
    text = console.export_text()
    assert "3 of 8 neurons of runs/a are universal (38%)" in text and "rotated 0.10" in text
    html = universality_html(document)
    assert "Which neurons does <em>runs/b</em> have too?" in html and "rotated" in html


def test_cb_show_has_the_control_beside_the_correlation():
    model = cb.load("meadow")
    shown = cb.show(universality(model, model, TEXTS, units="head"))
    assert shown.data["kind"] == "caseback.universality"
    assert shown.data["universal"]["control"] < shown.data["universal"]["correlation"] == pytest.approx(1)
    assert "rotated" in shown.html
