"""``compare_attributions``: several input attributions of one prediction, side by side, with how far to trust them.

One prompt, one document of plain data: every method's scores, how they agree, what the metric loses when the tokens
that each method ranks first are removed, compared with random orders, and, for a generation, one target x source map
per method. The terminal, the page and JSON show the same numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, TokensError, did_you_mean
from caseback.jobs.warned import heard
from caseback.localize.inputs.generation import METRICS, attribute_generation
from caseback.localize.inputs.methods import Methods, attribute, checked_options, methods_named
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.arguments import checked
from caseback.model.prompts.granularity import features_of
from caseback.model.running import metrics
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.targets import target_and_foil
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.reports.comparison import comparison, plain_matrix
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.likeliest import likeliest

__all__ = ["ATTRIBUTIONS", "check_attributions", "compare_attributions", "label_of"]


@checked
def compare_attributions(
    model: Model,
    prompt: PromptsLike,
    methods: Methods = ("gradient_x_input", "integrated_gradients"),
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    metric: str = "logit_diff",
    features: str = "token",
    aggregation: str = "sum",
    baseline: Any = "mean",
    chance: int = 8,
    generate: int = 0,
    continuation: Any = None,
    contrast: Any = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Attribute a prediction with several methods, and compare them.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, a list of token ids, or ``Tokens``.
    methods
        As for ``attribute``. With ``"all"`` a method that refuses this model or prompt is left out, and the document
        says why.
    target
        The token explained, text or id; by default the model's first choice, or the continuation's first token.
    foil
        For ``"logit_diff"``, the token it is contrasted with; by default the model's first choice other than the
        target.
    metric
        What is measured of target and foil: ``"logit_diff"``, ``"logit"``, ``"prob"`` or ``"log_prob"``.
    features, aggregation
        ``"token"``, ``"word"`` or ``"sentence"``, and how scores are combined, as for ``attribute``.
    baseline
        What a removed token's embedding becomes when faithfulness is measured. Methods have baselines of their own,
        which ``options`` sets.
    chance
        How many random orders faithfulness is compared with.
    generate
        How many tokens to generate and attribute one by one; 0 for none.
    continuation
        A continuation to attribute instead of generating one.
    contrast
        Another continuation with as many tokens, which are the foils of the generation.
    options
        Each method's own options, by the method's name.
    seed
        Same seed, same result. Draws the random orders.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The document; ``caseback.views.text.attributions.print_attributions`` and
        ``caseback.views.page.attributions.write_attributions`` draw it.

    Raises
    ------
    TokensError
        For several prompts, or one that is empty or longer than the context.
    TargetError
        For a target or foil that is not one token, or if the two are the same.
    CasebackError
        For an unknown metric, method or option, a foil with a metric that takes none, or a prompt without a token that
        may be replaced.

    Examples
    --------
    >>> import caseback as cb
    >>> names = ["gradient_norm", "gradient_x_input"]
    >>> document = compare_attributions(cb.load("meadow"), "Mary and John went to", names)
    >>> [method["name"] for method in document["methods"]], document["target"]["text"]
    (['gradient_norm', 'gradient_x_input'], ' the')
    """
    expect_tokens_out(model.anatomy, "this comparison")
    if metric not in METRICS:
        raise CasebackError(f"metric {metric!r} is unknown. {did_you_mean(metric, METRICS)}")
    if foil is not None and metric != "logit_diff":
        raise CasebackError(f"a foil is given, and {metric!r} takes none: use the metric 'logit_diff'")
    if generate < 0:
        raise CasebackError(f"generate is {generate}: expected a number of tokens, or 0 for none")
    if contrast is not None and metric != "logit_diff":
        raise CasebackError(f"a contrast is given, and {metric!r} takes none: use the metric 'logit_diff'")
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise TokensError(f"{len(tokens)} prompts given: expected one")
    tokens = tokens.padded_on("right") if tokens.padded else tokens
    named = methods_named(methods)
    checked_options(named, options)
    final = model.run(tokens).logits[0, int(tokens.column(-1)[0])].detach()
    t, f = target_and_foil(model, final, target, foil)
    f = f if metric == "logit_diff" else None
    measured: Metric = metrics.logit_diff(t, f) if f is not None else getattr(metrics, metric)(t)
    whole = features_of(model, tokens, features)
    refused: dict[str, str] = {}
    results = []
    with warnings.catch_warnings(), heard():
        # what a method warns of is also among its attributes, which the document has
        warnings.simplefilter("ignore", UserWarning)
        for name, method in named.items():
            try:
                own = {name: options[name]} if options and name in options else None
                results.append(
                    attribute(model, tokens, measured, method, features=features, aggregation=aggregation, options=own)
                )
            except CasebackError as error:
                if methods != "all":
                    raise
                refused[name] = str(error)
    if not results:
        raise CasebackError(f"no method attributes this: {'; '.join(f'{k}: {v}' for k, v in refused.items())}")
    scores = _concatenated(results)
    compared = comparison(
        model,
        tokens,
        measured,
        scores,
        features=whole.groups,
        baseline=baseline,
        chance=chance,
        seed=seed,
        progress=progress,
    )
    generation = None
    if generate or continuation is not None:
        working = [one for one in named if one not in refused]
        generation = _generation(
            model,
            tokens,
            working,
            named,
            metric,
            generate,
            continuation,
            contrast,
            features,
            aggregation,
            options,
            progress,
        )
    elif contrast is not None:
        raise CasebackError("a contrast is given without a generation: give generate or a continuation")
    return ATTRIBUTIONS.document(
        model_facts(model, "name", "n_layers", "n_heads", "dtype"),
        prompt=prompt if isinstance(prompt, str) else model.text(tokens)[0],
        tokens=[{"text": text, "positions": group} for text, group in zip(whole.text[0], whole.groups[0], strict=True)],
        features=features,
        target={"id": t, "text": model.token_text(t)},
        foil=None if f is None else {"id": f, "text": model.token_text(f)},
        metric={"name": metric, "value": compared["value"]},
        predictions=likeliest(model, final),
        methods=[_method(one) for one in results],
        comparison=compared,
        refused=[{"name": name, "why": why} for name, why in refused.items()],
        generation=generation,
        provenance=_provenance(model, scores),
    )


