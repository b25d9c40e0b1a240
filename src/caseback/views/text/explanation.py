"""An explanation in the terminal: the report's questions, in its order, as tables of at most 100 columns.

Whatever color says is also shown by characters (a side of a line, a sign, a word), so the view reads the same in a
pipe, under ``NO_COLOR`` and on a terminal without Unicode. Tables fit into 80 columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.explain_checks import baseline_words, correlation_words, verdict_of
from caseback.reports.explain_document import EXPLANATION
from caseback.reports.tables.components_table import leading_method, named_components, ranked_components
from caseback.reports.tables.lens_rows import BEFORE_ANY_LAYER
from caseback.reports.tables.strongest_places import strongest_places
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent, signed
from caseback.views.text.bars import ASCII, UNICODE, Glyphs, share_bar, signed_bar
from caseback.views.text.colors import AGAINST, SIGNED, SUPPORTS

__all__ = ["explanation_tables", "print_explanation"]

_WIDEST = 100
_MOST_PROMPT = 80  # how many of the prompt's last tokens are printed
_MOST_INPUTS = 30  # up to this many input tokens, all are listed
_LARGEST_INPUTS = 20  # of more, so many of the largest
_LARGEST_COMPONENTS = 14


@dataclass(frozen=True)
class _Page:
    explanation: Mapping[str, Any]
    width: int
    glyphs: Glyphs

    def token(self, text: str, cells: int, style: str = "") -> Text:
        return Text(self.clipped(visible(text), cells), style=style, no_wrap=True)

    def clipped(self, text: str, cells: int) -> str:
        text = self.glyphs.text(text)
        if cell_len(text) <= cells:
            return text
        room = cells - len(self.glyphs.ellipsis)
        return set_cell_size(text, room).rstrip() + self.glyphs.ellipsis

    def text(self, text: str, style: str = "") -> Text:
        return Text(self.glyphs.text(text), style=style)


@checked
def print_explanation(explanation: Mapping[str, Any], console: Console | None = None) -> None:
    """Print an explanation: predictions, lens, inputs, components with their ablations, and checks.

    Parameters
    ----------
    explanation
        An explanation document: what ``caseback.reports.explain.explain`` returns, or the same read from JSON.
    console
        Where to print; by default a new ``rich`` console on standard output, which obeys ``NO_COLOR``.

    Raises
    ------
    CasebackError
        If it is not an explanation document, or cannot be drawn truthfully; the message names the place.

    Examples
    --------
    ::

        print_explanation(explain(model, "The Eiffel Tower is in", target=" Paris", foil=" Rome"))
    """
    console = console or Console()
    for part in explanation_tables(explanation, width=console.width, ascii_only=console.options.ascii_only):
        # The text comes from the prompt: nothing in it may be highlighted or interpreted.
        console.print(part, highlight=False, markup=False, emoji=False)


@checked
def explanation_tables(
    explanation: Mapping[str, Any], *, width: int = 80, ascii_only: bool = False
) -> list[RenderableType]:
    """The parts of ``print_explanation`` as rich renderables, in order.

    Parameters
    ----------
    explanation
        An explanation document.
    width
        How many columns there are; more than 100 are not used.
    ascii_only
        Draw without Unicode.

    Raises
    ------
    CasebackError
        As for ``print_explanation``.

    Examples
    --------
    ::

        rich.console.Group(*explanation_tables(explanation))
    """
    views = (_question, _story, _predictions, _lens, _inputs, _components, _patching, _checks)
    with EXPLANATION.drawing(explanation):
        page = _Page(explanation, min(width, _WIDEST), ASCII if ascii_only else UNICODE)
        return [part for view in views for part in view(page)]


def _question(page: _Page) -> Iterator[RenderableType]:
    document = page.explanation
    model, target, foil = document["model"], document["target"], document["foil"]
    title = Text("Why ", style="bold")
    title.append_text(page.token(target["text"], 24, f"bold {SUPPORTS}"))
    title.append(" and not ")
    title.append_text(page.token(foil["text"], 24, f"bold {AGAINST}"))
    title.append("?")
    yield title
    shape = f"{model['n_layers']} layers × {model['n_heads']} heads"
    yield page.text(f"{visible(model['name'])} · {shape} · {model['dtype']}", "dim")
    yield _prompt(page)
    yield page.text(f"Logit difference {signed(document['metric']['value'])}", "bold")


def _prompt(page: _Page) -> Text:
    """The prompt, with the tokens that count most in color; spaces stay spaces, so that it wraps as text."""
    tokens, methods = page.explanation["tokens"], page.explanation["inputs"]["methods"]
    inputs = page.explanation["inputs"]
    scores = methods[leading_method(inputs)]["scores"] if methods else [0.0] * len(tokens)
    most = _most(scores)
    first = max(0, len(tokens) - _MOST_PROMPT)
    prompt = Text()
    prompt.append(page.glyphs.text("… ") if first else "", style="dim")
    for token, score in zip(tokens[first:], scores[first:], strict=True):
        share = abs(score) / most
        color = SIGNED[score > 0] if share > 0.3 else ""
        text = page.glyphs.text(visible(token["text"]).replace("␣", " "))
        prompt.append(text, style=f"bold {color}".strip() if share > 0.65 else color)
    return prompt


def _story(page: _Page) -> Iterator[RenderableType]:
    """The paragraph, both versions of the prompt, the parts that carry it, and whether it held elsewhere."""
    story = page.explanation["story"]
    if story is None:
        return
    yield _heading(page, "What happened", f"{story['depth']}, as much as {story['forwards']:.0f} plain forwards")
    for sentence in story["sentences"]:
        yield Padding(page.text(sentence["text"]), (0, 0, 0, 2))
    one = story["counterfactual"]
    if one is None:
        return
    changed = ", ".join(f"{visible(c['old'])} {page.glyphs.text('→')} {visible(c['new'])}" for c in one["changes"])
    yield _note(page, f"counterfactual ({one['way']}): {changed}; --corrupt or --swap gives another")
    others = [f"{visible(c['old'])} to {visible(c['new'])}" for o in story["runners_up"] for c in o["changes"][:1]]
    if others:
        yield _note(page, f"next best: {', '.join(others)}")
    if story["parts"]:
        table = _table(
            ("part", "left"), ("denoising", "right"), ("noising", "right"), ("direct", "right"), ("", "left")
        )
        for part in story["parts"]:
            direct = "" if part["direct"] is None else signed(part["direct"])
            numbers = (signed(part["denoising"]), signed(part["noising"]), direct)
            role = ", ".join([part["role"], *part.get("known", ())])
            table.add_row(page.text(part["name"]), *map(page.glyphs.text, numbers), page.text(role))
        yield table
    for check in story["checks"]:
        yield _note(page, f"{verdict_of(check)}: {check['name']}, {check['value']:.2f} ({check['detail']})")


def _predictions(page: _Page) -> Iterator[RenderableType]:
    document = page.explanation
    yield _heading(page, "Most likely next tokens")
    table = _table(("token", "left"), ("", "left"), ("p", "right"), ("logit", "right"))
    width = max(10, page.width - 48)
    largest = max((token["prob"] for token in document["predictions"]), default=1.0)
    for token in document["predictions"]:
        style = {document["target"]["id"]: SUPPORTS, document["foil"]["id"]: AGAINST}.get(token["id"], "")
        bar = share_bar(token["prob"] / largest, width, page.glyphs, style)
        logit = page.text(number(token["logit"]))
        table.add_row(page.token(token["text"], 20, style), bar, percent(token["prob"]), logit)
    yield table


def _lens(page: _Page) -> Iterator[RenderableType]:
    document, lens = page.explanation, page.explanation["lens"]
    at = document["position"]
    after_layers = [x for x, layer in zip(lens["logit_diff"], lens["layers"], strict=True) if layer != BEFORE_ANY_LAYER]
    most = _most(after_layers)
    yield _heading(page, "What each layer already knew", f"{lens.get('kind', 'logit')} lens at position {at}")
    target, foil = (page.clipped(visible(document[key]["text"]), 7) for key in ("target", "foil"))
    widest = max(row[at] for name in ("target_rank", "foil_rank") for row in lens[name])
    half = max(3, min(10, (page.width - 62 - 2 * max(4, len(str(widest)))) // 2))
    table = _table(
        ("\nafter", "left"),
        ("\ntop token", "left"),
        ("\np", "right"),
        (f"{target}\np", "right"),
        ("\nrank", "right"),
        (f"{foil}\np", "right"),
        ("\nrank", "right"),
        ("logit\ndiff.", "right"),
        ("", "left"),
    )
    for row, layer in reversed(list(enumerate(lens["layers"]))):  # upwards, as on the page
        embedded = layer == BEFORE_ANY_LAYER
        difference = lens["logit_diff"][row]
        table.add_row(
            layer,
            page.token(lens["top_text"][row][at][0], 12),
            percent(lens["top_prob"][row][at][0]),
            Text(percent(lens["target_prob"][row][at]), style=SUPPORTS),
            str(lens["target_rank"][row][at]),
            Text(percent(lens["foil_prob"][row][at]), style=AGAINST),
            str(lens["foil_rank"][row][at]),
            page.text(signed(difference)),
            "" if embedded else signed_bar(difference / most, half, page.glyphs, SIGNED),
            style="dim" if embedded else "",
        )
    yield table
    if BEFORE_ANY_LAYER in lens["layers"]:
        yield _note(page, f"{BEFORE_ANY_LAYER}: the token itself, before any layer has run; no answer yet")


def _inputs(page: _Page) -> Iterator[RenderableType]:
    tokens, methods = page.explanation["tokens"], page.explanation["inputs"]["methods"]
    shown = _largest_inputs(len(tokens), methods)
    aside = f"the {len(shown)} largest of {len(tokens)} tokens" if len(shown) < len(tokens) else ""
    yield _heading(page, "Which inputs", aside)
    # Two methods side by side still leave room for bars in 80 columns.
    for start in range(0, len(methods), 2):
        pair = methods[start : start + 2]
        half = max(3, min(10, (page.width - 28 - 12 * len(pair)) // (2 * len(pair))))
        table = _table(("", "right"), ("token", "left"))
        for method in pair:
            table.add_column(page.text(method["label"]), no_wrap=True, overflow="ellipsis")
            table.add_column("", justify="right", no_wrap=True)
        for index in shown:
            cells: list[RenderableType] = [str(index), page.token(tokens[index]["text"], 16)]
            for method in pair:
                score = method["scores"][index]
                cells.append(signed_bar(score / _most(method["scores"]), half, page.glyphs, SIGNED))
                cells.append(page.text(signed(score)))
            table.add_row(*cells)
        yield table
    for method in methods:
        yield _note(page, f"{method['label']}: {_account(method)}")
    compared = page.explanation["inputs"].get("comparison")
    if compared is not None:
        yield _note(page, _trust(methods, compared))


def _trust(methods: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]) -> str:
    """What the metric loses on average as each method's highest tokens are removed, and in random orders."""
    lost = [f"{m['label']} {signed(x)}" for m, x in zip(methods, compared["comprehensiveness"], strict=True)]
    chance = "" if compared["chance"] is None else f"; random {signed(compared['chance']['comprehensiveness']['mean'])}"
    return f"Lost without the highest tokens (AOPC): {', '.join(lost)}{chance}"


