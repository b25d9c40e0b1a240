"""What all gradient methods begin with: a corpus's rows, computed or stored, and the queries' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.localize.inputs.training.examples import CorpusCounts, Example, queries_of
from caseback.localize.inputs.training.matrices import Matrix, matrices_of, matrix_attrs
from caseback.localize.inputs.training.objectives import check_reduction, log_likelihood, margin, missed, of_metric
from caseback.localize.inputs.training.per_example import Objective
from caseback.localize.inputs.training.projection import Projection, Projector, projector_of
from caseback.localize.inputs.training.rows import Live, Maker, Rows, kept_if_small, read_corpus
from caseback.localize.inputs.training.scores import example_scores
from caseback.localize.inputs.training.store import GradientStore
from caseback.model.loading.load import load
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model


@dataclass(frozen=True, eq=False)
class Options:
    """What the gradient methods share.

    Attributes
    ----------
    parts
        Which matrices; see ``matrices_of``.
    projection
        How their gradients are shortened.
    reduction
        How an example's predictions are added up.
    max_length
        Tokens at which a line of the corpus is split; the context by default.
    store
        A folder for the rows.
    token_budget
        Tokens in one pass.
    progress
        Show a progress bar.
    """

    parts: str | Sequence[str]
    projection: Projection
    reduction: str
    max_length: int | None
    store: str | Path | None
    token_budget: int | None
    progress: bool


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows and queries of one model."""

    rows: Rows
    queries: list[Example]
    query_rows: Float[Tensor, "query k"]
    matrices: list[Matrix]

    def labelled(
        self,
        scores: Float[Tensor, "query example"],
        model: Model,
        options: Options,
        *,
        technique: Callable[..., Any],
        name: str,
        metric: Metric | None,
        **attrs: Any,
    ) -> xr.DataArray:
        """Label scores with the queries, the examples, and what went into their rows."""
        projection = options.projection
        return example_scores(
            scores,
            model,
            self.queries,
            self.rows.examples,
            self.rows.corpus_counts,
            technique=technique,
            name=name,
            metric=metric,
            **attrs,
            parts=" ".join([options.parts] if isinstance(options.parts, str) else options.parts),
            reduction=options.reduction,
            projection=projection.kind,
            projection_dim=None if projection.kind == "whole" else projection.dim,
            seed=None if projection.kind == "whole" else projection.seed,
            **matrix_attrs(self.matrices, model.hf),
        )


def query_objective(model: Model, queries: Sequence[Example], metric: Metric | None, usual: Objective) -> Objective:
    """What is explained of the queries."""
    if metric is None:
        return usual
    if not isinstance(metric, Metric):
        raise CasebackError(
            f"metric is a {type(metric).__name__}, expected one of caseback's, such as cb.logit_diff(target, foil), or "
            "None for the log-likelihood of the queries"
        )
    return of_metric(model, queries, metric)


def prepare(
    model: Model,
    queries: Any,
    corpus: Any,
    metric: Metric | None,
    options: Options,
    *,
    output: str = "log_likelihood",
    projector: Projector | None = None,
    store: GradientStore | None = None,
    examples: tuple[list[Example], CorpusCounts] | None = None,
) -> Prepared:
    """Rows of a corpus's gradients and of the queries'.

    Parameters
    ----------
    model, queries, corpus, metric, options
        As given by the user.
    output
        ``"log_likelihood"`` or ``"margin"``: what is differentiated for the corpus, and for queries without a metric.
    projector
        Takes the place of ``options.projection`` (bases that were fitted).
    store
        A store that is open already.
    examples
        The corpus, read already, with its counts.
    """
    asked = queries_of(model, queries)
    matrices = matrices_of(model.anatomy, options.parts)
    projector = projector_of(options.projection, matrices) if projector is None else projector
    corpus_objective = {"log_likelihood": log_likelihood, "margin": margin}[output](check_reduction(options.reduction))
    maker = Maker(
        model,
        matrices,
        projector,
        corpus_objective,
        {"missed": missed} if output == "margin" else {},
        options.token_budget,
    )
    if store is None and options.store is not None:
        store = GradientStore(options.store, model, setup(matrices, options, output))
    if store is not None:
        rows: Rows = store.fill(maker, corpus, max_length=options.max_length, progress=options.progress)
    elif corpus is None:
        raise CasebackError("corpus is None: give the texts, or the folder of a store that holds their gradients")
    else:
        read, corpus_counts = examples or read_corpus(model, corpus, options.max_length)
        rows = kept_if_small(Live(maker, read, corpus_counts, progress=options.progress))
    objective = query_objective(model, asked, metric, corpus_objective)
    if metric is None and (short := [q.line for q in asked if len(q.ids) < 2]):
        raise TokensError(f"query {short[0]} has 1 token, so nothing in it is predicted: give a longer one or a metric")
    return Prepared(rows, asked, maker.of_queries(asked, objective), matrices)


def setup(matrices: Sequence[Matrix], options: Options, output: str, **more: Any) -> dict[str, Any]:
    """What makes rows, besides the model and the corpus, as a store records it."""
    return {
        "matrices": [m.name for m in matrices],
        "tied": [len(m.uses) for m in matrices],
        "projection": asdict(options.projection),
        "output": output,
        "reduction": options.reduction,
        "max_length": options.max_length,
        **more,
    }


def each_checkpoint(
    model: Model, checkpoints: Sequence[Any] | None, store: str | Path | None
) -> Iterator[tuple[Model, str | Path | None]]:
    """Checkpoints one at a time, each with a folder for its rows; the model itself where there are none.

    Raises
    ------
    CasebackError
        For an empty list, or a checkpoint of another vocabulary.
    """
    if checkpoints is None:
        yield model, store
        return
    if len(checkpoints) == 0:
        raise CasebackError("checkpoints is empty: give folders or models, or None for the model alone")
    for number, given in enumerate(checkpoints):
        if isinstance(given, Model):
            one = given
        elif isinstance(given, str | Path | nn.Module):
            one = load(given, tokenizer=model.tokenizer)
        else:
            raise CasebackError(f"checkpoint {number} is a {type(given).__name__}: expected a folder or a model")
        if one.d_vocab != model.d_vocab:
            raise CasebackError(
                f"checkpoint {number} has a vocabulary of {one.d_vocab}, the model one of {model.d_vocab}: it is "
                "not a checkpoint of this model"
            )
        yield one, None if store is None else Path(store) / f"checkpoint-{number}"


def rates_of(rates: float | Sequence[float] | None, n: int) -> list[float]:
    """One learning rate per checkpoint."""
    listed = [1.0] * n if rates is None else [float(rates)] * n if isinstance(rates, int | float) else list(rates)
    if len(listed) != n:
        raise CasebackError(f"{len(listed)} learning rates for {n} checkpoints: give one, or one per checkpoint")
    if not all(0 < rate < float("inf") for rate in listed):
        raise OutOfRange(f"learning rates {listed}: expected numbers above 0")
    return listed
