"""Claims against memory: in a model with one head for each, the dial flips the answer where the weights say it must."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

import caseback as cb
from caseback.behaviors import context_memory
from caseback.behaviors.mechanisms.context_memory import WORDING as IN_A_TALE
from caseback.behaviors.mechanisms.context_memory import written
from caseback.edit import Fact, relation_facts
from caseback.errors import CasebackError, OutOfRange
from caseback.model.running.edits import Scale, Zero
from caseback.model.running.metrics import is_first
from caseback.organisms.compiled.draft import ALWAYS, SHARP, Draft
from caseback.reports.concepts.context_memory import context_memory_document
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.context_memory import print_context_memory
from zoo import redraw

N = 12
SUBJECTS, ANSWERS = [f"s{i}" for i in range(N)], [f"a{i}" for i in range(N)]
CLAIMED, KNOWN = 2.0, 1.0


@pytest.fixture(scope="module")
def planted():
    """Head 0 copies an answer of the prompt by 2, head 1 says what is known of the subject by 1, others do nothing."""
    words = [*SUBJECTS, *ANSWERS, "is", "."]
    parts = {"answer": N, "known": N, "is answer": 1, "is subject": 1, "logits": N}
    draft = Draft(words, 8, parts)
    draft.embed("answer", ANSWERS)
    draft.embed("is answer", ANSWERS, torch.ones(N, 1))
    draft.embed("known", SUBJECTS)
    draft.embed("is subject", SUBJECTS, torch.ones(N, 1))
    draft.unembed("logits", ANSWERS)
    draft.head(0, [(ALWAYS, draft["is answer"], SHARP)], [(draft["answer"], draft.into("logits", CLAIMED))])
    draft.head(0, [(ALWAYS, draft["is subject"], SHARP)], [(draft["known"], draft.into("logits", KNOWN))])
    for _ in range(4):
        draft.head(0, [(ALWAYS, draft["is subject"], SHARP)], [(draft["answer"], draft.into("known", 0.0))])
    model = draft.model()
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


FACTS = [Fact("{} is", s, new=ANSWERS[(i + 5) % N], true=ANSWERS[i]) for i, s in enumerate(SUBJECTS)]
WORDING = "{claim} . {question}"


@pytest.fixture(scope="module")
def meadow():
    return cb.load(cb.load("meadow").hf.double(), tokenizer=cb.load("meadow").tokenizer)


def test_5_4_22_the_dial_flips_the_answer_at_the_ratio_of_the_planted_weights(planted):
    flip = KNOWN / CLAIMED
    factors = [flip - 0.01, flip + 0.01, CLAIMED / KNOWN - 0.01, CLAIMED / KNOWN + 0.01]
    dial = context_memory(planted, FACTS, wording=WORDING, top=1, factors=factors, draws=4)
    assert dial["kind"].values.tolist() == [["in-context", "memory", "", "", "", ""]]
    # a head that copies speaks for the other word where the claim agrees, a head that knows for the same
    np.testing.assert_allclose(dial["direct"].sel(layer=0)[:2], [[CLAIMED] * N, [-KNOWN] * N], atol=1e-9)
    np.testing.assert_allclose(dial["direct_agreeing"].sel(layer=0)[:2], [[-CLAIMED] * N, [-KNOWN] * N], atol=1e-9)
    on = np.flatnonzero(dial["judged"].values)
    assert 0 < len(on) < N
    doses = dial["dose"].values[:, None]
    own = dial.isel(batch=on)
    np.testing.assert_allclose(
        own["margin"].sel(group="in-context"),
        np.broadcast_to(CLAIMED * doses - KNOWN, (len(doses), len(on))),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        own["margin"].sel(group="memory"), np.broadcast_to(CLAIMED - KNOWN * doses, (len(doses), len(on))), atol=1e-9
    )
    says = own["says"].transpose("group", "batch", "dose").values
    for kind, edge in enumerate((flip, CLAIMED / KNOWN)):
        claimed = (doses[:, 0] > edge) if kind == 0 else (doses[:, 0] < edge)
        assert (says[kind] == np.where(claimed, 1, 2)).all()
    # other heads change nothing, and what is known stays known without the heads that copy
    assert (own["says_control"] == 1).all() and np.ptp(own["margin_control"].values) < 1e-9
    assert (own["bare"].sel(group="in-context") == 1).all()
    document = context_memory_document(planted, dial)
    assert all(row["above"] for row in (*document["dials"], *document["heads"]))


def test_a_dial_is_what_a_run_with_its_heads_scaled_says(meadow):
    facts = relation_facts("continent", count=16)
    dial = context_memory(meadow, facts, top=2, factors=[3.0], draws=0)
    kinds = dial["kind"].values
    on = np.flatnonzero(dial["judged"].values)
    tokens = meadow.tokens([str(text) for text in dial.context.values[on]])
    claimed, known = ([f" {word}" for word in dial[name].values[on]] for name in ("claimed", "answer"))
    for kind in ("in-context", "memory"):
        heads = np.argwhere(kinds == kind).tolist()
        edits = [Scale("z", layer=i, head=h, pos=-1, factor=3.0) for i, h in heads]
        run = meadow.run(tokens, edits=edits)
        own = dial.sel(group=kind, dose=3.0).isel(batch=on)
        np.testing.assert_allclose(own["margin"], cb.logit_diff(claimed, known)(run), atol=1e-9)
        first = [is_first(words)(run).numpy() for words in (claimed, known)]
        assert (own["says"].values == first[0] + 2 * first[1]).all()
        alone = meadow.run(meadow.tokens([str(text) for text in dial.prompt.values[on]]), edits=edits)
        assert (own["bare"].values == is_first(known)(alone).numpy()).all()
    i, h = np.argwhere(kinds == "memory")[0].tolist()
    metric = cb.logit_diff(claimed, known)
    lost = metric(meadow.run(tokens)) - metric(meadow.run(tokens, edits=[Zero("z", layer=i, head=h, pos=-1)]))
    np.testing.assert_allclose(dial["knockout"][i, h][on], lost, atol=1e-9)
    assert dial["says"].isel(batch=np.flatnonzero(~dial["judged"].values)).isnull().all()


def test_meadow_says_what_it_knows_once_its_memory_heads_are_turned_up(meadow):
    document = context_memory_document(meadow, context_memory(meadow, relation_facts("capital")), "capital")
    dials = {row["kind"]: row for row in document["dials"]}
    plain, up = (document["factors"].index(x) for x in (1.0, 5.0))
    memory = dials["memory"]
    # 13 of the 14 held-out capitals
    assert memory["claimed"][plain] == 1 and memory["claimed"][up] < 0.1 and memory["known"][up] > 0.9
    assert memory["random"]["mean"][up] > 0.6 and memory["agreeing"][up] == memory["bare"][up] == 1
    assert memory["above"] and dials["in-context"]["above"] and not dials["suppressing"]["above"]


def test_a_model_that_was_not_trained_has_no_head_of_any_kind():
    hf = cb.load("meadow").hf
    redraw(hf, seed=1)
    model = cb.load(hf.double(), tokenizer=cb.load("meadow").tokenizer)
    facts = [fact for name in cb.tasks.facts.RELATIONS for fact in relation_facts(name)]
    run = model.run(model.tokens([fact.text for fact in facts]))
    says = [model.token_text(run.logits[b, at].argmax()) for b, at in enumerate(run.tokens.column(-1).tolist())]
    words = sorted({word for word in says if word[0] == " "})
    facts = [
        Fact(fact.text, fact.subject, new=words[words.index(word) - 1].strip(), true=word.strip())
        for fact, word in zip(facts, says, strict=True)
        if word in words
    ]
    assert len(words) > 2 and len(facts) > 16
    dial = context_memory(model, facts)
    document = context_memory_document(model, dial)
    assert not any(row["above"] for row in (*document["dials"], *document["heads"])), document["dials"]


def test_the_document_is_drawn_in_the_terminal_and_as_a_page(meadow):
    dial = context_memory(meadow, relation_facts("continent", count=16), top=2, draws=3)
    document = json.loads(json.dumps(context_memory_document(meadow, dial, "continent")))
    console = Console(record=True, width=140)
    print_context_memory(document, console=console)
    assert "memory heads (" in console.export_text()
    assert page_html(document).count("<svg") >= 4
    bare = context_memory_document(meadow, context_memory(meadow, relation_facts("continent", count=16), draws=0))
    assert bare["dials"][0]["random"] is None and "nothing to compare" in page_html(bare)


def test_bad_claims_are_refused_in_words(meadow):
    some = relation_facts("capital", count=12)
    with pytest.raises(CasebackError, match="knows 0, .* expected 8 or more"):
        context_memory(meadow, [Fact("The capital of {} is", "Italy", new="Rome", true="dog")])
    with pytest.raises(CasebackError, match="no true answer"):
        context_memory(meadow, [Fact("The capital of {} is", "Italy", new="Rome")])
    with pytest.raises(CasebackError, match="no fact"):
        context_memory(meadow, [])
    with pytest.raises(CasebackError, match="at its end"):
        context_memory(meadow, some, wording="{question}? {claim}")
    with pytest.raises(OutOfRange, match="top=0"):
        context_memory(meadow, some, top=0)
    with pytest.raises(OutOfRange, match="finite"):
        context_memory(meadow, some, factors=[float("nan")])
    flow = cb.behaviors.fact_flow(meadow, some[:6], draws=1)
    with pytest.raises(CasebackError, match="without margin"):
        context_memory_document(meadow, flow)


def test_a_claim_in_the_middle_of_a_sentence_begins_with_a_small_letter():
    fact = Fact("The capital of {} is", "Italy", new="Oslo", true="Rome")
    own = "The capital of Italy is"
    assert written(IN_A_TALE, fact, "Oslo") == f"In this tale, the capital of Italy is Oslo. {own}"
    assert written("He says that {claim}. {question}", fact, "Oslo").startswith("He says that the capital")
    for wording in ("{claim}. {question}", "It is so. {claim}. {question}", "Note: {claim}. {question}"):
        assert f"The capital of Italy is Oslo. {own}" in written(wording, fact, "Oslo")
    for named in (Fact("{}'s capital is", "Italy", new="Oslo"), Fact("I think that {} is near", "Italy", new="Oslo")):
        assert named.text in written(IN_A_TALE, named, "Oslo").partition(". ")[0]
