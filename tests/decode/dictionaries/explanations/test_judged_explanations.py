"""Judges of explanations: one that reads them is right where they are, one that does not is at chance."""

import re
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import caseback as cb
from caseback.decode.dictionaries import Facts, Standard, judge_explanations, local_judge
from caseback.decode.dictionaries.explanations.judged import _scores
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs.progress import watched

WORDS = (" Mary", " John", " store", " garden", " gave", " dog")


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def planted(model):
    """A feature a word, which fires at that token alone, and texts with and without each."""
    ids = [model.token_id(word, "word") for word in WORDS]
    rows = model.hf.get_input_embeddings().weight[ids].detach()
    one = Standard(model.d_model, len(ids), facts=Facts(site="resid_pre.0", centered=False))
    one.W_enc.data = rows / rows.square().sum(1, keepdim=True)
    one.b_enc.data.fill_(-0.9)
    texts = [f"Then{a}{b}{c} and went home." for a in (*WORDS, "") for b in (*WORDS, "") for c in (" cat", " tree")]
    return one, texts, {i: f"the word {word!r}" for i, word in enumerate(WORDS)}


def reading(questions):
    """A judge that looks for the quoted word in the last text, or among what is marked in it."""
    said = []
    for question in questions:
        last = question.rsplit("\n\n", 1)[1]
        word = re.search(r"fires at: the word '(.*)'", last)[1]
        text = re.search(r"Text: (.*)\nQuestion", last)[1]
        marked = re.findall(r"<<(.*?)>>", text)
        said.append(float(word in (" ".join(marked) if "marked" in last else text)))
    return said


def test_a_judge_that_reads_is_right_and_with_another_word_at_chance(model, planted):
    one, texts, says = planted
    table = judge_explanations(model, one, texts, says, reading, n=12, window=8)
    for name in ("detection", "detection_auroc", "fuzzing", "fuzzing_auroc"):
        np.testing.assert_array_equal(table[name], 1)
        assert table[f"{name}_of_another"].mean() < 0.65
    assert table.attrs["asked"] == 2 * 2 * 24 * len(WORDS)
    again = judge_explanations(model, one, texts, says, reading, n=12, window=8)
    assert again.equals(table)


def test_a_judge_that_always_says_the_same_is_at_chance(model, planted):
    one, texts, says = planted
    for level in (0.2, 0.9):
        table = judge_explanations(model, one, texts, says, lambda asked, p=level: [p] * len(asked), n=4, window=8)
        for name in ("detection", "detection_auroc", "fuzzing", "fuzzing_auroc"):
            np.testing.assert_array_equal(table[name], 0.5)


def test_scores_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    y = draw.random(50) < 0.4
    p = np.round(draw.random(50), 1)  # with ties
    accuracy, area, _ = _scores(p, y)
    np.testing.assert_allclose(area, roc_auc_score(y, p), atol=1e-12)
    np.testing.assert_allclose(accuracy, balanced_accuracy_score(y, p > 0.5), atol=1e-12)


def test_a_local_judge_is_the_share_of_yes_in_yes_and_no(model):
    questions = ["Is it cold?\nAnswer:", "Is the cat on the mat and did Mary see it?\nAnswer:"]
    said = local_judge(model, batch_size=1)(questions)
    np.testing.assert_allclose(local_judge(model)(questions), said, atol=1e-6)
    encode = lambda word: model.tokenizer(word, add_special_tokens=False)["input_ids"]  # noqa: E731
    sides = []
    for side in ("yes", "no"):
        pieces = [encode(space + word) for word in (side, side.title()) for space in (" ", "")]
        sides.append({ids[0] for ids in pieces if len(ids) == 1} or {ids[0] for ids in pieces})
    yes, no = sides[0] - sides[1], sides[1] - sides[0]
    for question, p in zip(questions, said, strict=True):
        probs = torch.softmax(model.run(question).logits[0, -1].double(), -1)
        of_yes, of_no = float(probs[sorted(yes)].sum()), float(probs[sorted(no)].sum())
        np.testing.assert_allclose(p, of_yes / (of_yes + of_no), rtol=1e-5)


