"""Request patching: in a hand-made key-value retrieval model the third answer comes behind one layer and no other."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

import caseback as cb
from caseback.behaviors import request_patching
from caseback.errors import CasebackError, OutOfRange
from caseback.model.running.edits import Replace
from caseback.model.running.metrics import is_first
from caseback.organisms.compiled.draft import SHARP, Draft
from caseback.reports.concepts.requests import relations_of, requests_document
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.requests import print_requests
from zoo import redraw

THINGS, ASKED = [f"c{i}" for i in range(5)], ["q0", "q1", "q2"]
ANSWERS = [[f"a{i}{k}" for k in range(len(ASKED))] for i in range(len(THINGS))]
REQUESTS = [f"{asked} {{}} :" for asked in ASKED]


@pytest.fixture(scope="module")
def planted():
    """Layer 0 brings the request to the end, layer 1 the thing, and layer 2 looks both up: answer = request and thing."""
    words = [*THINGS, *ASKED, *(word for row in ANSWERS for word in row), ":"]
    n, m = len(THINGS), len(ASKED)
    parts = {
        "thing": n,
        "asked": m,
        "is thing": 1,
        "is asked": 1,
        "end": 1,
        "request": m,
        "fetched": n,
        "answer": n * m,
    }
    draft = Draft(words, 8, parts)
    for part, some in (("thing", THINGS), ("asked", ASKED)):
        draft.embed(part, some)
        draft.embed(f"is {part}", some, torch.ones(len(some), 1))
    draft.embed("end", [":"])
    draft.unembed("answer", [word for row in ANSWERS for word in row])
    draft.head(0, [(draft["end"], draft["is asked"], SHARP)], [(draft["asked"], draft.into("request"))])
    draft.head(1, [(draft["end"], draft["is thing"], SHARP)], [(draft["thing"], draft.into("fetched"))])
    pairs = [(i, k) for i in range(n) for k in range(m)]
    reads = torch.stack([draft["fetched"][:, i] + draft["request"][:, k] for i, k in pairs], 1)
    draft.neurons(2, reads, torch.full((n * m,), -1.5), 2 * draft.into("answer"))
    model = draft.model(layers=3)
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


@pytest.fixture(scope="module")
def meadow():
    return cb.load(cb.load("meadow").hf.double(), tokenizer=cb.load("meadow").tokenizer)


def test_5_4_2_the_third_answer_comes_once_the_request_is_read_and_before_the_context_is(planted):
    patched = request_patching(planted, REQUESTS, THINGS, ANSWERS, count=30, unrelated=["c0 c1", "c2"])
    says = patched["says"].values
    assert (says[0, 0] == 1).all() and (says[0, 1:] == 2).all()
    # the same request from another context asks what is asked already, until the context is fetched
    assert (says[1, 0] == 3).all() and (says[1, 1:] == 0).all()
    assert (says[2] != 1).all() and (says[2] != 2).all()
    document = requests_document(planted, patched)
    assert document["held"] == {"layer": 0, "share": 1.0, "error": 0.0, "control": 0.0, "above": True}
    assert all(row["share"] == 1 for row in document["pairs"])


def test_a_patched_state_is_what_a_run_with_it_in_place_says(meadow):
    asked, countries, answers = relations_of(["capital", "language", "continent"])
    patched = request_patching(meadow, asked, countries, answers, count=8)
    at = {country: i for i, country in enumerate(countries)}
    for b in (0, 5):
        source, receiver = (str(patched[name].values[b]) for name in ("source", "receiver"))
        run = meadow.run(source, read=["resid_post"])
        for layer in range(meadow.n_layers):
            edit = Replace("resid_post", layer=layer, pos=-1, value=run["resid_post", layer][:, -1])
            edited = meadow.run(receiver, edits=[edit])
            words = [f" {patched[name].values[b]}" for name in ("third", "own", "other")]
            first = [bool(is_first(word)(edited)) for word in words]
            assert patched["says"][0, layer, b] == (first.index(True) + 1 if any(first) else 0)
            assert float(patched["prob"][0, layer, b]) == pytest.approx(float(cb.prob(words[0])(edited)), abs=1e-9)
        # the third answer is the source's request on the receiver's subject
        to, of = (next(i for name, i in at.items() if name in text) for text in (receiver, source))
        k = answers[of].index(str(patched["own"].values[b]))
        assert answers[to][k] == patched["third"].values[b]


def test_meadow_holds_the_request_behind_its_first_layer(meadow):
    document = requests_document(meadow, request_patching(meadow, *relations_of(["capital", "language", "continent"])))
    held = document["held"]
    assert held["layer"] == 0 and held["share"] > 0.6 and held["control"] < 0.1 and held["above"]
    assert document["states"][0]["own"][-1] == 1


def test_a_model_that_was_not_trained_holds_no_request():
    hf = cb.load("meadow").hf
    redraw(hf, seed=3)
    model = cb.load(hf.double(), tokenizer=cb.load("meadow").tokenizer)
    asked, countries, _ = relations_of(["capital", "language", "continent"])
    run = model.run(model.tokens([text.replace("{}", country) for country in countries for text in asked]))
    words = [model.token_text(run.logits[b, at].argmax()) for b, at in enumerate(run.tokens.column(-1).tolist())]
    answers = [words[i : i + 3] for i in range(0, len(words), 3)]
    with pytest.raises(CasebackError, match="of requests with three different answers"):
        request_patching(model, asked, countries, answers)


def test_the_document_is_drawn_in_the_terminal_and_as_a_page(meadow):
    patched = request_patching(meadow, *relations_of(["capital", "language"]), count=8)
    document = json.loads(json.dumps(requests_document(meadow, patched)))
    console = Console(record=True, width=140)
    print_requests(document, console=console)
    assert "held-out pairs" in console.export_text()
    assert page_html(document).count("<svg") >= 3


def test_bad_requests_are_refused_in_words(meadow):
    good = ["The capital of {} is", "The language of {} is"]
    with pytest.raises(CasebackError, match="two or more texts"):
        request_patching(meadow, good[:1], ["Italy"], [["Rome"]])
    with pytest.raises(CasebackError, match="ends with its context"):
        request_patching(meadow, [*good, "The capital is {}"], ["Italy"], [["Rome", "Italian", "x"]])
    with pytest.raises(CasebackError, match="1 rows of answers for 2 contexts"):
        request_patching(meadow, good, ["Italy", "France"], [["Rome", "Italian"]])
    with pytest.raises(OutOfRange, match="count=2"):
        request_patching(meadow, good, ["Italy"], [["Rome", "Italian"]], count=2)
    with pytest.raises(CasebackError, match="make 0 pairs"):
        request_patching(meadow, good, ["Italy"], [["Rome", "Italian"]])
    with pytest.raises(CasebackError, match="two or more with the same subjects"):
        relations_of(["capital"])
    with pytest.raises(CasebackError, match="no subject in common"):
        relations_of(["capital", "plural"])
    flow = cb.behaviors.fact_flow(meadow, cb.edit.relation_facts("capital", count=6), draws=1)
    with pytest.raises(CasebackError, match="without prob"):
        requests_document(meadow, flow)
    assert np.isfinite(request_patching(meadow, *relations_of(["capital", "language"]), count=4)["prob"]).all()
