"""Conditions: each prompt by itself, thresholds against a plain search, edits of the prompts that meet them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import caseback as cb
import shelf
from caseback.decode import Place, read_states
from caseback.decode.directions import find_directions
from caseback.decode.steering import Condition, conditional, find_condition
from caseback.decode.steering.conditional import best_thresholds, similarities
from caseback.errors import CasebackError
from exact import exact

TEXTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2], [8, 3], [6]]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("read", ["mean", "last"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", shelf.FEW)
def test_each_prompt_of_a_batch_is_judged_by_itself(name, side, read):
    model = shelf.model(name)
    with exact():
        condition = Condition(Place("resid_post", 1), normal(1, model.d_model), 0.0, read=read)
        together = condition.similarity(model, model.tokens(TEXTS, padding=side))
        for row, text in enumerate(TEXTS):
            h = model.run(text, read=["resid_post"])["resid_post", 1][0]
            h = h[int(len(text) > 1) :].mean(0) if read == "mean" else h[-1]
            wanted = torch.cosine_similarity(h, condition.basis[0], dim=0)
            assert float(together[row]) == pytest.approx(float(wanted), abs=1e-10)


@pytest.mark.parametrize("name", shelf.FEW)
def test_only_prompts_that_meet_it_are_steered(name):
    model = shelf.model(name)
    with exact():
        similarity = Condition(Place("resid_post", 0), normal(1, model.d_model), 0.0).similarity(model, TEXTS)
        edit = cb.Add("resid_post", normal(model.d_model, seed=1), layer=1)
        for larger in (True, False):
            middle = float(similarity.sort().values[1:3].mean())
            condition = Condition(Place("resid_post", 0), normal(1, model.d_model), middle, larger)
            chosen = condition.met(model, TEXTS)
            assert torch.equal(chosen, (similarity > middle) == larger) and int(chosen.sum()) == 2
            edits = conditional(model, TEXTS, condition, edit)
            tokens = model.tokens(TEXTS)
            run, runs = model.run(tokens, edits=edits), [model.run(tokens, edits=e) for e in ([], [edit])]
            for row in range(4):
                wanted = runs[int(chosen[row])]
                assert torch.allclose(
                    run.logits[row][tokens.mask[row]], wanted.logits[row][tokens.mask[row]], atol=1e-10
                )
            whole = model.generate(TEXTS, edits=edits, max_new_tokens=3)
            for row, text in enumerate(TEXTS):
                alone = model.generate(text, edits=[edit] if chosen[row] else [], max_new_tokens=3)
                assert whole.ids[row][whole.mask[row]].tolist() == alone.ids[0].tolist()
        assert conditional(model, TEXTS, Condition(Place("resid_post", 0), condition.basis, 2.0), edit) == []


def test_edits_that_name_prompts_keep_to_them():
    model = shelf.model("llama")
    always = Condition(Place("resid_post", 0), normal(1, 32), -2.0)
    edits = [cb.Zero("z", layer=0, prompt=[1, -1]), cb.Zero("z", layer=1), cb.Zero("mlp_out", layer=0, prompt=0)]
    assert [e.prompt for e in conditional(model, TEXTS, always, edits)] == [[1, 3], [0, 1, 2, 3], [0]]
    never = Condition(Place("resid_post", 0), normal(1, 32), 2.0)
    assert conditional(model, TEXTS, never, edits) == []


def test_the_published_measure_loses_the_sign():
    h, v = normal(6, 8), normal(1, 8, seed=1)
    unit = v[0] / v[0].norm()
    wanted = [float(torch.cosine_similarity(x, ((x @ unit) * unit).tanh(), dim=0)) for x in h]
    assert similarities(h, v, "cast").tolist() == pytest.approx(wanted, abs=1e-12)
    assert torch.allclose(similarities(h, -v, "cast"), similarities(h, v, "cast"))
    assert torch.allclose(similarities(h, -v, "cosine"), -similarities(h, v, "cosine"))
    assert similarities(h, normal(3, 8), "cast").shape == (6,)


def test_thresholds_are_the_best_of_a_plain_search():
    draw = np.random.default_rng(0)
    for n in (2, 3, 7, 20):
        scores, wanted = draw.normal(size=(5, n)).round(1) / 10, draw.random(n) < 0.4
        wanted[:2] = True, False
        f1, threshold, larger = best_thresholds(scores, wanted)
        for row, x in enumerate(scores):
            met = x > threshold[row] if larger[row] else x < threshold[row]
            assert f1[row] == pytest.approx(f1_score(wanted, met))
            edges = [-3, *((a + b) / 2 for a, b in zip(np.sort(x), np.sort(x)[1:], strict=False)), 3]
            tried = [f1_score(wanted, side) for t in edges for side in (x > t, x < t)]
            assert f1[row] == pytest.approx(max(tried))


def test_a_condition_is_found_where_it_can_be_read():
    model = shelf.model("llama")
    draw = shelf.ids((5,) * 40, seed=1)
    texts = [[*ids[:4], 7 if i % 2 else 9] for i, ids in enumerate(draw)]
    labels = [i % 2 for i in range(40)]
    found = find_directions(read_states(model, texts), labels)
    condition = find_condition(model, texts, labels, found, read="last")
    assert condition.table is not None and float(condition.table.f1.max()) == 1.0
    assert condition.met(model, texts).tolist() == [bool(label) for label in labels]
    other = find_condition(model, texts, labels, found, read="last", positive=0)
    assert other.met(model, texts).tolist() == [not label for label in labels]


@pytest.mark.parametrize(
    "given, words",
    [
        ({"basis": torch.zeros(1, 32)}, "no length"),
        ({"basis": torch.full((1, 32), torch.nan)}, "not finite"),
        ({"basis": torch.ones(2, 32)}, "a cosine with 2 directions"),
        ({"place": Place("resid_post", 9)}, "9"),
        ({"basis": torch.ones(1, 7)}, "of width 7, resid_post.0"),
    ],
)
def test_what_is_no_condition_is_refused(given, words):
    with pytest.raises(CasebackError, match=words):
        Condition(**{"place": Place("resid_post", 0), "basis": torch.ones(1, 32), "threshold": 0.0, **given}).met(
            shelf.model("llama"), TEXTS
        )
