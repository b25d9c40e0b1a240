"""PRIMER 3.1.25 to 3.1.27: TRAK, TracIn, DataInf and the baselines are their formulas; top-k; splitting of lines."""

import copy
import math

import numpy as np
import one_at_a_time as alone
import pytest
import torch
from plain_rows import Plain

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs import budget
from caseback.localize.inputs import (
    Projection,
    bm25,
    datainf,
    gradient_similarity,
    influence_functions,
    representation_similarity,
    top_examples,
    tracin,
    trak,
)
from caseback.localize.inputs.training.examples import CorpusCounts, batches, examples_of, queries_of
from caseback.localize.inputs.training.matrices import matrices_of
from caseback.localize.inputs.training.objectives import log_likelihood
from caseback.localize.inputs.training.per_example import factors, rows
from caseback.localize.inputs.training.solving import damped, mean_of_inverses
from exact import exact

PROMPTS = [[5, 6, 7, 8, 9, 3], [4, 2], [9, 8, 1, 60], [7, 3, 7, 5, 7], [2, 9, 9]]
QUERIES = [[5, 6, 7, 8], [4, 2, 3]]
METHODS = (influence_functions, trak, tracin, datainf, gradient_similarity, representation_similarity)


def missed_by_hand(hf, prompt):
    p = hf(torch.tensor([prompt])).logits[0, :-1].softmax(-1).gather(-1, torch.tensor(prompt)[1:, None])
    return float((1 - p).mean())


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_3_1_25_without_projection_is_regression_on_the_gradients_by_hand(name):
    """phi (Phi^T Phi + lambda)^-1 Phi^T Q, averaged over checkpoints before they are multiplied."""
    models = [shelf.model(name), cb.load(copy.deepcopy(shelf.model(name).hf))]
    with torch.no_grad():
        for p in models[1].hf.parameters():
            p.mul_(1.1)
    parts = "*" + next(m.name for m in matrices_of(models[0].anatomy, "mlp") if ".1." in m.name)
    kernels, qs = [], []
    with exact():
        for model in models:
            phi, of_query = (alone.rows(model, p, parts, alone.margin) for p in (PROMPTS, QUERIES))
            gram = phi.T @ phi
            gram += 0.05 * gram.trace() / len(gram) * torch.eye(len(gram)).double()
            kernels.append(of_query @ torch.linalg.solve(gram, phi.T))
            qs.append([missed_by_hand(model.hf, p) for p in PROMPTS])
        mine = trak(
            models[0], QUERIES, PROMPTS, checkpoints=models, damping=0.05, parts=parts, projection=Projection("whole")
        )
    by_hand = torch.stack(kernels).mean(0) * torch.tensor(qs).double().mean(0)
    assert np.allclose(mine.values, by_hand.numpy(), rtol=1e-7, atol=1e-9 * float(by_hand.abs().max()))
    assert mine.attrs["checkpoints"] == 2


def test_3_1_25_without_damping_needs_more_examples_than_dimensions():
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="has no inverse.*fewer dimensions"):
        trak(model, QUERIES, PROMPTS, damping=0, projection=Projection("sparse", 50))
    scores = trak(model, PROMPTS, PROMPTS, damping=0, projection=Projection("normal", 3), parts="*.1.attn.c_proj")
    # an example's own leverages, weighted by what was missed, add up to the dimensions
    missed = np.array([missed_by_hand(model.hf, p) for p in PROMPTS])
    assert np.trace(scores.values / missed) == pytest.approx(3)


def test_3_1_25_keeps_as_many_scores_as_asked():
    model = shelf.model("gpt2")
    every = trak(model, QUERIES, PROMPTS, projection=Projection("sparse", 64)).values
    few = trak(model, QUERIES, PROMPTS, projection=Projection("sparse", 64), keep=2).values
    assert ((few != 0).sum(1) == 2).all()
    least = np.sort(np.abs(every), 1)[:, -3:-2]
    assert np.allclose(few, np.sign(every) * np.clip(np.abs(every) - least, 0, None))


