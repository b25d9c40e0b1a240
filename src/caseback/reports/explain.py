"""``explain``: why did the model predict this and not that? One prompt, one document, and checks of its claims.

Its head is the causal story (``reports.story``); the sections behind it are evidence of other kinds: what each layer
already knew (logit lens), which input tokens count (gradient x input, integrated gradients), which components wrote the
answer (direct logit attribution) and what happens without them (ablation), all for one metric: the logit difference of
target and foil at the prompt's end. The document is plain data, so the report, the terminal and JSON show the same
numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from caseback.behaviors.atlas import Atlas
from caseback.decode.vocabulary.lenses.lens import Lens
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.jobs.warned import heard
from caseback.localize.components.ablation import ablate
from caseback.localize.components.logit_attribution import logit_attribution
from caseback.localize.counterfactuals.aligning import cut_alike
from caseback.localize.inputs.gradients.gradients import gradient_x_input
from caseback.localize.inputs.gradients.integrated_gradients import integrated_gradients
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.graph.names import Name, head_name
from caseback.model.prompts.masked_prompts import special_tokens
from caseback.model.running.metrics import Metric, logit_diff
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.targets import target_and_foil
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.sweeping.shared_passes import share, shared_passes
from caseback.reports.comparison import comparison
from caseback.reports.explain_checks import Evidence, checks, rank_correlation
from caseback.reports.explain_document import EXPLANATION
from caseback.reports.explain_patching import patching
from caseback.reports.model_facts import model_facts
from caseback.reports.story.counting import counted
from caseback.reports.story.depths import depth_of
from caseback.reports.story.story import found_for, story_of
from caseback.reports.story.traces import Traces
from caseback.reports.story.words import sentences
from caseback.reports.tables.lens_section import lens_readings, lens_section
from caseback.reports.tables.likeliest import likeliest

__all__ = ["explain"]

ENTRY = {"zero": "3.2.10", "mean": "3.2.9"}
_PARTS = 6  # lens, input attributions, their comparison, ablations, patching, checks


@checked
@shared_passes()
def explain(
    model: Model,
    prompt: PromptsLike,
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    corrupt: PromptsLike | None = None,
    heads: int = 6,
    k: int = 5,
    ablation: str = "zero",
    over: PromptsLike | None = None,
    most_ablated: int = 512,
    baseline: Any = None,
    steps: int | None = None,
    max_steps: int | None = None,
    depth: str = "normal",
    atlas: Atlas | None = None,
    lens: Lens | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Explain why a model predicts ``target`` rather than ``foil`` after a prompt.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, a list of token ids, or ``Tokens``.
    target, foil
        The token explained and the one it is contrasted with, text or id; by default the model's first choice, and its
        first choice after the counterfactual, or where that is the target or there is no counterfactual, its first
        choice other than the target.
    corrupt
        A token-aligned counterfactual of the prompt, on which the story and the map of where the answer comes back
        rest. A word that has fewer tokens than its counterpart is cut into as many, if the answer keeps half of its
        logit difference then (not at depth ``"none"``). By default one is found
        (``cb.localize.counterfactuals.find``), unless ``depth`` is ``"none"``.
    heads
        How many heads to show with their attention patterns: those with the largest attribution and effect.
    k
        How many tokens the lens keeps at each place.
    ablation
        ``"zero"`` by default: with one prompt there is nothing to average over but the prompt itself, and the direct
        effect of silencing a component is its direct attribution, so claim and measurement are comparable. ``"mean"``
        replaces a component by its mean over the prompt's positions, or over the reference prompts ``over``.
    over
        Reference prompts for the mean ablation.
    most_ablated
        If a model has more heads and MLPs than this, only so many are ablated, by turns those with the largest direct
        attribution and those that the story finds to move the answer most; ``depth`` has a bound of its own.
    baseline, steps, max_steps
        As for ``integrated_gradients``: by default at most 64 points, laid where the metric changes. Given ``steps``
        are doubled up to ``max_steps`` (by default 8 times as many) while the completeness gap is above 2 % of the
        logit difference (or of 1, if that is larger). At depth ``"quick"`` there are none unless one of the three is
        given.
    depth
        How much of the causal story is measured: ``"quick"`` leaves out its circuit, its checks on other prompts and
        integrated gradients, and keeps the other sections short; ``"normal"``; ``"deep"`` tries more of everything;
        ``"none"`` has no story.
    atlas
        The model's atlas: what the story's parts are known for stands beside them.
    lens
        A fitted lens with a map for every layer, such as a tuned one, to say what each layer already knew; by default
        the logit lens.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The explanation document, plain JSON data; ``caseback.views.page.explanation.write_report`` and
        ``caseback.views.text.explanation.print_explanation`` draw it.

    Raises
    ------
    TokensError
        For an empty prompt, several prompts, or one longer than the context; for a counterfactual that is not aligned.
    TargetError
        For a target or foil that is not one token, or if the two are the same.
    CasebackError
        If the counterfactual has the same logit difference, or the atlas is of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> why = explain(model, "the cat and the dog", steps=10)
    >>> why["target"] == {name: why["predictions"][0][name] for name in ("id", "text")}
    True
    >>> all(check["passed"] for check in why["checks"] if "sum" in check["name"])
    True
    """
    expect_tokens_out(model.anatomy, "explain")
    if ablation not in ENTRY:
        raise CasebackError(f"ablation {ablation!r}: one prompt can be ablated by {' or '.join(map(repr, ENTRY))}")
    if heads < 0 or k < 1 or most_ablated < 1:
        raise OutOfRange(f"heads={heads}, k={k}, most_ablated={most_ablated}: expected 0, 1 and 1 or more")
    if atlas is not None:
        atlas.expect_of(model)
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise TokensError(f"{len(tokens)} prompts given: explain takes one at a time")
    tokens = tokens.padded_on("right") if tokens.padded else tokens
    deep, whole, cuts = depth_of(depth), tokens, []
    original = () if corrupt is None else model.tokens(corrupt).text[0]
    if corrupt is not None and deep is not None:
        tokens, corrupt, cuts = cut_alike(model, tokens, corrupt)
    share(model.anatomy, tokens)
    run = model.run(tokens, read=_read_by_many(model, tokens))
    final = run.logits[0, int(tokens.column(-1)[0])].detach()
    other, search, one, searched = None, None, None, 0.0
    if deep is not None:
        given = None if corrupt is None else model.tokens(corrupt)
        with counted(model, len(tokens.text[0])) as work:
            search, one = found_for(model, tokens, target, foil, given, deep)
        searched = work.forwards
        if one is not None and corrupt is None:
            corrupt = one.tokens
    if corrupt is not None:
        counterfactual = model.tokens(corrupt)
        share(model.anatomy, counterfactual)
        if foil is None and len(counterfactual) == 1:
            after = model.run(counterfactual, read=_read_by_many(model, counterfactual)).logits
            other = after[0, int(counterfactual.column(-1)[0])].detach()
    answer = model.run(whole).logits[0, -1].detach() if cuts else final
    t, f = target_and_foil(model, answer, target, foil, other)
    metric = logit_diff(t, f)
    value = float(metric(run)[0])
    if cuts and value < (uncut := float(answer[t] - answer[f])) / 2:
        pieces = "; ".join(f"{cut.text!r} cut into {' '.join(map(repr, cut.pieces))}" for cut in cuts)
        raise TokensError(
            f"the counterfactual has not as many tokens, and with {pieces} the answer's lead falls from {uncut:+.2f} "
            f"to {value:+.2f}: word the two alike. Prompt: {' '.join(map(repr, whole.text[0]))}; counterfactual: "
            f"{' '.join(map(repr, original))}"
        )

    most = most_ablated if deep is None else min(most_ablated, deep.ablated)
    with progress_bar(total=_PARTS, what="explain", unit="part", show=progress) as bar:
        knew = lens_readings(model, run, (t, f), lens, k)
        bar.update()
        by_gradient = gradient_x_input(model, tokens, metric)
        short = deep is not None and deep.short
        by_path = None
        if not short or any(given is not None for given in (baseline, steps, max_steps)):
            ends = deep.points if deep is not None and max_steps is None else max_steps
            by_path = _by_path(model, tokens, metric, baseline, _path_steps(steps, ends, value))
        bar.update()
        compared = None if short or by_path is None else _compared(model, tokens, metric, by_gradient, by_path)
        bar.update()
        of_lens = lens_section(knew)
        story, traces = None, None
        if deep is not None:
            with counted(model, len(tokens.text[0])) as work:
                story, traces = story_of(model, tokens, t, f, search, one, deep)
            for part in story["parts"]:
                part["known"] = [f"{f.kind} ({f.grade})" for f in atlas.of(part["name"])] if atlas else []
            story |= {"depth": depth, "forwards": searched + work.forwards}
            story["cuts"] = [vars(cut) | {"pieces": list(cut.pieces)} for cut in cuts]
            story["uncut"] = float(answer[t] - answer[f])
            story["sentences"] = sentences(story, tokens.text[0], of_lens)
        bar.update()
        shares = logit_attribution(model, tokens, metric).isel(batch=0)
        effects = _effects(model, tokens, metric, shares, traces, ablation, over, most, progress)
        claimed = shares.sel(component=effects.component)
        restored = (
            None
            if corrupt is None
            else patching(model, tokens, corrupt, metric, traces=traces, short=short, progress=progress)
        )
        bar.update()
        if by_path is not None and baseline is None:
            baseline = by_path.attrs["baseline"]
        evidence = Evidence(
            model, tokens, metric, run, (t, f), knew, by_path, baseline, shares, effects, ablation, over
        )
        outcomes = checks(evidence)
        bar.update()

    return EXPLANATION.document(
        model_facts(model),
        prompt=prompt if isinstance(prompt, str) else _joined(model, tokens),
        tokens=[{"id": i, "text": text} for i, text in zip(_ids(tokens), tokens.text[0], strict=True)],
        position=len(tokens.text[0]) - 1,
        target={"id": t, "text": model.token_text(t)},
        foil={"id": f, "text": model.token_text(f)},
        metric={"name": metric.name, "value": value},
        predictions=likeliest(model, final),
        lens=of_lens,
        inputs={
            "methods": [
                {
                    "name": "gradient_x_input",
                    "label": "Gradient × input",
                    "scores": by_gradient.values[0].tolist(),
                    "entry": by_gradient.attrs["entry"],
                },
                *([] if by_path is None else [_along_the_path(by_path)]),
            ],
            "comparison": compared,
        },
        components=_components(model, shares),
        heads=_heads(model, tokens, claimed, effects, heads),
        ablations={
            "kind": ablation,
            "rows": [
                {
                    "name": str(name),
                    "layer": layer,
                    "head": head if head >= 0 else None,
                    "attributed": attributed,
                    "effect": effect,
                }
                for name, layer, head, attributed, effect in zip(
                    effects.component.values,
                    effects["layer"].values.tolist(),
                    effects["head"].values.tolist(),
                    claimed.values.tolist(),
                    effects.values.tolist(),
                    strict=True,
                )
            ],
            "spearman": rank_correlation(claimed.values, effects.values),
            "entry": ENTRY[ablation],
        },
        story=story,
        patching=restored,
        checks=outcomes,
        provenance=_provenance(model, by_gradient),
    )


