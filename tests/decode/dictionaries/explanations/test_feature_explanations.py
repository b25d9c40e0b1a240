"""Lists of conditions: planted sets of tokens, an independent count of every gain and score, and the controls."""

import numpy as np
import pytest
from scipy import sparse

import shelf
from caseback.decode.dictionaries import Facts, Standard, TopK
from caseback.decode.dictionaries.explanations.conditions import conditions_of
from caseback.decode.dictionaries.explanations.corpus_codes import codes_over, corpus_tokens
from caseback.decode.dictionaries.explanations.decision_lists import Part, fit_lists, judge_lists, near_features
from caseback.decode.dictionaries.explanations.explain import explain_features
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import override
from caseback.model.anatomy.sites import Site
from exact import exact

WORDS = [" york", " singing", " ringing", " cat", " Dog", "7", ".", " house", " tree", " ran"]


def text_of(token: int) -> str:
    return WORDS[token] if token < len(WORDS) else f" w{token}q"


def corpus(n=2000, vocab=60, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, vocab, n)
    starts = np.arange(0, n, 8)
    previous = np.where(np.arange(n) % 8 == 0, -1, np.roll(ids, 1))
    return ids, previous, starts


def part_of(ids, previous, starts, codes) -> tuple[Part, object]:
    asked = conditions_of(ids, previous, text_of)
    return Part(asked.holds, sparse.csr_matrix(codes), starts), asked


def planted(n=4000):
    """Features that fire on sets of tokens, one after a token, and one at random."""
    ids, previous, starts = corpus(n)
    rng = np.random.default_rng(1)
    strength = rng.uniform(0.5, 2, (n, 5))
    fires = np.stack(
        [ids == 0, np.isin(ids, [11, 12, 13]), np.isin(ids, [1, 2]), previous == 20, rng.random(n) < 0.02], 1
    )
    return ids, previous, starts, strength * fires


def test_planted_sets_of_tokens_are_recovered_and_told_from_all_others():
    ids, previous, starts, codes = planted()
    part, asked = part_of(ids, previous, starts, codes)
    half = len(ids) // 2
    fit = Part(part.holds[:half], part.codes[:half], starts[starts < half])
    test = Part(part.holds[half:], part.codes[half:], starts[starts >= half] - half)
    chosen, gains = fit_lists(fit, 5, 0.02)
    rules = [{asked.text(c) for c in row if c >= 0} for row in chosen]
    assert rules[0] == {"' york'"} and gains[0, 0] == 1
    assert rules[1] == {repr(text_of(i)) for i in (11, 12, 13)}
    assert rules[2] == {"/ing$/"}  # one rule for both
    assert rules[3] == {"after ' w20q'"}
    scores = judge_lists(test, chosen, near_features(fit, 2), 4)
    np.testing.assert_array_equal(scores.detection[:4], 1)
    np.testing.assert_array_equal(scores.fuzzing[:4], 1)
    np.testing.assert_array_equal(scores.called[:4], 1)
    assert abs(scores.detection[4] - 0.5) < 0.1  # nothing explains what is random
    # the list of another feature is at chance
    others = judge_lists(test, np.roll(chosen[:4], 1, axis=0)[[0, 1, 2, 3, 3]], near_features(fit, 2), 4)
    assert np.abs(others.detection[:4] - 0.5).max() < 0.12 and np.abs(others.fuzzing[:4] - 0.5).max() < 0.12


def counted_gains(part: Part, chosen_before: list[int], feature: int) -> np.ndarray:
    """Of every condition, with loops over windows."""
    holds = part.holds.toarray() > 0
    fires = part.codes.toarray()[:, feature] > 0
    called = holds[:, chosen_before].any(1)
    ends = np.append(part.starts[1:], len(fires))
    gains = np.zeros(holds.shape[1])
    for condition in range(holds.shape[1]):
        quiet = both = 0
        for first, last in zip(part.starts, ends, strict=True):
            if not fires[first:last].any():
                quiet += 1
                both += holds[first:last, condition].any() and not called[first:last].any()
        gains[condition] = (fires & ~called & holds[:, condition]).sum() / fires.sum() - both / max(quiet, 1)
    return gains