@pytest.mark.parametrize("kind", ["sparse", "rademacher", "normal", "logra"])
def test_3_1_25_projections_keep_dot_products(kind):
    """Unbiased over draws to within four standard errors, with a spread that halves when dimensions quadruple."""
    model, parts = shelf.model("gpt2"), ["*.1.attn.c_proj", "*.2.attn.c_proj"]
    matrices = matrices_of(model.anatomy, parts)
    (batch,) = batches(alone.examples([[5, 6, 7, 8], [5, 6, 9, 8]]), model.device)
    found, _, _ = factors(model, batch, matrices, log_likelihood())
    whole = rows(found)
    truth, size = float(whole[0] @ whole[1]), float(whole[0].norm() * whole[1].norm())
    spread = {}
    sizes = (4, 16) if kind == "logra" else (32, 128)
    for dim in sizes:
        made = [projected(Projection(kind, dim, seed), matrices, found) for seed in range(120)]
        dots = torch.tensor([float(g[0] @ g[1]) for g in made])
        assert abs(float(dots.mean()) - truth) < 4 * float(dots.std()) / len(dots) ** 0.5
        spread[dim] = float(dots.std())
    assert 0.3 < spread[sizes[1]] / spread[sizes[0]] < 0.75
    # the dense ones: each draw's variance is (|g|^2 |h|^2 + <g,h>^2 (less for signs)) / k
    if kind != "logra":
        assert spread[32] < 1.5 * (2 * size**2 / 32) ** 0.5


def projected(projection, matrices, found):
    from caseback.localize.inputs.training.projection import joined, projector_of

    return joined(projector_of(projection, matrices), found).double()


