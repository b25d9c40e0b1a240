"""Detectors of truth find what is planted and nothing in shuffled labels; the evaluation is what scikit-learn computes."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from transformers import AutoTokenizer

import caseback as cb
from caseback import organisms
from caseback.behaviors import (
    DETECTORS,
    model_answers,
    sample_answers,
    truth_detection,
    truth_plane,
    world_facts,
    world_statements,
)
from caseback.behaviors.truth.answers import Samples
from caseback.behaviors.truth.evaluation import judged, parts_of, spread
from caseback.behaviors.truth.features import read_features
from caseback.behaviors.truth.fitting import halves, negation_pairs
from caseback.behaviors.truth.measures import auroc, calibration, interval, platt, resampled
from caseback.decode.probes.calibration import calibration_error
from caseback.errors import CasebackError, EditError, OutOfRange
from caseback.reports.concepts.truth import truth_document
from caseback.tasks import Statements
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.truth import print_truth
from zoo import FAMILIES, from_config

HOW = {"hold_out": "topics", "n_folds": 3, "resamples": 20, "seed": 0}
TOPICS = ["capital", "language", "continent", "opposite", "plural", "job"]


@pytest.fixture(scope="module")
def statements():
    return world_statements(TOPICS, each=12)


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def random_model(family):
    """A random model of a family that has meadow's vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(organisms.path("meadow"))
    config = FAMILIES[family]()
    config.vocab_size = len(tokenizer)
    return cb.load(from_config(config, torch.float64, attention="sdpa"), tokenizer=tokenizer)


def with_truth(features, statements, size, *, place=1):
    """The same streams and heads with truth along one direction at one place, and truth times polarity along another."""
    draw = torch.Generator().manual_seed(3)
    tau = torch.from_numpy(np.where(statements.true, 1.0, -1.0))[:, None]
    polar = torch.from_numpy(np.where(statements.negated, -1.0, 1.0))[:, None]
    for name in ("stream", "heads"):
        names, x = features[name]
        general, other = torch.randn(2, x.shape[2], generator=draw, dtype=torch.float64)
        x = x.clone()
        scale = size * x[place].std()
        x[place] += scale * (tau * general + tau * polar * other)
        features[name] = names, x
    names, x = features["stream"]
    features["upper stream"] = names[1:], x[1:]
    return features


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_5_4_20_a_planted_truth_is_found_at_its_place_and_not_with_shuffled_labels(family, statements):
    model = random_model(family)
    methods = ("mass_mean", "logistic", "saplma", "ccs", "two_dimensional", "head")
    features = read_features(model, statements, ["stream", "upper stream", "heads"])
    nothing = judged(features, statements, [DETECTORS["logistic"]], how=HOW)
    assert abs(nothing.row("logistic, both")["auroc"] - 0.5) < 0.1  # a random model knows nothing of the world
    report = judged(with_truth(features, statements, 1.5), statements, [DETECTORS[name] for name in methods], how=HOW)
    for name in (*methods, *(f"{name}, both" for name in methods if name not in ("ccs", "two_dimensional"))):
        row = report.row(name)
        assert row["auroc"] > 0.95, (name, row)
        assert report.row(name)["low"] <= row["auroc"] <= row["high"]
    for name in ("mass_mean, both", "logistic, both", "two_dimensional", "head, both"):
        assert report.row(name, "negated")["auroc"] > 0.9, name
        assert 0.3 < report.row(name)["shuffled"] < 0.7, name
    places = dict(zip(report.table.variant.values, report.table.place.values, strict=True))
    assert {places[name] for name in ("mass_mean", "logistic", "two_dimensional")} == {"resid_post.1"}
    assert places["head"] == features["heads"][0][1]


