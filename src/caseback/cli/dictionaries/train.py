"""`caseback dictionary train`: dictionaries of a model's states, many on one pass over a corpus."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.dictionaries.shared_options import Schedule, SecondModel, Sparsity, Where
from caseback.cli.inputs import names_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import OfModel, Output, Seed, Stored
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, OutOfRange

EVERY = 5.0  # seconds between two writings of the page


@with_options
def train(
    corpus: Annotated[
        Path, Argument(help="A file of texts, JSON lines or Parquet, or a folder of such files.", show_default=False)
    ],
    of: OfModel = OfModel(),
    where: Where = Where(),
    other: SecondModel = SecondModel().worded(
        other_model="A second model with the same tokens: crosscoders are of --site in both."
    ),
    architecture: Annotated[
        str, Option(help="batch_topk, topk, jump_relu, standard, switch, group_topk, …; several parted by commas.")
    ] = "batch_topk",
    sparsity: Sparsity = Sparsity(),
    expansion: Annotated[float, Option(help="Features, in widths of the site.")] = 8,
    width: Annotated[int | None, Option(min=1, help="Features, as a number instead.")] = None,
    n_tokens: Annotated[
        int, Option("--tokens", min=1, max=2**32, help="Tokens that each dictionary sees.")
    ] = 1_000_000,
    step_tokens: Annotated[int, Option(min=1, help="Tokens of a step.")] = 4096,
    end_to_end: Annotated[
        float,
        Option(
            help="The share of the tokens, the last, in which it is trained through the rest of the model: 1 is end to "
            "end, 0.05 a fine-tune by KL.",
        ),
    ] = 0,
    beside: Annotated[
        Literal["nothing", "later", "error"] | None,
        Option(help="What is minimized beside KL there: by default nothing, and the error in a fine-tune."),
    ] = None,
    schedule: Schedule = Schedule(),
    stored: Stored = Stored().worded(
        max_length="Tokens of a row at most; by default 128, or the model's context if that is less.",
        store="The folder for the dictionaries, where an interrupted training goes on; it is needed.",
    ),
    seed: Seed = Seed(),
    output: Output = Output().worded(html="Write a page of the curves to this file, again and again while it lasts."),
) -> None:
    """Train sparse dictionaries on a model's states."""
    if stored.store is None:
        raise CasebackError("name a folder for the dictionaries: --store FOLDER")
    if not 0 <= end_to_end <= 1:
        raise OutOfRange(f"--end-to-end is {end_to_end:g}: expected a share of the tokens, from 0 to 1")
    with quiet():
        from caseback.decode.dictionaries import (
            Recipe,
            Trained,
            architecture_of,
            save_dictionary,
            train_dictionaries,
            train_end_to_end,
        )
        from caseback.jobs.whole_file import make_folder
        from caseback.reports.concepts.training import training_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.training import print_training

        first = None if other.other_model is None else model_of(of)
        models = None if first is None else other.beside(first)
        if models is not None and end_to_end:
            raise CasebackError("--end-to-end is through one model: leave out --other-model")
        names = names_in(architecture)
        sparsity.expect_used([architecture_of(name).options for name in names])
        recipes = [
            Recipe(
                name=f"{site}-{name}-{label}",
                site=reads,
                target=writes,
                architecture=name,
                width=width,
                expansion=expansion,
                skip=where.skip,
                seed=seed.seed,
                **more,
                **schedule.given,
            )
            for site, reads, writes in where.pairs(list(models or ()))
            for name in names
            for label, more in sparsity.recipes(architecture_of(name).options, schedule.coefficient)
        ]
        folder = make_folder(stored.store, "the dictionaries")
        model = first or model_of(of)
        shown = [0.0]

        def show(so_far: list[Trained]) -> None:
            if output.html is not None and time.monotonic() - shown[0] > EVERY:
                write_page(training_document(model, so_far), output.html)
                shown[0] = time.monotonic()

        how: Any = {"step_tokens": step_tokens, "length": stored.max_length, "seed": seed.seed, "progress": True}
        through = round(end_to_end * n_tokens)
        trained = None
        if through < n_tokens:
            trained = train_dictionaries(
                models or model,
                corpus,
                recipes,
                n_tokens=n_tokens - through,
                pool_tokens=max(2**17, step_tokens),
                checkpoint=folder / "training",
                watch=None if output.html is None else show,
                **how,
            )
        if through:
            trained = train_end_to_end(
                model,
                corpus,
                recipes,
                start=None if trained is None else [one.dictionary for one in trained],
                beside=beside or ("nothing" if trained is None else "error"),
                n_tokens=through,
                checkpoint=folder / "training-end-to-end",
                **{**how, "step_tokens": min(step_tokens, 1024)},  # all of a step's logits are held at once
            )
        assert trained is not None
        paths = [folder / f"{one.name}.safetensors" for one in trained]
        for one, path in zip(trained, paths, strict=True):
            save_dictionary(one.dictionary, path)
        document = training_document(model, trained, files=[path.name for path in paths])
    answer(output, document, text=lambda: print_training(document), page=lambda path: write_page(document, path))
    for path in paths:
        say_written(path)
