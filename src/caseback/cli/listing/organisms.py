"""`caseback organisms`: the models that ship with the package; train them again, measure what they do."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from caseback.cli.answer import answer, say_written
from caseback.cli.listing.learn import learn
from caseback.cli.loading import quiet
from caseback.cli.options import Json, Out, Sample, Seed, Steps, Threads
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, LoadError
from caseback.jobs.json_text import parse_json
from caseback.jobs.text_file import read_text

organisms = typer.Typer(name="organisms", help="Models whose insides are known: list, train, evaluate, learn.")
organisms.command()(learn)


@organisms.callback(invoke_without_command=True)
def _options(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@organisms.command("list")
@with_options
def list_(output: Json = Json()) -> None:
    """List the bundled models, one a line: name, shape, size, whether it can be trained again."""
    from caseback.organisms import bundled, path

    rows = [_facts(name, path(name)) for name in bundled()]

    def text() -> None:
        for row in rows:
            again = f"  ({row['train']})" if row["train"] else ""
            shape = f"{row['layers']} layers x {row['heads']} heads, {row['width']} wide"
            typer.echo(f"{row['name']:12} {shape}, vocabulary {row['vocabulary']}, {row['bytes'] / 1e6:.1f} MB{again}")

    answer(output, rows, text=text)


def _facts(name: str, folder: Path) -> dict[str, Any]:
    """A bundled model's shape and size, and the command that trains it again, if any."""
    from caseback.organisms.trainers import TRAINERS

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    keys = {
        "layers": ("n_layer", "num_hidden_layers"),
        "heads": ("n_head", "num_attention_heads"),
        "width": ("n_embd", "hidden_size"),
        "vocabulary": ("vocab_size",),
    }
    shape = {fact: next((config[key] for key in own if key in config), None) for fact, own in keys.items()}
    organism, _, seed = name.partition("_")
    train = f"caseback organisms train {organism}{seed and f' --seed {seed}'}" if organism in TRAINERS else None
    size = sum(file.stat().st_size for file in folder.iterdir() if os.path.isfile(file))
    return {"name": name, **shape, "bytes": size, "train": train}


@organisms.command("path")
def path_(name: Annotated[str, typer.Argument(help="A bundled model.")]) -> None:
    """Print the folder of a bundled model, for from_pretrained."""
    from caseback.organisms import path

    typer.echo(str(path(name)))


@organisms.command()
@with_options
def train(
    name: Annotated[str, typer.Argument(help="The organism to train.")],
    to: Out = Out(),
    seed: Seed = Seed().worded(seed="What training follows from."),
    steps: Steps = Steps().worded(steps="Length of the schedule; by default the organism's."),
    stop_at: Annotated[int | None, typer.Option(min=1, help="Stop after this step, to go on later.")] = None,
    threads: Threads = Threads(threads=1).worded(threads="Processor threads; more than one may change last digits."),
) -> None:
    """Train an organism from its seed, with checkpoints on the way."""
    from caseback.organisms.trainers import trainer

    trains = trainer(name)
    if (out := to.out) is None:
        raise CasebackError("no folder to write: give --out FOLDER")
    if os.path.isfile(out):
        raise CasebackError(f"cannot train into {str(out)!r}: it is a file, expected a folder")
    with quiet(), _bar(name) as tell:
        trains(out, seed.seed, steps.steps, stop_at, threads.threads or 1, tell)
    say_written(out)


@organisms.command()
@with_options
def evaluate(
    model: Annotated[str, typer.Argument(help="A bundled model, or a folder that was trained like one.")] = "meadow",
    sample: Sample = Sample(seed=1, count=500).worded(
        count="Held-out prompts for each behavior.", seed="What the prompts follow from."
    ),
    write: Annotated[bool, typer.Option("--write", help="Write the numbers into the model card, README.md.")] = False,
    output: Json = Json(),
) -> None:
    """Measure every behavior on what training never showed, beside its target."""
    from caseback.organisms import bundled, path

    folder = path(model) if model in bundled() else Path(model)
    if not os.path.isdir(folder):
        raise CasebackError(f"{model!r} is neither a bundled model ({', '.join(bundled())}) nor a folder")
    trained = _trained(folder)
    if {"p", "words", "squares"} & set(trained):
        _evaluate_run(folder, trained, output, write)
        return
    with quiet():
        from caseback.organisms.evaluate import BEHAVIORS, as_rows, scores
        from caseback.views.text.listings.organisms import print_scores

        measured = scores(folder, sample.count, sample.seed, _tracked(BEHAVIORS))
        if write:
            from caseback.organisms.card import write_card

            say_written(write_card(folder, measured, sample.seed))
    rows = as_rows(measured)
    answer(output, rows, text=lambda: print_scores(rows))


def _trained(folder: Path) -> dict:
    """What a trained organism's config says of its training."""
    try:
        config = parse_json(read_text(folder / "config.json"))
    except (LoadError, ValueError) as error:
        raise CasebackError(f"{str(folder)!r} holds no model: {error}") from error
    trained = config.get("caseback", {}) if isinstance(config, dict) else None
    if not isinstance(trained, dict):
        raise CasebackError(f"{str(folder)!r} holds no model: its config.json is of another form")
    return trained


def _evaluate_run(folder: Path, trained: dict, output: Json, write: bool) -> None:
    """What a run does: progress of grokking, losses and attention of induction, legal moves of a board."""
    with quiet():
        from caseback.organisms.board.card import legality
        from caseback.organisms.board.card import write_card as write_legality
        from caseback.organisms.modular.card import write_card as write_progress
        from caseback.organisms.modular.progress import progress
        from caseback.organisms.repeats.card import write_card as write_growth
        from caseback.organisms.repeats.measure import growth

        if "p" in trained:
            measured, page = progress(folder), lambda: write_progress(folder)
        elif "words" in trained:
            measured = growth(folder)
            page = lambda: write_growth(folder, trained["seed"], measured)  # noqa: E731
        else:
            measured = legality(folder)
            page = lambda: write_legality(folder, trained["seed"], trained["step"], measured)  # noqa: E731
        if write:
            say_written(page())
    table = measured.to_dataframe()
    # pandas writes its table as JSON itself
    shown = table.to_json(orient="index", indent=2) if output.as_json else table.to_string(float_format="{:.3g}".format)
    typer.echo(shown)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int, str], None]]:
    """What training tells its steps to: progress, with its messages as lines between."""
    from caseback.jobs.progress import progress_bar

    with progress_bar(what=name, show=True, total=0) as bar:

        def tell(done: int, steps: int, message: str) -> None:
            bar.total = steps
            bar.update(done - bar.n)
            if message:
                bar.write(message, file=sys.stderr)

        yield tell


def _tracked(kinds: Iterable[str]) -> Iterable[str]:
    from caseback.jobs.progress import progress_bar

    return progress_bar(list(kinds), "measuring", show=True)
