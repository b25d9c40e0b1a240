"""`caseback atlas`: what is inside a model, kind by kind, seen and proved."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.inputs import names_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import ModelFiles, OfModel, Output, Seed
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def atlas(
    model: Annotated[str, Argument(help="A bundled model, a folder or a hub id.", show_default=False)],
    files: ModelFiles = ModelFiles(),
    corpus: Annotated[
        Path | None, Option(help="Plain text: a file of texts, JSON lines or Parquet, or a folder of such files.")
    ] = None,
    kinds: Annotated[str | None, Option(help="Kinds to look for, parted by commas; by default all.")] = None,
    tokens: Annotated[int | None, Option(min=1, help="Stop the text after about so many tokens.")] = None,
    max_length: Annotated[int | None, Option(min=1, help="Tokens of a row at most.")] = None,
    top: Annotated[int, Option(min=1, help="Candidates of each kind that are put to the proof.")] = 5,
    no_proofs: Annotated[bool, Option("--no-proofs", help="Look only: leave out the interventions.")] = False,
    out: Annotated[
        Path | None, Option(help="Write the atlas to this folder, and keep the pass over text there to go on from.")
    ] = None,
    workers: Annotated[int, Option(min=1, help="How many processes read the text; more than one needs --out.")] = 1,
    seed: Seed = Seed(),
    output: Output = Output(),
) -> None:
    """What is inside a model: heads and neurons of known kinds, each with its control, the best put to the proof."""
    if workers > 1 and out is None:
        raise CasebackError("several workers share a folder: give --out FOLDER")
    with quiet():
        from caseback.behaviors import atlas as atlas_of
        from caseback.behaviors import save_atlas
        from caseback.reports.atlas import atlas_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.atlas import print_atlas

        measured = atlas_of(
            model_of(OfModel(model=model, **vars(files))),
            corpus,
            kinds=None if kinds is None else names_in(kinds),
            n_tokens=tokens,
            length=max_length,
            top=top,
            proofs=not no_proofs,
            folder=out,
            workers=workers,
            seed=seed.seed,
            progress=True,
        )
        if out is not None:
            save_atlas(measured, out)
        document = atlas_document(measured)
    answer(output, document, text=lambda: print_atlas(document), page=lambda path: write_page(document, path))
    if out is not None:
        say_written(out)
