"""A story: one answer of one prompt, from the words that move it to the parts that carry it, with checks.

The order is that of cause: does the model prefer the answer at all; which change of the prompt moves it; which words
matter; through which places of the stream it comes; which heads and MLPs carry it, and which work against it; which
circuit is enough; and does all of that hold on other prompts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caseback.errors import CasebackError, NothingToReplace
from caseback.jobs.warned import heard
from caseback.localize.components.self_repair import self_repair
from caseback.localize.counterfactuals.finding import find
from caseback.localize.counterfactuals.fresh import fresh_pairs
from caseback.localize.counterfactuals.results import Change, Counterfactual, Counterfactuals
from caseback.localize.counterfactuals.swapping import rows_of
from caseback.localize.counterfactuals.words import words_of
from caseback.model.prompts.pairs import counterfactuals
from caseback.model.running.metrics import Metric, logit_diff
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.reports.story import thresholds
from caseback.reports.story.depths import Depth
from caseback.reports.story.preference import margins, preference
from caseback.reports.story.readings import readings
from caseback.reports.story.smallest_circuit import smallest_circuit
from caseback.reports.story.traces import Part, Traces, by_position, hops, traced
from caseback.reports.story.trying import tried

RUNNERS_UP = 5


def found_for(
    model: Model, tokens: Tokens, target: str | int | None, foil: str | int | None, corrupt: Tokens | None, depth: Depth
) -> tuple[Counterfactuals | None, Counterfactual | None]:
    """The search for counterfactuals, and the one that the story takes: the given one where there is one.

    None and None where the prompt has nothing that could be replaced.
    """
    try:
        search = find(model, tokens, target=target, foil=foil, k=depth.k)
    except NothingToReplace:
        search = None
    if corrupt is None:
        return search, None if search is None else search.best
    return search, _given(model, tokens, corrupt, target, foil)


def story_of(
    model: Model,
    tokens: Tokens,
    target: int,
    foil: int,
    search: Counterfactuals | None,
    one: Counterfactual | None,
    depth: Depth,
    *,
    seed: int = 0,
) -> tuple[dict[str, Any], Traces | None]:
    """Measure the story of a target against a foil, as plain data without its sentences, and what was exchanged for it.

    Nothing but the preference is measured where the model does not prefer the target, or nothing moves the answer.
    """
    metric = logit_diff(target, foil)
    final = model.run(tokens).logits[0].detach()
    story: dict[str, Any] = {
        "target": {"id": target, "text": model.token_text(target)},
        "foil": {"id": foil, "text": model.token_text(foil)},
        "n_layers": model.n_layers,
        "measured": 0 if search is None else len(search.rows),
        "preference": preference(model, tokens, (target, foil), final[-1], search, one, depth, seed),
        "counterfactual": None,
        "runners_up": [],
        "words": [],
        "hops": [],
        "parts": [],
        "circuit": None,
        "checks": [],
        "unmeasured": {},
    }
    if one is None or not story["preference"]["prefers"]:
        return story, None
    traces = traced(model, tokens, one.tokens, metric, rows=depth.rows, most=depth.exchanged)
    story["counterfactual"] = _described(one) | {"clean": traces.clean, "corrupt": traces.corrupt}
    unlike = lambda o: o.pos != one.pos or o.foil != one.foil  # noqa: E731
    others = [] if search is None else [o for o in search.all if o.moves and unlike(o)]
    story["runners_up"] = [_described(other) for other in others[:RUNNERS_UP]]
    story["words"] = [] if search is None else _words(search, (target, foil), traces)
    named = traces.named[: depth.parts]
    heads = [part for part in named if part.head >= 0]
    by_head = readings(model, tokens, heads, by_position(model, tokens, metric, traces, heads))
    repairs, why = _repairs(model, tokens, metric, named)
    reasons = {"direct effects": traces.indirect, "self-repair": why} | passed_over(traces)
    story["unmeasured"] |= {what: reason for what, reason in reasons.items() if reason}
    story["hops"] = [vars(hop) for hop in hops(traces.stream, traces.layers)]
    story["stream"], story["stream_layers"] = traces.stream.tolist(), list(traces.layers)
    story["parts"] = [_of_part(part, by_head, repairs) for part in named]
    story["left_out"] = max(0, len(traces.named) - len(named))
    mask = None
    if depth.sizes and not model.anatomy.family.unsummed:
        try:
            story["circuit"], mask = smallest_circuit(model, tokens, one.tokens, metric, depth, seed)
        except CasebackError as error:  # a metric that is flat between the two: attention is saturated
            story["unmeasured"]["a circuit"] = str(error)
    if depth.fresh and search is not None:
        log_prob = final.float().log_softmax(-1)
        pairs = fresh_pairs(model, tokens, search.words, one, target, log_prob, depth.fresh, seed=seed)
        story["checks"] = tried(model, tokens, target, traces, named, pairs, others[: depth.others], mask, depth)
    return story, traces


def _given(
    model: Model, tokens: Tokens, corrupt: Tokens, target: str | int | None, foil: str | int | None
) -> Counterfactual:
    """A counterfactual that was given, aligned with the prompt."""
    other = counterfactuals(model, tokens, corrupt)
    theirs = other.ids[0][other.mask[0]].cpu().numpy()
    own = tokens.ids[0].cpu().numpy()
    changes = []
    for word in words_of(model, tokens):
        ids = tuple(theirs[list(word.pos)].tolist())
        if ids != word.ids:
            changes.append(Change(word, "".join(model.token_text(i) for i in ids), ids))
    if not changes:
        raise CasebackError("clean and corrupt are the same prompt: give a counterfactual that differs from it")
    after = model.run(other).logits[0, int(other.column(-1)[0])].detach()
    f = int(after.argmax()) if foil is None else model.token_id(foil, "foil")
    row = rows_of(model, np.where(own == theirs, own, theirs)[None])
    size = float(sum(len(change.ids) for change in changes))
    return Counterfactual(row, tuple(changes), "given", f, model.token_text(f), 0.0, 0.0, 0.0, size, 0.0, True)


def _described(one: Counterfactual) -> dict[str, Any]:
    return {
        "way": one.way,
        "changes": [{"pos": list(c.word.pos), "old": c.word.text, "new": c.text} for c in one.changes],
        "tokens": [
            {"id": i, "text": text} for i, text in zip(one.tokens.ids[0].tolist(), one.tokens.text[0], strict=True)
        ],
        "answer": {"id": one.foil, "text": one.foil_text},
        "clean": one.clean,
        "corrupt": one.corrupt,
        "effect": one.effect,
        "size": one.size,
    }


def _words(search: Counterfactuals, contrast: tuple[int, int], traces: Traces) -> list[dict[str, Any]]:
    """What replacing each word takes away, the mean over what was put in its place, the largest first."""
    lost = (traces.clean - margins(search.logits, contrast)) / (traces.clean - traces.corrupt)
    rows = []
    for w in np.unique(search.of_word[search.of_word >= 0]).tolist():
        mine = lost[search.of_word == w]
        word = search.words[w]
        rows.append(
            {
                "pos": list(word.pos),
                "text": word.text,
                "share": float(mine.mean()),
                "least": float(mine.min()),
                "most": float(mine.max()),
                "tried": len(mine),
            }
        )
    return sorted(rows, key=lambda row: -row["share"])


def _repairs(
    model: Model, tokens: Tokens, metric: Metric, named: Sequence[Part]
) -> tuple[Mapping[str, list[dict[str, Any]]], str]:
    """For each part that acts on the logits, which later parts make up for it when it is silenced; or why not."""
    direct = [part for part in named if part.direct is not None and abs(part.direct) >= thresholds.PART]
    if not direct:
        return {}, ""
    names = [part.name for part in direct]
    try:
        with warnings.catch_warnings(), heard():
            warnings.simplefilter("ignore", UserWarning)
            result = self_repair(model, tokens, metric, components=names, kind="zero").isel(batch=0)
    except CasebackError as error:  # no sums, or a metric behind a soft-cap
        return {}, str(error)
    repairs: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        lost = float(result.direct.sel(component=name))
        if lost <= 0:
            continue
        gains = result.compensation.sel(component=name)
        rows = [
            {"name": str(path), "share": float(gain) / lost}
            for path, gain in zip(gains.path.values, gains.values, strict=True)
            if float(gain) / lost >= thresholds.REPAIR
        ]
        repairs[name] = sorted(rows, key=lambda row: -row["share"])
    return repairs, ""


def passed_over(traces: Traces) -> dict[str, str]:
    """What the depth left out, and by which rule."""
    count, between = traces.n_parts - len(traces.parts), traces.layers[1] - traces.layers[0]
    parts = f"{count} of {traces.n_parts} heads and MLPs"
    return {
        parts: f"attribution patching ranks them below the {len(traces.parts)} that were exchanged" if count else "",
        "the stream in all layers": f"it was exchanged before one in {between}" if between > 1 else "",
    }


def _of_part(part: Part, by_head: Mapping[str, Any], repairs: Mapping[str, Any]) -> dict[str, Any]:
    seen = by_head.get(part.name, {"at": None, "share_there": None, "looks": [], "writes": []})
    return {
        "name": part.name,
        "layer": part.layer,
        "head": part.head if part.head >= 0 else None,
        "role": part.role,
        "share": part.share,
        "denoising": part.denoising,
        "noising": part.noising,
        "direct": part.direct,
        **seen,
        "repaired_by": repairs.get(part.name, []),
    }
