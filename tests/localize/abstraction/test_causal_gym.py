"""PRIMER 3.2.36: odds-ratios in closed form, methods against each other, and control tasks."""

import numpy as np
import planted_truth
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError
from caseback.localize.abstraction import At, Interchanges, causal_gym, control_task, log_odds_ratio
from caseback.localize.abstraction.directions import WAYS, direction
from exact import exact

HERE = At("resid_post", layer=0, pos=-1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_3_2_36_the_odds_ratio_is_its_definition(name):
    """By probabilities of whole runs; at the last layer's end the swapped run is the source's."""
    model = shelf.model(name)
    data = Interchanges.of(model, shelf.ids((5, 4)), shelf.ids((5, 4), seed=9), [3, 4], [8, 9])
    at = At("resid_post", layer=model.n_layers - 1, pos=-1)
    with exact():
        p, q = (
            model.run(t).logits[torch.arange(2), t.column(-1)].softmax(-1)
            for t in (data.base, data.sources["variable"])
        )
        found = log_odds_ratio(model, data, {"variable": at})
    rows = torch.arange(2)
    told = (p[rows, data.base_target] / p[rows, data.target] * q[rows, data.target] / q[rows, data.base_target]).log()
    assert np.allclose(found, told, atol=1e-9) and np.isclose(found.attrs["odds_ratio"], told.mean())


def planted(n=40):
    """Pairs of tokens that differ in the sign ``a`` alone."""
    model, truth = planted_truth.direct(1, gain=2.0)
    base = torch.arange(n) % (4 * planted_truth.COPIES)
    source = base ^ 2
    return (
        model,
        truth,
        Interchanges.of(model, base[:, None], source[:, None], (source % 4).tolist(), (base % 4).tolist()),
    )


def test_3_2_36_a_feature_beats_chance_and_its_odds_are_known():
    """Swapping the sign moves the logit difference of its two answers by twice the gain, twice."""
    model, truth, data = planted()
    odds = log_odds_ratio(model, data, {"variable": HERE.holding(truth["a"])})
    assert np.allclose(odds, 2 * 2 * 2.0)
    value = (data.base.ids[:, 0] & 2).bool()
    how = {"layers": [0], "pos": [-1], "value": value, "lr": 0.05, "epochs": 6, "held_out": 0.25}
    found = causal_gym(model, data, methods=["das", "mean difference", "probe", "lda", "random", "full"], **how)
    score = {str(m): float(found.sel(variant=m)[0, 0]) for m in found.variant.values}
    assert found.dims == ("variant", "layer", "pos") and score["full"] == pytest.approx(8.0)
    assert score["das"] > 7.5 and score["mean difference"] == pytest.approx(8.0, abs=0.1) and score["random"] < 4
    assert np.allclose(found.selectivity, found - found.control)
    assert np.allclose(found.attrs["overall"], found.values[:, 0, 0])
    picked = np.subtract(found.attrs["overall"], found.attrs["overall_control"])
    assert np.allclose(found.attrs["overall_selectivity"], picked)


def test_3_2_36_overall_is_the_mean_over_layers_of_the_best_position():
    model = cb.load("meadow")
    data = Interchanges.of_pairs(cb.tasks.agreement().prompts(model, 10))
    value = torch.isin(data.base_target, torch.tensor([model.token_id(word) for word in (" are", " were")]))
    found = causal_gym(model, data, methods=["full", "random"], layers=[0, 2], pos=[-2, -1], value=value)
    assert np.allclose(found.attrs["overall"], found.values.max(-1).mean(-1))
    assert found.attrs["overall"][0] > found.attrs["overall"][1]


def test_3_2_36_a_control_task_has_the_same_prompts_and_other_answers():
    model, _, data = planted()
    control = control_task(data, model.d_vocab, seed=1)
    answers = {*data.target.tolist(), *data.base_target.tolist()}
    names = {}
    pairs = [*zip(data.target, control.target, strict=True), *zip(data.base_target, control.base_target, strict=True)]
    for old, new in ((int(a), int(b)) for a, b in pairs):
        assert names.setdefault(old, new) == new and new not in answers
    assert len(set(names.values())) == len(answers) and control.base is data.base
    assert torch.equal(control_task(data, model.d_vocab, seed=1).target, control.target)
    with pytest.raises(CasebackError, match="the vocabulary has 1"):
        control_task(data, 5)


@pytest.mark.parametrize("way", [w for w in WAYS if w != "random"])
def test_ways_find_the_line_between_two_clouds(way):
    generator = torch.Generator().manual_seed(0)
    apart = torch.nn.functional.normalize(torch.randn(6, generator=generator).double(), dim=0)
    classes = torch.arange(2000) % 2 == 0
    x = 0.2 * torch.randn(2000, 6, generator=generator).double() + torch.where(classes[:, None], 4.0, -4.0) * apart
    found = direction(way, x, classes)
    assert found.shape == (1, 6) and float((found @ apart).abs()) > 0.99 and float(found.norm()) == pytest.approx(1)


def test_bad_input_is_refused():
    model, _, data = planted()
    with pytest.raises(CasebackError, match="no method is called 'dass'. Did you mean das"):
        causal_gym(model, data, methods=["dass"])
    with pytest.raises(CasebackError, match="4 different answers do not tell which"):
        causal_gym(model, data, methods=["random"])
    with pytest.raises(CasebackError, match="value has shape"):
        causal_gym(model, data, methods=["random"], value=torch.ones(3))
    with pytest.raises(CasebackError, match="is not a way to find a direction"):
        direction("guess", torch.ones(4, 2), torch.tensor([True, False, True, False]))
    with pytest.raises(CasebackError, match="alike there"):
        direction("mean difference", torch.ones(4, 2), torch.tensor([True, False, True, False]))
    with pytest.raises(CasebackError, match="changes the answer"):
        log_odds_ratio(model, Interchanges(data.base, data.sources, data.target, data.target), {"variable": HERE})
