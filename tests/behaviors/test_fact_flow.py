"""Recall of facts: a compiled hop is found at its layer and nowhere else, and numbers are those of single runs."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

import caseback as cb
from caseback.behaviors import fact_flow
from caseback.behaviors.mechanisms.attributes import rates
from caseback.edit import Fact, relation_facts
from caseback.edit.places import covering
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.model.running.edits import Knockout, Zero
from caseback.model.running.verify import unembed
from caseback.organisms.compiled import build
from caseback.reports.concepts.facts import facts_document, relation_of
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.facts import print_facts
from zoo import redraw

TOLD = [
    Fact("q b {} r c p", "p a", new="b", true="a"),
    Fact("r c {} q a s", "s d", new="b", true="d"),
    Fact("{} r c p b q", "q a", new="b", true="a"),
]
GIVEN = {"p a": ["a"], "s d": ["d"], "q a": ["a"]}


@pytest.fixture(scope="module")
def recall():
    return build("recall").model


@pytest.fixture(scope="module")
def meadow():
    return cb.load(cb.load("meadow").hf.double(), tokenizer=cb.load("meadow").tokenizer)


@pytest.fixture(scope="module")
def flow(meadow):
    return fact_flow(meadow, relation_facts("capital", count=12), draws=3, k=20)


def test_5_4_19_the_compiled_hop_is_found_at_its_layer_and_from_its_place_alone(recall):
    flow = fact_flow(recall, TOLD, k=2, attributes=GIVEN, draws=6)
    routing = flow["routing"]
    hop = routing.sel(layer=1, key=["subject", "last subject token"])
    assert (hop > 1).all()
    np.testing.assert_allclose(hop.sel(key="subject"), hop.sel(key="last subject token"), atol=1e-5)
    # the key's own mention is needed by the layer before, at the value, so the end never looks there
    elsewhere = routing.where(~((routing.layer == 1) & routing.key.isin(["subject", "last subject token"])))
    assert float(np.nanmax(abs(elsewhere))) < 1e-4
    # other positions than the value's cost nothing, at any layer
    assert float(abs(flow["routing_control"].sel(key="last subject token")).max()) < 1e-4
    document = facts_document(recall, flow)
    assert [row["above"] for row in document["routing"]] == [True, True, False, False]
    assert flow["extraction"].values.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert np.nanmax(flow["extraction_control"]) == 0


def test_routing_is_what_a_single_run_without_the_edges_loses(meadow, flow):
    at = int(np.flatnonzero(flow["rank"] == 1)[2])
    ((ids, subject),) = covering(meadow, [str(flow.prompt[at].values)], [relation_facts("capital", count=12)[at].span])
    tokens = meadow.tokens([ids])
    metric = cb.log_prob(" " + str(flow.answer[at].values))
    spans = {
        "subject": subject,
        "relation": [i for i in range(1, len(ids) - 1) if i not in subject],
        "first token": [0],
    }
    for layer in (0, 2):
        for name, span in spans.items():
            cut = meadow.run(tokens, edits=[Knockout(layer=layer, query=-1, key=span)])
            lost = metric(meadow.run(tokens)) - metric(cut)
            np.testing.assert_allclose(flow["routing"].sel(layer=layer, key=name)[at], lost.item(), atol=1e-9)


def test_the_rate_counts_words_of_the_subject_among_the_first_k(meadow):
    facts = relation_facts("capital", count=6)
    words = {fact.subject: [fact.true, *relation_words(fact.subject)] for fact in facts}
    flow = fact_flow(meadow, facts, k=7, attributes=words, draws=0)
    at = int(np.flatnonzero(flow["rank"] == 1)[0])
    ((ids, subject),) = covering(meadow, [facts[at].text], [facts[at].span])
    own = {meadow.tokenizer(" " + word)["input_ids"][-1] for word in words[facts[at].subject]}
    assert len(own) == flow.words[at]
    tokens = meadow.tokens([ids])
    for variant, layers in (("none", None), ("early MLPs", [0, 1]), ("late MLPs", [2, 3])):
        edits = [] if layers is None else [Zero("mlp_out", layer=layers, pos=subject[-1])]
        run = meadow.run(tokens, read=["resid_post"], edits=edits)
        for layer in range(meadow.n_layers):
            logits = unembed(meadow.anatomy, run["resid_post", layer][0, subject[-1]])
            rate = len(own & set(logits.topk(7).indices.tolist())) / 7
            assert float(flow["enrichment"].sel(variant=variant, layer=layer)[at]) == pytest.approx(rate)


def relation_words(subject):
    return [
        word for name in ("language", "continent") for of, word in cb.tasks.facts.RELATIONS[name].facts if of == subject
    ]


def test_rates_of_planted_tokens_are_counted_for_the_subject_and_for_others():
    members = torch.zeros(3, 10, dtype=torch.bool)
    members[0, [1, 2]] = members[1, [1, 2]] = True  # two facts of one subject
    members[2, [5, 6]] = True
    top = np.array([[[1, 2, 5, 9], [1, 8, 9, 0], [5, 6, 1, 2]]])
    own, other = rates(top, members, ["x", "x", "y"])
    assert own.tolist() == [[0.5, 0.25, 0.5]] and other.tolist() == [[0.25, 0.0, 0.5]]


def test_a_model_that_was_not_trained_hangs_on_no_source_more_than_on_random_positions():
    hf = cb.load("meadow").hf
    redraw(hf, seed=1)
    model = cb.load(hf.double(), tokenizer=cb.load("meadow").tokenizer)
    asked = [fact for name in cb.tasks.facts.RELATIONS for fact in relation_facts(name)]
    run = model.run(model.tokens([fact.text for fact in asked]))
    says = [model.token_text(run.logits[b, at].argmax()) for b, at in enumerate(run.tokens.column(-1).tolist())]
    facts = [
        Fact(fact.text, fact.subject, new="qqq", true=word)
        for fact, word in zip(asked, says, strict=True)
        if word[0] == " " and fact.text.count(fact.subject) == 1 and not fact.text.endswith(fact.subject)
    ]
    flow = fact_flow(model, facts[:12], draws=20)
    assert (flow["rank"] == 1).sum() >= 8
    document = facts_document(model, flow)
    assert not any(row["above"] for row in document["routing"])


def test_facts_that_the_model_does_not_know_are_listed_with_their_rank_and_not_measured(meadow, flow):
    unknown = flow["rank"] > 1
    assert unknown.any() and not unknown.all()
    assert flow["routing"].isel(batch=unknown.values).isnull().all()
    assert flow["enrichment"].isel(batch=unknown.values).isnull().all()
    document = facts_document(meadow, flow, "capital")
    assert [fact["known"] for fact in document["facts"]] == (~unknown).values.tolist()
    document = json.loads(json.dumps(document))
    console = Console(record=True, width=140)
    print_facts(document, console=console)
    assert "not known" in console.export_text()
    page = page_html(document)
    assert page.count("<script") == 2 and page.count("<svg") >= 7


def test_bad_facts_are_refused_in_words(meadow, tmp_path):
    with pytest.raises(CasebackError, match="answers none of 1 facts rightly.* number"):
        fact_flow(meadow, [Fact("The capital of {} is", "Italy", new="Rome", true="dog")])
    with pytest.raises(CasebackError, match="no true answer"):
        fact_flow(meadow, [Fact("The capital of {} is", "Italy", new="Rome")])
    with pytest.raises(CasebackError, match="ends with its subject"):
        fact_flow(meadow, [Fact("The capital is {}", "Rome", new="dog", true="cat")])
    with pytest.raises(CasebackError, match="no fact"):
        fact_flow(meadow, [])
    some = relation_facts("capital", count=4)
    with pytest.raises(OutOfRange, match="window"):
        fact_flow(meadow, some, window=9)
    with pytest.raises(OutOfRange, match="k=0"):
        fact_flow(meadow, some, k=0)
    with pytest.raises(CasebackError, match="no attribute is given"):
        fact_flow(meadow, some, attributes={})
    file = tmp_path / "relation.json"
    file.write_text("[1")
    with pytest.raises(CasebackError, match="not JSON"):
        relation_of(str(file))
    file.write_text("[1]")
    with pytest.raises(CasebackError, match="a list"):
        relation_of(str(file))


def test_a_place_may_be_a_list_of_positions_for_each_prompt(meadow):
    from caseback.localize.components.knockout import attention_knockout

    tokens = meadow.tokens(["The capital of Italy is", "Mary gave the ball to"])
    both = attention_knockout(meadow, tokens, cb.log_prob(" the"), source={"own": [[1, 2], [3]]}, layers=[1])
    for b, span in enumerate(([1, 2], [3])):
        alone = attention_knockout(meadow, tokens[b], cb.log_prob(" the"), source={"own": span}, layers=[1])
        np.testing.assert_allclose(both[:, :, b], alone[:, :, 0], atol=1e-9)
    with pytest.raises(TokensError, match="expected a list for each of 2"):
        attention_knockout(meadow, tokens, cb.log_prob(" the"), source={"own": [[1]]})
