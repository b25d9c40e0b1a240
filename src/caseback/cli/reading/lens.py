"""`caseback lens`: what every layer would predict."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from caseback.cli.inputs import file_to, prompt_of
from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.errors import CasebackError, OutOfRange, did_you_mean

KINDS = ("logit", "tuned", "jacobian", "translator", "future")
MODES = ("top", "rank", "entropy", "kl", "js", "surprise")


def lens(
    prompt: Annotated[str, typer.Argument(help="The prompt.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}.")] = "logit",
    file: Annotated[
        Path | None,
        typer.Option(
            "--lens",
            help="The fitted lens: a .safetensors file, a tuned-lens folder, or a Jacobian lens's .pt. With --fit it is"
            " where the lens is written.",
            show_default=False,
        ),
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(help="Fit the lens on a text file, one text a line.", show_default=False)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="With --fit, of a tuned lens: steps.", show_default=False)] = None,
    pickle: Annotated[bool, typer.Option("--pickle", help="Allow a .pt file (read with weights_only).")] = False,
    target: Annotated[
        list[str] | None, typer.Option(help="A token whose rank is followed; may be repeated.", show_default=False)
    ] = None,
    site: Annotated[str, typer.Option(help="Of the logit lens: resid_post, mlp_out, attn_out ...")] = "resid_post",
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the logit lens: a head whose write is read, such as L3H2, or 2 for that head of every layer; may"
            " be repeated.",
            show_default=False,
        ),
    ] = None,
    neuron: Annotated[
        list[str] | None,
        typer.Option(help="The same for a neuron, such as L3N17 or 17; may be repeated.", show_default=False),
    ] = None,
    mode: Annotated[str, typer.Option(help="top, rank, entropy, kl, js or surprise.")] = "top",
    k: Annotated[int, typer.Option("--k", help="How many of the likeliest tokens are kept.")] = 5,
    ids: Annotated[bool, typer.Option("--ids", help="The prompt is token ids such as 5,1,2.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the grid as an HTML page.", show_default=False)] = None,
) -> None:
    """Read the stream after every layer, or what heads or neurons write, as a prediction: layer by token."""
    file_to(save)
    if kind not in KINDS:
        raise CasebackError(f"--kind {kind!r} is unknown. {did_you_mean(kind, KINDS)}")
    if kind == "logit" and (file is not None or fit is not None):
        raise CasebackError("the logit lens is not fitted: leave out --lens and --fit, or give another --kind")
    if kind != "logit" and site != "resid_post":
        raise CasebackError(f"--site {site!r}: a {kind} lens reads resid_post; other sites are for --kind logit")
    if kind != "logit" and file is None and fit is None:
        raise CasebackError(f"a {kind} lens is fitted: give its file (--lens), or a text file to fit it on (--fit)")
    letter = "H" if head else "N"
    units, site = _units_at(kind, site, head or [], neuron or [])
    if mode not in MODES and not mode.startswith("rank "):
        raise CasebackError(f"--mode {mode!r} is unknown. {did_you_mean(mode, MODES)}")
    if mode.startswith("rank") and not target:
        raise CasebackError(f"--mode {mode!r} needs a token whose rank is followed: name one (--target)")
    given = prompt_of(prompt, ids)
    with quiet():
        from caseback.decode.vocabulary import logit_lens, read_lens
        from caseback.model.running.load import load
        from caseback.reports.lens_rows import by_unit

        loaded = load(model)
        targets: list[Any] = [int(t) if loaded.tokenizer is None and t.isdigit() else t for t in target or ()]
        _expect_followed(mode, loaded, targets)
        tokens = loaded.tokens([given])
        if kind == "logit":
            rows = _rows(units, letter, loaded.n_layers)
            indices = sorted({index for _, index in units}) or None
            found = logit_lens(loaded, tokens, targets=targets, site=site, units=indices, k=k)
            if units:
                found = by_unit(found).sel(component=rows)
        else:
            made = _fitted(loaded, kind, fit, file, steps) if fit is not None else _from(file, loaded, kind, pickle)
            found = read_lens(loaded, tokens, made, targets=targets, k=k)
    if as_json:
        from caseback.reports.result_json import result_json

        typer.echo(json.dumps(result_json(found), allow_nan=False))
    title = f"{kind} lens" + ("" if site == "resid_post" else f" at {site}")
    if not as_json:
        from caseback.views.text.lens import print_lens

        print_lens(found, title, mode=mode)
    if save is not None:
        from caseback.views.figure.heatmap import write_figure
        from caseback.views.figure.lens_grid import lens_grid

        typer.echo(f"written to {write_figure(lens_grid(found, title=title, mode=mode), save)}", err=True)


def _units_at(kind: str, site: str, heads: list[str], neurons: list[str]) -> tuple[list[tuple[int | None, int]], str]:
    """The heads or neurons that are asked for, and the site where they are read."""
    if not heads and not neurons:
        if site == "mlp_post":
            raise CasebackError("--site mlp_post: name some neurons (--neuron), all of them are too many to read")
        return [], site
    if heads and neurons:
        raise CasebackError("--head and --neuron: a grid is of heads or of neurons, give one of the two")
    what, own = ("head", "head_out") if heads else ("neuron", "mlp_post")
    if kind != "logit":
        raise CasebackError(f"--{what}: a {kind} lens reads the whole stream; {what}s are for --kind logit")
    if site not in ("resid_post", own):
        raise CasebackError(f"--{what} with --site {site}: it is read at {own}, leave out --site")
    return _units(what, heads or neurons), own


def _units(what: str, names: list[str]) -> list[tuple[int | None, int]]:
    """(layer, index) of heads or neurons by their names; no layer means every one."""
    letter = what[0].upper()
    made = []
    for name in names:
        parts = re.fullmatch(rf"(?:L(\d+){letter})?(\d+)", name.strip())
        if parts is None:
            raise CasebackError(f"--{what} {name!r}: expected L3{letter}2, or 2 for that {what} of every layer")
        made.append((None if parts[1] is None else int(parts[1]), int(parts[2])))
    return made


def _rows(units: list[tuple[int | None, int]], letter: str, n_layers: int) -> list[str]:
    """The names of the rows that show them, by layer."""
    wrong = [layer for layer, _ in units if layer is not None and layer >= n_layers]
    if wrong:
        raise OutOfRange(f"layer {wrong[0]}: the model has {n_layers}, 0 to {n_layers - 1}")
    each = {(at, i) for layer, i in units for at in (range(n_layers) if layer is None else [layer])}
    return [f"L{layer}{letter}{i}" for layer, i in sorted(each)]


def _expect_followed(mode: str, loaded: Any, targets: list[Any]) -> None:
    """Refuse the rank of a token that is not followed, before the model runs."""
    from caseback.reports.tokens_text import visible

    names = ["rank", *(f"rank {visible(loaded.token_text(loaded.token_id(t)))}" for t in targets)]
    if mode.startswith("rank") and mode not in names:
        raise CasebackError(f"--mode {mode!r} names no token of --target: expected {' or '.join(map(repr, names))}")


def _from(file: Path | None, loaded: Any, kind: str, pickle: bool) -> Any:
    """A lens from any of the layouts."""
    from caseback.decode.vocabulary import load_jacobian_lens, load_lens, load_tuned_lens

    assert file is not None
    if file.is_dir():
        made = load_tuned_lens(file, loaded, pickle=pickle)
    elif file.suffix == ".pt":
        made = load_jacobian_lens(file, loaded, pickle=pickle)
    else:
        made = load_lens(file)
    if made.kind != kind:
        raise CasebackError(f"{file} holds a {made.kind} lens, not a {kind} one: give --kind {made.kind}")
    return made


def _fitted(loaded: Any, kind: str, fit: Path, file: Path | None, steps: int | None) -> Any:
    """A lens fitted on the lines of a text file, and written if there is a place for it."""
    import sys

    from caseback.decode.vocabulary import (
        fit_future_lens,
        fit_jacobian_lens,
        fit_translators,
        fit_tuned_lens,
        save_lens,
    )

    file_to(file)
    try:
        texts = [line for line in fit.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CasebackError(f"--fit {str(fit)!r} cannot be read as text: {error}") from None
    progress = sys.stderr.isatty()
    if kind == "tuned":
        made = fit_tuned_lens(loaded, texts, recipe="small", steps=steps, progress=progress)
    elif kind == "jacobian":
        made = fit_jacobian_lens(loaded, texts, progress=progress)
    else:
        made = (fit_translators if kind == "translator" else fit_future_lens)(loaded, texts, progress=progress)
    if file is not None:
        save_lens(made, file)
    return made