@checked
def label_of(name: str) -> str:
    """A method's name as people read it.

    Examples
    --------
    >>> label_of("gradient_x_input"), label_of("kernel_shap")
    ('Gradient × input', 'Kernel SHAP')
    """
    words = [_WORDS.get(word, word) for word in name.split("_")]
    return " ".join([words[0] if words[0].isupper() else words[0][:1].upper() + words[0][1:], *words[1:]])


_SPELT = "× SHAP LIME LRP ALTI IG MLP Attn AtMan ReAGent GlobEnc DecompX KernelSHAP"
_WORDS = {word.lower(): word for word in _SPELT.split()} | {"x": "×"}


@checked
def check_attributions(document: Mapping[str, Any]) -> None:
    """Refuse a document that the views cannot draw truthfully.

    Raises
    ------
    CasebackError
        If the kind or version is another one, a list has the wrong length or a number is not finite.

    Examples
    --------
    >>> check_attributions({"kind": "caseback.explanation"})
    Traceback (most recent call last):
    caseback.errors.CasebackError: not a document of attributions: kind is 'caseback.explanation', ...
    """
    ATTRIBUTIONS.check(document)


def _check_lengths(document: Mapping[str, Any]) -> None:
    n, m = len(document["tokens"]), len(document["methods"])
    for method in document["methods"]:
        if len(method["scores"]) != n:
            raise CasebackError(f"attributions: {method['name']} has {len(method['scores'])} scores for {n} tokens")
    compared = document["comparison"]
    for name in ("spearman", "kendall", "top_k", "deletion", "insertion", "comprehensiveness", "sufficiency"):
        if len(compared[name]) != m:
            raise CasebackError(f"attributions: comparison.{name} has {len(compared[name])} rows for {m} methods")
    generation = document["generation"]
    if generation is None:
        return
    for method in generation["methods"]:
        shape = {len(row) for row in method["scores"]}
        if len(method["scores"]) != len(generation["targets"]) or shape != {len(generation["sources"])}:
            raise CasebackError(f"attributions: the map of {method['name']} does not fit its targets and sources")


