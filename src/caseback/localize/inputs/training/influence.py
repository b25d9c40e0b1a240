"""Influence functions: how a query would change if a training example weighed more (PRIMER 3.1.24).

    I(z, q) = d f(q) / d epsilon = - grad f(q)^T (G + lambda)^-1 grad L(z)

f(q) is the query's log-likelihood or a metric, L(z) = -log p(z) the loss, G the mean over examples of the loss's
curvature. Positive: training more on z raises f(q). With n examples, leaving z out changes f(q) by about -I / n.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.inputs.training import gauss_newton, kronecker
from caseback.localize.inputs.training.examples import Example, reusable
from caseback.localize.inputs.training.matrices import DEFAULT_PARTS, Matrix, matrices_of
from caseback.localize.inputs.training.objectives import check_reduction, log_likelihood, sampled
from caseback.localize.inputs.training.per_example import factors
from caseback.localize.inputs.training.prepared import Options, Prepared, prepare, setup
from caseback.localize.inputs.training.projection import WHOLE, Projection, Whole
from caseback.localize.inputs.training.rows import batches, dots, read_corpus
from caseback.localize.inputs.training.solving import check_damping, damped
from caseback.localize.inputs.training.store import GradientStore
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model

CURVATURES = ("ekfac", "kfac", "fisher", "gauss_newton", "identity")
LABELS = ("sampled", "corpus")
SOLVERS = ("cg", "lissa")


@technique(
    role="training-data attribution",
    entry=("3.1.24",),
    citation="Koh & Liang 2017, Grosse et al. 2023",
    cost="(forward + backward) per example, three times with EK-FAC",
)
def influence_functions(
    model: Model,
    queries: Any,
    corpus: Any,
    metric: Metric | None = None,
    *,
    curvature: str = "ekfac",
    damping: float = 0.1,
    labels: str = "sampled",
    rank: int | None = None,
    fit_on: int | None = None,
    projection: Projection = WHOLE,
    solver: str = "cg",
    steps: int = 100,
    tolerance: float = 1e-5,
    parts: str | Sequence[str] = DEFAULT_PARTS,
    reduction: str = "sum",
    max_length: int | None = None,
    store: str | Path | None = None,
    token_budget: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.DataArray:
    """How each training example bears on queries: what would change in them if it weighed more in training.

    Parameters
    ----------
    model
        The model.
    queries
        Texts, rows of ids, or pairs (prompt, completion) of which only the completion counts.
    corpus
        The training examples: an iterable of texts or rows of ids. Lines past the context are split, with a warning.
        None asks a complete ``store``.
    metric
        What is measured, per query: such as ``cb.logit_diff(target, foil)``. By default it is the query's
        log-likelihood, so that examples with positive scores make the query likelier.
    curvature
        ``"ekfac"``; ``"kfac"``, without the fitted eigenvalues; ``"fisher"``, the second moment of the (projected)
        gradients themselves, a block per matrix; ``"gauss_newton"``, exact, for small models; ``"identity"``.
    damping
        lambda, as a share of a mean eigenvalue; 0.1 as Grosse et al. EK-FAC, K-FAC and ``"fisher"`` take each block's
        own. ``"gauss_newton"`` has one lambda for the whole matrix, from its trace estimated with one draw of labels
        (``seed``), and says it: the attribute ``damping_absolute``.
    labels
        Of the curvature in EK-FAC and K-FAC: ``"sampled"`` from the model, the Fisher matrix; or the ``"corpus"``'s
        own, the empirical one.
    rank
        EK-FAC and K-FAC: eigenvectors kept on each side of a matrix, all by default. Rows of a store then have rank x
        rank numbers per matrix; the attribute ``curvature_kept`` says which share of the curvature's trace that is.
    fit_on
        EK-FAC and K-FAC: fit the curvature to so many examples from the beginning of the corpus; all by default.
    projection
        ``"fisher"`` and ``"identity"``: how gradients are shortened; whole by default.
    solver, steps, tolerance
        ``"gauss_newton"``: ``"cg"`` or ``"lissa"``, its most steps, and for ``"cg"`` the relative residual to stop at.
        The attribute ``residual`` has what was left of each query.
    parts
        ``"attn"`` and ``"mlp"`` by default: every linear map of every layer, biases too; see ``matrices_of``. Norms
        and embeddings are not included unless named; Grosse et al. take ``"mlp"`` alone.
    reduction
        An example's loss is the ``"sum"`` over its tokens, or their ``"mean"``.
    max_length
        Tokens at which lines are split; the context by default.
    store
        A folder that keeps the rows (and EK-FAC's bases), resumed where it was interrupted and asked again by later
        calls. Not for ``"gauss_newton"``, which keeps no rows.
    token_budget
        Tokens in one pass. It bounds the memory, and changes no score but by rounding.
    seed
        Same seed, same result. The labels and LiSSA's batches are drawn with it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (query, example), with the coordinates ``query_text``, ``text``, ``line`` and ``piece``.

    Raises
    ------
    CasebackError
        For an unknown curvature, solver or part, options that do not go together, experts.
    LoadError
        For a store of another model, corpus or setup.
    OutOfRange
        For a damping below 0, a rank, ``fit_on`` or number of steps below 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> corpus = ["Mary went to the store.", "The cat sat on the mat.", "John gave a book to Anna."]
    >>> scores = influence_functions(model, ("Mary went to the", " store"), corpus, parts="mlp")
    >>> int(scores.argmax("example")[0])
    0
    """
    for what, value, choices in zip(
        ("curvature", "labels", "solver"),
        (curvature, labels, solver),
        (CURVATURES, LABELS, SOLVERS),
        strict=True,
    ):
        if value not in choices:
            raise CasebackError(f"{what} {value!r} is unknown. {did_you_mean(value, choices)}")
    for name, number in (("rank", rank), ("fit_on", fit_on), ("steps", steps)):
        if number is not None and number < 1:
            raise OutOfRange(f"{name} is {number}: expected at least 1")
    check_damping(damping)
    options = Options(parts, projection, reduction, max_length, store, token_budget, progress)
    if projection.kind != "whole" and curvature not in ("fisher", "identity"):
        raise CasebackError(
            f"projection {projection.kind!r} with curvature {curvature!r}: it works on whole gradients. Take rank= for "
            "EK-FAC, or curvature='fisher'"
        )
    attrs: dict[str, Any] = {"curvature": curvature, "damping": damping}
    if curvature in ("ekfac", "kfac"):
        fitting = {"corrected": curvature == "ekfac", "labels": labels, "rank": rank, "fit_on": fit_on, "drawn": seed}
        ready, fitted = _with_basis(model, queries, corpus, metric, options, fitting)
        solved = fitted.solve(ready.query_rows, damping)
        attrs |= {"labels": labels, "rank": rank, "curvature_kept": fitted.share_kept}
    elif curvature == "gauss_newton":
        if store is not None:
            raise CasebackError("store with curvature 'gauss_newton': it keeps no rows. Take 'ekfac' or 'fisher'")
        read = read_corpus(model, corpus, max_length)
        ready = prepare(model, queries, corpus, metric, options, examples=read)
        lam = damping * _mean_eigenvalue(model, read[0][:fit_on], ready.matrices, reduction, seed, token_budget)
        exact = gauss_newton.GaussNewton.of(model, ready.matrices, read[0][:fit_on], reduction, token_budget)
        solved, left = gauss_newton.solve(
            exact, ready.query_rows, lam, solver=solver, steps=steps, tolerance=tolerance, seed=seed, progress=progress
        )
        attrs |= {"solver": solver, "residual": left, "damping_absolute": lam}
    else:
        ready = prepare(model, queries, corpus, metric, options)
        solved = damped(ready.rows, ready.query_rows, damping) if curvature == "fisher" else ready.query_rows
    scores, _, _ = dots(ready.rows, solved)
    return ready.labelled(
        scores,
        model,
        options,
        technique=influence_functions,
        name="influence",
        metric=metric,
        label_seed=seed if curvature in ("ekfac", "kfac") and labels == "sampled" else None,
        **attrs,
    )


def _with_basis(
    model: Model, queries: Any, corpus: Any, metric: Metric | None, options: Options, fitting: dict[str, Any]
) -> tuple[Prepared, kronecker.Kronecker]:
    """Rows in curvature's eigenbasis, fitted or taken from the store."""
    matrices = matrices_of(model.anatomy, options.parts)
    store, saved, read = None, None, None
    if options.store is not None:
        store = GradientStore(options.store, model, setup(matrices, options, "log_likelihood", curvature=fitting))
        saved = store.curvature()
    corpus = reusable(corpus)
    if saved is not None:
        fitted = kronecker.Kronecker.of_tensors(saved, model.device)
    elif corpus is None:
        raise CasebackError("corpus is None: give the texts, or the folder of a complete store")
    else:
        read = read_corpus(model, corpus, options.max_length)
        reduction = check_reduction(options.reduction)
        drawn = fitting["labels"] == "sampled"
        objective = sampled(fitting["drawn"], reduction) if drawn else log_likelihood(reduction)
        fitted = kronecker.fit(
            model,
            read[0][: fitting["fit_on"]],
            matrices,
            objective,
            corrected=fitting["corrected"],
            rank=fitting["rank"],
            token_budget=options.token_budget,
            progress=options.progress,
        )
        if store is not None:
            store.keep_curvature(fitted.tensors())
    ready = prepare(model, queries, corpus, metric, options, projector=fitted.basis, store=store, examples=read)
    return ready, fitted


def _mean_eigenvalue(
    model: Model,
    examples: Sequence[Example],
    matrices: list[Matrix],
    reduction: str,
    seed: int,
    token_budget: int | None,
) -> float:
    """The Gauss-Newton matrix's trace over its size, from gradients with labels that the model draws."""
    total: Float[Tensor, ""] = torch.zeros((), dtype=torch.float64)
    for batch in batches(examples, model.device, token_budget=token_budget):
        gradients, _, _ = factors(model, batch, matrices, sampled(seed, reduction))
        total += sum(in_float64(piece).square().sum().cpu() for _, piece in Whole(matrices).pieces(gradients))
    return float(total) / len(examples) / sum(m.size for m in matrices)