def test_low_rank_projections_go_the_cheap_way_round_to_the_same_rows():
    model = shelf.model("gpt2")
    matrices = matrices_of(model.anatomy)
    short, long = [[5, 6]], [(list(range(1, 60)) * 2)[:60]]
    for prompts in (short, long):
        (batch,) = batches(alone.examples(prompts), model.device)
        found, _, _ = factors(model, batch, matrices, log_likelihood())
        from caseback.localize.inputs.training.projection import joined, projector_of

        projector = projector_of(Projection("logra", 30), matrices)
        mine = joined(projector, found)
        by_hand = [
            (a.to(f.read).T @ f.whole() @ s.to(f.read)).flatten(1)
            for (a, s), f in zip(projector.sides, found, strict=True)
        ]
        assert torch.allclose(mine, torch.cat(by_hand, 1), atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_3_1_26_scores_of_each_step_sum_to_what_training_changed(name):
    """Up to a remainder of second order: it falls fourfold when the rate is halved and the steps are the same."""
    left = {}
    for rate in (1e-5, 5e-6):
        hf = copy.deepcopy(shelf.model(name).hf)
        model, total = cb.load(hf), 0.0
        with exact():
            before = alone.log_likelihood(hf, QUERIES[0]).item()
            for text in PROMPTS:
                total += float(tracin(model, QUERIES[0], [text], rates=rate)[0, 0])
                step = alone.rows(model, [text])[0]
                with torch.no_grad():
                    at = 0
                    for m in matrices_of(model.anatomy):
                        block = rate * step[at : at + m.size].view(m.d_in, m.d_out)
                        module, at = m.uses[0].module, at + m.size
                        turned = block[:-1] if m.bias else block
                        module.weight += turned.T if isinstance(module, torch.nn.Linear) else turned
                        if m.bias:
                            module.bias += block[-1]
            change = alone.log_likelihood(hf, QUERIES[0]).item() - before
        left[rate] = abs(change - total)
        assert left[rate] < 0.01 * abs(change)
    assert 3 < left[1e-5] / left[5e-6] < 5


def test_3_1_26_is_the_weighted_sum_over_checkpoints():
    model = shelf.model("gpt2")
    other = cb.load(copy.deepcopy(model.hf))
    with torch.no_grad():
        other.hf.transformer.h[1].mlp.c_fc.weight.mul_(1.5)
    each = [tracin(m, QUERIES, iter(PROMPTS)).values for m in (model, other)]
    both = tracin(model, QUERIES, iter(PROMPTS), checkpoints=[model, other.hf], rates=[0.1, 0.02])
    assert np.allclose(both.values, 0.1 * each[0] + 0.02 * each[1])
    assert both.attrs["rates"] == [0.1, 0.02] and not np.allclose(each[0], each[1])
    by_hand = alone.rows(model, QUERIES) @ alone.rows(model, PROMPTS).T
    assert np.allclose(each[0], by_hand.numpy())


def test_3_1_26_cosines_are_of_the_gradients():
    model = shelf.model("llama")
    g, q = alone.rows(model, PROMPTS), alone.rows(model, QUERIES)
    with exact():
        cosine = gradient_similarity(model, QUERIES, PROMPTS)
        dot = gradient_similarity(model, QUERIES, PROMPTS, kind="dot")
        g, q = alone.rows(model, PROMPTS), alone.rows(model, QUERIES)
    assert np.allclose(dot.values, (q @ g.T).numpy())
    assert np.allclose(cosine.values, (q @ g.T / q.norm(dim=1)[:, None] / g.norm(dim=1)).numpy())


def test_3_1_27_is_the_mean_of_inverses_formed_in_full():
    g, q = torch.randn(7, 9).double(), torch.randn(3, 9).double()
    segments = [slice(0, 4), slice(4, 9)]
    mine = mean_of_inverses(Plain(g, segments), q, 0.3)
    for s in segments:
        block, d = g[:, s], s.stop - s.start
        lam = 0.3 * block.square().sum() / 7 / d
        inverses = torch.stack([torch.linalg.inv(lam * torch.eye(d).double() + torch.outer(x, x)) for x in block])
        assert torch.allclose(mine[:, s], q[:, s] @ inverses.mean(0), atol=1e-10)


def test_3_1_27_is_exact_for_one_example_and_only_for_one():
    q = torch.randn(2, 6).double()
    one, two = torch.randn(1, 6).double(), torch.randn(2, 6).double()
    assert torch.allclose(mean_of_inverses(Plain(one), q, 0.2), damped(Plain(one), q, 0.2), atol=1e-10)
    assert not torch.allclose(mean_of_inverses(Plain(two), q, 0.2), damped(Plain(two), q, 0.2), atol=1e-2)


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_3_1_27_on_a_model_is_the_formula_on_its_gradients(name):
    model, parts = shelf.model(name), ["attn"]
    with exact():
        g, q = alone.rows(model, PROMPTS, parts), alone.rows(model, QUERIES, parts)
        mine = datainf(model, QUERIES, PROMPTS, parts=parts, damping=0.4)
    total, at = torch.zeros(2, 5).double(), 0
    for m in matrices_of(model.anatomy, parts):
        gl, ql = g[:, at : at + m.size], q[:, at : at + m.size]
        at += m.size
        lam = 0.4 * gl.square().sum() / 5 / m.size
        for k in range(5):
            inner = sum((ql @ gl[i]) * (gl[i] @ gl[k]) / (lam + gl[i] @ gl[i]) for i in range(5)) / 5
            total[:, k] += (ql @ gl[k] - inner) / lam
    assert np.allclose(mine.values, total.numpy(), rtol=1e-8)


def test_bm25_is_its_formula():
    model = shelf.model("gpt2")
    corpus, query = [[5, 6, 6, 7], [6, 8], [9, 9, 9]], [6, 6, 9]
    scores = bm25(model, query, corpus, k1=1.5, b=0.4).values[0]

    def term(f, n_w, length):
        idf = math.log(1 + (3 - n_w + 0.5) / (n_w + 0.5))
        return idf * f * 2.5 / (f + 1.5 * (0.6 + 0.4 * length / 3))

    assert np.allclose(scores, [2 * term(2, 2, 4), 2 * term(1, 2, 2), term(3, 1, 3)])


@pytest.mark.parametrize("likeness", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_representations_are_read_at_their_own_tokens(likeness, pool):
    model = shelf.model("llama")

    def state(p):
        stream = model.run([p], read=[("resid_post", 1)])["resid_post", 1][0]
        return stream.mean(0) if pool == "mean" else stream[-1]

    mine = representation_similarity(model, QUERIES, PROMPTS, layer=1, pool=pool, likeness=likeness).values
    for i, a in enumerate(map(state, QUERIES)):
        for j, b in enumerate(map(state, PROMPTS)):
            theirs = {"dot": a @ b, "cosine": a @ b / a.norm() / b.norm(), "euclidean": -(a - b).norm()}[likeness]
            assert mine[i, j] == pytest.approx(float(theirs), rel=1e-5)


def test_small_distances_of_large_states_are_exact():
    model = shelf.model("llama")
    large = model.edited([cb.Add("resid_post", torch.full((model.d_model,), 300.0), layer=1)])
    ids = [[5, 1, 2, n] for n in range(30)]
    mine = representation_similarity(large, ids, ids, layer=1, pool="last", likeness="euclidean").values
    x = large.run(ids, read=[("resid_post", 1)])["resid_post", 1][:, -1].double()
    np.testing.assert_allclose(-mine, (x[:, None] - x[None]).norm(dim=-1), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_batches_change_no_score_and_rows_need_not_be_kept(method):
    model = shelf.model("gpt2")
    together = method(model, QUERIES, PROMPTS)
    apart = method(model, QUERIES, PROMPTS, token_budget=1)
    assert np.allclose(together.values, apart.values, atol=1e-7 * np.abs(together.values).max())
    with budget.override(influence_row_bytes=0):
        again = method(model, QUERIES, PROMPTS)
        one = method(model, QUERIES[1:], PROMPTS)
    assert np.allclose(together.values, again.values, atol=1e-7 * np.abs(together.values).max())
    assert np.allclose(together.values[1:], one.values, atol=1e-7 * np.abs(together.values).max())


def test_long_lines_are_split_so_that_every_token_is_predicted_once():
    model = shelf.model("gpt2")
    lines = [list(range(1, n + 1)) for n in (1, 2, 5, 9, 10, 11)]
    said = CorpusCounts()
    made = list(examples_of(model, lines, max_length=5, corpus_counts=said))
    for number, line in enumerate(lines):
        predicted = [t for e in made if e.line == number for t in e.ids[1:]]
        assert predicted == line[1:]
    assert max(len(e.ids) for e in made) == 5 and (said.split, said.skipped) == (3, 1)
    assert said.pieces == sum(e.line > 2 for e in made)
    with pytest.raises(OutOfRange, match="max_length is 1"):
        list(examples_of(model, lines, max_length=1))
    with pytest.raises(OutOfRange, match="max_length is 65"):
        list(examples_of(model, lines, max_length=65))
    with pytest.raises(TokensError, match="line 1 of the corpus is neither"):
        list(examples_of(model, [[1, 2], 7]))


def test_a_corpus_may_be_text_ids_tensors_or_tokens():
    model = cb.load("meadow")
    texts = ["the cat sat on the mat", "Mary"]
    ids = [model.tokens(t).ids[0] for t in texts]
    by_text = [e.ids for e in examples_of(model, iter(texts))]
    assert by_text == [e.ids for e in examples_of(model, ids)]
    assert by_text == [e.ids for e in examples_of(model, model.tokens(texts, padding="left"))]
    assert [q.ids for q in queries_of(model, texts)] == by_text
    with pytest.raises(TokensError, match="is empty"):
        queries_of(model, [("the cat", "")])
    with pytest.raises(TokensError, match="the model's context is"):
        queries_of(model, ["the cat " * 200])
    with pytest.raises(TokensError, match="no query given"):
        queries_of(model, [])


def test_top_examples_are_the_highest_lowest_and_strongest():
    model = shelf.model("gpt2")
    scores = tracin(model, QUERIES, PROMPTS)
    for end, key in (("highest", lambda x: -x), ("lowest", lambda x: x), ("strongest", lambda x: -abs(x))):
        top = top_examples(scores, 3, end=end)
        for row in range(2):
            order = sorted(range(5), key=lambda i, row=row, key=key: key(scores.values[row, i]))[:3]
            assert top.example.values[row].tolist() == order
            assert top.text.values[row].tolist() == [scores.text.values[i] for i in order]
    assert top_examples(scores, 99).sizes["rank"] == 5 and top_examples(scores, 1).attrs["technique"].endswith("tracin")
    with pytest.raises(CasebackError, match="Did you mean lowest"):
        top_examples(scores, end="lowst")
    with pytest.raises(OutOfRange):
        top_examples(scores, 0)
    with pytest.raises(CasebackError, match="expected \\('query', 'example'\\)"):
        top_examples(scores.T)


def test_bad_input_is_refused():
    model = shelf.model("gpt2")
    other = cb.load("meadow")
    for error, match, call in (
        (CasebackError, "2 learning rates for 1 checkpoints", lambda: tracin(model, QUERIES, PROMPTS, rates=[1, 2])),
        (OutOfRange, "expected numbers above 0", lambda: tracin(model, QUERIES, PROMPTS, rates=-1)),
        (CasebackError, "checkpoints is empty", lambda: trak(model, QUERIES, PROMPTS, checkpoints=[])),
        (CasebackError, "checkpoint 0 has a vocab", lambda: trak(model, QUERIES, PROMPTS, checkpoints=[other])),
        (CasebackError, "checkpoint 0 is a int", lambda: tracin(model, QUERIES, PROMPTS, checkpoints=[3])),
        (OutOfRange, "damping is 0: expected a number above", lambda: datainf(model, QUERIES, PROMPTS, damping=0)),
        (CasebackError, "Did you mean cosine", lambda: gradient_similarity(model, QUERIES, PROMPTS, kind="cosin")),
        (CasebackError, "Did you mean sparse", lambda: Projection("sparce")),
        (OutOfRange, "projection to 0", lambda: Projection("sparse", 0)),
        (OutOfRange, "k1 is -1", lambda: bm25(model, QUERIES, PROMPTS, k1=-1)),
        (CasebackError, "Did you mean last", lambda: representation_similarity(model, QUERIES, PROMPTS, pool="lasst")),
        (CasebackError, "cb.logit_diff", lambda: tracin(model, QUERIES, PROMPTS, lambda logits: logits.sum())),
        (MemoryError, "take 'sparse'", lambda: trak(other, "the cat", ["the cat"], projection=Projection("normal"))),
        (OutOfRange, "keep is 0", lambda: trak(model, QUERIES, PROMPTS, keep=0)),
        (OutOfRange, "token_budget is 0", lambda: tracin(model, QUERIES, PROMPTS, token_budget=0)),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            call()
