"""Attributions of many prompts: means are those of the single prompts, and what was done is not done twice."""

import json

import numpy as np
import pytest

import caseback as cb
from caseback.errors import CasebackError, LoadError
from caseback.reports.attributions import compare_attributions
from caseback.reports.inputs import over_prompts
from caseback.reports.inputs.context import context_document
from caseback.reports.inputs.over_prompts import attributions_over_prompts
from caseback.views.page.kinds import page_html
from caseback.views.text.inputs.attributed_prompts import print_attributed_prompts
from caseback.views.text.inputs.context import cue_rows, print_context

METHODS = ["gradient_x_input", "occlusion"]


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def prompts(meadow):
    return cb.tasks.get("ioi").prompts(meadow, 5)


@pytest.fixture(scope="module")
def document(meadow, prompts):
    return attributions_over_prompts(meadow, prompts, METHODS, features="word", chance=3)


def test_each_row_is_the_comparison_of_its_prompt(document, meadow, prompts):
    for b, row in enumerate(document["rows"]):
        ids = prompts.clean.ids[b][prompts.clean.mask[b]].tolist()
        answers = {"target": prompts.target[b][0], "foil": prompts.foil[b][0]}
        alone = compare_attributions(meadow, ids, METHODS, features="word", chance=3, **answers)
        assert row["tokens"] == [token["text"] for token in alone["tokens"]]
        for m, name in enumerate(METHODS):
            np.testing.assert_allclose(row["scores"][name], alone["methods"][m]["scores"], rtol=1e-3, atol=1e-3)
            for measure in ("comprehensiveness", "sufficiency"):
                own, chance = row["faithful"][name], alone["comparison"]["chance"]
                assert own[measure] == pytest.approx(alone["comparison"][measure][m], abs=1e-3)
                assert own["chance"][measure] == pytest.approx(chance[measure]["mean"], abs=1e-3)


def test_means_are_of_the_rows(document):
    """Recomputed prompt by prompt, in plain loops."""
    place = document["places"][0]
    for name in METHODS:
        shares = []
        for row in document["rows"]:
            free = [i for i, special in enumerate(row["special"]) if not special]
            total = sum(abs(row["scores"][name][i]) for i in free)
            shares += [abs(row["scores"][name][i]) / total for i in free if row["places"][i] == place["place"]]
        assert len(shares) == place["count"] and np.mean(shares) == pytest.approx(place["share"][name])
    first = document["methods"][0]
    beyond = [
        row["faithful"][first["name"]]["comprehensiveness"]
        - row["faithful"][first["name"]]["chance"]["comprehensiveness"]
        for row in document["rows"]
    ]
    assert first["lost"]["mean"] == pytest.approx(np.mean(beyond)) and first["better"] == sum(x > 0 for x in beyond)
    assert first["lost"]["error"] == pytest.approx(np.std(beyond, ddof=1) / np.sqrt(len(beyond)))


def test_names_count_more_than_if_all_counted_alike(document):
    by_place = {row["place"]: row for row in document["places"]}
    for name in METHODS:
        assert by_place["IO"]["share"][name] > 2 * by_place["IO"]["even"]


def test_it_goes_on_from_a_checkpoint(meadow, prompts, document, tmp_path, monkeypatch):
    path, asked, real = tmp_path / "attributions.npz", [], over_prompts._rows

    def interrupted(model, tokens, *given):
        if asked:
            raise KeyboardInterrupt
        asked.append(len(tokens))
        return real(model, tokens, *given)

    from caseback.jobs import budget

    options = {"methods": METHODS, "features": "word", "chance": 3, "checkpoint": path}
    monkeypatch.setattr(over_prompts, "_rows", interrupted)
    with budget.override(gradient_tokens=20), pytest.raises(KeyboardInterrupt):
        attributions_over_prompts(meadow, prompts, **options)
    monkeypatch.setattr(over_prompts, "_rows", lambda *given: asked.append(len(given[1])) or real(*given))
    again = attributions_over_prompts(meadow, prompts, **options)
    assert asked[0] == 1 and sum(asked) == 5
    assert [row["prompt"] for row in again["rows"]] == [row["prompt"] for row in document["rows"]]
    assert again["places"][0]["share"] == pytest.approx(document["places"][0]["share"], abs=1e-4)
    with pytest.raises(LoadError, match="options"):
        attributions_over_prompts(meadow, prompts, **options | {"chance": 4})


def test_it_is_drawn(document, capsys):
    page = page_html(json.loads(json.dumps(document, allow_nan=False)))
    assert "Where do the answers of" in page and "How far to trust them" in page
    print_attributed_prompts(document)
    assert "5 of 5" in capsys.readouterr().out


def test_a_context_is_drawn_with_its_cues(meadow, capsys):
    context, current = "Mary and John went to the store.", " John gave a drink to"
    reliance = cb.localize.inputs.pecore(meadow, context, current, max_new_tokens=3)
    document = json.loads(json.dumps(context_document(meadow, reliance, current=current), allow_nan=False))
    assert [row[0] for row in cue_rows(document)] == ["Mary (0)", "␣John (2)"]
    assert document["generated"][0]["selected"] and max(document["cues"][0]) == reliance.pairs[0].score
    assert "does the answer rely on?" in page_html(document)
    print_context(document)
    assert "comes from 2 of its 8 tokens" in " ".join(capsys.readouterr().out.split())


def test_bad_input_is_refused(meadow):
    with pytest.raises(CasebackError, match="one for each"):
        attributions_over_prompts(meadow, ["Mary and John"], targets=[" went", " to"])
    with pytest.raises(CasebackError, match="no input attribution"):
        attributions_over_prompts(meadow, ["Mary and John"], ["gradient_x_imput"])
    small = cb.localize.inputs.pecore(meadow, "Mary", " went to", " the")
    small.sensitivity.attrs["model"] = "another"
    with pytest.raises(CasebackError, match="another"):
        context_document(meadow, small)


def test_of_one_generated_token_the_one_that_the_context_turned_counts(meadow):
    context, current = "Mary and John went to the store.", " John gave a drink to"
    reliance = cb.localize.inputs.pecore(meadow, context, current, " Mary")
    document = context_document(meadow, reliance, current=current)
    assert document["how"]["threshold"] is None and [row["selected"] for row in document["generated"]] == [True]
    assert document["pairs"][0]["context_token"] == "Mary"
    assert "another token without the context" in page_html(document)
