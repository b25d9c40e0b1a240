"""PRIMER 3.1.24: influence is what refitting says where refitting is exact, and EK-FAC what its formula says."""

import numpy as np
import one_at_a_time as alone
import pytest
import torch
from plain_rows import Plain, features, logistic
from torch.autograd.functional import hessian, jvp

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs import budget
from caseback.localize.inputs.training import influence, kronecker
from caseback.localize.inputs.training.examples import batch_of
from caseback.localize.inputs.training.gauss_newton import GaussNewton
from caseback.localize.inputs.training.influence import influence_functions
from caseback.localize.inputs.training.matrices import matrices_of
from caseback.localize.inputs.training.objectives import log_likelihood, sampled
from caseback.localize.inputs.training.per_example import factors, rows
from caseback.localize.inputs.training.rows import dots
from caseback.localize.inputs.training.solving import damped
from exact import exact

PROMPTS = [[5, 6, 7, 8, 9, 3], [4, 2], [9, 8, 1, 60], [7, 3, 7, 5, 7], [2, 9, 9]]
QUERIES = [[5, 6, 7, 8], [4, 2, 3]]


@pytest.mark.parametrize(("n", "d", "ridge"), [(30, 4, 0.0), (30, 4, 2.5), (6, 11, 0.7)])
def test_3_1_24_is_leave_one_out_of_least_squares_but_for_the_leverage(n, d, ridge):
    """-I_i / (n (1 - h_i)) is the change of a prediction on refitting without example i, whichever way it is solved."""
    x, y, query = torch.randn(n, d).double(), torch.randn(n).double(), torch.randn(3, d).double()
    moment = x.T @ x + ridge * torch.eye(d).double()

    def fitted(keep):
        m = x[keep].T @ x[keep] + ridge * torch.eye(d).double()
        return torch.linalg.solve(m, x[keep].T @ y[keep])

    theta = fitted(torch.arange(n))
    residual = y - x @ theta
    leverage = (x * torch.linalg.solve(moment, x.T).T).sum(1)
    share = ridge / n / (x.square().sum() / n / d)
    solved = damped(Plain(x), query, float(share))
    scores, _, _ = dots(Plain(x * residual[:, None]), solved)
    for i in range(n):
        without = fitted(torch.tensor([j for j in range(n) if j != i]))
        assert torch.allclose(-scores[:, i] / n / (1 - leverage[i]), query @ (without - theta), atol=1e-10)


def test_both_ways_of_solving_agree_and_blocks_stay_apart():
    g, q = torch.randn(8, 12).double(), torch.randn(2, 12).double()
    segments = [slice(0, 3), slice(3, 12)]  # one with fewer entries than rows, one with more
    mine = damped(Plain(g, segments), q, 0.3)
    for s in segments:
        c = g[:, s].T @ g[:, s] / 8
        lam = 0.3 * c.trace() / len(c)
        assert torch.allclose(mine[:, s], torch.linalg.solve(c + lam * torch.eye(len(c)), q[:, s].T).T, atol=1e-10)
    joint = damped(Plain(g, segments), q, 0.3, joint=True)
    c = g.T @ g / 8
    assert torch.allclose(joint, torch.linalg.solve(c + 0.3 * c.trace() / 12 * torch.eye(12), q.T).T, atol=1e-10)


def test_a_second_moment_past_the_memory_is_refused_before_it_is_formed():
    with budget.override(second_moment_bytes=8 * 4 * 9 - 1):
        with pytest.raises(MemoryError, match="take a projection"):
            damped(Plain(torch.randn(4, 9)), torch.randn(1, 9), 0.1)
        damped(Plain(torch.randn(4, 8)), torch.randn(1, 8), 0.1)


def test_a_model_under_edits_is_refused():
    """Its matrices' gradients would be those of the model without the edits."""
    edited = shelf.model("llama").edited(cb.Zero("mlp_out", layer=1))
    with pytest.raises(CasebackError, match="stands under edits"):
        influence_functions(edited, [[1, 2, 3]], [[1, 2, 4], [2, 3, 4]])


