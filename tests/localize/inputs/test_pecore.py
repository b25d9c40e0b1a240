"""PRIMER 3.1.23: which context tokens a generation relies on, and that the true ones are found where they are known."""

import math
import warnings

import mixers
import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TargetError, TokensError
from caseback.localize import inputs
from caseback.localize.inputs.context_reliance import MEASURES, standing_out
from caseback.localize.inputs.passages import passage_of, predictions
from caseback.organisms.compiled import build
from exact import exact

CONTEXT, CURRENT, WRITTEN = "p a q b", " s c", " q b s c"


@pytest.fixture(scope="module")
def recall():
    """What a key predicts is the value last given to it: here only the context has given q one."""
    return build("recall", max_length=11).model


@pytest.mark.parametrize("method", [inputs.gradient_norm, inputs.gradient_x_input, inputs.decompx, inputs.alti_logit])
def test_3_1_23_a_model_that_copies_one_context_token_gives_exactly_that_pair(recall, method):
    found = inputs.pecore(recall, CONTEXT, CURRENT, WRITTEN, method=method)
    assert [(c.context_pos, c.context_token, c.generated_pos, c.generated_token) for c in found.pairs] == [
        (3, "b", 1, "b")
    ]
    assert found.sensitivity.selected.values.tolist() == [0, 1, 0, 0]
    assert np.isnan(found.cues.values[[0, 2, 3]]).all() and found.cues.values[1].argmax() == 3
    assert "'b' (3) -> 'b' (1)" in str(found)


def test_3_1_23_the_model_writes_the_generation_itself(recall):
    found = inputs.pecore(recall, CONTEXT, " s c q", max_new_tokens=1, target="b")
    assert found.sensitivity.token.values.tolist() == ["b"] and found.pairs[0].context_pos == 3
    ids = recall.tokens(CONTEXT).ids[0].tolist(), recall.tokens(" s c q", bos=False).ids[0].tolist()
    by_ids = inputs.pecore(recall, *ids, max_new_tokens=1, target="b")
    assert by_ids.pairs == found.pairs


def test_3_1_23_an_empty_context_selects_nothing(recall):
    for empty, current, written in (("", "s c", " q b s c"), ([0], [3, 4], [5, 6])):
        with pytest.warns(UserWarning, match="context is empty"):
            found = inputs.pecore(recall, empty, current, written)
        assert found.pairs == () and (found.sensitivity.values == 0).all() and found.cues.shape[1] == 0
        assert (found.sensitivity.selected.values == 0).all() and "no token" in str(found)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_3_1_23_sensitivity_is_the_divergence_of_two_runs(name):
    model = shelf.model(name)
    context, current, written = shelf.ids((5, 3, 6), seed=1)
    with exact():
        scores = {m: inputs.context_sensitivity(model, context, current, written, measure=m).values for m in MEASURES}
        for t in range(6):
            log_p, log_q = (
                model.run([front + current + written[:t]]).logits[0, -1].log_softmax(-1).detach()
                for front in (context, [])
            )
            p, q = float(log_p[written[t]].exp()), float(log_q[written[t]].exp())
            assert math.isclose(scores["kl"][t], float((log_p.exp() * (log_p - log_q)).sum()), rel_tol=1e-9)
            assert math.isclose(scores["pcxmi"][t], math.log2(p / q), rel_tol=1e-9)
            assert math.isclose(scores["likelihood_ratio"][t], p / (p + q), rel_tol=1e-9)
            assert math.isclose(scores["prob_diff"][t], p - q, rel_tol=1e-7)


def test_3_1_23_the_rule_of_selection():
    scores = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.1])
    threshold = float(scores.mean() + scores.std())
    assert standing_out(scores, 1.0, None) == [i for i in (1, 3) if scores[i] > threshold]
    assert standing_out(scores, 0.0, None) == [1, 3] and standing_out(scores, 0.0, 1) == [1]
    assert standing_out(torch.tensor([3.0]), 1.0, None) == [] and standing_out(torch.zeros(0), 1.0, None) == []