def test_5_4_20_what_follows_the_answers_words_alone_fails_on_negations(statements):
    features = read_features(random_model("llama"), statements, ["stream", "upper stream", "heads"])
    names, x = features["stream"]
    tau = torch.from_numpy(np.where(statements.true != statements.negated, 1.0, -1.0))[:, None]
    x = x + 4 * x.std() * tau * torch.randn(x.shape[2], generator=torch.Generator().manual_seed(0)).double()
    features["stream"] = names, x
    report = judged(features, statements, [DETECTORS["mass_mean"]], how=HOW)
    assert report.row("mass_mean")["auroc"] > 0.95
    assert report.row("mass_mean", "negated")["auroc"] < 0.05


def test_5_4_20_the_plane_is_the_least_squares_of_centered_states(statements):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, len(statements), 7, generator=draw, dtype=torch.float64)
    plane = truth_plane(x, statements.true, statements.negated, statements.topics)
    a = x[1].numpy().copy()
    topics = np.array(statements.topics)
    for topic in set(statements.topics):
        a[topics == topic] -= a[topics == topic].mean(0)
    tau, p = np.where(statements.true, 1, -1), np.where(statements.negated, -1, 1)
    want = np.linalg.lstsq(np.stack([tau, tau * p], 1), a, rcond=None)[0]
    np.testing.assert_allclose(plane.general[1], want[0], atol=1e-12)
    np.testing.assert_allclose(plane.polar[1], want[1], atol=1e-12)
    points = plane.coordinates(x)[1].numpy()
    np.testing.assert_allclose(points, x[1].numpy() @ np.stack([want[0], plane.polarity[1]], 1), atol=1e-10)
    # the line is scikit-learn's, with the same penalty on standardized coordinates
    z = (points - points.mean(0)) / points.std(0)
    other = LogisticRegression(C=1 / (len(z) * 1e-4), tol=1e-10, max_iter=1000).fit(z, statements.true)
    np.testing.assert_allclose(plane.scores(x)[1], other.decision_function(z), atol=1e-5)


def test_pairs_are_of_one_fact_and_answer(statements):
    pair = negation_pairs(statements.true, statements.negated, statements.facts)
    plus, minus = halves(torch.from_numpy(statements.negated), torch.from_numpy(pair))
    assert len(plus) == int((~statements.negated & (pair >= 0)).sum()) > 20
    for i, j in zip(plus.tolist(), minus.tolist(), strict=True):
        assert statements.texts[i] == statements.texts[j].replace(" not", "", 1)
        assert statements.true[i] != statements.true[j]


def test_measures_are_scikit_learns():
    rng = np.random.default_rng(0)
    true = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=60) + true, 1)  # with ties
    fact = rng.integers(0, 20, 60)
    weights = resampled(fact, 30, seed=1)
    assert (weights.sum(1) > 0).all() and all(len(set(weights[:, fact == f][0])) == 1 for f in set(fact))
    want = [roc_auc_score(true, scores, sample_weight=weight) for weight in weights]
    np.testing.assert_allclose(auroc(scores, true, weights), want, rtol=1e-12)
    np.testing.assert_allclose(auroc(scores, true), roc_auc_score(true, scores), rtol=1e-12)
    assert interval(np.arange(101.0)) == (2.5, 97.5)
    assert np.isnan(auroc(scores, np.ones(60, bool))[0])
    a, b = platt(torch.from_numpy(scores), torch.from_numpy(true))
    z = ((scores - scores.mean()) / scores.std())[:, None]
    other = LogisticRegression(C=1 / (60 * 1e-4), tol=1e-10, max_iter=1000).fit(z, true)
    p = 1 / (1 + np.exp(-(a * scores + b)))
    np.testing.assert_allclose(p, other.predict_proba(z)[:, 1], atol=1e-6)
    accuracy, brier, error = calibration(p, true)
    np.testing.assert_allclose([accuracy, brier], [((p > 0.5) == true).mean(), brier_score_loss(true, p)])
    confidence, right = torch.from_numpy(np.maximum(p, 1 - p))[None], torch.from_numpy((p > 0.5) == true)[None]
    assert error == float(calibration_error(confidence, right)[0])


