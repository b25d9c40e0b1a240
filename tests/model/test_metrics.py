"""Metrics against their formulas, for one target or one per prompt, at any position."""

import math

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import ArgumentError, OutOfRange, TargetError
from exact import exact

ROWS = shelf.ids((7, 4))


@pytest.fixture(scope="module")
def run():
    return shelf.model("llama").run(shelf.model("llama").tokens(ROWS))


LAST = (6, 3)


def test_logit_and_their_difference(run):
    f = [run.logits[b, LAST[b]] for b in range(2)]
    assert cb.logit(5)(run).tolist() == [float(f[0][5]), float(f[1][5])]
    assert cb.logit([5, 9])(run).tolist() == [float(f[0][5]), float(f[1][9])]
    assert cb.logit(torch.tensor([5, 9]))(run).tolist() == [float(f[0][5]), float(f[1][9])]
    assert cb.logit_diff(5, [7, 2])(run).tolist() == [float(f[0][5] - f[0][7]), float(f[1][5] - f[1][2])]


def test_logit_difference_is_antisymmetric(run):
    assert torch.equal(cb.logit_diff(5, 7)(run), -cb.logit_diff(7, 5)(run))
    assert not cb.logit_diff(5, 5)(run).any()


def test_probabilities(run):
    p = [run.logits[b, LAST[b]].softmax(-1) for b in range(2)]
    torch.testing.assert_close(cb.prob([5, 9])(run), torch.stack([p[0][5], p[1][9]]))
    torch.testing.assert_close(cb.log_prob([5, 9])(run), torch.stack([p[0][5], p[1][9]]).log())
    total = sum(cb.prob(t)(run) for t in range(61))
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("pos", [0, 2, -1, -4, torch.tensor([5, -2])])
def test_another_position(run, pos):
    at = [int(pos[b]) if isinstance(pos, torch.Tensor) else pos for b in range(2)]
    columns = [p if p >= 0 else p + n for p, n in zip(at, (7, 4), strict=True)]
    expected = torch.stack([run.logits[b, columns[b], 8] for b in range(2)])
    assert torch.equal(cb.logit(8, pos=pos)(run), expected)


def test_loss_is_the_mean_cross_entropy_of_a_prompts_own_tokens(run):
    for b, row in enumerate(ROWS):
        logits = run.logits[b, : len(row) - 1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]))
        torch.testing.assert_close(cb.loss()(run)[b], expected)


def test_loss_is_transformers_own():
    model = shelf.model("llama")
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad(), exact():
        theirs = model.hf(ids, labels=ids).loss
        torch.testing.assert_close(cb.loss()(model.run(ids))[0], theirs)


def test_kl_against_its_formula_and_zero_on_itself():
    model = shelf.model("llama")
    with exact():
        reference = model.run(shelf.ids((7, 4), seed=3))
        mine = model.run(ROWS, read=["resid_post"], grad=True)
        found = cb.kl(reference)(mine)
        for b in range(2):
            p, q = (r.logits[b, LAST[b]].log_softmax(-1) for r in (reference, mine))
            torch.testing.assert_close(found[b], (p.exp() * (p - q)).sum())
        assert (found > 0).all()
        itself = cb.kl(mine)
        assert itself(mine).abs().max() < 1e-12
        assert mine.grad(itself, ["resid_post"])["resid_post"].abs().max() < 1e-12
        # One reference prompt serves all; logits do as well as a run.
        one = model.run(shelf.ids((4,), seed=3))
        torch.testing.assert_close(cb.kl(one)(mine)[1], cb.kl(one.logits)(model.run([ROWS[1]]))[0])


def test_any_function_of_the_logits(run):
    entropy = cb.function(lambda x: -(x.softmax(-1) * x.log_softmax(-1)).sum(-1))
    assert entropy.name == "<lambda>" or entropy.name
    values = entropy(run)
    assert (values > 0).all() and (values < math.log(61)).all()
    both = cb.function(lambda x: x[:, :2, 3].sum(1), pos=None, name="first two")
    torch.testing.assert_close(both(run), run.logits[:, :2, 3].sum(1))
    assert both.name == "first two"
    with pytest.raises(TargetError, match=r"returned \(2, 61\), expected one number per row \(2,\)"):
        cb.function(lambda x: x)(run)
    with pytest.raises(TargetError, match="returned float, expected one number per row"):
        cb.function(lambda x: 1.0)(run)