def _largest_inputs(n: int, methods: Sequence[Mapping[str, Any]]) -> list[int]:
    if n <= _MOST_INPUTS or not methods:
        return list(range(n))
    shares = [_shares(method["scores"]) for method in methods]
    size = [max(column) for column in zip(*shares, strict=True)]
    return sorted(sorted(range(n), key=lambda i: -size[i])[:_LARGEST_INPUTS])


def _account(method: Mapping[str, Any]) -> str:
    parts = [f"sums to {signed(sum(method['scores']))}"]
    if "steps" in method:
        parts.append(f"{method['steps']} steps from the {baseline_words(method.get('baseline', 'given'))}")
    if method.get("completeness_gap") is not None:
        parts.append(f"completeness gap {signed(method['completeness_gap'])}")
    return ", ".join(parts)


def _components(page: _Page) -> Iterator[RenderableType]:
    document, components = page.explanation, page.explanation["components"]
    effects = {row["name"]: row["effect"] for row in document["ablations"]["rows"]}
    ranked = ranked_components(components, effects)
    shown, rest = ranked[:_LARGEST_COMPONENTS], ranked[_LARGEST_COMPONENTS:]
    most = _most([value for _, value in shown] + list(effects.values()))
    half = max(3, min(10, (page.width - 40) // 4))
    kind = document["ablations"]["kind"]
    yield _heading(
        page, "Which components", f"lost with {kind}-ablation, the most first; and what each writes directly"
    )
    table = _table(("component", "left"), ("ablated", "left"), ("", "right"), ("direct", "left"), ("", "right"))
    for name, value in shown:
        effect = effects.get(name)
        table.add_row(
            name,
            "" if effect is None else signed_bar(effect / most, half, page.glyphs, SIGNED),
            page.text("not run", "dim") if effect is None else page.text(signed(effect)),
            signed_bar(value / most, half, page.glyphs, SIGNED),
            page.text(signed(value)),
        )
    if rest:
        others = [abs(effects[name]) for name, _ in rest if name in effects]
        at_most = f"each at most {number(max(others))}" if others else ""
        direct = page.text(signed(sum(value for _, value in rest)))
        table.add_row(f"{len(rest)} others", page.text(at_most, "dim"), "", "", direct)
    table.add_row("sum", "", "", "", page.text(signed(sum(named_components(components).values())), "bold"))
    yield table
    spearman = document["ablations"]["spearman"]
    agreement = ""
    if spearman is not None:
        words = correlation_words(spearman)
        agreement = f"; rank correlation of direct and ablated {number(spearman)} ({words})"
    yield _note(page, f"direct: gap to the logit difference {signed(components['gap'])}{agreement}")


def _patching(page: _Page) -> Iterator[RenderableType]:
    patching = page.explanation["patching"]
    if patching is None:
        return
    yield _heading(page, "Where the answer comes back", "clean activations in the corrupt run")
    tokens = page.explanation["tokens"]
    changed = [
        f"{visible(a['text'])} for {visible(b['text'])}"
        for a, b in zip(tokens, patching["corrupt"], strict=True)
        if a["id"] != b["id"]
    ]
    metric_values = f"clean {signed(patching['clean_metric'])}, corrupt {signed(patching['corrupt_metric'])}"
    yield _note(page, f"{', '.join(changed)}; {metric_values}")
    places = strongest_places(patching, _LARGEST_COMPONENTS)
    most = _most([value for *_, value in places])
    half = max(3, min(14, (page.width - 66) // 2))
    table = _table(("patched", "left"), ("at", "left"), ("recovered", "left"), ("", "right"))
    for what, where, value in places:
        bar = signed_bar(value / most, half, page.glyphs, SIGNED)
        table.add_row(what, page.text(page.clipped(where, 16)), bar, page.text(signed(value)))
    yield table


def _checks(page: _Page) -> Iterator[RenderableType]:
    yield _heading(page, "Did the claims hold?")
    table = _table(("", "left"), ("check", "left"), ("value", "right"), ("limit", "right"))
    table.columns[1].no_wrap = False
    words = {
        "held": (f"{page.glyphs.held} held", "green"),
        "weak": (f"{page.glyphs.weak} weak", "yellow"),
        "failed": (f"{page.glyphs.failed} FAILED", "bold red"),
    }
    for check in page.explanation["checks"]:
        verdict = Text(*words[verdict_of(check)])
        name = page.text(check["name"])
        if check["detail"]:
            name.append_text(page.text(f"\n{check['detail']}", "dim"))
        table.add_row(verdict, name, page.text(number(check["value"])), page.text(f"{check['limit']:.3g}"))
    yield table


def _heading(page: _Page, title: str, aside: str = "") -> Text:
    heading = page.text(f"\n{title}", "bold")
    return heading.append_text(page.text(f"  {aside}", "dim not bold")) if aside else heading


def _note(page: _Page, text: str) -> Padding:
    return Padding(page.text(text, "dim"), (0, 1))


def _table(*columns: tuple[str, Literal["left", "right"]]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=True, header_style="dim", show_edge=False)
    for title, justify in columns:
        table.add_column(Text(title), justify=justify, no_wrap=True, overflow="ellipsis")
    return table


def _shares(values: Sequence[float]) -> list[float]:
    most = _most(values)
    return [abs(value) / most for value in values]


def _most(values: Sequence[float]) -> float:
    """The largest absolute value, or 1 if all are zero: bars are relative to it."""
    return max((abs(value) for value in values), default=0.0) or 1.0