@pytest.mark.parametrize("hold_out", ["topics", "facts"])
def test_nothing_is_on_two_sides(statements, hold_out):
    topics, facts = np.array(statements.topics), statements.facts
    parts = parts_of(statements, hold_out, 3, seed=0)
    assert sorted(np.concatenate([test for *_, test in parts])) == list(range(len(statements)))
    for fitting, choosing, test in parts:
        sides = [set((topics if hold_out == "topics" else facts)[some].tolist()) for some in (fitting, choosing, test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert len(parts_of(statements, "topics", 99, seed=0)) == len(TOPICS)  # one left out at a time


def test_5_4_20_meadow_knows_its_world_by_probability_and_follows_the_answer_where_it_is_denied(meadow, statements):
    names = ["answer_log_prob", "attribute", "lookback", "constraint", "sharpness", "min_prob", "entropy"]
    report = truth_detection(meadow, statements, methods=names, resamples=50, n_folds=3)
    assert report.row("answer_log_prob")["auroc"] > 0.99 and report.row("attribute")["within"] > 0.99
    assert report.row("answer_log_prob", "negated")["auroc"] < 0.3
    # each answer is as often wrong as right, and nothing else differs: words tell nothing at all
    for name in ("length", "bag_of_tokens"):
        assert abs(report.row(name)["auroc"] - 0.5) < 1e-9
    same = truth_detection(meadow, statements, methods=names, resamples=50, n_folds=3)
    assert report.table.identical(same.table)
    own = cb.tasks.sentence_log_prob(meadow, statements.texts, bos=None).numpy()
    some = ~statements.negated
    parts = parts_of(statements, "topics", 3, seed=0)
    shifted = np.empty(len(own))
    for _, choosing, test in parts:
        known = own[choosing[some[choosing]]]
        shifted[test] = (own[test] - known.mean()) / known.std(ddof=1)
    np.testing.assert_allclose(
        report.row("log_prob")["auroc"], roc_auc_score(statements.true[some], shifted[some]), atol=1e-6
    )


def test_scores_do_not_hang_on_the_batch(meadow, statements):
    wanted = ["stream", "constraint", "lookback", "answer log_prob", "sharpness", "attribute"]
    few = statements.of(range(0, len(statements), 9))
    some = read_features(meadow, few, wanted)
    every = read_features(meadow, statements, wanted)
    for name in some:
        np.testing.assert_allclose(some[name][1], every[name][1][:, ::9], atol=2e-4)


def test_5_4_20_answers_are_judged_and_samples_beside_them(meadow):
    facts = world_facts(["capital", "job", "sport"])
    answers = model_answers(meadow, facts, each=20, max_new_tokens=3)
    right = {pair.clean.text: pair.target[0] for pair in facts}
    for text, true, start in zip(answers.texts, answers.true, answers.answers, strict=True):
        assert true == text[start:].startswith(right[text[:start]])
    prompts = [text[:start] for text, start in zip(answers.texts, answers.answers, strict=True)]
    samples = sample_answers(meadow, prompts[:6], 4, max_new_tokens=3, temperature=1.0, top_k=0)
    assert [len(texts) for texts in samples.texts] == [4] * 6 and samples.states.shape == (6, 4, meadow.d_model)
    # the log probability of each is that of its text
    for i, texts in enumerate(samples.texts):
        own = cb.behaviors.confidence_scores(
            meadow, [prompts[i] + text for text in texts], start=int(meadow.tokens(prompts[i]).lengths[0])
        )
        np.testing.assert_allclose(samples.log_prob[i], own["log_prob"], atol=1e-3)
    again = sample_answers(meadow, prompts[:6], 4, max_new_tokens=3, temperature=1.0, top_k=0)
    assert again.texts == samples.texts


def test_5_4_20_samples_that_agree_where_the_answer_is_right_are_a_detector(statements):
    some = statements.of(~statements.negated)
    rng, draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
    texts = [["a"] * 4 if true else [str(i) for i in rng.integers(0, 9, 4)] for true in some.true]
    spread_out = torch.where(torch.from_numpy(some.true), 0.01, 1.0)[:, None, None]
    states = torch.randn(len(some), 1, 8, generator=draw) + spread_out * torch.randn(len(some), 4, 8, generator=draw)
    samples = Samples(texts, *torch.zeros(2, len(some), 4), states)
    model = random_model("llama")
    names = ["eigenscore", "semantic_entropy", "entropy_probe"]
    report = truth_detection(model, some, methods=names, samples=samples, n_folds=3, resamples=20)
    assert report.row("eigenscore")["auroc"] > 0.99 and report.row("semantic_entropy")["auroc"] > 0.99
    with pytest.raises(CasebackError, match="several sampled answers"):
        truth_detection(model, some, methods=["eigenscore"])


def test_the_document_says_what_was_measured_and_the_page_draws_it(meadow, statements):
    report = truth_detection(meadow, statements, methods=["two_dimensional", "mass_mean"], n_folds=3, resamples=20)
    document = json.loads(json.dumps(truth_document(meadow, report, "<b>world")))
    row = next(row for row in document["rows"] if row["name"] == "mass_mean")
    assert row["affirmative"]["auroc"] == report.row("mass_mean")["auroc"]
    log_prob = next(row for row in document["rows"] if row["name"] == "log_prob")
    assert log_prob["affirmative"]["auroc"] > 0.9 and not row["affirmative"]["above"]  # a baseline tells it all
    page = page_html(document)
    assert "<b>world" not in page and "&lt;b&gt;world" in page
    plane = document["plane"]
    plain = sum(true and not no for true, no in zip(plane["true"], plane["negated"], strict=True))
    assert page.count("<circle class='dot target'") == plain + 1  # and one in the key
    assert page.count("class='decision'") == 1
    for row in document["rows"]:
        assert f"<td>{row['affirmative']['auroc']:.3f} <small>" in page
    console = Console(record=True, width=100, no_color=True)
    print_truth(document, console=console)
    text = console.export_text()
    assert f"{report.row('two_dimensional')['auroc']:.3f}" in text and "ccs" not in text
    short = json.loads(json.dumps(document))
    short["plane"]["general"].pop()
    with pytest.raises(CasebackError, match="points of the plane"):
        page_html(short)


def test_what_cannot_be_judged_is_refused(meadow, statements):
    with pytest.raises(CasebackError, match="statements are true: expected both"):
        truth_detection(meadow, statements.of(statements.true))
    alone = world_statements(["capital"], each=12)
    with pytest.raises(CasebackError, match="all statements are of the topic 'capital'"):
        truth_detection(meadow, alone)
    assert truth_detection(meadow, alone, methods=["mass_mean"], hold_out="facts", resamples=5).row("mass_mean")
    with pytest.raises(CasebackError, match="no detector is called 'mass'"):
        truth_detection(meadow, statements, methods=["mass"])
    bare = Statements(
        statements.texts, statements.true, statements.topics, np.zeros(len(statements), bool), statements.facts,
        [None] * len(statements), [None] * len(statements),
    )  # fmt: skip
    with pytest.raises(CasebackError, match="ccs takes statements both affirmative and negated"):
        truth_detection(meadow, bare, methods=["ccs"])
    with pytest.raises(CasebackError, match="constraint takes the subject of every statement"):
        truth_detection(meadow, bare, methods=["constraint"])
    with pytest.raises(OutOfRange, match="n_folds 1"):
        truth_detection(meadow, statements, n_folds=1)
    long = Statements(
        [*statements.texts[:-1], "word " * 3000], statements.true, statements.topics, statements.negated,
        statements.facts, [*statements.subjects[:-1], (0, 4)], [*statements.answers[:-1], 5],
    )  # fmt: skip
    with pytest.raises(CasebackError, match="context"):
        truth_detection(meadow, long)
    beyond = Statements(["Rome is big."] * 2, np.array([True, False]), ["a", "b"], np.zeros(2, bool), np.arange(2),
                        [(400, 404)] * 2, [None] * 2)  # fmt: skip
    with pytest.raises(EditError, match="no token of its own"):
        read_features(meadow, beyond, ["constraint"])


def test_places_are_spread():
    assert spread(30, 4)[-1] == 29 and len(set(spread(30, 4))) == 4