@pytest.mark.parametrize(
    "of_no_position",
    [
        lambda run: cb.logit(3, pos=None),
        lambda run: cb.logit_diff(3, 4, pos=None),
        lambda run: cb.log_prob(3, pos=None),
        lambda run: cb.prob_diff([3], [4], pos=None),
        lambda run: cb.kl(run, pos=None),
    ],
)
def test_a_metric_of_one_position_is_refused_without_one_before_anything_runs(run, of_no_position):
    with pytest.raises(ArgumentError, match=r"\(pos=None\): expected a position.*cb.loss\(\), or by"):
        of_no_position(run)


def test_half_precision_probabilities_are_in_float32():
    model = cb.load(shelf.zoo.tiny("llama", dtype=torch.bfloat16))
    run = model.run(ROWS)
    assert run.logits.dtype == torch.bfloat16
    for metric in (cb.prob(3), cb.log_prob(3), cb.loss(), cb.kl(run), cb.logit_diff(3, 4)):
        assert metric(run).dtype == torch.float32


@pytest.mark.parametrize(
    ("metric", "error", "says"),
    [
        (cb.logit(61), TargetError, "target id 61 is outside the vocabulary: expected 0 to 60"),
        (cb.logit_diff(3, -1), TargetError, "foil id -1 is outside the vocabulary"),
        (cb.logit([1, 2, 3]), TargetError, "3 targets for 2 prompts: give one, or one per prompt"),
        (cb.logit_diff([1, 2], [1]), TargetError, "1 foils for 2 prompts"),
        (cb.logit(" Mary"), TargetError, "target ' Mary': this model has no tokenizer, give the token's id"),
        (
            cb.logit(3, pos=5),
            OutOfRange,
            "position 5 is out of range: prompt 1 has 4 tokens, so positions go from -4 to 3",
        ),
    ],
)
def test_a_target_that_cannot_be_is_refused(run, metric, error, says):
    with pytest.raises(error, match=says):
        metric(run)


def test_a_loss_needs_two_tokens():
    model = shelf.model("llama")
    with pytest.raises(TargetError, match="the loss needs prompts of at least 2 tokens"):
        cb.loss()(model.run(shelf.ids((3, 1))))


def test_targets_as_text(assets):
    model = cb.load(assets / "models" / "stories3M")
    tokens = model.tokens(["Tom and Lily went to the park. Lily gave the ball to", "Lily said hi to"])
    run = model.run(tokens)
    tom, lily = model.token_id(" Tom"), model.token_id(" Lily")
    assert tom != lily
    torch.testing.assert_close(cb.logit_diff(" Tom", " Lily")(run), cb.logit_diff(tom, lily)(run))
    torch.testing.assert_close(cb.logit([" Tom", " Lily"])(run), cb.logit([tom, lily])(run))
    assert cb.logit_diff(" Tom", " Lily")(run)[0] > 2


def test_3_2_13_the_probability_of_a_set_less_that_of_another(run):
    p = [run.logits[b, LAST[b]].softmax(-1) for b in range(2)]
    same_for_both = cb.prob_diff([5, 9], 7)(run)
    torch.testing.assert_close(same_for_both, torch.stack([q[5] + q[9] - q[7] for q in p]))
    one_each = cb.prob_diff([[5, 9], [1]], [[2], [3, 4, 6]])(run)
    expected = torch.stack([p[0][5] + p[0][9] - p[0][2], p[1][1] - p[1][3] - p[1][4] - p[1][6]])
    torch.testing.assert_close(one_each, expected)
    with pytest.raises(TargetError, match="3 sets of targets for 2 prompts"):
        cb.prob_diff([[1], [2], [3]], 4)(run)


def test_a_metric_of_some_rows_keeps_their_targets():
    model = shelf.model("llama")
    tokens = model.tokens(shelf.ids((7, 4, 6)))
    for metric in (cb.logit_diff([1, 2, 3], 9), cb.prob([4, 5, 6]), cb.kl(model.run(shelf.ids((7, 4, 6), seed=2)))):
        whole = metric(model.run(tokens))
        for rows in (slice(0, 1), slice(1, 3)):
            part = metric.of_rows(tokens, rows)(model.run(tokens[rows]))
            torch.testing.assert_close(part, whole[rows])