def _concatenated(results: Sequence[xr.DataArray]) -> xr.DataArray:
    both: Any = xr.concat(results, "attribution", combine_attrs="drop_conflicts")
    return both


def _method(scores: xr.DataArray) -> dict[str, Any]:
    """One method's scores on one prompt, with its attributes."""
    import json

    name = str(scores["attribution"].values[0])
    details = json.loads(scores.attrs["said"])[name]
    plain = {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in details.items()}
    facts = {k: v for k, v in plain.items() if isinstance(v, str | int) or (isinstance(v, float) and math.isfinite(v))}
    values = scores.values[0, 0]
    return {
        "name": name,
        "label": label_of(name),
        "entry": str(scores["entry"].values[0]),
        "citation": str(facts.pop("citation", "")),
        # a method may leave tokens out: they have no score, and only drawings show them as 0
        "scores": [float(x) if np.isfinite(x) else 0.0 for x in values],
        "signed": bool((values[np.isfinite(values)] < 0).any()),
        "said": facts,
    }


def _generation(
    model: Model,
    tokens: Tokens,
    working: Sequence[str],
    named: Mapping[str, Any],
    metric: str,
    generate: int,
    continuation: Any,
    contrast: Any,
    features: str,
    aggregation: str,
    options: Mapping[str, Mapping[str, Any]] | None,
    progress: bool,
) -> dict[str, Any]:
    """The target x source maps of one continuation, one per method."""
    if continuation is None:
        whole = model.generate(tokens, max_new_tokens=generate).padded_on("right")
        continuation = whole.ids[0][whole.mask[0]][int(tokens.lengths[0]) :].tolist()
    maps = {}
    with warnings.catch_warnings(), heard():
        warnings.simplefilter("ignore", UserWarning)
        for name in working:
            maps[name] = attribute_generation(
                model,
                tokens,
                named[name],
                metric=metric,
                continuation=continuation,
                contrast=contrast,
                features=features,
                aggregation=aggregation,
                options=(options or {}).get(name),
                progress=progress,
            ).isel(batch=0)
    first = next(iter(maps.values()))
    n_prompt = int(first["prompt_length"])
    if features != "token":
        groups = features_of(model, tokens, features).groups[0]
        n_prompt = len(groups)
    columns = zip(first["target"].values, first["foil"].values, first["probability"].values, strict=True)
    return {
        "metric": metric,
        "n_prompt": n_prompt,
        "sources": [{"text": str(text)} for text in first["token"].values],
        "targets": [
            {"text": str(text), "foil": None if not foil else {"text": str(foil)}, "probability": float(p)}
            for text, foil, p in columns
        ],
        "methods": [
            {"name": name, "label": label_of(name), "scores": plain_matrix(one.values)} for name, one in maps.items()
        ],
    }


def _provenance(model: Model, scores: xr.DataArray) -> dict[str, Any]:
    versions = {name: value for name, value in scores.attrs.items() if name.endswith("_version")}
    return {**model.provenance(), "device": str(model.device), **versions}


ATTRIBUTIONS = DocumentKind(
    "caseback.attributions",
    1,
    "a document of attributions",
    "compare_attributions",
    sections=(
        *("prompt", "tokens", "features", "target", "foil", "metric", "predictions", "methods", "comparison"),
        *("refused", "generation", "provenance"),
    ),
    lengths=_check_lengths,
)
