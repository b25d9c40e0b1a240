"""Tasks in the terminal: the table of all, and one task's examples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked, drawn_from
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import signed
from caseback.views.text.bars import ASCII, UNICODE

__all__ = ["print_task_examples", "print_tasks"]


@checked
@drawn_from("a row of tasks", "task_rows")
def print_tasks(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows of ``task_rows`` as a table."""
    table = Table(title=f"Tasks: {len(rows)}", title_justify="left")
    table.add_column("task", no_wrap=True)
    table.add_column("about", overflow="fold")
    table.add_column("metric", no_wrap=True)
    table.add_column("entry", no_wrap=True)
    for row in rows:
        table.add_row(row["name"], row["about"], row["metric"], row["entry"])
    _console().print(table)


@checked
@drawn_from("a task", "task_examples")
def print_task_examples(shown: Mapping[str, Any]) -> None:
    """Print what ``task_examples`` gave, and ``model``: prompts with their named positions, answers, metric."""
    console = _console()
    plain = (ASCII if console.options.ascii_only else UNICODE).text
    primer = "; ".join(filter(None, (f"Primer {shown['entry']}" if shown["entry"] else "", shown["citation"])))
    console.print(Text(f"{shown['task']} ({primer})" if primer else shown["task"], style="bold"))
    console.print(Text(plain(shown["about"])))
    table = Table(show_lines=True)
    table.add_column("", no_wrap=True)
    table.add_column("prompt, with the named positions", overflow="fold")
    table.add_column(shown["metric"], justify="right", no_wrap=True)
    for number, example in enumerate(shown["examples"], 1):
        for side, target, foil in (("clean", "target", "foil"), ("corrupt", "corrupt_target", "")):
            prompt = _marked(example[side], example["positions"], plain)
            answers = [_some(example[what], plain) for what in (target, foil) if example.get(what)]
            if answers:
                prompt.append(f"\n-> {', not '.join(answers)}", style="bold")
            label = f"{number if side == 'clean' else '':>{len(str(len(shown['examples'])))}} {side}"
            table.add_row(Text(label), prompt, Text(plain(signed(example["metric"][side]))))
    console.print(table)
    means = ", ".join(f"{side} {signed(value)}" for side, value in shown["mean"].items())
    console.print(Text(plain(f"mean {shown['metric']} of {len(shown['examples'])} on {shown['model']}: {means}")))
    for reason, number in shown["dropped"].items():
        console.print(Text(plain(f"left out: {number} {reason}"), style="dim"))


def _marked(tokens: list[str], positions: dict[str, list[int]], plain: Callable[[str], str]) -> Text:
    """The prompt's text, every named word in brackets after its name."""
    begins = {first: name for name, (first, _) in positions.items() if name != "end"}
    ends = {last for name, (_, last) in positions.items() if name != "end"}
    shown, inside = Text(), False
    for at, token in enumerate(tokens):
        text = plain(token if token and token.isprintable() else visible(token))
        if at in begins:
            word = text.lstrip(" ")
            shown.append(text[: len(text) - len(word)]).append(f"[{begins[at]}: ", style="dim")
            text, inside = word, True
        shown.append(text, style="bold" if inside else "")
        if at in ends:
            shown.append("]", style="dim")
            inside = False
    return shown


def _some(answers: list[str], plain: Callable[[str], str]) -> str:
    shown = ", ".join(plain(visible(answer)) for answer in answers[:3])
    return shown if len(answers) <= 3 else f"{shown}, ... ({len(answers)} in all)"


def _console() -> Console:
    # a pipe has no width of its own, and 80 columns would fold every cell
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False, emoji=False)
