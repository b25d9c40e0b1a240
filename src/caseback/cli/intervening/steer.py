"""`caseback steer`: what a model writes when a direction is added, how much that does, and what it costs."""

import math
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.inputs import measure, prompt_of
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import (
    Columns,
    DirectionsFile,
    Generate,
    Ids,
    Layer,
    Measured,
    OfModel,
    Output,
    Save,
    Seed,
    Site,
    SteeredTokens,
    Toward,
)
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.text_file import read_texts

UNITS = ("norm", "difference")
POS = ("all", "prompt", "generated")
PUBLISHED_DEVIATIONS = 15.0
"""How far the authors of inference-time intervention move heads, in standard deviations."""


@with_options
def steer(
    prompts: Annotated[list[str], Argument(help="The prompts that are steered.", show_default=False)],
    of: OfModel = OfModel(),
    positive: Annotated[
        list[str] | None, Option(help="A text that shows what is added; may be repeated, each with its --negative.")
    ] = None,
    negative: Annotated[list[str] | None, Option(help="A text that shows its contrast; may be repeated.")] = None,
    vectors: DirectionsFile = DirectionsFile(),
    texts: Annotated[
        Path | None, Option(help="Labeled texts: .jsonl, .json, .csv, .tsv or .parquet, with columns text and label.")
    ] = None,
    columns: Columns = Columns(),
    best_heads: Annotated[
        int | None,
        Option(min=1, help="With --texts: add to so many heads, those whose probes tell best (ITI); in deviations."),
    ] = None,
    when: Annotated[
        Path | None, Option(help="Labeled prompts, text and label as --texts: steer only those like one label.")
    ] = None,
    when_label: Annotated[str | None, Option(help="Of --when: that label; by default the later one.")] = None,
    toward: Toward = Toward().worded(toward="Of --texts: the label that is added; by default the later one."),
    layer: Layer = Layer(None).worded(layer="Where it is added; by default the middle layer."),
    site: Site = Site("resid_post").worded(site="Where in the layer: resid_post, mlp_out, attn_out ..."),
    strength: Annotated[
        list[float] | None,
        Option(help="How much; may be repeated, and negative. By default -0.5, 0.5; with --best-heads -15, 15."),
    ] = None,
    unit: Annotated[
        str, Option(help="Of strengths: norm (1 is a state's mean length) or difference (1 is the classes').")
    ] = "norm",
    tokens: SteeredTokens = SteeredTokens().worded(pos="What is steered: all, prompt or generated tokens."),
    generate: Generate = Generate(20),
    measured: Measured = Measured(),
    plain: Annotated[
        Path | None,
        Option(help="Texts whose perplexity is the cost, one a line; by default the unsteered continuations."),
    ] = None,
    seed: Seed = Seed().worded(seed="What random vectors follow from."),
    save: Save = Save().worded(save="Write the directions of all layers to this file, as .safetensors."),
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """Add a direction to a model's states: continuations side by side, dose and response beside random vectors."""
    directions = vectors.directions
    _expect_one_source(positive, negative, directions, texts)
    for name, given, known in (("--unit", unit, UNITS), ("--pos", tokens.pos, POS)):
        if given not in known:
            raise CasebackError(f"{name} {given!r} is unknown. {did_you_mean(given, known)}")
    if best_heads is not None and texts is None:
        raise CasebackError("--best-heads chooses heads by probes of labels: give --texts")
    if when_label is not None and when is None:
        raise CasebackError("--when-label says which prompts are steered: give --when")
    usual = (-0.5, 0.5) if best_heads is None else (-PUBLISHED_DEVIATIONS, PUBLISHED_DEVIATIONS)
    strengths = list(usual) if strength is None else sorted(set(strength))
    if odd := [value for value in strengths if not math.isfinite(value)]:
        raise CasebackError(f"--strength {odd[0]}: expected a finite number")
    if not any(strengths):
        raise CasebackError("--strength 0 adds nothing: give another one")
    given = [prompt_of(prompt, ids.ids) for prompt in prompts]
    with quiet():
        from caseback.decode.directions import load_control_vector, load_directions, save_directions
        from caseback.reports.concepts.steering import steering_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.steering import print_steering

        model = model_of(of)
        if directions is not None:
            if directions.suffix == ".gguf":
                every = load_control_vector(directions, model=model, prompts=given)
            else:
                every = load_directions(directions, model=model)
        elif texts is not None and best_heads is not None:
            every = _of_heads(model, texts, columns, toward.toward, best_heads, seed.seed)
        elif texts is not None:
            every = _of_texts(model, texts, columns, toward.toward, site.site)
        else:
            high, low = ([prompt_of(text, ids.ids) for text in side or ()] for side in (positive, negative))
            every = _of_pairs(model, high, low, site.site)
        if save.save is not None:
            save_directions(every, save.save)
        here = every if best_heads is not None else _at(every, site.site, layer.layer, model.n_layers)
        how: dict[str, Any] = {"unit": unit if best_heads is None else "difference", "where": tokens.pos}
        if when is not None:
            how["condition"] = _condition(model, when, columns, when_label)
        metric, words = measure(model, measured, model.tokens(given))
        document = steering_document(
            model,
            here,
            given,
            metric,
            words,
            strengths=strengths,
            **how,
            generate=generate.generate,
            plain_text=None if plain is None else _lines(plain),
            seed=seed.seed,
            progress=True,
        )
    answer(
        output,
        document,
        text=lambda: print_steering(document),
        page=lambda path: write_page(document, path),
    )
    if save.save is not None:
        say_written(save.save)


def _expect_one_source(positive: Any, negative: Any, directions: Any, texts: Any) -> None:
    """Refuse no source of a direction, or several."""
    given = [
        name for name, value in (("--positive", positive), ("--directions", directions), ("--texts", texts)) if value
    ]
    if len(given) > 1:
        raise CasebackError(f"{given[0]} and {given[1]} both say what is added: give one of them")
    if bool(positive) != bool(negative):
        raise CasebackError("--positive and --negative go together: give as many of one as of the other")
    if not given:
        raise CasebackError("nothing says what is added: give --positive and --negative, --directions, or --texts")
    if positive and len(positive) != len(negative):
        raise CasebackError(f"{len(positive)} --positive and {len(negative)} --negative: expected pairs")


def _of_pairs(model: Any, positive: list[Any], negative: list[Any], site: str) -> Any:
    from caseback.decode.steering import contrastive_addition

    return contrastive_addition(model, positive, negative, sites=site)


def _of_texts(model: Any, file: Path, columns: Columns, toward: str | None, site: str) -> Any:
    """The difference of two labels' texts, each text's states averaged over its tokens but the first."""
    from caseback.decode.directions import find_directions
    from caseback.decode.states import read_means

    given, positive = _labeled(file, columns, toward)
    states = read_means(model, list(given.texts), site, progress=True)
    return find_directions(states, list(given.labels), groups=given.groups, positive=positive)


def _of_heads(model: Any, file: Path, columns: Columns, toward: str | None, heads: int, seed: int) -> Any:
    """Inference-time intervention, where a strength of 1 is a standard deviation."""
    from caseback.decode.steering import inference_time_intervention

    given, positive = _labeled(file, columns, toward)
    how: dict[str, Any] = {"heads": heads, "strength": 1.0, "groups": given.groups, "seed": seed}
    return inference_time_intervention(
        model, list(given.texts), list(given.labels), positive=positive, progress=True, **how
    )


def _condition(model: Any, file: Path, columns: Columns, label: str | None) -> Any:
    """What a prompt's states are like where it is steered."""
    from caseback.reports.concepts.steering import find_when

    given, wanted = _labeled(file, columns, label, groups=False)
    return find_when(model, list(given.texts), list(given.labels), None, wanted)


def _labeled(file: Path, columns: Columns, name: str | None, *, groups: bool = True) -> tuple[Any, Any]:
    """Labeled texts, and the label of a name, as the file has it."""
    from caseback.tasks.labeled_texts import labeled_texts

    given = labeled_texts(file, columns.text, columns.label, columns.group if groups else None)
    return given, next((one for one in given.labels if str(one) == name), name)


def _at(every: Any, site: str, layer: int | None, n_layers: int) -> Any:
    """The directions at one layer: the one that is asked for, the only one, or the middle one."""
    from caseback.decode.states import Place

    if len(every.places) == 1 and layer is None:
        return every
    wanted = n_layers // 2 if layer is None else layer
    heads = [place for place in every.places if place.layer == wanted and place.head is not None]
    return every.at(heads or Place(site, wanted))


def _lines(file: Path) -> list[str]:
    lines = [line for line in read_texts(file, "--plain") if line.strip()]
    if not lines:
        raise CasebackError(f"--plain {file} holds no text")
    return lines
