"""What a model, its prompts, a run of it and a metric are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caseback.model.anatomy.classes import Classes
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens, piece
from caseback.reports.summaries.summary import MOST_ROWS, Summary
from caseback.reports.tokens_text import visible
from caseback.tasks.prompts import Prompts

_MOST_TOKENS = 80
_FEW = 4


def of_model(model: Model) -> Summary:
    """Sizes, family and dtype."""
    about = model.provenance()
    heads = f"{model.n_heads}" + (f", {model.n_kv_heads} for keys" if model.n_kv_heads != model.n_heads else "")
    facts = {
        "family": f"{about['family']} ({about['model_class']})",
        "layers": str(model.n_layers),
        "heads a layer": heads,
        "d_model": f"{model.d_model:,}",
        "vocabulary": f"{model.d_vocab:,}",
        "context": "any" if model.context is None else f"{model.context:,}",
        "dtype, device": f"{about['dtype']}, {model.device}",
    }
    if "edits" in about:
        facts["under edits"] = about["edits"]
    return Summary(f"Model {model.name}", facts=facts, more='model.run("…", read=["pattern", "resid_post"])')


def of_tokens(tokens: Tokens) -> Summary:
    """The prompts, token by token."""
    n, longest = tokens.shape
    rows = []
    for i in range(min(n, MOST_ROWS)):
        text = tokens.text[i]
        shown = "|".join(visible(token) for token in text[:_MOST_TOKENS])
        rows.append((str(i), str(len(text)), shown + ("…" if len(text) > _MOST_TOKENS else "")))
    about = f"{n} prompt{'s' * (n != 1)}, {longest} tokens" + (" at most, padded" if tokens.padded else "")
    return Summary("Tokens", about, heads=("#prompt", "#tokens", "text"), rows=rows, left_out=max(0, n - MOST_ROWS))


def of_prompts(prompts: Prompts) -> Summary:
    """Prompts beside their counterfactuals, with what counts for and against."""
    rows = []
    for pair, clean, corrupt in list(zip(prompts.pairs, prompts.clean.text, prompts.corrupt.text, strict=True))[:_FEW]:
        answers = [_answers(pair.target), _answers(pair.foil)]
        rows.append((visible("".join(clean)), *answers, visible("".join(corrupt))))
    about = f"{len(prompts)} pairs" + (f" of {prompts.task}" if prompts.task else "") + f", metric {prompts.measure}"
    facts = {"places": ", ".join(prompts.spans)} if prompts.spans else {}
    facts |= {f"left out, {count:,}": reason for reason, count in prompts.dropped.items() if count}
    heads = ("prompt", "answer", "not", "counterfactual")
    return Summary(
        "Prompts", about, facts, heads, rows, len(prompts) - len(rows), "prompts.metric(model.run(prompts.clean))"
    )


def of_run(run: Run) -> Summary:
    """What it holds, and what the model predicts after each prompt."""
    n, longest = run.tokens.shape
    by_name: dict[str, list[int]] = {}
    for site in run.sites:
        by_name.setdefault(site.name, []).extend([] if site.layer is None else [site.layer])
    held = ", ".join(f"{name}{_layers(layers)}" for name, layers in sorted(by_name.items()))
    facts = {"sites": held or "none (read=[…] asks for some)"}
    if run.edited:
        facts["edited"] = "yes"
    heads, rows = _predictions(run)
    return Summary(
        "Run",
        f"{n} prompt{'s' * (n != 1)}, {longest} tokens",
        facts,
        heads,
        rows,
        max(0, n - MOST_ROWS) if rows else 0,
        "cb.views.attention(run, layer=0)" if "pattern" in by_name else 'run["resid_post", 0]',
    )


def of_metric(metric: Metric) -> Summary:
    """What it measures, and where."""
    facts = {"where": "all positions" if metric.pos is None else f"position {_short(metric.pos)}"}
    for name in ("target", "foil"):
        if getattr(metric, name) is not None:
            facts[name] = _short(getattr(metric, name))
    if metric.reads:
        facts["reads"] = _short(metric.reads)
    return Summary(f"Metric {metric.name}", facts=facts, more="metric(model.run(…)) gives a number for each prompt")


def _predictions(run: Run) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The three likeliest answers at each prompt's last token; none for a run that kept no logits."""
    if run._logits is None:
        return (), []
    n = min(len(run.tokens), MOST_ROWS)
    ends = run.tokens.column(-1)[:n].tolist()
    last = run.logits.detach()[list(range(n)), ends].float()
    likeliest = last.softmax(-1).topk(min(3, last.shape[-1]))
    rows = []
    for i, (shares, ids) in enumerate(zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)):
        end = visible("".join(run.tokens.text[i])[-40:])
        answers = [f"{visible(_named(run, a))} {_share(p)}" for a, p in zip(ids, shares, strict=True)]
        rows.append((str(i), end, ", ".join(answers)))
    return ("#prompt", "ends in", "the model's answers"), rows


def _named(run: Run, answer: int) -> str:
    classes: Classes | None = run.anatomy.classes
    return piece(run.anatomy.tokenizer, answer) if classes is None else str(classes.names[answer])


def _share(p: float) -> str:
    return "<0.1%" if 0 < p < 0.0005 else f"{100 * p:.1f}%"


def _layers(layers: list[int]) -> str:
    if not layers:
        return ""
    low, high = min(layers), max(layers)
    return f" {low}" if low == high else f" {low}–{high}" + ("" if len(layers) == high - low + 1 else " (some)")


def _answers(answers: Sequence[Any]) -> str:
    shown = ", ".join(visible(one) if isinstance(one, str) else str(one) for one in answers[:3])
    return shown + (" …" if len(answers) > 3 else "")


def _short(value: Any) -> str:
    text = visible(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
