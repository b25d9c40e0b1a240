"""`caseback graph`: what led to a prediction, by layer and position, as a graph."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.dictionaries.shared_options import Dictionaries
from caseback.cli.inputs import prompt_of
from caseback.cli.loading import dictionaries_of, model_of, quiet
from caseback.cli.options import (
    Contrast,
    Ids,
    Method,
    OfModel,
    OnePos,
    Output,
    Save,
    Threshold,
    Top,
)
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, did_you_mean

METHODS = ("attribution", "flow")


@with_options
def graph(
    prompt: Annotated[str, Argument(help="The prompt, such as 'The Eiffel Tower is in'.", show_default=False)],
    of: OfModel = OfModel(),
    by: Method = Method("attribution").worded(
        method="attribution: of features or neurons through frozen attention; flow: information flow routes."
    ),
    contrast: Contrast = Contrast().worded(
        target="The token explained; by default the likeliest ones.",
        foil="Explain the target's logit less this token's; by default less the mean.",
    ),
    of_features: Dictionaries = Dictionaries().worded(
        dictionaries="Of attribution: transcoders, a file or a set's folder each; by default neurons are nodes."
    ),
    feature: Annotated[
        str | None, Option(help="Explain a feature of the dictionaries, such as L2F31 or L2F31:attn_out, at --pos.")
    ] = None,
    max_nodes: Annotated[int, Option(min=1, help="Of attribution: units that are split further.")] = 500,
    node: Annotated[float, Option(help="Of attribution: the share of influence whose nodes are shown.")] = 0.8,
    edge: Annotated[float, Option(help="Of attribution: the share of influence whose edges are shown.")] = 0.98,
    gate: Annotated[str, Option(help="Of attribution: half or frozen, how gated neurons are split.")] = "half",
    effects: Annotated[int, Option(min=0, help="Of attribution: strongest units taken out of the model.")] = 10,
    query_key: Annotated[
        int, Option(min=0, help="Of attribution: heads at a place whose look is explained by pairs of nodes.")
    ] = 8,
    notes: Annotated[
        list[Path] | None, Option(help="Of attribution: a file of people's notes, as caseback label writes it.")
    ] = None,
    supernodes: Annotated[
        Path | None, Option(help="Of attribution: groups of nodes from a viewer's file or what a page exported.")
    ] = None,
    examples: Annotated[
        list[Path] | None, Option(help="Of attribution: what caseback dictionary features --json wrote, for cards.")
    ] = None,
    cut: Threshold = Threshold(0.04).worded(threshold="Of flow: lighter edges are hidden at first."),
    least: Annotated[float | None, Option(help="Of flow: lighter edges are left out; by default 0.01.")] = None,
    pos: OnePos = OnePos().worded(pos="Of flow and --feature: the position explained; by default the last."),
    top: Top = Top(5).worded(top="How many of the strongest paths are listed."),
    ids: Ids = Ids(),
    save: Save = Save().worded(save="Of attribution: write the graph as other viewers read it, to this file."),
    output: Output = Output(),
) -> None:
    """Draw what led to a prediction: a graph by layer and position, with sliders, cards and pins."""
    if by.method not in METHODS:
        raise CasebackError(f"no method is called {by.method!r}. {did_you_mean(by.method, METHODS)}")
    others = save.save or contrast.target or contrast.foil or supernodes or by.method == "flow"
    if feature is not None and (others or not of_features.dictionaries):
        raise CasebackError(
            "--feature is explained with --dictionaries, its own among them, and without --target, --foil, "
            "--supernodes, --save and --method flow"
        )
    if by.method == "flow" and (
        save.save or of_features.dictionaries or contrast.target or contrast.foil or supernodes
    ):
        raise CasebackError("--save, --dictionaries, --target, --foil and --supernodes are for --method attribution")
    of_features.expect_forced()
    if by.method == "attribution" and pos.pos != -1 and feature is None:
        raise CasebackError(f"--pos {pos.pos}: a graph by attribution explains the last position; shorten the prompt")
    assert cut.threshold is not None
    given = prompt_of(prompt, ids.ids)
    with quiet():
        from caseback.localize.circuits import attribution_graph, load_supernodes, prune_graph, save_graph
        from caseback.model.notes import Notes
        from caseback.reports.graphs.attribution import attribution_graph_document
        from caseback.reports.graphs.feature import feature_graph_document
        from caseback.reports.graphs.flow import flow_graph_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.graphs.graph import print_graph

        model = model_of(of)
        tokens = model.tokens([given])
        if by.method == "flow":
            document = flow_graph_document(
                model, tokens, threshold=cut.threshold, least=least, pos=pos.pos, progress=True
            )
        elif feature is not None:
            listed = dictionaries_of(of_features.dictionaries, model, force=of_features.force)
            document = feature_graph_document(model, tokens, feature, listed, pos=pos.pos, query_key=query_key)
        else:
            dictionaries = dictionaries_of(of_features.dictionaries, model, force=of_features.force) or "neurons"
            whole = attribution_graph(
                model,
                tokens,
                dictionaries,
                targets=contrast.target,
                foil=contrast.foil,
                max_nodes=max_nodes,
                gate=gate,
                progress=True,
            )
            groups = None if supernodes is None else load_supernodes(supernodes)
            document = attribution_graph_document(
                model,
                tokens,
                dictionaries,
                graph=whole,
                node=node,
                edge=edge,
                interventions=effects,
                query_key=query_key,
                notes=[Notes.load(path) for path in notes or []],
                supernodes=groups,
                features=[_document(path) for path in examples or []],
            )
            if save.save is not None:
                save_graph(prune_graph(whole, node=node, edge=edge), save.save, model=model, supernodes=groups)
    answer(
        output,
        document,
        text=lambda: print_graph(document, top=top.top),
        page=lambda path: write_page(document, path),
    )
    if save.save is not None:
        say_written(save.save)


def _document(path: Path) -> Any:
    """A document that another command wrote."""
    from caseback.jobs.json_text import parse_json
    from caseback.jobs.text_file import read_text

    try:
        return parse_json(read_text(path, "--examples"))
    except (ValueError, RecursionError) as error:
        raise CasebackError(f"--examples {path} is no JSON: {error}") from None
