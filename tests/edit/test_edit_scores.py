"""Scores of edits: beside the definitions of CounterFact and zsRE, by hand; published files' layouts."""

import json
import math

import pytest
import torch

import caseback as cb
from caseback.edit import (
    Fact,
    generation_entropy,
    load_counterfact,
    load_known,
    load_zsre,
    of_generation,
    on_plain_text,
    relation_facts,
    scores,
    summary,
)
from caseback.edit.scores import begins_with, teacher_forced
from caseback.errors import CasebackError, LoadError

FACT = Fact(
    "The capital of {} is",
    "France",
    "Rome, the",
    "Paris",
    ["The capital city of France is called"],
    [("The capital of Spain is", "Madrid"), ("The capital of Italy is", "Paris")],
    [("The people of France speak", "French")],
)


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


def nll(model, text, answer):
    pieces = model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    ids = model.tokens(text).ids[0].tolist()
    logits = model.run([ids + pieces]).logits[0, len(ids) - 1 : -1].double()
    log_p = logits.log_softmax(-1)[torch.arange(len(pieces)), pieces]
    return float(-log_p.mean()), float((logits.argmax(-1) == torch.tensor(pieces)).double().mean())


def test_scores_are_the_definitions(model):
    row = scores(model, [FACT]).isel(batch=0)

    def get(name):
        return float(row.sel(measure=name))

    new, true = nll(model, FACT.text, FACT.new), nll(model, FACT.text, "Paris")
    assert get("efficacy") == float(new[0] < true[0]) == 0
    assert get("efficacy_magnitude") == pytest.approx(math.exp(-new[0]) - math.exp(-true[0]), abs=1e-5)
    assert get("efficacy_accuracy") == pytest.approx(new[1])
    near = [(nll(model, text, own), nll(model, text, FACT.new)) for text, own in FACT.neighbors]
    assert get("neighborhood") == sum(own[0] < other[0] for own, other in near) / 2
    assert get("neighborhood_accuracy") == pytest.approx(sum(own[1] for own, _ in near) / 2)
    magnitude = sum(math.exp(-own[0]) - math.exp(-other[0]) for own, other in near) / 2
    assert get("neighborhood_magnitude") == pytest.approx(magnitude, abs=1e-5)
    assert get("efficacy_exact") == 0 and get("neighborhood_exact") == 0.5
    assert get("portability_exact") == begins_with(model, FACT.portability)[0]
    assert get("score") == 0  # a harmonic mean with an efficacy of 0


def test_padding_and_blocks_change_nothing(model):
    questions = [(FACT.text, "Paris"), ("The people of France speak", "French"), ("Mary", "went to the store")]
    together = teacher_forced(model, questions)
    for one, (text, answer) in zip(together, questions, strict=True):
        assert one == pytest.approx(nll(model, text, answer), abs=1e-4)


def test_the_summary_is_of_means(model):
    facts = relation_facts("capital", count=4, neighbors=2)
    table = scores(model, facts)
    means = summary(table)
    assert float(means.sel(measure="neighborhood")) == pytest.approx(
        float(table.sel(measure="neighborhood").mean()), abs=1e-6
    )
    assert float(means.sel(measure="score")) == 0


def test_a_context_stands_before_every_prompt(model):
    told = scores(model, [FACT], context="The dog ran.").isel(batch=0)
    behind, _ = nll(model, f"The dog ran. {FACT.text}", "Paris")
    new, _ = nll(model, f"The dog ran. {FACT.text}", FACT.new)
    assert float(told.sel(measure="efficacy_magnitude")) == pytest.approx(math.exp(-new) - math.exp(-behind), abs=1e-5)


def test_side_effects_are_the_definitions(model):
    texts = ["Mary went to the store.", "the cat sat"]
    after = model.edited(cb.Zero("z", layer=0, head=1))
    table = on_plain_text(model, after, texts)
    kl, loss, n = 0.0, 0.0, 0
    for text in texts:
        ids = model.tokens(text).ids[0]
        was, now = (m.run(text).logits[0, :-1].log_softmax(-1) for m in (model, after))
        kl += float((was.exp() * (was - now)).sum())
        loss -= float(now[torch.arange(len(ids) - 1), ids[1:]].sum())
        n += len(ids) - 1
    assert float(table.sel(measure="kl")) == pytest.approx(kl / n, rel=1e-4)
    assert float(table.sel(measure="perplexity_after")) == pytest.approx(math.exp(loss / n), rel=1e-4)