def test_no_inverse_without_damping_is_refused():
    with pytest.raises(CasebackError, match="has no inverse.*raise damping"):
        damped(Plain(torch.randn(4, 9)), torch.randn(1, 9), 0.0)
    with pytest.raises(CasebackError, match="has no inverse"):
        damped(Plain(torch.ones(9, 3)), torch.randn(1, 3), 0.0)


def test_3_1_24_is_the_derivative_of_refitted_logistic_regression():
    """Upweight one text, refit to the optimum: the query moves by its influence, exactly, since G is the Hessian."""
    model = logistic()
    weight, kappa = model.hf.lm_head.weight, 0.5
    generator = torch.Generator().manual_seed(3)
    corpus = [torch.randint(5, (n,), generator=generator).tolist() for n in (4, 6, 3, 5, 4, 6)]
    queries = [[1, 3, 2], [4, 0]]
    seen = [(features(model.hf, p), torch.tensor(p)[1:]) for p in corpus]
    asked = [(features(model.hf, p), torch.tensor(p)[1:]) for p in queries]

    def loss(w, pair):
        return torch.nn.functional.cross_entropy(pair[0] @ w.view(5, 3).T, pair[1], reduction="sum")

    def refitted(which, epsilon, w):
        def total(w):
            mean = sum(loss(w, pair) for pair in seen) / len(seen)
            return mean + epsilon * loss(w, seen[which]) + kappa / 2 * w.square().sum()

        for _ in range(20):
            w = w.detach().requires_grad_()
            (slope,) = torch.autograd.grad(total(w), w)
            if slope.abs().max() < 1e-13:
                break
            w = w.detach() - torch.linalg.solve(hessian(total, w.detach()), slope)
        assert slope.abs().max() < 1e-12
        return w.detach()

    optimum = refitted(0, 0.0, torch.zeros(15).double())
    with torch.no_grad():
        weight.copy_(optimum.view(5, 3))
    matrices, examples = matrices_of(model.anatomy, "unembed"), alone.examples(corpus)
    mean = influence._mean_eigenvalue(model, examples, matrices, "sum", 0, 64)
    by_solver = {}
    for solver, steps in (("cg", 60), ("lissa", 500)):
        by_solver[solver] = influence_functions(
            model, queries, corpus, curvature="gauss_newton", damping=kappa / mean, parts="unembed", solver=solver,
            steps=steps, tolerance=1e-12, token_budget=1000,
        )  # fmt: skip
        assert by_solver[solver].attrs["damping_absolute"] == pytest.approx(kappa)
        assert max(by_solver[solver].attrs["residual"]) < 1e-8
    step = 1e-4
    for i in range(len(corpus)):
        up, down = refitted(i, step, optimum), refitted(i, -step, optimum)
        slope = torch.stack([loss(down, q) - loss(up, q) for q in asked]) / (2 * step)
        assert np.allclose(by_solver["cg"].values[:, i], slope.numpy(), rtol=1e-5, atol=1e-6)
    assert np.allclose(by_solver["lissa"].values, by_solver["cg"].values, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "gptj"])
@pytest.mark.parametrize("parts", ["one", "embeddings"])
def test_3_1_24_gauss_newton_products_are_those_of_two_differentiations(name, parts):
    model = shelf.model(name)
    down = next(m.name for m in matrices_of(model.anatomy, "mlp") if ".1." in m.name)
    chosen = ["embed", "unembed"] if parts == "embeddings" else ["*" + down]
    matrices = matrices_of(model.anatomy, chosen)
    examples = alone.examples(PROMPTS)
    with exact():
        exactly = GaussNewton.of(model, matrices, examples, "sum", 12)
        v = torch.randn(exactly.width).double()
        mine = exactly.product(v)
        theirs = torch.zeros_like(v)
        for p in PROMPTS:
            theirs += by_double_backward(model, chosen, p, v) / len(PROMPTS)
    assert torch.allclose(mine, theirs, atol=1e-9 * float(theirs.abs().max()))
    assert float(v @ mine) > 0