@pytest.mark.parametrize("scores_at_once", [2**24, 3000])
def test_every_rule_gains_most_by_an_independent_count(scores_at_once):
    ids, previous, starts = corpus(400, 12, seed=3)
    codes = np.random.default_rng(2).random((400, 6)) * (np.random.default_rng(3).random((400, 6)) < 0.08)
    codes[:, 1] += np.isin(ids, [1, 4]) * 0.5
    codes[:, 5] = 0  # never fires
    part, _ = part_of(ids, previous, starts, codes)
    with override(feature_scores=scores_at_once):
        chosen, gains = fit_lists(part, 3, 0.01)
    assert (chosen[5] == -1).all() and (chosen[1, :2] >= 0).all()
    for feature in range(5):
        before: list[int] = []
        for rule in range(3):
            all_gains = counted_gains(part, before, feature)
            if chosen[feature, rule] < 0:
                assert all_gains.max() < 0.01
                break
            assert chosen[feature, rule] == all_gains.argmax()
            np.testing.assert_allclose(gains[feature, rule], all_gains.max())
            before.append(chosen[feature, rule])


@pytest.mark.parametrize("scores_at_once", [2**24, 1000])
def test_scores_are_those_of_a_loop_over_windows(scores_at_once):
    ids, previous, starts = corpus(400, 12, seed=3)
    codes = np.random.default_rng(2).random((400, 6)) * (np.random.default_rng(3).random((400, 6)) < 0.06)
    part, _ = part_of(ids, previous, starts, codes)
    chosen, _ = fit_lists(part, 3, 0.0)
    near = np.array([[1, 2], [0, -1], [3, 4], [-1, -1], [5, 0], [0, 1]])
    with override(feature_scores=scores_at_once):
        scores = judge_lists(part, chosen, near, 3)
    holds, fires = part.holds.toarray() > 0, codes > 0
    windows = [slice(a, b) for a, b in zip(starts, np.append(starts[1:], 400), strict=True)]
    for f in range(6):
        called = holds[:, [c for c in chosen[f] if c >= 0]].any(1)
        active = sorted((w for w in windows if fires[w, f].any()), key=lambda w: -codes[w, f].max())
        quiet = [w for w in windows if not fires[w, f].any()]
        hit = np.mean([called[w].any() for w in active])
        np.testing.assert_allclose(scores.detection[f], (hit + 1 - np.mean([called[w].any() for w in quiet])) / 2)
        hard = [w for w in quiet if any(n >= 0 and fires[w, n].any() for n in near[f])]
        expected = (hit + 1 - np.mean([called[w].any() for w in hard])) / 2 if hard else np.nan
        np.testing.assert_allclose(scores.near_detection[f], expected)
        own = [called[t] for w in active for t in range(w.start, w.stop) if fires[t, f]]
        rest = [called[t] for w in active for t in range(w.start, w.stop) if not fires[t, f]]
        np.testing.assert_allclose(scores.fuzzing[f], (np.mean(own) + 1 - np.mean(rest)) / 2)
        bins = [[w for i, w in enumerate(active) if i * 3 // len(active) == b] for b in range(3)]
        np.testing.assert_allclose(scores.called[f], [np.mean([called[w].any() for w in b]) for b in bins])
        assert scores.windows[f] == len(active)


def test_near_features_fire_at_the_same_tokens():
    codes = np.random.default_rng(0).random((300, 5)) * (np.random.default_rng(1).random((300, 5)) < 0.2)
    codes[:, 4] = codes[:, 1]
    part = Part(sparse.csr_matrix((300, 1)), sparse.csr_matrix(codes), np.arange(0, 300, 10))
    fires = (codes > 0).astype(float)
    cosines = fires.T @ fires / np.outer(np.linalg.norm(fires, axis=0), np.linalg.norm(fires, axis=0))
    np.fill_diagonal(cosines, 0)
    for at_once in (2**24, 5):
        with override(feature_scores=at_once):
            near = near_features(part, 2)
        np.testing.assert_array_equal(near, np.argsort(-cosines, 1, kind="stable")[:, :2])
    assert near[1, 0] == 4 and near[4, 0] == 1


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_codes_of_a_corpus_are_those_of_its_rows(name):
    model = shelf.model(name)
    one = TopK(model.d_model, 48, k=4, facts=Facts(site="resid_post.1"), dtype=model.dtype)
    rows = [shelf.ids((n,), seed=n)[0] for n in (7, 12, 3, 9)]
    tokens = corpus_tokens(model, rows, 8)
    with exact():
        codes = codes_over(model, Site("resid_post", 1), {"a": one}, tokens)["a"].toarray()
        at = 0
        for row in range(len(tokens.block)):
            ids = tokens.block.row(row)
            expected = one.encode(model.run([ids], read=["resid_post"])["resid_post", 1][0]).detach().clamp_min(0)[1:]
            np.testing.assert_allclose(codes[at : at + len(ids) - 1], expected.float().numpy(), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(tokens.ids[at : at + len(ids) - 1], ids[1:])
            np.testing.assert_array_equal(tokens.previous[at : at + len(ids) - 1], [-1, *ids[1:-1]])
            at += len(ids) - 1
    assert at == len(tokens.ids)


def test_a_document_is_on_one_side_only():
    model = shelf.model("llama")
    tokens = corpus_tokens(model, [shelf.ids((30,), seed=n)[0] for n in range(9)], 8)
    side = tokens.in_training(3)
    document = tokens.block.document.numpy()[tokens.row]
    assert {len(set(side[document == d].tolist())) for d in range(9)} == {1}
    assert len(set(document[side])) == 5
    starts = tokens.windows(4)
    assert all(b - a <= 4 for a, b in zip(starts, [*starts[1:], len(side)], strict=True))
    assert set(np.flatnonzero(np.diff(tokens.row, prepend=-1))) <= set(starts)


def test_explanations_beside_their_controls():
    model = shelf.model("llama")
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 40, 16).tolist() for _ in range(80)]
    one = TopK(model.d_model, 2 * model.d_model, k=3, facts=Facts(site="resid_post.0"), dtype=model.dtype)
    table = explain_features(model, one, rows, window=8, least_windows=5, bins=4, features=[5, 2], seed=1)
    assert table.feature.values.tolist() == [5, 2] and table.sizes["bin"] == 4
    assert (table.mean_detection > table.mean_detection_of_another).all()
    assert abs(float(table.mean_fuzzing_of_another[0]) - 0.5) < 0.1
    again = explain_features(model, one, rows, window=8, least_windows=5, bins=4, features=[5, 2], seed=1)
    assert table.identical(again)
    assert explain_features(model, one, rows, controls=False).control.values.tolist() == ["features"]


def test_what_cannot_be_explained_is_refused():
    model = shelf.model("llama")
    rows = [shelf.ids((9,), seed=n)[0] for n in range(4)]
    one = TopK(model.d_model, 48, k=4, facts=Facts(site="resid_post.1"))
    with pytest.raises(CasebackError, match="fewer than two documents"):
        explain_features(model, one, rows[:1])
    with pytest.raises(CasebackError, match="does not say where it reads"):
        explain_features(model, TopK(model.d_model, 48, k=4), rows)
    with pytest.raises(OutOfRange, match="feature 48"):
        explain_features(model, one, rows, features=[48])
    with pytest.raises(OutOfRange, match="window is 0"):
        explain_features(model, one, rows, window=0)
    with pytest.raises(TokensError, match="this dictionary reads 7"):
        explain_features(model, Standard(7, 9, facts=Facts(site="resid_post.1")), rows)
