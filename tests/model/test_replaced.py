"""Versions of prompts as a tree: the same numbers as one run each, for every family, padding and metric."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import EditError, LoadError
from caseback.model.sweeping.embedding_tree import _distinct, _passes, replaced
from exact import exact
from kept_state import rewritten

METRIC = cb.logit_diff(3, 5)


def close(a, b, atol):
    return torch.allclose(a, b, rtol=0, atol=atol)


def drawn(model, prompts, n_variants=14, k=2, share=0.4, seed=0):
    """Random choices, some of them equal, one clean; and values of their own for every prompt and position."""
    rng = np.random.default_rng(seed)
    tokens = model.tokens(prompts)
    choice = rng.integers(1, k + 1, (n_variants, *tokens.shape)) * (rng.random((n_variants, *tokens.shape)) < share)
    choice[1], choice[2] = choice[0], 0
    values = torch.from_numpy(rng.standard_normal((k, *tokens.shape, model.d_model)))
    return tokens, choice, values


def one_by_one(model, tokens, choice, values, metric):
    made = torch.zeros(len(choice), len(tokens), dtype=torch.float64)
    for v, rows in enumerate(choice):
        for b in range(len(tokens)):
            n = int(tokens.lengths[b])
            edits = [cb.Replace("embed", values[rows[b, p] - 1, b, p], pos=p) for p in range(n) if rows[b, p]]
            made[v, b] = metric(model.run(tokens[b].padded_on("right"), edits=edits))[0]
    return made


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_a_version_is_a_run_with_its_embeddings_replaced(name):
    model = shelf.model(name)
    tokens, choice, values = drawn(model, shelf.ids((7, 5)), n_variants=8)
    with exact():
        made, clean = replaced(model.anatomy, tokens, choice, values, METRIC)
        assert close(made, one_by_one(model, tokens, choice, values, METRIC), atol=1e-11)
        assert close(clean, METRIC(model.run(tokens)).double(), atol=1e-11)
    assert torch.equal(made[0], made[1]) and torch.equal(made[2], clean)


@pytest.mark.parametrize("name", ["gpt2", "bloom", "mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("metric", [cb.loss(), cb.prob(3, pos=2), cb.logit_diff([3, 4], [5, 6])], ids=lambda m: m.name)
def test_any_metric_padding_and_budget(name, metric):
    model = shelf.model(name)
    tokens, choice, values = drawn(model, shelf.ids((7, 4)))
    with exact():
        made, _ = replaced(model.anatomy, tokens, choice, values, metric)
        for b in (1, 9, 40):
            small, _ = replaced(model.anatomy, tokens.padded_on("left"), choice, values, metric, token_budget=b)
            assert close(small, made, atol=1e-11)
        if metric.name == "loss":
            assert close(made, one_by_one(model, tokens, choice, values, metric), atol=1e-11)


def rows_of(choice):
    versions = _distinct(choice, [choice.shape[-1]] * choice.shape[1])
    return sum(len(s) for part in _passes(versions, 10**9, choice.shape[-1], share=True) for s in part.segments)


def test_what_versions_share_is_computed_once():
    n = 8
    single = np.eye(n, dtype=int)[:, None]
    every = ((np.arange(2**n)[:, None] >> np.arange(n)[::-1]) & 1)[:, None]
    assert rows_of(single) == n * (n + 1) // 2
    # the nodes of the full tree, less those of the clean prompt
    assert rows_of(every) == 2 ** (n + 1) - 2 - n
    assert rows_of(np.repeat(single, 3, 0)) == rows_of(single)


def test_a_long_sweep_is_resumed(tmp_path):
    model = shelf.model("llama")
    tokens, choice, values = drawn(model, shelf.ids((7, 5)))
    whole, _ = replaced(model.anatomy, tokens, choice, values, METRIC)
    file = tmp_path / "kept.npz"
    replaced(model.anatomy, tokens, choice, values, METRIC, checkpoint=file, token_budget=9)

    def lose(kept):
        lost = kept["done"] & (np.arange(len(choice)) >= 4)[:, None]
        kept["done"] &= ~lost
        kept["values"][lost] = 0

    rewritten(file, lose)
    again, _ = replaced(model.anatomy, tokens, choice, values, METRIC, checkpoint=file, token_budget=9)
    assert close(again, whole, atol=1e-12)
    with pytest.raises(LoadError, match="another sweep"):
        replaced(model.anatomy, tokens, choice, values + 1, METRIC, checkpoint=file)


def test_bad_versions():
    model = shelf.model("gpt2")
    tokens, choice, values = drawn(model, shelf.ids((4,)))
    for bad, kind in (
        ((choice[:, :, :2], values), r"choices of shape \(14, 1, 2\): expected \(variant, 1, 4\)"),
        ((choice[:0], values), "one variant at least"),
        ((choice + 1, values), "choices go from 1 to 3: expected 0 to 2"),
        ((choice, values[0]), "expected \\(k, batch, pos, d_model\\)"),
        ((choice, values[..., :3]), "do not fit"),
    ):
        with pytest.raises(EditError, match=kind):
            replaced(model.anatomy, tokens, *bad, METRIC)
    with pytest.raises(EditError, match="token_budget=0"):
        replaced(model.anatomy, tokens, choice, values, METRIC, token_budget=0)