def by_double_backward(model, parts, prompt, v):
    """J^T H J v with J taken of the whole model as a function of the weights."""
    matrices = matrices_of(model.anatomy, parts)
    modules = [m.uses[0].module for m in matrices]
    names = {id(p): n for n, p in model.hf.named_parameters()}
    shapes, at = [], 0
    for m, module in zip(matrices, modules, strict=True):
        block = v[at : at + m.size].view(m.d_in, m.d_out)
        at += m.size
        turned = (lambda x: x.T) if isinstance(module, torch.nn.Linear) else (lambda x: x)
        shapes.append((module.weight, turned(block[:-1] if m.bias else block)))
        if m.bias:
            shapes.append((module.bias, block[-1]))
    weights, directions = zip(*shapes, strict=True)

    def logits(*given):
        changed = {names[id(w)]: g for w, g in zip(weights, given, strict=True)}
        made = torch.func.functional_call(
            model.hf, changed, (torch.tensor([prompt]),), {"use_cache": False}, tie_weights=True
        )
        return made.logits[0, :-1]

    z, moved = jvp(logits, tuple(w.detach() for w in weights), tuple(d.contiguous() for d in directions))
    p = z.softmax(-1)
    pulled = (p * (moved - (p * moved).sum(-1, keepdim=True))).detach()

    def along(hf, ids):
        return (hf(torch.tensor([ids]), use_cache=False).logits[0, :-1] * pulled).sum()

    return alone.gradient(model, parts, lambda: along(model.hf, prompt))


def test_drawn_labels_give_the_gauss_newton_matrix_on_average():
    model, n = shelf.model("gpt2"), 4000
    matrices = matrices_of(model.anatomy, "*.2.mlp.c_proj")
    text = [5, 6, 7]
    v = torch.randn(matrices[0].size).double()
    batch = batch_of(alone.examples([text] * n), range(n), model.device)
    found, _, _ = factors(model, batch, matrices, sampled(0))
    squares = (rows(found) @ v).square()
    exactly = float(v @ GaussNewton.of(model, matrices, alone.examples([text]), "sum", 100).product(v))
    assert abs(float(squares.mean()) - exactly) < 4 * float(squares.std()) / n**0.5


def brute(model, parts, queries, corpus, damping, corrected=True, rank=None):
    """EK-FAC or K-FAC of one matrix with everything formed: the d_in d_out squared matrix of eigenvectors too."""
    (matrix,) = matrices_of(model.anatomy, parts)
    g, q = alone.rows(model, corpus, parts), alone.rows(model, queries, parts)
    a, s, n_tokens = torch.zeros(matrix.d_in, matrix.d_in).double(), torch.zeros(matrix.d_out, matrix.d_out).double(), 0
    for p in corpus:
        batch = batch_of(alone.examples([p]), [0], model.device)
        (f,), _, _ = factors(model, batch, [matrix], log_likelihood())
        a += f.read[0, :-1].T @ f.read[0, :-1]
        s += f.back[0].T @ f.back[0]
        n_tokens += len(p) - 1
    (alpha, qa), (sigma, qs) = torch.linalg.eigh(a / n_tokens), torch.linalg.eigh(s / len(corpus))
    alpha, qa, sigma, qs = alpha.flip(0)[:rank], qa.flip(1)[:, :rank], sigma.flip(0)[:rank], qs.flip(1)[:, :rank]
    turn = torch.kron(qa, qs)
    fisher = g.T @ g / len(corpus)
    values = (turn.T @ fisher @ turn).diagonal() if corrected else torch.kron(alpha, sigma)
    mean = fisher.trace() / matrix.size if corrected else a.trace() / n_tokens * s.trace() / len(corpus) / matrix.size
    return (q @ turn / (values + damping * mean)) @ (g @ turn).T


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("options", [{}, {"rank": 5}, {"curvature": "kfac"}], ids=str)
def test_3_1_24_ekfac_of_one_matrix_is_its_formula_formed_in_full(name, options):
    model = shelf.model(name)
    part = next(m.name for m in matrices_of(model.anatomy, "attn") if ".1." in m.name and m.d_out < 80)
    with exact():
        mine = influence_functions(
            model, QUERIES, PROMPTS, labels="corpus", damping=0.2, parts="*" + part, token_budget=9, **options
        )
        theirs = brute(model, "*" + part, QUERIES, PROMPTS, 0.2, "curvature" not in options, options.get("rank"))
    assert np.allclose(mine.values, theirs.numpy(), rtol=1e-8, atol=1e-8 * float(theirs.abs().max()))
    if "curvature" not in options:
        assert (mine.attrs["curvature_kept"] < 0.999) == ("rank" in options)


