"""`caseback align`: in which layer and at which position the thing that a task's two prompts differ in lies."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import numbers
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import BatchSize, HeadPlaces, Method, OfModel, Output, Resume, Sample, Site, Top
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, did_you_mean

METHODS = ("das", "full")


@with_options
def align(
    task: Annotated[str, Argument(help="A task with one answer each, such as agreement.", show_default=False)],
    of: OfModel = OfModel(),
    by: Method = Method("das").worded(method="das: a subspace is searched; full: the whole activation is swapped."),
    k: Annotated[int, Option("--k", min=1, help="Dimensions of the subspace.")] = 1,
    site: Site = Site("resid_post"),
    places: HeadPlaces = HeadPlaces(),
    sample: Sample = Sample(count=100).worded(count="Pairs of prompts, at least 2, each used both ways."),
    held_out: Annotated[float, Option(help="The share of them that accuracy is measured on.")] = 0.2,
    epochs: Annotated[int, Option(min=1, help="Passes over the rest in each search.")] = 5,
    batch: BatchSize = BatchSize(32).worded(batch_size="Examples in each step of a search."),
    lr: Annotated[float, Option(help="The learning rate.")] = 0.01,
    all_tokens: Annotated[
        bool, Option("--all-tokens", help="Choose answers from the whole vocabulary, not the task's answers.")
    ] = False,
    top: Top = Top(5).worded(top="How many of the best places are listed."),
    resume: Resume = Resume().worded(checkpoint="A folder to go on from after an interruption."),
    output: Output = Output(),
) -> None:
    """Search where a variable lies: interchange accuracy at every layer and position, on examples held out."""
    assert batch.batch_size is not None
    if by.method not in METHODS:
        raise CasebackError(f"--method {by.method!r} is unknown. {did_you_mean(by.method, METHODS)}")
    if sample.count < 2:
        raise CasebackError(
            f"--count {sample.count}: expected at least 2 pairs, some to search on and some to judge on"
        )
    with quiet():
        from caseback.localize.abstraction import Interchanges, das_map, interchange_map
        from caseback.reports.maps import as_map
        from caseback.tasks.task import get
        from caseback.views.figure.heatmap import heatmap
        from caseback.views.figure.page import write_figure
        from caseback.views.text.interventions import print_interchanges

        model = model_of(of)
        data = Interchanges.of_pairs(get(task).prompts(model, sample.count, seed=sample.seed))
        where = {
            "site": site.site,
            "layers": numbers(places.layers, "--layers"),
            "heads": numbers(places.heads, "--heads"),
            "pos": numbers(places.pos, "--pos"),
            "among": None if all_tokens else sorted({*data.target.tolist(), *data.base_target.tolist()}),
            "progress": True,
        }
        if by.method == "full":
            accuracy = interchange_map(model, data.split(held_out, sample.seed)[1], **where)
        else:
            accuracy = das_map(
                model,
                data,
                k=k,
                held_out=held_out,
                epochs=epochs,
                batch_size=batch.batch_size,
                lr=lr,
                seed=sample.seed,
                checkpoint=resume.checkpoint,
                **where,
            )
    what = "the whole activation" if by.method == "full" else f"a subspace of {k}"
    title = f"Interchange accuracy of {what} at {accuracy.attrs['site']}, {task}"
    answer(
        output,
        accuracy,
        text=lambda: print_interchanges(accuracy, title, top=top.top),
        page=lambda path: write_figure(
            heatmap(as_map(accuracy), title=title, value="accuracy"),
            path,
            question=f"Where can the answers of {task} be swapped?",
            provenance=accuracy.attrs,
        ),
    )