def test_3_1_23_what_each_token_is_contrasted_with():
    """A changed choice with the one without the context, a kept one with its rival there, or with nothing."""
    model = shelf.model("llama")
    context, current, written = shelf.ids((5, 3, 6), seed=1)
    seen = []

    def method(m, tokens, metric):
        seen.append((metric.name, metric.target, metric.foil, tokens.lengths.tolist()))
        return inputs.gradient_norm(m, tokens, metric)

    first, second = predictions(model, passage_of(model, context, current, written, 1))[1].topk(2).indices.T.tolist()
    kept = [*written[:3], first[3], *written[4:]]
    first, second = predictions(model, passage_of(model, context, current, kept, 1))[1].topk(2).indices.T.tolist()
    assert [a == b for a, b in zip(first, kept, strict=True)] == [False] * 3 + [True] + [False] * 2
    found = inputs.pecore(model, context, current, kept, method=method, std=-10.0)
    assert set(found.sensitivity.selected.values) == {1} and len(seen) == 1
    name, targets, foils, lengths = seen.pop()
    told = [second[t] if t == 3 else first[t] for t in range(6)]
    order = [n - 8 for n in lengths]
    assert name == "logit_diff" and sorted(order) == list(range(6))
    assert targets == [kept[t] for t in order] and foils == [told[t] for t in order]
    assert {c.generated_pos: c.foil for c in found.pairs}.get(3, str(told[3])) == str(told[3])
    alone = inputs.gradient_norm(model, [context + current + kept[:3]], cb.logit_diff(kept[3], told[3])).values[0, :5]
    assert np.allclose(found.cues.values[3], alone, atol=1e-6)

    found = inputs.pecore(model, context, current, kept, method=method, std=-10.0, kept="log_prob")
    assert [(name, lengths) for name, _, _, lengths in seen if name == "log_prob"] == [("log_prob", [11])]
    assert {c.foil for c in found.pairs if c.generated_pos == 3} <= {""}


def test_3_1_23_long_generations_are_attributed_batch_by_batch():
    model, sizes = shelf.model("gpt2"), []

    def method(m, tokens, metric):
        sizes.append(len(tokens))
        return inputs.gradient_x_input(m, tokens, metric)

    context, current, written = shelf.ids((5, 3, 20), seed=1)
    found = inputs.pecore(model, context, current, written, method=method, std=-10.0)
    assert sizes == [16, 4] and np.isfinite(found.cues.values).all()


@pytest.mark.parametrize("method", mixers.SCORES)
def test_3_1_23_any_technique_of_the_common_form_serves(method):
    found = inputs.pecore(shelf.model("llama"), *shelf.ids((5, 3, 4), seed=1), method=method, std=-10.0)
    assert np.isfinite(found.cues.values).all() and found.cues.attrs["method"] == method.__name__


def test_3_1_23_the_tokens_of_a_passage(assets):
    model = cb.load(assets / "models" / "stories3M")
    made = passage_of(model, "Lily had a red ball.", " She liked the", " ball", 5)
    whole = model.tokens("Lily had a red ball. She liked the ball").ids[0].tolist()
    assert made.prompt() == whole and made.prompt(context=False)[: len(made.special)] == whole[: len(made.special)]
    assert len(made.prompt()) - len(made.prompt(context=False)) == len(made.context) > 3
    assert model.text(model.tokens([made.prompt(context=False)]))[0].strip().startswith("She liked the")
    with pytest.raises(TokensError, match="runs across the end"):
        passage_of(model, "Lily had a red ba", "ll. She", " ran", 5)


def test_bad_input_is_refused(recall):
    with pytest.raises(TargetError, match=r"'a' does not occur in the generation \['q', 'b', 's', 'c'\]"):
        inputs.pecore(recall, CONTEXT, CURRENT, WRITTEN, target="a")
    with pytest.raises(TargetError):
        inputs.pecore(recall, CONTEXT, CURRENT, WRITTEN, target="zebra")
    for current in ("", "  "):
        with pytest.raises(TokensError, match="current text is empty"):
            inputs.pecore(recall, CONTEXT, current, WRITTEN)
    with pytest.raises(TokensError, match="current text is empty"):
        inputs.pecore(recall, [1, 2], [], [3])
    with pytest.raises(TokensError, match="generation is empty"):
        inputs.pecore(recall, [1, 2], [3], [])
    with pytest.raises(TokensError, match="should all be text, or all token ids"):
        inputs.pecore(recall, CONTEXT, [3], WRITTEN)
    with pytest.raises(TokensError, match="only space"):
        inputs.pecore(recall, "  ", CURRENT, WRITTEN)
    with pytest.raises(CasebackError, match="measure='kll'"):
        inputs.pecore(recall, CONTEXT, CURRENT, WRITTEN, measure="kll")
    with pytest.raises(CasebackError, match="Did you mean rival"):
        inputs.pecore(recall, CONTEXT, CURRENT, WRITTEN, kept="rivals")
    with pytest.raises(OutOfRange, match="top=0"):
        inputs.context_sensitivity(recall, CONTEXT, CURRENT, WRITTEN, top=0)
    with pytest.raises(CasebackError, match=r"expected scores of tokens"):
        inputs.pecore(recall, CONTEXT, CURRENT, WRITTEN, method=lambda m, t, metric: inputs.alti_maps(m, t))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inputs.pecore(recall, CONTEXT, CURRENT, WRITTEN).pairs
