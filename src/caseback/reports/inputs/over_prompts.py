"""Input attributions of many prompts: which words and places the methods point at, how they agree, how far to trust.

    share(method, i) = |score(i)| / sum of |scores| of the prompt, special tokens left out
    word(w)          = mean share over all its occurrences, beside 1 / n, what it would be if all counted alike
    lost(method)     = mean over prompts of comprehensiveness less that of random orders, with its standard error

Words are compared without regard to case and to spaces around them. Prompts of like length are run together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.methods import Methods, attribute, methods_named
from caseback.localize.inputs.trust.agreement import agreement
from caseback.localize.inputs.trust.faithfulness import faithfulness
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.identity import identity_of
from caseback.model.arguments import checked
from caseback.model.prompts.granularity import features_of
from caseback.model.prompts.masked_prompts import special_tokens
from caseback.model.running.metrics import logit_diff
from caseback.model.running.model import Model
from caseback.model.running.targets import target_and_foil
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.reports.attributions import label_of
from caseback.reports.comparison import plain_matrix
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.answers import answers_of, places_of
from caseback.tasks.prompts import Prompts

__all__ = ["ATTRIBUTED_PROMPTS", "attributions_over_prompts"]

FAITHFULNESS = ("comprehensiveness", "sufficiency")


def _lengths(document: Mapping[str, Any]) -> None:
    names = [method["name"] for method in document["methods"]]
    for row in document["rows"]:
        if odd := [name for name in names if len(row["scores"][name]) != len(row["tokens"])]:
            raise CasebackError(f"scores of {odd[0]} do not fit the {len(row['tokens'])} tokens of a prompt")


ATTRIBUTED_PROMPTS = DocumentKind(
    "caseback.attributed_prompts",
    1,
    "a document of attributed prompts",
    "attributions_over_prompts",
    sections=("source", "features", "methods", "refused", "spearman", "words", "places", "rows", "provenance"),
    lengths=_lengths,
)


@checked
def attributions_over_prompts(
    model: Model,
    prompts: PromptsLike | Prompts,
    methods: Methods = ("gradient_x_input", "integrated_gradients"),
    *,
    targets: Sequence[str | int] | None = None,
    foils: Sequence[str | int | None] | None = None,
    features: str = "token",
    source: str = "",
    baseline: Any = "mean",
    chance: int = 8,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Attribute the answers of many prompts by several methods: means by word and place, agreement, faithfulness.

    Parameters
    ----------
    model
        The model.
    prompts
        Prompts; of a task's each first right answer is the target and each first wrong one the foil, and its named
        words name the places.
    methods
        As for ``compare_attributions``; with ``"all"`` those that refuse the longest prompt are left out, which the
        document's ``refused`` says.
    targets, foils
        The token explained after each prompt and its contrast; by default the task's, or the model's first choices.
    features
        ``"token"``, ``"word"`` or ``"sentence"``.
    source
        What the prompts are called together; by default the task's name.
    baseline, chance, seed
        As for ``faithfulness``.
    checkpoint
        A file that keeps the prompts that are done, to go on from after an interruption, or with more prompts.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The document. ``methods``: of each its mean ``comprehensiveness`` and ``sufficiency`` less those of random
        orders (``lost``, ``left``) with standard errors, and on how many prompts it is ``better`` than the mean random
        order; ``spearman``, their mean rank correlation; ``words`` and ``places`` with their ``count``, mean ``share``
        by method and ``even``, the mean of 1 / n; ``rows``, one for each prompt, with all scores.

    Raises
    ------
    TargetError
        For a target or foil that is not one token, or if the two are the same.
    CasebackError
        For an unknown method, as many targets or foils as there are no prompts, or a method that refuses the model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> document = attributions_over_prompts(model, cb.tasks.get("ioi").prompts(model, 4), ["gradient_x_input"])
    >>> document["places"][0]["place"], len(document["rows"])
    ('S1', 4)
    """
    expect_tokens_out(model.anatomy, "this comparison")
    given = prompts if isinstance(prompts, Prompts) else None
    tokens = given.clean if given is not None else model.tokens(prompts)  # pyright: ignore[reportArgumentType]
    wanted, against = answers_of(given, len(tokens), targets, foils)
    named = methods_named(methods)
    refused: dict[str, str] = {}
    if methods == "all":
        longest = tokens[int(tokens.lengths.argmax())].padded_on("right")
        refused = _refusing(model, longest, named, features)
        named = {name: method for name, method in named.items() if name not in refused}
    file = Checkpoint(
        checkpoint,
        {
            "model": identity_of(model.hf, model.anatomy.standing),
            "options": [list(named), features, baseline, chance, seed],
        },
        what="checkpoint of attributions",
        other="belongs to other attributions (another model, or other methods or options)",
    )
    saved = file.read()
    by_prompt: dict[str, dict[str, Any]] = {} if saved is None else dict(saved.state["prompts"])
    # a sentence holds many of a task's words
    places = [{} if features == "sentence" else places_of(given, b) for b in range(len(tokens))]
    keys = [fingerprint([tokens.ids[b][tokens.mask[b]], wanted[b], against[b], places[b]]) for b in range(len(tokens))]
    lengths = tokens.lengths.tolist()
    missing = sorted({key: b for b, key in enumerate(keys) if key not in by_prompt}.values(), key=lengths.__getitem__)
    with progress_bar(total=len(missing), what="attribute", unit="prompt", show=progress) as bar:
        for block in _blocks(missing, lengths):
            answers = [wanted[b] for b in block], [against[b] for b in block]
            some = model.tokens([tokens.ids[b][tokens.mask[b]].tolist() for b in block])
            rows = _rows(model, some, named, answers, features, baseline, chance, seed)
            for b, row in zip(block, rows, strict=True):
                by_prompt[keys[b]] = row | {"places": _features_at(row["groups"], places[b])}
            file.write({}, prompts=by_prompt)
            bar.update(len(block))
    rows = [by_prompt[key] for key in keys]
    return ATTRIBUTED_PROMPTS.document(
        model_facts(model, "name", "n_layers", "n_heads", "dtype"),
        source=source or ("" if given is None else given.task),
        features=features,
        methods=[_method(name, rows) for name in named],
        refused=[{"name": name, "why": why} for name, why in refused.items()],
        spearman=_mean_matrix([row["spearman"] for row in rows]),
        words=_means(rows, list(named), [[text.strip().lower() for text in row["tokens"]] for row in rows], "word"),
        places=_means(rows, list(named), [row["places"] for row in rows], "place"),
        rows=[{key: value for key, value in row.items() if key not in ("groups", "spearman")} for row in rows],
        provenance={**model.provenance(), "device": str(model.device), "seed": seed, "baseline": str(baseline)},
    )