def test_generation_entropy_is_the_weighted_mean():
    text = "a b a b c"  # bigrams ab 2, ba, bc; trigrams aba, bab, abc
    two = -(0.5 * math.log2(0.5) + 2 * 0.25 * math.log2(0.25))
    assert generation_entropy(text) == pytest.approx((2 / 3 * two + 4 / 3 * math.log2(3)) / 2)
    assert generation_entropy("") == 0


def test_generated_text_is_compared_with_references(model):
    text = model.text(model.generate("The capital of France is", max_new_tokens=5))[0]
    fact = Fact("The capital of {} is", "France", "Rome", references=[text])
    table = of_generation(model, [fact], max_new_tokens=5)
    assert float(table.sel(measure="consistency").isel(batch=0)) == pytest.approx(1.0)


COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "subject": "France",
        "target_new": {"str": "Rome", "id": "Q1"},
        "target_true": {"str": "Paris", "id": "Q2"},
    },
    "paraphrase_prompts": ["So. The capital city of France is called"],
    "neighborhood_prompts": ["The capital of Gaul is"],
    "generation_prompts": ["France is"],
}
ZSRE = {
    "subject": "Ann",
    "src": "Where was Ann born?",
    "rephrase": "What is Ann's birthplace?",
    "alt": "Oslo",
    "answers": ["Rome"],
    "loc": "nq question: who wrote it",
    "loc_ans": "Bob",
}


def test_known_facts_are_made_into_requests(tmp_path):
    rows = [
        ("Ann", "Rome", "P1"),
        ("Bob", "Rome", "P1"),
        ("Cid", "Oslo", "P1"),
        ("Dan", "tea", "P2"),
        ("Eve", "Oslo", "P1"),
    ]
    records = [
        {"known_id": i, "subject": who, "attribute": what, "prompt": f"{who} is in", "relation_id": of}
        for i, (who, what, of) in enumerate(rows)
    ]
    records[4]["prompt"] = "She is in"  # the subject has no place
    (tmp_path / "k.json").write_text(json.dumps(records))
    ann, bob, cid = load_known(tmp_path / "k.json")  # P2 has no other attribute
    assert [(fact.new, fact.true) for fact in (ann, bob, cid)] == [("Oslo", "Rome"), ("Oslo", "Rome"), ("Rome", "Oslo")]
    assert ann.neighbors == (("Bob is in", "Rome"),) and cid.neighbors == (("She is in", "Oslo"),) and ann.name == "0"
    assert load_known(tmp_path / "k.json", limit=1) == [ann]
    (tmp_path / "other.json").write_text(json.dumps([{"subject": "Ann"}]))
    with pytest.raises(LoadError, match="record 0"):
        load_known(tmp_path / "other.json")


def test_published_layouts(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps([COUNTERFACT, COUNTERFACT]))
    (fact,) = load_counterfact(tmp_path / "c.json", limit=1)
    assert fact == Fact(
        "The capital of {} is",
        "France",
        "Rome",
        "Paris",
        ("So. The capital city of France is called",),
        (("The capital of Gaul is", "Paris"),),
        openings=("France is",),
        name="7",
    )
    (tmp_path / "z.json").write_text(json.dumps([ZSRE]))
    (fact,) = load_zsre(tmp_path / "z.json")
    assert (fact.prompt, fact.new, fact.true) == ("Where was {} born?", "Oslo", "Rome")
    assert fact.neighbors == (("who wrote it?", "Bob"),) and fact.paraphrases == ("What is Ann's birthplace?",)
    for name, content in (
        ("empty", "[]"),
        ("broken", "{"),
        ("other", '[{"a": 1}]'),
        ("half", json.dumps([{**ZSRE, "src": "?"}])),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(LoadError):
            load_zsre(tmp_path / name)
    with pytest.raises(CasebackError):
        load_counterfact(tmp_path / "none.json")
