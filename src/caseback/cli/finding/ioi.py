"""`caseback ioi`: which heads find the indirect object, with what effect."""

import json
import sys
from typing import Annotated

import typer

from caseback.cli.loading import DEFAULT_MODEL, quiet

LOOKS = {
    "end_to_io": "end→IO",
    "end_to_s1": "end→S1",
    "end_to_s2": "end→S2",
    "s2_to_s1": "S2→S1",
    "s2_to_s1_next": "S2→S1+1",
    "s1_next_to_s1": "S1+1→S1",
}


def ioi(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A bundled model, a folder, a hub id, or indirect_object (hand-made).")
    ] = DEFAULT_MODEL,
    count: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 100,
    corruption: Annotated[str, typer.Option(help="abc, name or swap: how the counterfactuals differ.")] = "abc",
    seed: Annotated[int, typer.Option(help="Same seed, same prompts.")] = 0,
    every: Annotated[bool, typer.Option("--all", help="List heads without a role too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all heads as JSON.")] = False,
) -> None:
    """Table the heads of indirect object identification: name movers, S-inhibition, induction and the like."""
    with quiet():
        from caseback.behaviors.indirect_object import ioi_heads

        loaded, prompts = _prompts(model, count, corruption, seed)
        found = ioi_heads(loaded, prompts, progress=sys.stderr.isatty())
    means = found.mean("batch")
    rows = [
        {
            "head": str(name),
            "role": str(found.role.values[i]),
            **{key: round(float(means[key][i]), 4) for key in found.data_vars},
        }
        for i, name in enumerate(found.component.values)
    ]
    if as_json:
        told = {"model": loaded.name, "prompts": len(prompts), "heads": rows}
        told |= {side: float(found[side].mean()) for side in ("clean", "corrupt")}
        typer.echo(json.dumps(told, allow_nan=False))
        return
    _print(loaded.name, found, rows, every)


def _prompts(name: str, count: int, corruption: str, seed: int):
    """The model and the task's prompts in its words."""
    from caseback.model.running.load import load
    from caseback.tasks.standard.indirect_object import ioi as task

    if name != "indirect_object":
        loaded = load(name)
        return loaded, task(corruption=corruption).prompts(loaded, count, seed=seed)
    from caseback.organisms.compiled import build
    from caseback.organisms.compiled.indirect_object import NAMES, TEMPLATES

    made = build(name).model
    spoken = task(corruption=corruption, templates=TEMPLATES).with_fillers(names=NAMES)
    return made, spoken.prompts(made, count, seed=seed)


def _print(name: str, found, rows: list[dict], every: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from caseback.views.numbers_text import percent, signed

    shown = [row for row in rows if row["role"] or every]
    console = Console()
    clean, corrupt = (float(found[side].mean()) for side in ("clean", "corrupt"))
    console.print(
        f"{name}: logit difference of IO over S {signed(clean)}, corrupt {signed(corrupt)}, "
        f"{found.sizes['batch']} prompts; mean effects on it, and mean attention",
        highlight=False,
    )
    if not shown:
        console.print("no head has a role: its attention or its effect is too small (--all lists them)")
        return
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("head", no_wrap=True)
    table.add_column("role", no_wrap=True)
    for title in ("direct", "total", "via movers"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("looks")
    for row in sorted(shown, key=lambda row: -abs(row["total"])):
        effects = (f"{row[key]:+.2f}" for key in ("direct", "total", "through_name_movers"))
        looks = [f"{LOOKS[key]} {percent(row[key])}" for key in LOOKS if row[key] > 0.1]
        table.add_row(row["head"], row["role"], *effects, ", ".join(looks))
    console.print(table)
