"""Stories of many prompts: counts are those of the single stories, chance is chance, and what was done is not done twice."""

import json

import numpy as np
import pytest

import caseback as cb
from caseback.errors import CasebackError, LoadError
from caseback.organisms.compiled import build
from caseback.reports.story import several
from caseback.reports.story.several import stories
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.stories import counts_words, print_stories


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def prompts(meadow):
    return cb.tasks.get("ioi").prompts(meadow, 3)


@pytest.fixture(scope="module")
def document(meadow, prompts):
    return stories(meadow, prompts)


def test_counts_are_those_of_the_single_stories(document, meadow, prompts):
    rows = document["rows"]
    assert len(rows) == document["counts"]["prompts"] == 3 and document["source"] == "ioi"
    assert document["counts"]["preferred"] == sum(row["preference"]["prefers"] for row in rows)
    for part in document["parts"]:
        own = [p for row in rows for p in row["parts"] if p["name"] == part["name"]]
        assert part["carrier"] == sum(p["role"] == "carrier" for p in own)
        assert part["opponent"] == sum(p["role"] == "opponent" for p in own)
    for row, target, text in zip(rows, prompts.target, meadow.text(prompts.clean), strict=True):
        assert row["target"]["id"] == target[0] and row["prompt"] == text


def test_places_have_the_names_of_the_task(document):
    places = {row["place"]: row for row in document["places"]}
    assert places["IO"]["words"] == places["end"]["hops"] == document["counts"]["stories"] == 3


def test_the_true_parts_of_an_organism_are_shared():
    organism = build("indirect_object")
    names = [("John", "Mary"), ("Mary", "John"), ("Anna", "Mary"), ("John", "Anna")]
    texts = [f"Friends {a} and {b} found a ball . {a} gave it to" for a, b in names]
    words = set(organism.model.tokenizer.get_vocab())
    given = [text for text in texts if set(text.split()) <= words]
    assert len(given) > 1
    document = stories(organism.model, given)
    true = {str(node) for node in organism.circuit.roles}
    assert {part["name"] for part in document["parts"]} <= true


def test_chance_is_what_random_parts_reach():
    shares = dict.fromkeys(map(str, range(40)), 0.1)
    row = lambda n: {"shares": shares, "parts": [None] * n}  # noqa: E731
    assert several._band([], 0) == 0 and several._band([row(3)], 0) == 1
    assert several._band([row(40)] * 5, 0) == 5
    band = several._band([row(4)] * 20, 0)
    rng = np.random.default_rng(1)
    best = [
        np.bincount(np.concatenate([rng.choice(40, 4, replace=False) for _ in range(20)]), minlength=40).max()
        for _ in range(300)
    ]
    assert abs(band - np.quantile(best, 0.95)) <= 1
    few = [{"shares": dict(list(shares.items())[:8]), "parts": [None] * 4}] * 20
    assert several._band(few, 0) > band  # of few parts each is drawn more often


def test_it_goes_on_from_a_checkpoint_and_refuses_another(meadow, prompts, document, tmp_path, monkeypatch):
    path = tmp_path / "stories.npz"
    told = []
    real = several._row

    def interrupted(*given):
        if len(told) == 2:
            raise KeyboardInterrupt
        told.append(1)
        return real(*given)

    monkeypatch.setattr(several, "_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stories(meadow, prompts, checkpoint=path)
    monkeypatch.setattr(several, "_row", lambda *given: told.append(1) or real(*given))
    again = stories(meadow, prompts, checkpoint=path)
    assert len(told) == 3 and again["parts"] == json.loads(json.dumps(document))["parts"]
    more = stories(meadow, cb.tasks.get("ioi").prompts(meadow, 4), checkpoint=path)
    assert len(told) == 4 and more["rows"][:3] == again["rows"]
    with pytest.raises(LoadError, match="options"):
        stories(meadow, prompts, checkpoint=path, seed=1)


def test_it_is_drawn(document, capsys):
    again = json.loads(json.dumps(document, allow_nan=False))
    assert "What carries the answers of" in page_html(again)
    print_stories(again)
    assert "MLP 0" in capsys.readouterr().out and "3 prompts" in counts_words(again)


def test_bad_input_is_refused(meadow):
    with pytest.raises(CasebackError, match="no story"):
        stories(meadow, ["Mary and John"], depth="none")
    with pytest.raises(CasebackError, match="one for each"):
        stories(meadow, ["Mary and John"], targets=[" went", " to"])
