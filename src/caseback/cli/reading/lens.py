"""`caseback lens`: what every layer would predict."""

import os
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import as_text, prompt_of
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import (
    FittedLens,
    Followed,
    Ids,
    NamedUnits,
    OfModel,
    Output,
    Save,
    Site,
    Steps,
    Top,
)
from caseback.cli.reading.lens_units import rows_of, units_at
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.text_file import read_texts

KINDS = ("logit", "tuned", "jacobian", "translator", "future")
MODES = ("top", "rank", "entropy", "kl", "js", "surprise")


@with_options
def lens(
    prompt: Annotated[str, Argument(help="The prompt.", show_default=False)],
    of: OfModel = OfModel(),
    kind: Annotated[str, Option(help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}.")] = "logit",
    fitted: FittedLens = FittedLens().worded(
        lens="The fitted lens: a .safetensors file, a tuned-lens folder, or a Jacobian lens's .pt."
    ),
    fit: Annotated[
        Path | None, Option(help="Fit the lens on the texts of this file: one a line, or JSON (.json, .jsonl).")
    ] = None,
    steps: Steps = Steps().worded(steps="With --fit, of a tuned lens: steps."),
    tokens_per_step: Annotated[
        int | None, Option(min=1, help="With --fit, of a tuned lens: how many tokens a step sees.")
    ] = None,
    save: Save = Save().worded(save="With --fit: write the lens to this file, as .safetensors."),
    pickle: Annotated[bool, Option("--pickle", help="Allow a .pt file (read with weights_only).")] = False,
    followed: Followed = Followed(),
    site: Site = Site("resid_post").worded(site="Of the logit lens: resid_post, mlp_out, attn_out ..."),
    named: NamedUnits = NamedUnits(),
    mode: Annotated[str, Option(help="top, rank, entropy, kl, js or surprise.")] = "top",
    top: Top = Top(5).worded(top="How many of the likeliest tokens are listed."),
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """Read the stream after every layer, or what heads or neurons write, as a prediction: layer by token."""
    _expect_lens(kind, site.site, fitted.lens, fit, save.save)
    _expect_training(kind, fit, {"--steps": steps.steps, "--tokens-per-step": tokens_per_step})
    units, where = units_at(kind, site.site, named)
    if mode not in MODES and not mode.startswith("rank "):
        raise CasebackError(f"--mode {mode!r} is unknown. {did_you_mean(mode, MODES)}")
    if mode.startswith("rank") and not followed.target:
        raise CasebackError(f"--mode {mode!r} needs a token whose rank is followed: name one (--target)")
    given = prompt_of(prompt, ids.ids)
    with quiet():
        from caseback.decode.vocabulary import logit_lens, read_lens, save_lens
        from caseback.reports.tables.lens_rows import by_unit
        from caseback.views.figure.lens_grid import lens_grid
        from caseback.views.figure.page import write_figure
        from caseback.views.text.lens import print_lens

        model = model_of(of)
        targets: list[Any] = [
            int(token) if model.tokenizer is None and token.isdigit() else token for token in followed.target or ()
        ]
        _expect_followed(mode, model, targets)
        tokens = model.tokens([given])
        if kind == "logit":
            rows = rows_of(units, where, model.n_layers)
            indices = sorted({index for _, index in units}) or None
            result = logit_lens(model, tokens, targets=targets, site=where, units=indices, k=top.top)
            if units:
                result = by_unit(result).sel(component=rows)
        else:
            if fit is not None:
                chosen = _fitted(model, kind, fit, steps.steps, tokens_per_step)
            else:
                chosen = _from(fitted.lens, model, kind, pickle)
            if save.save is not None:
                save_lens(chosen, save.save)
            result = read_lens(model, tokens, chosen, targets=targets, k=top.top)
    title = f"{kind} lens" + ("" if where == "resid_post" else f" at {where}")
    answer(
        output,
        result,
        text=lambda: print_lens(result, title, mode=mode),
        page=lambda path: write_figure(
            lens_grid(result, title=title, mode=mode),
            path,
            question="What would each layer predict?",
            prompt=as_text(given),
            provenance=result.attrs,
        ),
    )


def _expect_lens(kind: str, site: str, file: Path | None, fit: Path | None, save: Path | None) -> None:
    """Refuse options that do not go together."""
    if kind not in KINDS:
        raise CasebackError(f"--kind {kind!r} is unknown. {did_you_mean(kind, KINDS)}")
    if kind == "logit" and (file is not None or fit is not None or save is not None):
        raise CasebackError("the logit lens is not fitted: leave out --lens, --fit and --save, or give another --kind")
    if kind != "logit" and site != "resid_post":
        raise CasebackError(f"--site {site!r}: a {kind} lens reads resid_post; other sites are for --kind logit")
    if kind != "logit" and file is None and fit is None:
        raise CasebackError(f"a {kind} lens is fitted: give its file (--lens), or a text file to fit it on (--fit)")
    if file is not None and fit is not None:
        raise CasebackError(f"--lens {file} reads a lens: with --fit, --save {file} writes it")
    if save is not None and fit is None:
        raise CasebackError(f"--save {save} writes the lens that --fit fits: give a text file to fit it on")


def _expect_training(kind: str, fit: Path | None, given: dict[str, int | None]) -> None:
    """Refuse options of a training that is none."""
    unused = next((option for option, value in given.items() if value is not None), None)
    if unused and (fit is None or kind != "tuned"):
        raise CasebackError(f"{unused} is for fitting a tuned lens: give --kind tuned and --fit, or leave it out")


def _expect_followed(mode: str, model: Any, targets: list[Any]) -> None:
    """Refuse the rank of a token that is not followed, before the model runs."""
    from caseback.reports.tokens_text import visible

    names = ["rank", *(f"rank {visible(model.token_text(model.token_id(t)))}" for t in targets)]
    if mode.startswith("rank") and mode not in names:
        raise CasebackError(f"--mode {mode!r} names no token of --target: expected {' or '.join(map(repr, names))}")


def _from(file: Path | None, model: Any, kind: str, pickle: bool) -> Any:
    """A lens from any of the layouts."""
    from caseback.decode.vocabulary import load_jacobian_lens, load_lens, load_tuned_lens

    assert file is not None
    if os.path.isdir(file):
        chosen = load_tuned_lens(file, model, pickle=pickle)
    elif file.suffix == ".pt":
        chosen = load_jacobian_lens(file, model, pickle=pickle)
    else:
        chosen = load_lens(file)
    if chosen.kind != kind:
        raise CasebackError(f"{file} holds a {chosen.kind} lens, not a {kind} one: give --kind {chosen.kind}")
    return chosen


def _fitted(model: Any, kind: str, fit: Path, steps: int | None, tokens_per_step: int | None) -> Any:
    """A lens fitted on the lines of a text file."""
    from caseback.decode.vocabulary import fit_future_lens, fit_jacobian_lens, fit_translators, fit_tuned_lens

    texts = [line for line in read_texts(fit, "--fit") if line.strip()]
    progress = True
    if kind == "tuned":
        return fit_tuned_lens(
            model, texts, recipe="small", steps=steps, tokens_per_step=tokens_per_step, progress=progress
        )
    if kind == "jacobian":
        return fit_jacobian_lens(model, texts, progress=progress)
    return (fit_translators if kind == "translator" else fit_future_lens)(model, texts, progress=progress)
