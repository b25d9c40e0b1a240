"""Statements are balanced in their words, negated where they can be, and read from files with every mistake named."""

import json
from collections import Counter

import pytest

from caseback.errors import CasebackError, LoadError, OutOfRange
from caseback.tasks import Pair, Text, facts_of_files, load_statements, of_ids, statements_of, statements_of_files


def fact(subject, answer, wording="{} is in", group="place"):
    start = wording.index("{}")
    text = Text(wording.replace("{}", subject), {"subject": (start, start + len(subject))})
    return Pair.of(text, text, f" {answer}", group=group)


MANY = [fact(f"City{i}", f"Land{i % 5}") for i in range(30)] + [fact(f"City{i}", "Land0") for i in range(30, 45)]


@pytest.mark.parametrize("seed", range(4))
def test_each_answer_is_as_often_wrong_as_right_and_never_its_own(seed):
    made = statements_of(MANY, negated=False, seed=seed)
    said = [text.removesuffix(".").split(" is in ") for text in made.texts]
    right, wrong = (
        Counter(a for (_, a), true in zip(said, made.true, strict=True) if true == so) for so in (True, False)
    )
    assert right == wrong and len(right) == 5
    known = {pair.clean.text.split(" is")[0]: pair.target[0].strip() for pair in MANY}
    assert all((known[subject] == answer) == true for (subject, answer), true in zip(said, made.true, strict=True))


def test_negated_statements_have_the_other_truth_and_their_places():
    facts = [fact(f"X{i} is", f"Y{i}", "What {} was is") for i in range(6)] + [fact("a", "b", "{} goes to", "walk")]
    made = statements_of([*facts, fact("c", "d", "{} goes to", "walk")])
    assert "What X1 is was is not Y1." in made.texts  # behind the last verb, and not in the subject
    for i, text in enumerate(made.texts):
        start, stop = made.subjects[i]
        assert text[start:stop] in text and text[made.answers[i] :].startswith(" ")
        if made.negated[i]:
            plain = made.texts.index(text.replace(" not", ""))
            assert made.true[plain] != made.true[i] and made.facts[plain] == made.facts[i]
    walking = [i for i, topic in enumerate(made.topics) if topic == "walk"]
    assert len(walking) == 4 and not made.negated[walking].any()  # it has no verb that takes "not"
    assert made.of(made.negated).negated.all() and len(made.of([0, 2])) == 2


def test_another_right_answer_is_no_wrong_one():
    facts = [fact("Bern", "German"), fact("Bern", "French"), fact("Paris", "French"), fact("Wien", "German")]
    for seed in range(6):
        made = statements_of(facts, negated=False, seed=seed)
        assert not any(
            "Bern is in French" in text and not true for text, true in zip(made.texts, made.true, strict=True)
        )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("statement,truth\na,1\n", "no column 'label'"),
        ("statement,label\n,1\n", "the statement is '', expected words"),
        ("statement,label\nRome is big.,perhaps\n", "under 'label' is 'perhaps', expected 1 or 0"),
        ("statement,label,subject\nRome is big.,1,Oslo\n", "the subject 'Oslo' does not stand in its statement"),
        ("statement,label\n", "has no rows"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, says):
    file = tmp_path / "one.csv"
    file.write_text(text)
    with pytest.raises(LoadError, match=says):
        load_statements(file)


def test_files_with_all_columns(tmp_path):
    rows = [
        {
            "statement": "Rome is in Italy.",
            "label": True,
            "topic": "city",
            "subject": "Rome",
            "object": "Italy",
            "fact": 1,
        },
        {"statement": "Rome is not in Peru.", "label": 1, "topic": "city", "negated": True, "fact": 1},
        {"statement": "Rome is old.", "label": "false", "topic": "age"},
    ]
    file = tmp_path / "some.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load_statements(file)
    assert read.topics == ["city", "city", "age"] and read.negated.tolist() == [False, True, False]
    assert read.true.tolist() == [True, True, False] and read.facts.tolist() == [0, 0, 1]
    assert read.subjects == [(0, 4), None, None] and read.answers == [11, None, None]


def test_what_makes_no_statements():
    with pytest.raises(CasebackError, match="no facts are given"):
        statements_of([])
    with pytest.raises(CasebackError, match="two facts with different answers"):
        statements_of([fact("a", "b"), fact("c", "b")])
    with pytest.raises(CasebackError, match="token ids"):
        statements_of([Pair.of(of_ids([1, 2]), of_ids([1, 2]), 5)] * 2)
    with pytest.raises(OutOfRange, match="each=1"):
        statements_of(MANY, each=1)


def test_relations_of_the_test_assets(assets):
    facts = facts_of_files([assets / "data/known_1000/known_1000.json"])
    assert len(facts) == 1209
    made = statements_of_files([assets / "data/relations_lre/factual"], each=10)
    assert len(set(made.topics)) == 26 and made.true.mean() == 0.5