def test_3_1_24_ekfac_is_exact_for_one_prediction():
    """One example of one prediction has a gradient of rank one, an eigenvector of both factors' product."""
    model, parts, text = shelf.model("gpt2"), "*.2.mlp.c_proj", [[5, 6]]
    g, q = alone.rows(model, text, parts)[0], alone.rows(model, QUERIES, parts)
    fisher = torch.outer(g, g)
    whole = fisher + 0.1 * fisher.trace() / len(g) * torch.eye(len(g)).double()
    for curvature in ("ekfac", "kfac", "fisher"):
        mine = influence_functions(
            model, QUERIES, text, curvature=curvature, labels="corpus", parts=parts, token_budget=100
        )
        assert np.allclose(mine.values[:, 0], (q @ torch.linalg.solve(whole, g)).numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "bloom", "mpt"])
def test_3_1_24_eigenvalues_sum_to_the_gradients_size_and_bases_are_orthonormal(name):
    model = shelf.model(name)
    matrices, examples = matrices_of(model.anatomy), alone.examples(PROMPTS)
    with exact():
        fitted = kronecker.fit(model, examples, matrices, log_likelihood(), token_budget=10)
        g = alone.rows(model, PROMPTS)
    for i, (segment, m) in enumerate(zip(fitted.basis.segments, matrices, strict=True)):
        size = g[:, segment].square().sum() / len(PROMPTS)
        assert torch.allclose(fitted.eigenvalues[segment].sum(), size, rtol=1e-9)
        assert torch.allclose(fitted.mean[i], size / m.size, rtol=1e-9)
        for side in fitted.basis.sides[i]:
            assert torch.allclose(side.T @ side, torch.eye(len(side)).double(), atol=1e-10)
    assert fitted.share_kept == pytest.approx(1.0, abs=1e-9)


def test_3_1_24_factors_are_means_over_tokens_and_examples():
    model = shelf.model("llama")
    matrices = matrices_of(model.anatomy, "mlp")
    together = kronecker.covariances(model, alone.examples(PROMPTS), matrices, log_likelihood(), token_budget=1000)
    apart = kronecker.covariances(model, alone.examples(PROMPTS), matrices, log_likelihood(), token_budget=1)
    twice = kronecker.covariances(model, alone.examples(PROMPTS * 2), matrices, log_likelihood(), token_budget=50)
    for mine, alone_, doubled in zip(together, apart, twice, strict=True):
        for x, y, z in zip(mine, alone_, doubled, strict=True):
            scale = float(x.abs().max())
            assert torch.allclose(x, y, atol=1e-6 * scale) and torch.allclose(x, z, atol=1e-6 * scale)
            assert torch.allclose(x, x.T, atol=1e-9 * scale) and float(torch.linalg.eigvalsh(x)[0]) > -1e-9 * scale