def _read_by_many(model: Model, tokens: Tokens) -> list[Site]:
    """Sites that several sections read, where the model has them; of patterns those that are no larger than z."""
    anatomy = model.anatomy
    maps = ["pattern"] if tokens.shape[1] <= model.d_head else []
    ends = [Site("embed"), Site("pos_embed"), Site("resid_pre", 0)]
    layered = [Site(name, layer) for name in ("z", "mlp_out", "resid_post", *maps) for layer in range(model.n_layers)]
    return [site for site in (*ends, *layered) if anatomy.has(site)]


def _along_the_path(by_path: xr.DataArray) -> dict[str, Any]:
    """Integrated gradients, with how far they are complete."""
    return {
        "name": "integrated_gradients",
        "label": "Integrated gradients",
        "scores": by_path.values[0].tolist(),
        "entry": by_path.attrs["entry"],
        "steps": by_path.attrs["steps"][0],
        "completeness_gap": by_path.attrs["completeness_gap"][0],
        "baseline": by_path.attrs["baseline"],
    }


def _by_path(model: Model, tokens: Tokens, metric: Metric, baseline: Any, steps: dict[str, Any]) -> xr.DataArray:
    with heard():  # one of the document's own checks says that they are incomplete, with the numbers
        return integrated_gradients(model, tokens, metric, baseline=baseline, **steps)


