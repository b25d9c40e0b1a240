"""`caseback circuit`: the edges that a task needs, found, judged, drawn, saved and compared."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from caseback.cli.inputs import file_to
from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.errors import CasebackError


def circuit(
    tasks: Annotated[
        list[str] | None, typer.Argument(help="Tasks, as `caseback tasks` lists them.", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="eap, eap-ig, acdc, exact ...; --methods lists them.")] = "eap-ig",
    edges: Annotated[
        str | None, typer.Option(help="How many, or a share such as 0.05 or 5%; by default 10%.", show_default=False)
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Of acdc; by default as --edges asks.", show_default=False)
    ] = None,
    how: Annotated[str, typer.Option(help="top or greedy: how edges are chosen by score.")] = "top",
    ablation: Annotated[str, typer.Option(help="What cut edges carry: resample, mean, zero or optimal.")] = "resample",
    prompts: Annotated[int, typer.Option(min=2, help="Prompts to find it on, and as many to judge it on.")] = 40,
    sets: Annotated[int, typer.Option(min=1, help="Random sets for completeness and minimality.")] = 5,
    seed: Annotated[int, typer.Option(help="Same seed, same prompts.")] = 0,
    load: Annotated[
        Path | None, typer.Option(help="Judge the circuit of this file instead of finding one.", show_default=False)
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the circuit as JSON.", show_default=False)] = None,
    graph: Annotated[
        Path | None, typer.Option(help="Write attribution-graph JSON, for other viewers.", show_default=False)
    ] = None,
    graphml: Annotated[Path | None, typer.Option(help="Write GraphML, for graph editors.", show_default=False)] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the graph.", show_default=False)] = None,
    compare: Annotated[Path | None, typer.Option(help="A circuit's file to compare with.", show_default=False)] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A file to go on from after an interruption.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
    list_methods: Annotated[bool, typer.Option("--methods", help="List the methods.")] = False,
    organisms: Annotated[
        bool, typer.Option("--organisms", help="Table the methods on models whose circuits are known.")
    ] = False,
    frontier: Annotated[
        bool, typer.Option("--frontier", help="Table what each method's best edges recover, for each task.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(help="With --organisms or --frontier: write the table as Markdown.", show_default=False),
    ] = None,
) -> None:
    """Find the circuit of a task, judge it on other prompts, and draw it."""
    for path in (save, graph, graphml, html, write):
        file_to(path)
    share = _size(edges)
    if list_methods:
        _print_methods(as_json)
        return
    if organisms:
        from caseback.cli.intervening.circuit_tables import print_organisms

        print_organisms(tasks, write, as_json)
        return
    if not tasks:
        raise CasebackError("no task given: expected one such as ioi; `caseback tasks` lists them")
    if frontier:
        from caseback.cli.intervening.circuit_tables import print_frontier

        print_frontier(tasks, model, prompts, seed, ablation, write, as_json)
        return
    if len(tasks) > 1:
        raise CasebackError(f"{len(tasks)} tasks given: expected one, or --frontier to table several")
    with quiet():
        document, found, drawn = _document(
            tasks[0], model, method, share, threshold, how, ablation, prompts, sets, seed, load, compare, checkpoint
        )
    if save is not None:
        found.save(save)
    if graphml is not None:
        found.to_graphml(graphml)
    if graph is not None:
        from caseback.model.graph.attribution_graph import save_attribution_graph, to_attribution_graph

        layers = len(document["model"]["layers"])
        best = document["predictions"][0]
        told = {"slug": graph.stem, "answer": best["text"], "prob": best["prob"]}
        save_attribution_graph(to_attribution_graph(found, drawn.clean.text[0], layers=layers, **told), graph)
    if as_json:
        kept = {key: value for key, value in document.items() if key not in ("readings", "patterns")}
        typer.echo(json.dumps(kept, allow_nan=False))
    else:
        from caseback.views.text.circuit import print_circuit

        print_circuit(document)
    if html is not None:
        from caseback.views.page.kinds import write_page

        typer.echo(f"written to {write_page(document, html)}", err=True)


def _document(task, name, method, edges, threshold, how, ablation, count, sets, seed, load, compare, checkpoint):
    """The document of a task's circuit, the circuit, and one example."""
    from dataclasses import replace

    from caseback import tasks as known
    from caseback.localize.circuits import faithfulness_curve, find_circuit, judge
    from caseback.localize.circuits.machinery.sizes import inputs_of
    from caseback.model.circuit import Circuit, Edge
    from caseback.model.graph.graph import Graph
    from caseback.model.running.load import load as load_model
    from caseback.reports.circuit import circuit_document

    bar = sys.stderr.isatty()
    other = None if compare is None else Circuit.load(compare)
    given = None if load is None else Circuit.load(load)
    loaded = load_model(name)
    drawn = known.get(task).prompts(loaded, 2 * count, seed=seed)
    finding, judging = drawn[:count], drawn[count:]
    pairs = finding.clean, finding.corrupt, finding.metric
    test = judging.clean, judging.corrupt, judging.metric
    if given is None:
        given = find_circuit(
            loaded,
            *pairs,
            method=method,
            edges=edges,
            threshold=threshold,
            how=how,
            ablation="resample" if ablation == "optimal" else ablation,
            progress=bar,
            checkpoint=checkpoint,
        )
    given = replace(given, about={**given.about, "task": task, "prompts": count, "seed": seed})
    ablations = list(dict.fromkeys((ablation, "resample", "mean", "zero")))
    told = judge(loaded, *test, given, ablations=ablations, groups=judging.groups, sets=sets, seed=seed, progress=bar)
    graph = Graph.of(loaded.anatomy, inputs_of(given))
    scored = sum(isinstance(part, Edge) for part in given.scores) == len(graph.edges)
    curves = {}
    if scored and given.about.get("method") != "acdc":
        options = {"ablation": ablation, "inputs": graph.inputs, "progress": bar, "how": how}
        curves[str(given.about.get("found_by", method))] = faithfulness_curve(loaded, *test, given, **options)
    document = circuit_document(
        loaded,
        judging.clean[:1],
        given,
        counterfactual=judging.corrupt[:1],
        task=task,
        curves=curves,
        judgement=told,
        other=other,
        other_name="" if compare is None else compare.stem,
    )
    return document, given, judging[:1]


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


def _print_methods(as_json: bool) -> None:
    with quiet():
        from caseback.localize.circuits.methods import methods
    known = methods()
    if as_json:
        typer.echo(json.dumps({name: one.about for name, one in known.items()}))
        return
    width = max(map(len, known))
    for name, one in known.items():
        settings = ", ".join(f"{key}={value}" for key, value in one.settings.items())
        typer.echo(f"{name:{width}}  {one.about}{f' ({settings})' if settings else ''}")
