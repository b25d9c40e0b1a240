"""`caseback patchscope`: a state of one prompt put into words by another."""

from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import as_text, numbers, prompt_of
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import FittedLens, Generate, Ids, OfModel, Output, Places
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, did_you_mean

READY = ("identity", "description", "selfie")


@with_options
def patchscope(
    source: Annotated[str, Argument(help="The prompt whose states are read.", show_default=False)],
    of: OfModel = OfModel(),
    target_prompt: Annotated[
        str, Option(help=f"What puts them into words: {', '.join(READY)}, or a prompt with --placeholder.")
    ] = "identity",
    placeholder: Annotated[
        str | None, Option(help="The token of the target prompt that is replaced (its last).")
    ] = None,
    target_model: Annotated[str | None, Option(help="The model that says it; by default the same.")] = None,
    places: Places = Places().worded(layers="Layers after which the source is read, such as 0,2-4; all by default."),
    target_layer: Annotated[
        int | None, Option(min=-1, help="The layer after which the target is written; by default the same.")
    ] = None,
    through: FittedLens = FittedLens().worded(lens="A fitted lens that maps the state on its way."),
    expected: Annotated[
        str | None,
        Option("--answer", help="The token that should be said; by default the source's own choice."),
    ] = None,
    generate: Generate = Generate(8),
    ids: Ids = Ids().worded(ids="Source and target prompt are token ids such as 5,1,2."),
    output: Output = Output(),
) -> None:
    """Write states of a prompt into another prompt, and see what the model makes of them."""
    if ids.ids and target_prompt in READY:
        raise CasebackError(f"--target-prompt {target_prompt!r} is text: with --ids give token ids")
    given, at = prompt_of(source, ids.ids), numbers(places.pos, "--pos")
    layers = numbers(places.layers, "--layers")
    with quiet():
        from caseback.decode.vocabulary import load_lens
        from caseback.decode.vocabulary import patchscope as scope
        from caseback.model.loading.load import load
        from caseback.views.figure.lens_grid import lens_grid
        from caseback.views.figure.page import write_figure
        from caseback.views.text.patchscope import print_patchscope

        model = model_of(of)
        onto = None if target_model is None else load(target_model)
        result = scope(
            model,
            [given],
            _target(target_prompt, placeholder, ids.ids),
            # a layer's number means the stream after it, as everywhere on the command line
            rows=None if layers is None else [_row(layer, model.n_layers) for layer in layers],
            pos=at,
            target_row=None if target_layer is None else _row(target_layer, (onto or model).n_layers),
            mapping=None if through.lens is None else load_lens(through.lens),
            target_model=onto,
            answers=expected,
            max_new_tokens=generate.generate,
            progress=True,
        )
    answer(
        output,
        result,
        text=lambda: print_patchscope(result),
        page=lambda path: write_figure(
            lens_grid(result, title=f"patchscope: {target_prompt}"),
            path,
            question="What does each state become in another prompt?",
            prompt=as_text(given),
            provenance=result.attrs,
        ),
    )


def _row(layer: int, n_layers: int) -> int:
    if not -1 <= layer < n_layers:
        raise CasebackError(f"layer {layer}: expected 0 to {n_layers - 1}, or -1 for the embedding")
    return layer + 1


def _target(text: str, placeholder: str | None, ids: bool) -> Any:
    from caseback.decode.vocabulary import TargetPrompt, description, selfie, token_identity

    ready = {"identity": token_identity, "description": description, "selfie": selfie}
    if text in ready:
        return ready[text]() if placeholder is None else ready[text](placeholder=placeholder)
    if " " not in text.strip() and not ids and placeholder is None:
        raise CasebackError(f"--target-prompt {text!r} is unknown. {did_you_mean(text, READY)}")
    if ids:
        return prompt_of(text, ids)
    return TargetPrompt(text, "x" if placeholder is None else placeholder)
