"""Input attributions by name, called alike and set side by side (PRIMER 3.1.1 to 3.1.22).

An input attribution is a technique that registers with this role: it is called ``method(model, tokens, metric)`` with
nothing else that must be given, and returns a ``DataArray``, (batch, pos), one score per token. Whoever registers such
a function has it in every comparison, test and view.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, ResultError, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.model.arguments import checked
from caseback.model.prompts.granularity import Features, Given, features_of, grouped, padded_text
from caseback.model.prompts.per_token import expect_metric
from caseback.model.registry import Technique, with_role
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

Method = Callable[..., xr.DataArray]
Methods = str | Method | Sequence[str | Method]

_SCORES = ("batch", "pos")


def input_methods() -> dict[str, Technique]:
    """Every registered input attribution, by the name of its function, in the Primer's order.

    Examples
    --------
    >>> list(input_methods())[:2]
    ['gradient_norm', 'gradient_x_input']
    """
    return {t.name.rpartition(".")[2]: t for t in with_role("input attribution", "caseback.localize.inputs")}


def method_named(method: str | Method) -> tuple[str, Method]:
    """An input attribution with its name, from either.

    Raises
    ------
    CasebackError
        For a name that no input attribution has, with the near ones.

    Examples
    --------
    >>> method_named("gradient_norm")[1].__name__
    'gradient_norm'
    >>> method_named("gradient_nom")
    Traceback (most recent call last):
    caseback.errors.CasebackError: no input attribution is called 'gradient_nom'. Did you mean gradient_norm...
    """
    if not isinstance(method, str):
        expect_method(method)
        return getattr(method, "__name__", type(method).__name__), method
    known = input_methods()
    if method not in known:
        raise CasebackError(f"no input attribution is called {method!r}. {did_you_mean(method, known, most=40)}")
    return method, known[method].function


def expect_method(method: Any) -> None:
    """Refuse what cannot be called as an input attribution is.

    Raises
    ------
    CasebackError
    """
    if not callable(method) or isinstance(method, type):
        raise CasebackError(f"method {method!r}: expected a name, or a function of a model, tokens and a metric")
    try:
        inspect.signature(method).bind("model", "tokens", "metric")
    except TypeError as error:
        raise CasebackError(f"method {method!r} cannot be called with a model, tokens and a metric: {error}") from None
    except ValueError:
        return  # a function without a signature that Python can read


def methods_named(methods: Methods) -> dict[str, Method]:
    """Several of them; ``"all"`` for every one that is registered.

    Raises
    ------
    CasebackError
        For an unknown name, none at all, or one given twice.
    """
    if isinstance(methods, str) and methods == "all":
        return {name: t.function for name, t in input_methods().items()}
    wanted = [methods] if isinstance(methods, str) or callable(methods) else list(methods)
    named = [method_named(m) for m in wanted]
    names = [name for name, _ in named]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not names:
        what = f"the method {twice[0]!r} is named twice" if twice else "no method is named"
        raise CasebackError(f"{what}: name each one once, such as 'gradient_norm'")
    return dict(named)


@checked
def attribute(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    methods: Methods,
    *,
    features: Given = "token",
    aggregation: str = "sum",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Score every token by several methods, side by side.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    methods
        Names of ``input_methods()``, functions of their signature, or ``"all"``.
    features
        ``"token"``, ``"word"``, ``"sentence"`` or groups of tokens, as for ``features_of``. A method that has an
        option of this name perturbs whole features; the other methods' scores of tokens are aggregated.
    aggregation
        How, as in ``aggregate``; only ``"sum"`` keeps a method's total.
    options
        Each method's options by its name, such as ``{"integrated_gradients": {"steps": 100}}``; an option that is
        not given has the method's default.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (attribution, batch, pos), or (attribution, batch, feature) of features that are not tokens; NaN where a shorter
        prompt has none. What a method says of itself (a completeness gap, its steps) stands in the attribute
        ``said``, as JSON by method.

    Raises
    ------
    CasebackError
        For an unknown method, options of a method that is not among them, or one that it does not take.
    ResultError
        For a method whose result is not one score per token.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> metric = cb.logit_diff(" cat", " dog")
    >>> both = attribute(model, "the cat and the dog", metric, ["gradient_norm", "gradient_x_input"])
    >>> both.dims, both.attribution.values.tolist()
    (('attribution', 'batch', 'pos'), ['gradient_norm', 'gradient_x_input'])
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    named = methods_named(methods)
    own_options = checked_options(named, options)
    whole = features_of(model, tokens, features)
    scores = {}
    for name, method in progress_bar(named.items(), show=progress, what="attribute", unit="method"):
        own = dict(own_options[name])
        if whole.level != "token" and "features" in inspect.signature(method).parameters:
            own.setdefault("features", whole.groups)
        array = scores_of(name, method, model, tokens, metric, own, whole)
        by_token = array.dims == _SCORES and whole.level != "token"
        scores[name] = grouped(array, whole, aggregation) if by_token else array
    last = _SCORES[1] if whole.level == "token" else "feature"
    width = tokens.ids.shape[1]
    text = [row + [""] * (width - len(row)) for row in tokens.text] if last == "pos" else padded_text(whole)
    return labelled(
        np.stack([array.values for array in scores.values()]),
        ["attribution", "batch", last],
        {
            "attribution": list(scores),
            "entry": ("attribution", [str(array.attrs.get("entry", "")) for array in scores.values()]),
            "token": (("batch", last), text),
        },
        name="scores",
        model=model,
        metric=metric.name,
        features=whole.level,
        aggregation=None if whole.level == "token" else aggregation,
        said=_own_attrs(model, scores),
    )


def checked_options(
    named: Mapping[str, Method], options: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Mapping[str, Any]]:
    """The options of each method, refused where there is no such method or option.

    Raises
    ------
    CasebackError
        With the near names.
    """
    by_name = dict(options or {})
    for name, given in by_name.items():
        if name not in named:
            raise CasebackError(f"options for {name!r}, which is not among the methods. {did_you_mean(name, named)}")
        parameters = inspect.signature(named[name]).parameters.values()
        takes = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        unknown = [key for key in given if key not in takes]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise CasebackError(f"{name} takes no option {unknown[0]!r}. {did_you_mean(unknown[0], takes)}".rstrip())
    return {name: by_name.get(name, {}) for name in named}


def scores_of(
    name: str,
    method: Method,
    model: Model,
    tokens: Tokens,
    metric: Metric,
    options: Mapping[str, Any],
    features: Features | None = None,
) -> xr.DataArray:
    """One method's scores, refused where they are not one per token, or one per feature that was asked for."""
    scores = method(model, tokens, metric, **options)
    expected: dict[tuple[Any, ...], tuple[int, ...]] = {_SCORES: tuple(tokens.ids.shape)}
    if features is not None and features.level != "token":
        expected["batch", "feature"] = (len(tokens), features.most)
    if not isinstance(scores, xr.DataArray) or expected.get(scores.dims) != scores.shape:
        what = f"{scores.dims} of shape {scores.shape}" if isinstance(scores, xr.DataArray) else type(scores).__name__
        wanted = " or ".join(f"{dims} of shape {shape}" for dims, shape in expected.items())
        raise ResultError(f"{name} returned {what}, expected one score per token: {wanted}")
    return scores


def _own_attrs(model: Model, scores: Mapping[str, xr.DataArray]) -> dict[str, dict[str, Any]]:
    """What each method says of itself beyond which model it was made with."""
    common = {*model.provenance(), "technique", "entry", "metric", "target", "foil", "metric_pos"}
    return {
        name: {key: x for key, x in array.attrs.items() if key not in common and not key.endswith("_version")}
        for name, array in scores.items()
    }
