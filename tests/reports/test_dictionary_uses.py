"""What dictionaries are good for, in the document of measured ones, in the terminal and on the page."""

import io
import json

import pytest
import torch
from rich.console import Console

import caseback as cb
from caseback.decode.dictionaries import Facts, TopK
from caseback.errors import ArgumentError, CasebackError, LoadError
from caseback.organisms.prose.world import RESIDENTS
from caseback.reports.dictionaries.dictionaries import dictionaries_document
from caseback.reports.dictionaries.features import features_document
from caseback.views.page.kinds import page_html
from caseback.views.text.dictionaries.dictionaries import print_dictionaries
from caseback.views.text.dictionaries.features import print_features

TEXTS = ["Mary went to the store.", "the cat sat"]
ASKED = {"job": "{entity} earns money as a", "city": "The home of {entity} is in"}
PEOPLE = {f"{who.name} {who.surname}": {one: getattr(who, one) for one in ASKED} for who in RESIDENTS}


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


def one(model, layer=0):
    return TopK(model.d_model, 64, k=8, facts=Facts(site=f"resid_post.{layer}"))


def side(names):
    asked = [(ASKED[a].replace("{entity}", name), f" {PEOPLE[name][a]}") for name in names for a in ASKED]
    return {"texts": [question + answer for question, answer in asked], "questions": [list(pair) for pair in asked]}


def printed(show, document):
    file = io.StringIO()
    show(document, Console(width=160, file=file))
    return file.getvalue()


def test_both_tables_are_in_the_document_the_terminal_and_the_page(model):
    given = {"forget": side(list(PEOPLE)[:4]), "retain": side(list(PEOPLE)[4:12])}
    document = dictionaries_document(
        model,
        {"mine": one(model)},
        TEXTS,
        entities={"entities": PEOPLE, "templates": ASKED},
        attribute="job",
        examples=120,
        epochs=1,
        forgetting=given,
    )
    moved, forgotten = document["attributes"], document["forgotten"]
    names = [row["name"] for row in moved["rows"]]
    assert moved["others"] == ["city"] and names[:2] == ["nothing", "all"]
    assert "mine: masked features" in names and "mine, random: masked features" in names
    assert [row["name"] for row in forgotten["rows"]] == ["mine", "mine, random features"]
    assert 0 < forgotten["forget_questions"] <= 8 and len(forgotten["rows"][0]["settings"]) == 9
    assert json.loads(json.dumps(document)) == document
    text, page = printed(print_dictionaries, document), page_html(document)
    for words in ("mine: masked features", "mine, random features"):
        assert words in text and words in page
    assert "job moved at resid_post.0, city left alone" in text and "<h2>job moved, city left alone</h2>" in page


def test_bad_files_and_several_sites_are_refused(model):
    with pytest.raises(LoadError, match="no object of objects of attributes"):
        dictionaries_document(model, {"mine": one(model)}, TEXTS, entities={"entities": ["Mary"]})
    with pytest.raises(LoadError, match="no object of forget and retain"):
        dictionaries_document(model, {"mine": one(model)}, TEXTS, forgetting={"forget": {"texts": ["a"]}})
    both = {"first": one(model), "second": one(model, 1)}
    with pytest.raises(ArgumentError, match="expected those of one site"):
        dictionaries_document(model, both, TEXTS, entities={"entities": PEOPLE, "templates": ASKED}, attribute="job")


def test_factors_stand_beside_a_prompts_features(model):
    document = features_document(model, one(model), TEXTS, cards=0, prompt="Mary gave John a drink", factors=2)
    factors = document["factors"]
    assert len(factors["parts"]) == 2 and factors["tokens"][-1] == "␣drink"
    assert all(len(part["values"]) == len(factors["tokens"]) for part in factors["parts"])
    assert "2 factors explain" in printed(print_features, document)
    assert features_document(model, one(model), TEXTS, cards=0)["factors"] is None
    with pytest.raises(CasebackError, match="give a prompt"):
        features_document(model, one(model), TEXTS, cards=0, factors=2)


def test_states_that_are_many_times_longer_than_others_take_no_card(model):
    """A sink has the largest activation of many features, and would be the example on all cards."""
    draw = torch.Generator().manual_seed(0)
    long = model.edited([cb.Add("resid_post", 300 * torch.randn(160, generator=draw), layer=0, pos=3)])
    plain, document = (features_document(each, one(model), TEXTS, cards=5, top=4) for each in (model, long))
    largest = [max(row["max"] for row in each["features"]) for each in (plain, document)]
    assert largest[1] <= largest[0] and len(document["cards"]) == 5
    assert "ten times as long as the median" in printed(print_features, document)
