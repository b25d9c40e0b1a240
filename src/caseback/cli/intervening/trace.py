"""`caseback trace`: causal tracing, where the model recalls what it knows of a subject."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import as_text, measure, numbers, prompt_of
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Ids, Layers, Measured, OfModel, Output, Resume, Seed, Subject, Top, Window
from caseback.cli.with_options import with_options


@with_options
def trace(
    prompt: Annotated[str, Argument(help="The prompt, such as 'The Eiffel Tower is in'.", show_default=False)],
    subject: Subject,
    of: OfModel = OfModel(),
    measured: Measured = Measured(metric="prob"),
    sigma: Annotated[float | None, Option(help="The noise; by default 3 x the embeddings' deviation.")] = None,
    samples: Annotated[int, Option(min=1, help="Draws of noise.")] = 10,
    window: Window = Window().worded(window="Layers of MLP or attention restored together; by default a fifth of all."),
    layers: Layers = Layers(),
    seed: Seed = Seed(),
    top: Top = Top(3).worded(top="How many of the largest effects are listed for each state."),
    ids: Ids = Ids(),
    resume: Resume = Resume(),
    output: Output = Output(),
) -> None:
    """Add noise to a subject and restore clean states one at a time: what brings the answer back."""
    given = prompt_of(prompt, ids.ids)
    with quiet():
        from caseback.localize.components.tracing import causal_trace
        from caseback.reports.maps import trace_maps
        from caseback.views.figure.heatmap import heatmap
        from caseback.views.figure.page import write_figure
        from caseback.views.text.interventions import print_trace

        model = model_of(of)
        tokens = model.tokens([given])
        metric, words = measure(model, measured, tokens)
        result = causal_trace(
            model,
            tokens,
            metric,
            subject=numbers(subject.subject, "--subject") if ids.ids else subject.subject,
            sigma=sigma,
            samples=samples,
            window=window.window,
            layers=numbers(layers.layers, "--layers"),
            seed=seed.seed,
            progress=True,
            checkpoint=resume.checkpoint,
        )
    maps = trace_maps(result)
    answer(
        output,
        result,
        text=lambda: print_trace(result, maps, words, top=top.top),
        page=lambda path: write_figure(
            heatmap(maps, title="Causal trace", value="indirect effect"),
            path,
            question=f"Which states bring back the {words}?",
            prompt=as_text(given),
            provenance=result.attrs,
        ),
    )
