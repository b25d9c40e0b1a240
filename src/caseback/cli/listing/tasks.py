"""`caseback tasks`: the field's standard prompts; one task's examples with their places, answers and metric."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.jobs.budget import limit


def tasks(
    name: Annotated[
        str | None, typer.Argument(help="The task to show examples of; all are listed without.", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    count: Annotated[int, typer.Option(min=1, help="How many examples are drawn and measured.")] = 5,
    seed: Annotated[int, typer.Option(help="Same seed, same tokenizer, same examples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the tasks, or show one: clean and corrupt prompts, named positions, answers, the model's metric."""
    if name is None:
        rows = _listed()
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
        else:
            _print_list(rows)
        return
    with quiet():
        from caseback import tasks as all_tasks
        from caseback.model.running.load import load

        task = all_tasks.get(name)
        made = _measured(task, load(model), count, seed) | {"model": model}
    if as_json:
        # ASCII, since a token may be half a character, which no encoding can print
        typer.echo(json.dumps(made, allow_nan=False))
    else:
        _print_examples(made)


def _listed() -> list[dict[str, Any]]:
    from inspect import signature

    from caseback import tasks as all_tasks

    made = [(all_tasks.get(name), signature(all_tasks.maker(name))) for name in all_tasks.names()]
    return [
        {
            "name": task.name,
            "about": task.about,
            "entry": task.entry,
            "metric": task.measure,
            "citation": task.citation,
            "options": list(options.parameters),
        }
        for task, options in made
    ]


def _measured(task: Any, loaded: Any, count: int, seed: int) -> dict[str, Any]:
    """Examples with the task's metric on the clean and the corrupt prompt."""
    import torch

    from caseback.model.running.tokens import piece

    prompts = task.prompts(loaded, count, seed=seed)
    values: dict[str, list[float]] = {"clean": [], "corrupt": []}
    with torch.no_grad():
        at_once = limit("task_prompts")
        for start in range(0, len(prompts), at_once):
            some = prompts[start : start + at_once]
            for side, found in values.items():
                found += some.metric(loaded.run(getattr(some, side))).tolist()
    mean = {side: sum(found) / len(found) for side, found in values.items()}
    positions = {where: span.tolist() for where, span in prompts.spans.items()}
    answers = {
        what: [[piece(loaded.tokenizer, token) for token in ids] for ids in getattr(prompts, what)]
        for what in ("target", "foil", "corrupt_target")
    }
    examples = [
        {
            "group": pair.group,
            "clean": prompts.clean.text[i],
            "corrupt": prompts.corrupt.text[i],
            "positions": {where: span[i] for where, span in positions.items()},
            **{what: told[i] for what, told in answers.items()},
            "metric": {side: found[i] for side, found in values.items()},
        }
        for i, pair in enumerate(prompts.pairs)
    ]
    return {
        "task": task.name,
        "about": task.about,
        "entry": task.entry,
        "citation": task.citation,
        "metric": task.measure,
        "seed": seed,
        "mean": mean,
        "dropped": dict(prompts.dropped),
        "examples": examples,
    }


def _print_list(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(title=f"Tasks: {len(rows)}", title_justify="left")
    table.add_column("task", no_wrap=True)
    table.add_column("about", overflow="fold")
    table.add_column("metric", no_wrap=True)
    table.add_column("entry", no_wrap=True)
    for row in rows:
        table.add_row(row["name"], row["about"], row["metric"], row["entry"])
    _console().print(table)


def _print_examples(made: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from caseback.views.numbers_text import signed
    from caseback.views.text.bars import ASCII, UNICODE

    console = _console()
    plain = (ASCII if console.options.ascii_only else UNICODE).text
    primer = "; ".join(filter(None, (f"Primer {made['entry']}" if made["entry"] else "", made["citation"])))
    console.print(Text(f"{made['task']} ({primer})" if primer else made["task"], style="bold"))
    console.print(Text(plain(made["about"])))
    table = Table(show_lines=True)
    table.add_column("", no_wrap=True)
    table.add_column("prompt, with the named positions", overflow="fold")
    table.add_column(made["metric"], justify="right", no_wrap=True)
    for number, example in enumerate(made["examples"], 1):
        for side, target, foil in (("clean", "target", "foil"), ("corrupt", "corrupt_target", "")):
            prompt = _marked(example[side], example["positions"], plain)
            answers = [_some(example[what], plain) for what in (target, foil) if example.get(what)]
            if answers:
                prompt.append(f"\n-> {', not '.join(answers)}", style="bold")
            label = f"{number if side == 'clean' else '':>{len(str(len(made['examples'])))}} {side}"
            table.add_row(Text(label), prompt, Text(plain(signed(example["metric"][side]))))
    console.print(table)
    means = ", ".join(f"{side} {signed(value)}" for side, value in made["mean"].items())
    console.print(Text(plain(f"mean {made['metric']} of {len(made['examples'])} on {made['model']}: {means}")))
    for reason, number in made["dropped"].items():
        console.print(Text(plain(f"left out: {number} {reason}"), style="dim"))


def _marked(tokens: list[str], positions: dict[str, list[int]], plain: Callable[[str], str]) -> Any:
    """The prompt's text, every named word in brackets after its name."""
    from rich.text import Text

    from caseback.reports.tokens_text import visible

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
    from caseback.reports.tokens_text import visible

    shown = ", ".join(plain(visible(answer)) for answer in answers[:3])
    return shown if len(answers) <= 3 else f"{shown}, ... ({len(answers)} in all)"


def _console() -> Any:
    from rich.console import Console

    # a pipe has no width of its own, and 80 columns would fold every cell
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False, emoji=False)
