"""Learning in context: linear attention is gradient descent, a softmax organism nearly so, and is found to follow it."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

import caseback as cb
from caseback.behaviors import in_context_learner
from caseback.behaviors.mechanisms.learners import learners
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.organisms.compiled.gradient_descent import SPACING, gradient_descent, input_table, linear_attention
from caseback.reports.concepts.in_context_learner import in_context_learner_document
from caseback.tasks.regression import Regression, digit_regression
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.in_context_learner import print_in_context_learner

BATCH, SHOTS, FEATURES = 5, 9, 3


@pytest.fixture(scope="module")
def numbers():
    draw = torch.Generator().manual_seed(0)
    x, y, q = (
        torch.randn(s, generator=draw, dtype=torch.float64)
        for s in ((BATCH, SHOTS, FEATURES), (BATCH, SHOTS), (BATCH, FEATURES))
    )
    return x, y, q


def descended(x, y, q, rates, g=None):
    """Predictions after steps of gradient descent, with autograd's gradients."""
    w, predictions = torch.zeros(len(x), x.shape[-1], dtype=torch.float64), []
    for rate in rates:
        w = w.detach().requires_grad_()
        loss = ((torch.einsum("bnf,bf->bn", x, w) - y) ** 2).mean(1).sum() / 2
        (slope,) = torch.autograd.grad(loss, w)
        w = w - rate * (slope if g is None else torch.einsum("...fg,bg->bf", g, slope))
        predictions.append(torch.einsum("bf,bf->b", w, q))
    return torch.stack(predictions).detach()


def test_5_4_14_layers_of_linear_attention_are_steps_of_gradient_descent(numbers):
    (x, y, q), rates = numbers, [0.3, 0.2, 0.4]
    torch.testing.assert_close(linear_attention(x, y, q, rates), descended(x, y, q, rates), rtol=0, atol=1e-14)


def test_5_4_14_a_preconditioner_is_whitened_descent_and_least_squares_at_once(numbers):
    x, y, q = numbers
    draw = torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g = draw @ draw.T / FEATURES
    by = linear_attention(x, y, q, [0.2, 0.2], preconditioner=g)
    torch.testing.assert_close(by, descended(x, y, q, [0.2, 0.2], g), rtol=0, atol=1e-13)
    # the inverse of each prompt's own covariance: one layer is the least-squares answer
    inverse = torch.linalg.inv(x.mT @ x / SHOTS)
    exact = (torch.linalg.lstsq(x, y[..., None]).solution[..., 0] * q).sum(-1)
    torch.testing.assert_close(linear_attention(x, y, q, [1.0], preconditioner=inverse)[0], exact, rtol=0, atol=1e-12)


def test_5_4_14_a_curvature_whitens_what_later_layers_descend(numbers):
    x, y, q = numbers
    curvature, rate = 0.1, 0.2
    by = linear_attention(x, y, q, [rate, rate], curvature=curvature)
    change = torch.eye(FEATURES, dtype=torch.float64) - curvature * x.mT @ x / SHOTS
    first = torch.einsum("bnf,bn->bf", x, y) / SHOTS * rate
    rest = y - torch.einsum("bnf,bf->bn", x, first)
    x2, q2 = x @ change, torch.einsum("bfg,bg->bf", change, q)
    second = torch.einsum("bnf,bn->bf", x2, rest) / SHOTS * rate
    torch.testing.assert_close(by[1], (first * q).sum(-1) + (second * q2).sum(-1), rtol=0, atol=1e-14)


def word_prompts(count=40, shots=10, seed=0):
    """Prompts of the organism's words, whose outputs are linear but for their rounding."""
    rng, table = np.random.default_rng(seed), input_table().double().numpy()
    a, w = rng.integers(0, len(table), (count, shots + 1)), rng.standard_normal((count, 2))
    y = np.clip(np.rint(np.einsum("bsf,bf->bs", table[a], w) / SPACING) * SPACING, -2, 2) + 0.0
    texts = [
        " ".join([*(f"{i}:{v:g}" for i, v in zip(row[:-1], out, strict=False)), f"{row[-1]}:?"])
        for row, out in zip(a, y, strict=True)
    ]
    values = np.arange(-16, 17) * SPACING
    answers = tuple(f"{v:g}" for v in values)
    return Regression(tuple(texts), table[a[:, :-1]], y[:, :-1], table[a[:, -1]], y[:, -1], answers, values)


@pytest.mark.parametrize(("small", "sink", "bound"), [(1e-2, 12.0, 2e-4), (1e-3, 16.0, 3e-6)])
def test_5_4_14_two_softmax_heads_take_the_step_up_to_small_squared(small, sink, bound):
    model = gradient_descent(rate=0.1, small=small, sink=sink).model
    model = cb.load(model.hf.double(), tokenizer=model.tokenizer)
    asked = word_prompts()
    read = model.run(model.tokens(list(asked.texts)), read=["resid_post"])["resid_post", 0][:, -1, -1]
    step = 0.1 * np.einsum("bs,bsf,bf->b", asked.outputs, asked.inputs, asked.queries)
    assert np.abs(step).max() > 1
    np.testing.assert_allclose(read, step, rtol=0, atol=bound)