def _refusing(model: Model, tokens: Tokens, named: Mapping[str, Any], features: str) -> dict[str, str]:
    """Which methods refuse a prompt, and why."""
    metric, refused = logit_diff(*target_and_foil(model, model.run(tokens).logits[0, -1].detach(), None, None)), {}
    for name, method in named.items():
        try:
            attribute(model, tokens, metric, method, features=features)
        except CasebackError as error:
            refused[name] = str(error)
    return refused


def _blocks(which: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Prompts of like length together, as many as a pass with gradients takes."""
    blocks: list[list[int]] = []
    for b in which:
        if blocks and lengths[b] * (len(blocks[-1]) + 1) <= limit("gradient_tokens"):
            blocks[-1].append(b)
        else:
            blocks.append([b])
    return blocks


def _rows(
    model: Model,
    tokens: Tokens,
    named: Mapping[str, Any],
    answers: tuple[Sequence[Any], Sequence[Any]],
    features: str,
    baseline: Any,
    chance: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The attributions of a few prompts as plain data."""
    finals = model.run(tokens).logits[range(len(tokens)), tokens.column(-1)].detach()
    pairs = [target_and_foil(model, finals[b], t, f) for b, (t, f) in enumerate(zip(*answers, strict=True))]
    metric = logit_diff([t for t, _ in pairs], [f for _, f in pairs])
    whole = features_of(model, tokens, features)
    scores = attribute(model, tokens, metric, list(named.values()), features=features)
    faith = faithfulness(
        model, tokens, metric, scores, baseline=baseline, features=whole.groups, chance=chance, seed=seed
    )
    alone = special_tokens(model, tokens).cpu().numpy()
    special = [[bool(alone[b][group].any()) for group in row] for b, row in enumerate(whole.groups)]
    padded = [row + [True] * (scores.shape[-1] - len(row)) for row in special]
    agree = agreement(scores, special=None if any(all(row) for row in special) else padded)
    texts = model.text(tokens) if model.tokenizer is not None else ["".join(row) for row in tokens.text]
    rows = []
    for b, (t, f) in enumerate(pairs):
        n = len(whole.groups[b])
        rows.append(
            {
                "prompt": texts[b],
                "tokens": whole.text[b],
                "groups": whole.groups[b],
                "special": special[b],
                **{role: {"id": i, "text": model.token_text(i)} for role, i in (("target", t), ("foil", f))},
                "value": float(faith.value[b]),
                "scores": {name: scores.values[m, b, :n].tolist() for m, name in enumerate(named)},
                "faithful": {name: _faithful(faith, m, b) for m, name in enumerate(named)},
                "spearman": plain_matrix(agree.spearman.values[:, :, b]),
            }
        )
    return rows


def _faithful(faith: xr.Dataset, m: int, b: int) -> dict[str, Any]:
    own: dict[str, Any] = {name: float(faith[f"aopc_{name}"][m, b]) for name in FAITHFULNESS}
    chance = {name: float(faith[f"chance_{name}"][b]) for name in FAITHFULNESS if f"chance_{name}" in faith}
    return own | {"chance": chance or None}


def _features_at(groups: Sequence[Sequence[int]], places: Mapping[str, tuple[int, int]]) -> list[str]:
    """The name of the place of each feature; an empty text for those in none."""
    return [
        next((name for name, (first, last) in places.items() if any(first <= p <= last for p in group)), "")
        for group in groups
    ]


def _method(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A method's faithfulness beyond random orders, over the prompts."""
    own = [row["faithful"][name] for row in rows]
    described: dict[str, Any] = {"name": name, "label": label_of(name)}
    described |= {measure: float(np.mean([one[measure] for one in own])) for measure in FAITHFULNESS}
    if any(one["chance"] is None for one in own):
        return described | {"lost": None, "left": None, "better": None}
    beyond = np.array([[one[m] - one["chance"][m] for m in FAITHFULNESS] for one in own])
    error = beyond.std(0, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.full(2, np.nan)
    for i, key in enumerate(("lost", "left")):
        described[key] = {
            "mean": float(beyond[:, i].mean()),
            "error": float(error[i]) if np.isfinite(error[i]) else None,
        }
    return described | {"better": int((beyond[:, 0] > 0).sum())}


def _mean_matrix(matrices: Sequence[Sequence[Sequence[float | None]]]) -> list[list[float | None]]:
    values = np.array(matrices, dtype=float)  # None is NaN
    counts = np.isfinite(values).sum(0)
    return plain_matrix(np.where(counts > 0, np.nansum(values, 0) / np.maximum(counts, 1), np.nan))


def _means(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], names: Sequence[Sequence[str]], key: str
) -> list[dict[str, Any]]:
    """Mean shares of the features of a name, over all prompts.

    Those that the methods point at most come first; sums of chance grow with the root of the count, so that is what
    shares are weighted by.
    """
    columns: dict[str, list[Any]] = {}
    for row, named in zip(rows, names, strict=True):
        free = ~np.array(row["special"])
        scores = np.abs(np.array([row["scores"][m] for m in methods])) * free
        shares = scores / np.maximum(scores.sum(1, keepdims=True), np.finfo(float).tiny)
        for i in np.flatnonzero(free).tolist():
            if named[i]:
                columns.setdefault(named[i], []).append((*shares[:, i], 1 / free.sum()))
    means = []
    for name, values in columns.items():
        *shares, even = np.mean(values, 0)
        one = {key: name, "count": len(values), "even": float(even)}
        means.append(one | {"share": {m: float(x) for m, x in zip(methods, shares, strict=True)}})
    return sorted(means, key=lambda row: (-max(row["share"].values()) * row["count"] ** 0.5, row[key]))
