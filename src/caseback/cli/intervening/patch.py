"""`caseback patch`: which parts carry what a prompt has and its counterfactual has not, or what another model does."""

from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import as_text, found_counterfactual, measure, numbers, prompt_of, token_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import (
    By,
    HeadPlaces,
    Ids,
    Measured,
    OfModel,
    OtherModel,
    Output,
    Resume,
    Site,
    Top,
    Units,
    Window,
)
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def patch(
    clean: Annotated[str, Argument(help="The prompt.", show_default=False)],
    corrupt: Annotated[
        str | None,
        Argument(help="Its counterfactual, token against token; by default one is found.", show_default=False),
    ] = None,
    of: OfModel = OfModel(),
    measured: Measured = Measured().worded(
        foil="Its contrast; by default the model's first choice after the counterfactual."
    ),
    site: Site = Site("resid_pre").worded(site="What is patched: resid_pre, z, mlp_out, attn_out, pattern ..."),
    by: By = By().worded(by="Dimensions, such as layer,pos or layer,head,pos; by default the site's."),
    places: HeadPlaces = HeadPlaces(),
    units: Units = Units(),
    direction: Annotated[str, Option(help="denoising (clean into corrupt) or noising.")] = "denoising",
    beside: OtherModel = OtherModel().worded(
        other_model="Another model of the same tokenizer, such as a fine-tuned one: its parts are put into this "
        "model's pass on the same prompt."
    ),
    window: Window = Window(1),
    top: Top = Top(10),
    ids: Ids = Ids(),
    resume: Resume = Resume(),
    output: Output = Output(),
) -> None:
    """Patch parts of one run into another: a map of what each brings back (or takes away)."""
    assert window.window is not None
    given = prompt_of(clean, ids.ids)
    other_model = beside.other_model
    if other_model is not None and (corrupt is not None or direction != "denoising"):
        raise CasebackError(
            "--other-model patches one prompt, the other model's pass into this one's: leave out the "
            "counterfactual and --direction (for the reverse change the models)"
        )
    with quiet():
        from caseback.localize.components import patch_models
        from caseback.localize.components.patching import patch as patched
        from caseback.model.loading.load import load
        from caseback.model.prompts.pairs import pairs

        model = model_of(of)
        options: dict[str, Any] = {
            "site": site.site,
            "by": None if by.by is None else by.by.replace(",", " ").split(),
            "layers": numbers(places.layers, "--layers"),
            "heads": numbers(places.heads, "--heads"),
            "pos": numbers(places.pos, "--pos"),
            "units": numbers(units.units, "--units"),
            "window": window.window,
            "progress": True,
            "checkpoint": resume.checkpoint,
        }
        if other_model is not None:
            other = load(other_model, **of.how)
            metric, words = measure(other, measured, other.tokens(given))
            result = patch_models(model, other, given, metric, **options)
        else:
            if corrupt is not None:
                counterfactual = prompt_of(corrupt, ids.ids)
            else:
                target, foil = (token_in(model, token) for token in (measured.target, measured.foil))
                counterfactual = found_counterfactual(model, given, target, foil)
            tokens = pairs(model, given, counterfactual)
            metric, words = measure(model, measured, *tokens)
            result = patched(model, *tokens, metric, direction=direction, **options)
        from caseback.reports.maps import as_map
        from caseback.views.figure.heatmap import heatmap
        from caseback.views.figure.page import write_figure
        from caseback.views.text.interventions import print_patching

    if other_model is not None:
        title, question = f"{result.attrs['other_model']} into {model.name}", "bring the other model's"
    else:
        title, question = direction, "take away the" if direction == "noising" else "bring back the"
    answer(
        output,
        result,
        text=lambda: print_patching(result, words, top=top.top),
        page=lambda path: write_figure(
            heatmap(as_map(result.recovery), title=f"{title}, {result.attrs['site']}", value="recovery"),
            path,
            question=f"Which places {question} {words}?",
            prompt=as_text(given),
            provenance=result.attrs,
        ),
    )