def test_silent_features_have_no_score_and_bad_judges_are_refused(model, planted):
    one, texts, says = planted
    quiet = judge_explanations(model, one, ["the cat sat", "the cat ran"], says, reading, window=4)
    assert bool(quiet.detection.isnull().all()) and quiet.windows.values.tolist() == [0] * len(WORDS)
    with pytest.raises(CasebackError, match="from 0 to 1 each"):
        judge_explanations(model, one, texts, says, lambda asked: [2.0] * len(asked))
    with pytest.raises(CasebackError, match="from 0 to 1 each"):
        judge_explanations(model, one, texts, says, lambda asked: [0.5])
    with pytest.raises(CasebackError, match="nothing to judge"):
        judge_explanations(model, one, texts, {}, reading)
    with pytest.raises(OutOfRange, match="feature 9"):
        judge_explanations(model, one, texts, {9: "a"}, reading)
    with pytest.raises(OutOfRange, match="window 1"):
        judge_explanations(model, one, texts, says, reading, window=1)


def test_chance_is_what_a_judge_that_knows_nothing_passes_once_in_twenty():
    draw = np.random.default_rng(0)
    for a, b in ((10, 10), (4, 9)):
        y = np.r_[np.ones(a), np.zeros(b)].astype(bool)
        areas, level = [], 0.0
        for p in draw.random((4000, a + b)):
            _, area, level = _scores(p, y)
            areas.append(area)
        assert 0.03 < np.mean(np.array(areas) > level) < 0.07


class Stops:
    """A judge that reads, and stops after some questions; what it was asked is kept."""

    def __init__(self, after):
        self.after, self.asked = after, []

    def __call__(self, questions):
        if len(self.asked) + len(questions) > self.after:
            raise KeyboardInterrupt
        self.asked += questions
        return reading(questions)

    def fingerprint_parts(self):
        return ["reading"]


def test_a_judging_that_was_interrupted_goes_on_where_it_was(model, planted, tmp_path):
    one, texts, says = planted
    file, how = tmp_path / "answers", {"n": 12, "window": 8}
    first, second = Stops(200), Stops(10**6)
    with pytest.raises(KeyboardInterrupt):
        judge_explanations(model, one, texts, says, first, checkpoint=file, **how)
    table = judge_explanations(model, one, texts, says, second, checkpoint=file, **how)
    assert first.asked and len(first.asked) + len(second.asked) == table.attrs["asked"]
    assert table.equals(judge_explanations(model, one, texts, says, reading, **how))
    with pytest.raises(CasebackError, match="has other questions or another judge"):
        judge_explanations(model, one, texts, {0: "dogs"}, second, checkpoint=file, **how)
    with pytest.raises(CasebackError, match="lambda"):
        judge_explanations(model, one, texts, says, lambda asked: [0.5] * len(asked), checkpoint=tmp_path / "other")


def test_progress_counts_questions(model, planted):
    one, texts, says = planted
    seen = []

    def slowly(questions):  # a bar says where it stands ten times a second
        time.sleep(0.11)
        return reading(questions)

    with watched(lambda what, n, total: seen.append((what, n, total))):
        table = judge_explanations(model, one, texts, says, slowly, n=12, window=8)
    counts = [n for what, n, total in seen if what == "judge" and total == table.attrs["asked"]]
    assert counts[0] == 0 and counts[-1] == table.attrs["asked"] and max(np.diff(counts)) < counts[-1] / 4


def test_a_judge_with_too_short_a_context_says_what_to_do():
    with pytest.raises(TokensError, match="cannot read a question: .* judge with a longer context"):
        local_judge(cb.load("meadow"))(["word " * 400])
