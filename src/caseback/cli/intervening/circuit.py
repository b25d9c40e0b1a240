"""`caseback circuit`: the edges that a task needs, found, judged, drawn, saved and compared."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.files import writable
from caseback.cli.loading import quiet
from caseback.cli.options import Ablation, Json, Listed, Method, OfModel, Output, Resume, Sample, Save
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def circuit(
    tasks: Annotated[
        list[str] | None, Argument(help="Tasks, as `caseback tasks` lists them.", show_default=False)
    ] = None,
    of: OfModel = OfModel(),
    by: Method = Method("eap-ig").worded(method="eap, eap-ig, acdc, exact ...; --list names them."),
    listed: Listed = Listed().worded(listed="No task: name the methods."),
    edges: Annotated[str | None, Option(help="How many, or a share such as 0.05 or 5%; by default 10%.")] = None,
    threshold: Annotated[float | None, Option(help="Of acdc; by default as --edges asks.")] = None,
    how: Annotated[str, Option(help="top or greedy: how edges are chosen by score.")] = "top",
    ablation: Ablation = Ablation("resample").worded(ablation="What cut edges carry: resample, mean, zero or optimal."),
    sample: Sample = Sample(count=40).worded(count="Prompts to find it on, at least 2, and as many to judge it on."),
    sets: Annotated[int, Option(min=1, help="Random sets for completeness and minimality.")] = 5,
    load: Annotated[Path | None, Option(help="Judge the circuit of this file instead of finding one.")] = None,
    compare: Annotated[Path | None, Option(help="A circuit's file to compare with.")] = None,
    save: Save = Save().worded(save="Write the circuit to this file, as JSON."),
    graph: Annotated[
        Path | None, Option(callback=writable, help="Write attribution-graph JSON, for other viewers.")
    ] = None,
    graphml: Annotated[Path | None, Option(callback=writable, help="Write GraphML, for graph editors.")] = None,
    organisms: Annotated[
        bool, Option("--organisms", help="Table the methods on models whose circuits are known.")
    ] = False,
    frontier: Annotated[
        bool, Option("--frontier", help="Table what each method's best edges recover, for each task.")
    ] = False,
    table: Annotated[
        Path | None,
        Option("--markdown", callback=writable, help="With --organisms or --frontier: write the table as Markdown."),
    ] = None,
    resume: Resume = Resume(),
    output: Output = Output(),
) -> None:
    """Find the circuit of a task, judge it on other prompts, and draw it."""
    if sample.count < 2:
        raise CasebackError(f"--count {sample.count}: expected at least 2 prompts")
    share = _size(edges)
    if organisms or frontier or listed.listed:
        _expect_no_files(save.save, output.html, graph, graphml)
    elif table is not None:
        raise CasebackError(f"--markdown {table}: it is for the tables of --organisms and --frontier")
    if listed.listed:
        _list(output)
        return
    if organisms:
        _table_organisms(tasks, table, output)
        return
    if not tasks:
        raise CasebackError("no task given: expected one such as ioi; `caseback tasks` lists them")
    if frontier:
        _table_frontier(tasks, of.model, sample, ablation.ablation, table, output)
        return
    if len(tasks) > 1:
        raise CasebackError(f"{len(tasks)} tasks given: expected one, or --frontier to table several")
    with quiet():
        from caseback.model.circuit import Circuit
        from caseback.model.running.load import load as load_model
        from caseback.reports.task_circuit import task_circuit
        from caseback.views.page.kinds import write_page
        from caseback.views.text.circuit import print_circuit

        given, other = (None if path is None else Circuit.load(path) for path in (load, compare))
        result = task_circuit(
            load_model(of.model),
            tasks[0],
            method=by.method,
            edges=share,
            threshold=threshold,
            how=how,
            ablation=ablation.ablation,
            count=sample.count,
            sets=sets,
            seed=sample.seed,
            circuit=given,
            other=other,
            other_name="" if compare is None else compare.stem,
            progress=sys.stderr.isatty(),
            checkpoint=resume.checkpoint,
        )
    document = result.document
    if save.save is not None:
        result.circuit.save(save.save)
    if graphml is not None:
        result.circuit.to_graphml(graphml)
    if graph is not None:
        from caseback.model.graph.attribution_graph import save_attribution_graph, to_attribution_graph

        layers = len(document["model"]["layers"])
        best = document["predictions"][0]
        named = {"slug": graph.stem, "answer": best["text"], "prob": best["prob"]}
        as_graph = to_attribution_graph(result.circuit, result.example.clean.text[0], layers=layers, **named)
        save_attribution_graph(as_graph, graph)
    answer(
        output,
        {key: value for key, value in document.items() if key not in ("readings", "patterns")},
        text=lambda: print_circuit(document),
        page=lambda path: write_page(document, path),
    )
    chosen = len(result.circuit.edges)
    if isinstance(share, int) and load is None and chosen != share:
        typer.echo(
            f"caseback: {chosen} of the {share} edges asked for are on a path from the input to the logits; "
            "the others carry nothing and are left out",
            err=True,
        )


def _expect_no_files(*paths: Path | None) -> None:
    """Refuse files that no circuit is found for."""
    path = next((path for path in paths if path is not None), None)
    if path is not None:
        raise CasebackError(f"cannot write {str(path)!r}: --list, --organisms and --frontier give no circuit of a task")


def _size(text: str | None) -> int | float | None:
    """A number of edges, or a share of them."""
    if text is None:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise CasebackError(f"--edges {text!r}: expected a number such as 60, or a share such as 0.05 or 5%") from None
    if text.endswith("%") or "." in text:
        if not 0 < value <= 1:
            raise CasebackError(f"--edges {text!r}: expected a share between 0 and 1")
        return value
    if value < 1:
        raise CasebackError(f"--edges {text!r}: expected at least one edge")
    return int(value)


def _list(output: Json) -> None:
    with quiet():
        from caseback.localize.circuits.methods import methods
    known = methods()
    width = max(map(len, known))

    def show() -> None:
        for name, method in known.items():
            settings = ", ".join(f"{key}={value}" for key, value in method.settings.items())
            typer.echo(f"{name:{width}}  {method.about}{f' ({settings})' if settings else ''}")

    answer(output, {name: method.about for name, method in known.items()}, text=show)


def _table_organisms(names: list[str] | None, path: Path | None, output: Json) -> None:
    with quiet():
        from caseback.localize.circuits.on_organisms import COLUMNS, on_organisms
        from caseback.views.text.circuit_tables import organisms_markdown

        rows = on_organisms(names or None, progress=sys.stderr.isatty())
    command = "caseback circuit --organisms"
    answer(output, rows, text=lambda: _put(organisms_markdown(rows, COLUMNS), path, command))


def _table_frontier(
    names: list[str], model: str, sample: Sample, ablation: str, path: Path | None, output: Json
) -> None:
    with quiet():
        from caseback.model.running.load import load
        from caseback.reports.tables.frontier import frontier_table
        from caseback.views.text.circuit_tables import frontier_markdown

        how = {"seed": sample.seed, "ablation": ablation}
        table = frontier_table(load(model), names, sample.count, **how, progress=sys.stderr.isatty())
    command = f"caseback circuit {' '.join(names)} --frontier --model {model}"
    command += f" --count {sample.count} --seed {sample.seed}"
    plain = {key: table[key] for key in ("model", "tasks", "ioi_heads")}
    answer(output, plain, text=lambda: _put(frontier_markdown(table), path, command))


def _put(text: str, path: Path | None, command: str) -> None:
    """Print a table, or write it with the command that makes it again."""
    if path is None:
        typer.echo(text + "\n")
        return
    from caseback.jobs.whole_file import whole_file

    with whole_file(path) as draft:
        draft.write_text(f"<!-- written by `{command} --markdown {path}` -->\n\n{text}\n", encoding="utf-8")
    say_written(path)