def test_5_4_14_the_organism_is_found_to_take_one_step_and_at_which_rate():
    organism = gradient_descent(rate=0.1)
    asked = word_prompts()
    prompt = asked.texts[0].split()
    assert organism.predict([prompt])[0][-1] == organism.function(prompt)[-1]
    compared = in_context_learner(organism.model, asked, steps=(1, 4), draws=200)
    assert compared.attrs["follows"] == "gradient 1"
    apart = compared["difference"].mean("batch").to_series().sort_values()
    assert apart.index[0] == "gradient 1" and apart.iloc[1] > 5 * apart.iloc[0]
    # a step on the mean of ten squared errors has ten times the rate of one on their sum
    assert float(compared["free"].sel(variant="gradient 1")) == pytest.approx(1.0, rel=0.1)
    document = json.loads(json.dumps(in_context_learner_document(organism.model, compared)))
    assert document["verdict"]["followed"] and document["learners"][0]["name"] == "gradient 1"
    console = Console(record=True, width=140)
    print_in_context_learner(document, console=console)
    assert "follows gradient 1" in console.export_text()
    assert "follows gradient 1" in page_html(document)


def test_learners_are_what_their_formulas_say(numbers):
    tensors = numbers[0], numbers[1], numbers[2]
    x, y, q = (one.numpy() for one in tensors)
    by = learners(x, y, q, [3])
    free, table = by["gradient 3"]
    for rate, row in zip(free[::10], table[::10], strict=True):
        np.testing.assert_allclose(row, descended(*tensors, [rate] * 3)[-1], rtol=0, atol=1e-12)
    strength = by["ridge"].free[17]
    w = np.linalg.solve(
        np.einsum("bnf,bng->bfg", x, x) / SHOTS + strength * np.eye(FEATURES),
        np.einsum("bnf,bn->bf", x, y)[..., None] / SHOTS,
    )[..., 0]
    np.testing.assert_allclose(by["ridge"].predictions[17], (w * q).sum(-1), rtol=0, atol=1e-12)
    exact = [np.linalg.lstsq(a, b, rcond=None)[0] @ c for a, b, c in zip(x, y, q, strict=True)]
    np.testing.assert_allclose(
        by["least squares"].predictions / by["least squares"].free[:, None], [exact] * 30, atol=1e-12
    )
    closest = [b[np.linalg.norm(a - c, axis=1).argmin()] for a, b, c in zip(x, y, q, strict=True)]
    np.testing.assert_allclose(by["nearest"].predictions[0] / by["nearest"].free[0], closest, atol=1e-12)
    width = by["kernel"].free[9]
    weights = np.exp(-((x - q[:, None]) ** 2).sum(-1) / (2 * width**2))
    np.testing.assert_allclose(by["kernel"].predictions[9], (weights * y).sum(1) / weights.sum(1), rtol=0, atol=1e-12)


def test_examples_fewer_than_numbers_have_the_shortest_least_squares(numbers):
    x, y, q = (one.numpy()[:, :2] if one.ndim > 1 and one.shape[1] == SHOTS else one.numpy() for one in numbers)
    by = learners(x, y, q, [1])["least squares"]
    exact = [np.linalg.pinv(a) @ b @ c for a, b, c in zip(x, y, q, strict=True)]
    np.testing.assert_allclose(by.predictions[0] / by.free[0], exact, atol=1e-10)


def test_a_model_that_answers_without_looking_follows_none():
    meadow = cb.load("meadow")
    asked = digit_regression(24, shots=4)
    blind = Regression(
        ("1,2=",) * len(asked), asked.inputs, asked.outputs, asked.queries, asked.targets, asked.answers, asked.values
    )
    compared = in_context_learner(meadow, blind, draws=50)
    assert np.isnan(compared["agreement"]).all()
    assert not in_context_learner_document(meadow, compared)["verdict"]["followed"]


def test_bad_regressions_are_refused_in_words():
    meadow, asked = cb.load("meadow"), digit_regression(12, shots=4)
    with pytest.raises(OutOfRange, match="expected 12 prompts"):
        in_context_learner(meadow, digit_regression(4))
    with pytest.raises(OutOfRange, match="steps"):
        in_context_learner(meadow, asked, steps=(0,))
    with pytest.raises(CasebackError, match="do not fit"):
        Regression(asked.texts, asked.inputs, asked.outputs[:, 1:], asked.queries, asked.targets, ("0",), np.zeros(1))
    several = Regression(
        asked.texts, asked.inputs, asked.outputs, asked.queries, asked.targets, ("Maryland", "0"), np.arange(2.0)
    )
    with pytest.raises(TokensError, match="Maryland"):
        in_context_learner(meadow, several)
    with pytest.raises(OutOfRange, match="of 0 examples"):
        digit_regression(1, shots=0)
    with pytest.raises(CasebackError, match="above 0"):
        gradient_descent(rate=0.0)
