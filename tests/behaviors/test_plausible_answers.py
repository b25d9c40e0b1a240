"""Wrong but plausible answers: small components planted to vote for them are found, and taken out they are gone."""

import json

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import fact_flow, plausible_answers
from caseback.edit import Fact
from caseback.errors import CasebackError, OutOfRange
from caseback.organisms.compiled.draft import SHARP, Draft
from caseback.reports.concepts.facts import facts_document
from caseback.views.page.kinds import page_html

N = 10
SUBJECTS, OBJECTS = [f"s{i}" for i in range(N)], [f"a{i}" for i in range(N)]
FACTS = [Fact("{} is", one, OBJECTS[(i + 3) % N], true=OBJECTS[i]) for i, one in enumerate(SUBJECTS)]


def planted(wrong=0.8):
    """The last token fetches the subject and says its object; small components of one W_out say the next one's."""
    draft = Draft(
        [*SUBJECTS, *OBJECTS, "is"], 4, {"subject": N, "any": 1, "end": 1, "fetched": N, "loud": N, "said": N}
    )
    draft.embed("subject", SUBJECTS)
    draft.embed("any", SUBJECTS, torch.ones(N, 1))
    draft.embed("end", ["is"])
    draft.unembed("said", OBJECTS)
    copy = [(draft["subject"], draft.into("fetched")), (draft["subject"], 0.5 * draft.into("said"))]
    draft.head(0, [(draft["end"], draft["any"], SHARP)], [copy[0]])
    draft.head(0, [(draft["end"], draft["any"], SHARP)], [copy[1]])
    none = torch.zeros(N)
    draft.neurons(1, draft["fetched"], none, 5 * draft.into("loud"))
    draft.neurons(1, draft["fetched"], none, wrong * draft.into("said").roll(-1, 0))
    model = draft.model(layers=2)
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


def test_5_4_24_small_components_that_vote_for_other_objects_are_taken_out():
    table = plausible_answers(planted(), FACTS, matrices=["out"], rho=[1.0, 0.5], draws=4)
    assert (table.attrs["best_layer"], table.attrs["best_matrix"], table.attrs["rho"]) == (1, "out", 0.5)
    answers = {name: table["answers"].sel(variant=name).values for name in table["variant"].values}
    assert (answers["as it is"] == 2).all() and (answers["kept"] == 1).all() and (answers["removed"] == 2).all()
    assert (table["random"] == 1).mean() < 1
    assert float(table["accuracy_clean"]) == 0 and float(table["accuracy"].max()) == 1
    assert table.attrs["lost"] == pytest.approx(0.8**2 / (0.8**2 + 5**2))


def test_a_model_without_such_components_gains_nothing():
    model = planted(wrong=0.2)
    table = plausible_answers(model, FACTS, matrices=["out"], rho=[1.0, 0.5], draws=2)
    assert (table["answers"].sel(variant="as it is") == 1).all() and float(table["accuracy_clean"]) == 1


def test_the_page_says_that_nothing_is_gained():
    model, facts = cb.load("meadow"), cb.edit.relation_facts("capital", count=12)
    table = plausible_answers(model, facts, layers=[3], rho=[1.0], draws=1)
    document = json.loads(json.dumps(facts_document(model, fact_flow(model, facts, draws=2), plausible=table)))
    assert document["low_rank"]["gained"] == document["low_rank"]["spoiled"] == 0
    assert [row["variant"] for row in document["low_rank"]["variants"]] == ["as it is", "kept", "removed", "random"]
    assert "no weight of lower rank is right more often" in page_html(document)


def test_sorts_are_those_of_answers_read_by_hand():
    model = cb.load("meadow", dtype="float64")
    facts = cb.edit.relation_facts("capital", count=16)
    table = plausible_answers(model, facts, layers=[3], rho=[0.9, 0.3], draws=1, seed=2)

    def piece(answer):
        return model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"][0]

    among = {piece(answer) for fact in facts for answer in (fact.true, fact.new)}
    for text, answer, sort in zip(
        *(table[name].values for name in ("fact", "answer")),
        table["answers"].sel(variant="as it is").values,
        strict=True,
    ):
        first = int(model.run(str(text)).logits[0, -1].argmax())
        assert sort == (1 if first == piece(answer) else 2 if first in among else 0)
    weight = cb.decode.vocabulary.LowRank(model, table.attrs["best_matrix"], table.attrs["best_layer"])
    edit = weight.edit(int(table.attrs["kept_rank"]))
    kept = model.run([str(text) for text in table["fact"].values], edits=edit)
    last = kept.tokens.column(-1)
    first = kept.logits[torch.arange(len(last)), last].argmax(-1)
    right = [int(t) == piece(a) for t, a in zip(first, table["answer"].values, strict=True)]
    np.testing.assert_array_equal(table["answers"].sel(variant="kept").values == 1, right)


@pytest.mark.parametrize(
    ("facts", "how", "error", "words"),
    [
        (FACTS[:4], {}, OutOfRange, "8 or more"),
        (FACTS, {"draws": 0}, OutOfRange, "draws=0"),
        ([Fact("{} is", one, "a1") for one in SUBJECTS], {}, CasebackError, "no known answer"),
        ([Fact("{} is", one, "a1", true="a0") for one in SUBJECTS], {}, CasebackError, "the same answer"),
    ],
)
def test_what_cannot_be_judged_says_why(facts, how, error, words):
    with pytest.raises(error, match=words):
        plausible_answers(planted(), facts, **how)