def _path_steps(steps: int | None, most: int | None, value: float) -> dict[str, Any]:
    """How integrated gradients find their points: where they are needed, or in equal steps of which there are more."""
    if steps is None:
        return {} if most is None else {"rule": "adaptive", "max_steps": most}
    return {
        "steps": steps,
        "tolerance": 0.02 * max(1.0, abs(value)),
        "max_steps": max(steps, 8 * steps if most is None else most),
    }


def _compared(
    model: Model, tokens: Tokens, metric: Metric, by_gradient: xr.DataArray, by_path: xr.DataArray
) -> dict[str, Any] | None:
    """Agreement and faithfulness of the input methods; None if the prompt has no token that may be replaced."""
    if bool(special_tokens(model, tokens).all()):
        return None
    both = xr.concat([by_gradient, by_path], "attribution", combine_attrs="drop", coords="minimal")
    both = both.assign_coords(attribution=["gradient_x_input", "integrated_gradients"])
    return comparison(model, tokens, metric, both, chance=4, points=6)


def _effects(
    model: Model,
    tokens: Tokens,
    metric: Metric,
    shares: xr.DataArray,
    traces: Traces | None,
    ablation: str,
    over: PromptsLike | None,
    most: int,
    progress: bool,
) -> xr.DataArray:
    """The effects of all heads and MLPs, or of those that rank first by attribution or in the story, in order."""
    units = shares[np.isin(shares.kind.values, ["head", "mlp"])]
    exchanged = {} if traces is None else {part.name: part.share for part in traces.parts}
    carried = np.array([exchanged.get(str(name), 0.0) for name in units.component.values])
    ranks = [np.argsort(np.argsort(-np.abs(x), kind="stable")) for x in (units.values, carried)]
    rank = ranks[0] if traces is None else np.minimum(*ranks)
    keep = np.sort(np.argsort(rank, kind="stable")[:most])
    names = units.component.values[keep].tolist()
    return ablate(model, tokens, metric, components=names, kind=ablation, over=over, progress=progress).isel(batch=0)


