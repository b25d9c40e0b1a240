"""`caseback circuit`: the edges that a task needs, found, judged, drawn, saved and compared."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.dictionaries.shared_options import Grain
from caseback.cli.files import writable
from caseback.cli.loading import dictionaries_of, model_of, quiet
from caseback.cli.options import (
    Ablation,
    Json,
    Judging,
    Listed,
    Method,
    OfModel,
    Output,
    Resume,
    Sample,
    Save,
    Threshold,
)
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError

if TYPE_CHECKING:
    from collections.abc import Callable

    from caseback.localize.circuits.judging import Judgement
    from caseback.model.circuit import Circuit

_JUDGED: dict[str, float | None] = {"faithfulness": 0, "full": None}


@with_options
def circuit(
    tasks: Annotated[
        list[str] | None, Argument(help="Tasks, as `caseback tasks` lists them.", show_default=False)
    ] = None,
    of: OfModel = OfModel(),
    by: Method = Method("eap-ig").worded(method="eap, eap-ig, acdc, exact ...; --list names them."),
    listed: Listed = Listed().worded(listed="No task: name the methods."),
    edges: Annotated[str | None, Option(help="How many, or a share such as 0.05 or 5%; by default 10%.")] = None,
    cut: Threshold = Threshold().worded(threshold="Of acdc; by default as --edges asks."),
    grain: Grain = Grain(),
    how: Annotated[str, Option(help="top or greedy: how edges are chosen by score.")] = "top",
    ablation: Ablation = Ablation("resample").worded(ablation="What cut edges carry: resample, mean, zero or optimal."),
    sample: Sample = Sample(count=40).worded(count="Prompts to find it on, at least 2, and as many to judge it on."),
    judging: Judging = Judging(),
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
    transfer: Annotated[
        bool, Option("--transfer", help="Table what the circuit of each of several tasks recovers of the others.")
    ] = False,
    table: Annotated[
        Path | None,
        Option(
            "--markdown",
            callback=writable,
            help="With --organisms, --frontier, --transfer: write the table as Markdown.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, Option(help="In place of a task: one prompt, its counterfactual and others of its pattern.")
    ] = None,
    resume: Resume = Resume(),
    output: Output = Output(),
) -> None:
    """Find the circuit of a task, judge it on other prompts, and draw it."""
    if sample.count < 2:
        raise CasebackError(f"--count {sample.count}: expected at least 2 prompts")
    share, within = _size(edges), _seconds(judging.judge)
    if organisms or frontier or transfer or listed.listed:
        _expect_no_files(save.save, output.html, graph, graphml)
    elif table is not None:
        raise CasebackError(f"--markdown {table}: it is for the tables of --organisms, --frontier and --transfer")
    if listed.listed:
        _list(output)
        return
    if organisms:
        _table_organisms(tasks, table, output)
        return
    grain.expect_forced()
    grained = grain.nodes != "heads" or grain.dictionaries or grain.spans
    tabled = "--frontier" if frontier else "--transfer" if transfer else ""
    if tabled and grained:
        raise CasebackError(f"{tabled} is of circuits of heads and MLPs: leave --nodes, --dictionaries and --spans out")
    for path, option in ((load, "--load"), (compare, "--compare")):
        if tabled and path is not None:
            raise CasebackError(f"{option} {str(path)!r}: {tabled} finds circuits of its own, leave it out")
    if prompt is not None and (tasks or tabled or grained):
        of_nodes = (
            "--spans" if grain.spans else "--dictionaries" if grain.nodes == "heads" else f"--nodes {grain.nodes}"
        )
        taken = "a task" if tasks else tabled or of_nodes
        raise CasebackError(f"both --prompt and {taken} given: --prompt stands in place of a task, for heads and MLPs")
    if not tasks and prompt is None:
        raise CasebackError("no task given: expected one such as ioi (`caseback tasks` lists them), or --prompt")
    tasks = tasks or []
    if frontier:
        _table_frontier(tasks, of, sample, ablation.ablation, table, output)
        return
    if transfer:
        if len(set(tasks)) < 2:
            raise CasebackError(f"--transfer of {tasks[0]} alone: expected two tasks or more")
        _table_transfer(tasks, of, sample, by.method, share, ablation.ablation, table, output)
        return
    if len(tasks) > 1:
        raise CasebackError(f"{len(tasks)} tasks given: expected one, or --frontier or --transfer to table several")
    if grained:
        for path, option in ((load, "--load"), (compare, "--compare"), (graph, "--graph")):
            if path is not None:
                of_what = "at spans" if grain.spans else f"of {grain.nodes}"
                raise CasebackError(
                    f"{option} {str(path)!r}: circuits {of_what} are printed, drawn (--html) or saved (--save) here, "
                    "and read and judged again from Python (Circuit.load, faithfulness)"
                )
    if grain.spans:
        if grain.nodes != "heads" or grain.dictionaries:
            raise CasebackError("both --spans and --nodes given: spans are for circuits of heads and MLPs")
        _at_spans(tasks[0], of, by.method, share, how, ablation.ablation, sample, save.save, graphml, output)
        return
    if grained:
        _of_nodes(tasks[0], of, grain, by.method, ablation.ablation, sample, save.save, graphml, output)
        return
    with quiet():
        from caseback.model.circuit import Circuit
        from caseback.reports.task_circuit import task_circuit
        from caseback.views.page.kinds import write_page
        from caseback.views.text.circuit import print_circuit

        given, other = (None if path is None else Circuit.load(path) for path in (load, compare))

        model = model_of(of)
        if prompt is not None:
            from caseback.localize.counterfactuals import fresh_prompts

            drawn = fresh_prompts(model, prompt, 2 * sample.count, seed=sample.seed, progress=True)
        result = task_circuit(
            model,
            tasks[0] if prompt is None else drawn,
            method=by.method,
            edges=share,
            threshold=cut.threshold,
            how=how,
            ablation=ablation.ablation,
            count=sample.count,
            sets=judging.sets,
            within=within,
            before_judging=_keeping(save.save, graphml),
            report=None if within == 0 else _say_judgement,
            seed=sample.seed,
            circuit=given,
            other=other,
            other_name="" if compare is None else compare.stem,
            progress=True,
            checkpoint=resume.checkpoint,
        )
    document = result.document
    if graph is not None:
        from caseback.model.graph.attribution_graph import save_attribution_graph, to_attribution_graph

        layers = len(document["model"]["layers"])
        best = document["predictions"][0]
        named = {"slug": graph.stem, "answer": best["text"], "prob": best["prob"]}
        as_graph = to_attribution_graph(result.circuit, result.example.clean.text[0], layers=layers, **named)
        save_attribution_graph(as_graph, graph)
    answer(
        output,
        document,
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
    if result.interrupted:
        raise typer.Abort


def _keeping(save: Path | None, graphml: Path | None) -> "Callable[[Circuit], None]":
    """What writes a circuit to the files that were asked for."""

    def keep(circuit: "Circuit") -> None:
        for path, write in ((save, circuit.save), (graphml, circuit.to_graphml)):
            if path is not None:
                write(path)

    return keep


def _at_spans(
    task: str,
    of: OfModel,
    method: str,
    edges: int | float | None,
    how: str,
    ablation: str,
    sample: Sample,
    save: Path | None,
    graphml: Path | None,
    output: Output,
) -> None:
    """A circuit at the spans of a task."""
    with quiet():
        from caseback.reports.graphs.span_circuit import span_circuit
        from caseback.views.page.kinds import write_page
        from caseback.views.text.graphs.span_circuit import print_span_circuit

        result = span_circuit(
            model_of(of),
            task,
            method=method,
            edges=0.02 if edges is None else edges,
            how=how,
            ablation=ablation,
            count=sample.count,
            seed=sample.seed,
            before_judging=_keeping(save, graphml),
            progress=True,
        )
    answer(
        output,
        result.document,
        text=lambda: print_span_circuit(result.document),
        page=lambda path: write_page(result.document, path),
    )


def _of_nodes(
    task: str,
    of: OfModel,
    grain: Grain,
    method: str,
    ablation: str,
    sample: Sample,
    save: Path | None,
    graphml: Path | None,
    output: Output,
) -> None:
    """A circuit of features or neurons."""
    with quiet():
        from caseback.reports.graphs.node_circuit import node_circuit
        from caseback.views.page.kinds import write_page
        from caseback.views.text.graphs.node_circuit import print_node_circuit

        model = model_of(of)
        result = node_circuit(
            model,
            task,
            nodes=grain.nodes,
            dictionaries=dictionaries_of(grain.dictionaries, model, force=grain.force),
            method=method,
            top=grain.strongest,
            ablation=ablation,
            count=sample.count,
            seed=sample.seed,
            before_judging=_keeping(save, graphml),
            progress=True,
        )
    answer(
        output,
        result.document,
        text=lambda: print_node_circuit(result.document),
        page=lambda path: write_page(result.graph, path),
    )


def _say_judgement(judgement: "Judgement") -> None:
    """One line for what was judged last, while more is judged."""
    data = judgement.to_json()
    row = data["faithfulness"][-1]
    parts = [f"{row['ablation']} ablation: {row['recovered']:.3f} recovered"]
    parts[0] += f" ({row['recovered_low']:.3f} to {row['recovered_high']:.3f})"
    if "completeness" in data:
        parts.append(f"completeness: widest gap {data['completeness']['worst_share']:.3f} of the effect")
    if "minimality" in data:
        parts.append(f"minimality: the least needed node is {data['minimality']['least_part']}")
    typer.echo(parts[-1], err=True)


def _seconds(judge: str) -> float | None:
    """How long judging may take: 0 for the first judgement alone, None for all of them."""
    if judge in _JUDGED:
        return _JUDGED[judge]
    try:
        seconds = float(judge)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise CasebackError(f"--judge {judge!r}: expected faithfulness, full, or seconds such as 120")
    return seconds


def _expect_no_files(*paths: Path | None) -> None:
    """Refuse files that no circuit is found for."""
    path = next((path for path in paths if path is not None), None)
    if path is not None:
        raise CasebackError(f"cannot write {str(path)!r}: --list and tables of circuits give no circuit of a task")


def _size(text: str | None) -> int | float | None:
    """A number of edges, or a share of them."""
    if text is None:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CasebackError(f"--edges {text!r}: expected a number such as 60, or a share such as 0.05 or 5%")
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

        rows = on_organisms(names or None, progress=True)
    command = "caseback circuit --organisms"
    answer(output, rows, text=lambda: _put(organisms_markdown(rows, COLUMNS), path, command))


def _table_frontier(
    names: list[str], of: OfModel, sample: Sample, ablation: str, path: Path | None, output: Json
) -> None:
    with quiet():
        from caseback.reports.tables.frontier import frontier_table
        from caseback.views.text.circuit_tables import frontier_markdown

        how = {"seed": sample.seed, "ablation": ablation}
        table = frontier_table(model_of(of), names, sample.count, **how, progress=True)
    command = _line(names, "--frontier", of, sample)
    plain = {key: table[key] for key in ("model", "tasks", "ioi_heads")}
    answer(output, plain, text=lambda: _put(frontier_markdown(table), path, command))


def _table_transfer(
    names: list[str],
    of: OfModel,
    sample: Sample,
    method: str,
    edges: int | float | None,
    ablation: str,
    path: Path | None,
    output: Json,
) -> None:
    with quiet():
        from caseback.reports.tables.transfer import transfer_table
        from caseback.views.text.circuit_tables import transfer_markdown

        how: dict[str, Any] = {} if edges is None else {"edges": edges}
        how |= {"method": method, "ablation": ablation}
        table = transfer_table(model_of(of), names, sample.count, **how, seed=sample.seed, progress=True)
    options = " ".join(f"--{name} {value}" for name, value in how.items())
    command = f"{_line(names, '--transfer', of, sample)} {options}"
    answer(output, table, text=lambda: _put(transfer_markdown(table), path, command))


def _line(names: list[str], table: str, of: OfModel, sample: Sample) -> str:
    """The command that makes a table again."""
    command = f"caseback circuit {' '.join(names)} {table} --model {of.model}"
    command += "" if of.gguf is None else f" --gguf {of.gguf}"
    command += " --allow-pickle" * of.allow_pickle + " --trust-remote-code" * of.trust_remote_code
    return f"{command} --count {sample.count} --seed {sample.seed}"


def _put(text: str, path: Path | None, command: str) -> None:
    """Print a table, or write it with the command that makes it again."""
    if path is None:
        typer.echo(text + "\n")
        return
    from caseback.jobs.whole_file import whole_file

    with whole_file(path) as draft:
        draft.write_text(f"<!-- written by `{command} --markdown {path}` -->\n\n{text}\n", encoding="utf-8")
    say_written(path)