def test_identity_is_the_dot_product_of_gradients_and_signs_agree():
    model = shelf.model("gpt2")
    dot = influence_functions(model, QUERIES, PROMPTS, curvature="identity")
    assert np.allclose(dot.values, (alone.rows(model, QUERIES) @ alone.rows(model, PROMPTS).T).numpy())
    # a query that is a training text is helped by it, whatever the curvature
    for curvature in ("ekfac", "kfac", "fisher", "identity"):
        scores = influence_functions(model, PROMPTS, PROMPTS, curvature=curvature)
        assert (np.diagonal(scores.values) > 0).all()


def test_a_metric_of_the_query_is_explained_and_the_loss_turns_the_sign():
    model = shelf.model("gpt2")
    likely = influence_functions(model, QUERIES, PROMPTS, reduction="mean", labels="corpus")
    loss = influence_functions(model, QUERIES, PROMPTS, cb.loss(), reduction="mean", labels="corpus")
    assert np.allclose(loss.values, -likely.values, atol=1e-9 * np.abs(likely.values).max())
    assert (likely.attrs["explained"], loss.attrs["explained"]) == ("log_likelihood of the query", "loss")
    contrast = influence_functions(model, [[5], [6, 7]], PROMPTS, cb.logit_diff(3, 5), labels="corpus")
    both = [influence_functions(model, [[5], [6, 7]], PROMPTS, cb.logit(t), labels="corpus").values for t in (3, 5)]
    assert np.allclose(contrast.values, both[0] - both[1], atol=1e-9 * np.abs(both[0]).max())


def test_results_say_what_was_included():
    model = cb.load("meadow")
    corpus = ["Mary went to the store.", "", "The cat sat on the mat. " * 30]
    with pytest.warns(UserWarning, match="longer than 20 tokens: they were split into"):
        scores = influence_functions(model, ("Mary went to the", " store"), corpus, rank=4, max_length=20)
    said = scores.attrs
    assert (said["entry"], said["parts"], said["curvature"], said["rank"]) == ("3.1.24", "attn mlp", "ekfac", 4)
    assert said["lines_left_out"] == 1 and said["split_lines"] == 1
    assert said["split_into"] == scores.sizes["example"] - 1 == int((scores.line == 2).sum())
    assert scores.piece.values[1:].tolist() == list(range(said["split_into"]))
    assert scores.query_text.item() == "Mary went to the | store" and scores.to_netcdf() is not None


def test_bad_input_is_refused():
    model = shelf.model("gpt2")
    for match, kind, options in (
        ("Did you mean ekfac", CasebackError, {"curvature": "ekfca"}),
        ("rank is 0", OutOfRange, {"rank": 0}),
        ("damping is -1", OutOfRange, {"damping": -1}),
        ("Did you mean sampled", CasebackError, {"labels": "sample"}),
        ("works on whole gradients", CasebackError, {"projection": cb.localize.inputs.Projection("sparse", 8)}),
        ("keeps no rows", CasebackError, {"curvature": "gauss_newton", "store": "x"}),
    ):
        with pytest.raises(kind, match=match):
            influence_functions(model, QUERIES, PROMPTS, **options)
    with pytest.raises(CasebackError, match="expected several texts"):
        influence_functions(model, QUERIES, "a text")
    with pytest.raises(CasebackError, match="corpus is None"):
        influence_functions(model, QUERIES, None)
    with pytest.raises(TokensError, match="query 0 has 1 token"):
        influence_functions(model, [[5]], PROMPTS)
    with pytest.raises(TokensError, match="the corpus is empty"), pytest.warns(UserWarning, match="fewer than 2"):
        influence_functions(model, QUERIES, [[5]])
    with pytest.raises(TokensError, match="line 1 of the corpus has a token id outside"):
        influence_functions(model, QUERIES, [[5, 6], [5, 1000]])
