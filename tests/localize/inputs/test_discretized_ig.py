"""PRIMER 3.1.3, a path of words: monotonic, by way of real embeddings, and complete as its hops shrink."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TargetError
from caseback.localize.inputs.gradients.discretized_ig import discretized_integrated_gradients, word_path
from caseback.model.prompts.baselines import vocabulary
from exact import exact

METRIC = cb.logit_diff(3, 5)


def one_word_at_a_time(words, word, baseline, steps, strategy, neighbours):
    """The path as the paper tells it, with loops."""
    chain, points = [word], [words[word]]
    stopped = False
    for _ in range(steps):
        here, last = words[chain[-1]], points[-1]
        near = sorted(
            (j for j in range(len(words)) if j != chain[-1]), key=lambda j: float(((words[j] - here) ** 2).sum())
        )
        best, least = None, None
        for j in [] if stopped else near[:neighbours]:
            if j in chain or torch.equal(words[j], baseline):
                continue
            inside = (words[j] - here) * (words[j] - baseline) <= 0
            moved = torch.where(inside, words[j], here - (here - baseline) / steps)
            stray = float((~inside).sum()) if strategy == "maxcount" else float(((words[j] - moved) ** 2).sum())
            if least is None or stray < least:
                best, least = j, stray
        stopped = stopped or best is None
        target = baseline if best is None else words[best]
        chain.append(chain[-1] if best is None else best)
        points.append(torch.where((target - last) * (target - baseline) <= 0, target, last - (last - baseline) / steps))
    return torch.stack([*points, baseline]).flip(0)


@pytest.mark.parametrize("strategy", ["greedy", "maxcount"])
@pytest.mark.parametrize("baseline", ["word", "mean"])
def test_3_1_3_the_path_is_the_papers(strategy, baseline):
    words = torch.randn(40, 6, dtype=torch.float64)
    end = words[7] if baseline == "word" else words.mean(0)
    ids = torch.tensor([3, 9, 7, 22])
    for neighbours, steps in ((10, 5), (39, 8), (2, 6)):
        made = word_path(words, ids, end.expand(4, -1), steps, strategy, neighbours)
        for column, word in enumerate(ids.tolist()):
            told = one_word_at_a_time(words, word, end, steps, strategy, neighbours)
            assert torch.allclose(made[:, column], told, atol=1e-12), (neighbours, word)


@pytest.mark.parametrize("factor", [0, 2])
@pytest.mark.parametrize("strategy", ["greedy", "maxcount"])
def test_3_1_3_paths_are_monotonic_from_the_baseline_to_the_word(strategy, factor):
    model = shelf.model("llama")
    words, ids = vocabulary(model), torch.tensor([4, 8, 15, 16])
    start = words.mean(0).expand(4, -1)
    path = word_path(words, ids, start, 12, strategy, 500, factor)
    assert len(path) == 2**factor * 13 + 1
    assert torch.equal(path[0], start) and torch.equal(path[-1], words[ids])
    steps = path.diff(dim=0)
    assert ((steps * (words[ids] - start) >= -1e-12).all()) and (path.diff(dim=0).abs() > 0).any(-1).any(0).all()


def test_3_1_3_points_keep_dimensions_of_real_words():
    words = vocabulary(shelf.model("gpt2"))
    path = word_path(words, torch.tensor([4, 8]), words.mean(0).expand(2, -1), 10, "greedy", 60)
    inner = path[1:-1]
    shared = (inner[:, :, None] == words).sum(-1).amax(-1)
    assert (shared > 0).float().mean() > 0.9


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_3_1_3_completeness_the_gap_shrinks_as_hops_do(name):
    model, prompts = shelf.model(name), shelf.ids((4, 3))
    with exact():
        gaps = [
            np.abs(
                discretized_integrated_gradients(
                    model, prompts, METRIC, steps=10, factor=factor, rule="trapezoid"
                ).attrs["completeness_gap"]
            ).max()
            for factor in (0, 3)
        ]
    assert gaps[1] < 0.2 * gaps[0] and gaps[1] < 0.05, gaps


def test_3_1_3_the_sum_is_the_papers():
    """Each point's gradient times the hop that follows it; the other rules take the hop before, or half of both."""
    model, prompt = shelf.model("gpt2"), shelf.ids((4,))
    with exact():
        words = vocabulary(model)
        end = model.run(prompt, read=["embed"])["embed"]
        path = word_path(words, torch.tensor(prompt[0]), words[9].expand(4, -1), 6, "greedy", 500)
        total = torch.zeros(3, 4, model.d_model, dtype=torch.float64)
        for k, point in enumerate(path):
            run = model.run(prompt, read=["embed"], edits=cb.Replace("embed", point[None]), grad=True)
            g = run.grad(METRIC, ["embed"])["embed"][0]
            after = path[k + 1] - point if k + 1 < len(path) else 0 * point
            before = point - path[k - 1] if k else 0 * point
            total += torch.stack([g * after, g * before, g * (after + before) / 2])
        for rule, told in zip(("riemann_left", "riemann_right", "trapezoid"), total, strict=True):
            scores = discretized_integrated_gradients(
                model, prompt, METRIC, baseline=9, steps=6, rule=rule, by_dimension=True
            )
            assert np.allclose(scores.values[0], told.numpy(), atol=1e-10)
    assert torch.equal(path[-1], end[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batches_change_nothing(side):
    model, prompts = shelf.model("llama"), shelf.ids((5, 3))
    with exact():
        tokens = model.tokens(prompts, padding=side)
        both = discretized_integrated_gradients(model, tokens, METRIC, steps=5, max_batch=2)
        for row, prompt in enumerate(prompts):
            alone = discretized_integrated_gradients(model, [prompt], METRIC, steps=5)
            assert np.allclose(both.values[row, : len(prompt)], alone.values[0], atol=1e-10)
            assert abs(both.attrs["completeness_gap"][row] - alone.attrs["completeness_gap"][0]) < 1e-10
    assert np.isnan(both.values[1, 3:]).all()


def test_a_token_that_is_the_baseline_gets_nothing():
    scores = discretized_integrated_gradients(shelf.model("gpt2"), [4, 9, 15], METRIC, baseline=9, steps=4)
    assert scores.values[0, 1] == 0 and (scores.values[0, [0, 2]] != 0).all()


def test_settings_that_make_no_sense_are_refused():
    model = shelf.model("gpt2")
    for wrong in ({"steps": 0}, {"neighbours": 0}, {"factor": -1}, {"max_batch": 0}):
        with pytest.raises(OutOfRange):
            discretized_integrated_gradients(model, [1, 2], METRIC, **wrong)
    with pytest.raises(CasebackError, match="Did you mean maxcount"):
        discretized_integrated_gradients(model, [1, 2], METRIC, strategy="max_count")
    with pytest.raises(CasebackError, match="Did you mean riemann_left"):
        discretized_integrated_gradients(model, [1, 2], METRIC, rule="riemann_lft")
    with pytest.raises(CasebackError, match="does not fit"):
        discretized_integrated_gradients(model, [1, 2], METRIC, baseline=torch.zeros(5, 32))
    with pytest.raises(TargetError, match="same token"):
        discretized_integrated_gradients(model, [1, 2], cb.logit_diff(3, 3))