def _ids(tokens: Tokens) -> list[int]:
    return tokens.ids[0].tolist()


def _joined(model: Model, tokens: Tokens) -> str:
    return model.tokenizer.decode(_ids(tokens)) if model.tokenizer is not None else " ".join(map(str, _ids(tokens)))


def _components(model: Model, shares: xr.DataArray) -> dict[str, Any]:
    by_name = dict(zip(shares.component.values.tolist(), shares.values.tolist(), strict=True))
    width = max(p.dims.n_heads for p in model.anatomy.layers)
    layers = range(model.n_layers)
    return {
        # a layer with fewer heads than others writes nothing through the heads it lacks
        "head": [[by_name.get(head_name(layer, h), 0.0) for h in range(width)] for layer in layers],
        "mlp": [by_name[str(Name("mlp", layer))] for layer in layers],
        "attn_bias": [by_name.get(f"attn bias {layer}", 0.0) for layer in layers],
        "embed": by_name["embed"],
        "pos_embed": by_name.get("pos_embed"),
        "bias": by_name["bias"],
        "total": float(shares.sum()),
        "gap": shares.attrs["gap"][0],
        "entry": "3.2.2",
    }


def _heads(
    model: Model, tokens: Tokens, claimed: xr.DataArray, effects: xr.DataArray, most: int
) -> list[dict[str, Any]]:
    """The heads with the largest attribution and effect, each relative to the largest, with patterns while they fit."""
    is_head = effects.kind.values == "head"
    dla, effect = claimed.values * is_head, effects.values * is_head
    layers = effects["layer"].values.tolist()
    weight = sum(np.abs(x) / (np.abs(x).max() or 1.0) for x in (dla, effect))
    best = [int(i) for i in np.argsort(-weight, kind="stable") if is_head[i]][:most]
    n = len(tokens.text[0])
    patterned = [i for i in best if model.anatomy.has(Site("pattern", layers[i]))]
    entries = limit("page_pattern_entries")
    patterned = patterned[: max(1, entries // n**2)] if n**2 <= entries else []
    run = model.run(tokens, read=sorted({("pattern", layers[i]) for i in patterned}))
    return [
        {
            "layer": layers[i],
            "head": int(effects["head"][i]),
            "name": str(effects.component.values[i]),
            "dla": float(dla[i]),
            "ablation": float(effect[i]),
            "pattern": _pattern(run, layers[i], int(effects["head"][i])) if i in patterned else None,
        }
        for i in best
    ]


def _pattern(run: Run, layer: int, head: int) -> list[list[float]]:
    return run["pattern", layer][0, head].cpu().double().numpy().round(5).tolist()


def _provenance(model: Model, result: xr.DataArray) -> dict[str, str | int | float]:
    versions = {name: value for name, value in result.attrs.items() if name.endswith("_version")}
    return {**model.provenance(), "device": str(model.device), **versions}
