"""`caseback atlas`: what is inside a model, kind by kind, seen and proved."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.files import writable
from caseback.cli.inputs import names_in
from caseback.cli.loading import model_of, quiet, there
from caseback.cli.options import (
    CorpusFile,
    Kinds,
    Launched,
    MaxLength,
    ModelFiles,
    OfModel,
    Out,
    Output,
    Seed,
    Top,
    TreebankFile,
)
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError

ATLAS_FILE = "atlas.json"  # by which an atlas's folder is told from a model's
TOP = 5


@with_options
def atlas(
    model: Annotated[
        str,
        Argument(
            callback=there,
            help="A bundled model, a folder or a hub id; or an atlas's folder, as --out left it.",
            show_default=False,
        ),
    ],
    files: ModelFiles = ModelFiles(),
    texts: CorpusFile = CorpusFile().worded(
        corpus="Plain text: texts, JSON lines or Parquet, or a folder of such files; records may have labels "
        "such as domain."
    ),
    looked_for: Kinds = Kinds().worded(tokens="Stop the text with the rows in which so many tokens are reached."),
    trees: TreebankFile = TreebankFile(),
    length: MaxLength = MaxLength(),
    top: Top = Top(TOP).worded(top="Candidates of each kind that are put to the proof."),
    no_proofs: Annotated[bool, Option("--no-proofs", help="Look only: leave out the interventions.")] = False,
    budget: Annotated[
        str | None, Option(help="About how long it may take, such as 90s, 5m or 1h; what does not fit is left out.")
    ] = None,
    to: Out = Out().worded(out="Write the atlas to this folder, and keep the pass over text there to go on from."),
    parquet: Annotated[
        Path | None,
        Option(callback=writable, help="Write a row for every unit, with its labels and scores, to this Parquet file."),
    ] = None,
    against: Annotated[
        Path | None, Option(help="The folder of another atlas: say what changed from that one to this.")
    ] = None,
    launched: Launched = Launched(),
    seed: Seed = Seed(),
    output: Output = Output(),
) -> None:
    """What is inside a model: heads and neurons of known kinds, each with its control, the best put to the proof."""
    if (launched.workers, launched.on) != (1, "here") and (to.out is None or texts.corpus is None):
        raise CasebackError("workers share a pass over text that is kept: give --corpus TEXT and --out FOLDER")
    saved = os.path.isfile(Path(model) / ATLAS_FILE)
    given = {
        **{"--corpus": texts.corpus, "--treebank": trees.treebank, "--kinds": looked_for.kinds},
        **{"--tokens": looked_for.tokens, "--budget": budget, "--out": to.out},
        **{"--max-length": length.max_length, "--no-proofs": no_proofs or None},
        **{"--seed": seed.seed or None, "--top": None if top.top == TOP else top.top},
    }
    if saved and (unused := [name for name, value in given.items() if value is not None]):
        raise CasebackError(f"{model} is an atlas that was made already, and {unused[0]} is for making one")
    with quiet():
        from caseback.behaviors import atlas as atlas_of
        from caseback.behaviors import compare_atlases, load_atlas, save_atlas, save_unit_table
        from caseback.reports.atlas import atlas_document
        from caseback.reports.concepts.atlas_comparison import atlas_comparison_document
        from caseback.tasks.formats import conllu
        from caseback.views.page.kinds import write_page
        from caseback.views.text.atlas import print_atlas
        from caseback.views.text.concepts.atlas_comparison import print_atlas_comparison

        other = None if against is None else load_atlas(against)
        if saved:
            measured = load_atlas(model)
        else:
            measured = atlas_of(
                model_of(OfModel(model=model, **vars(files))),
                texts.corpus,
                treebank=None if trees.treebank is None else list(conllu(trees.treebank)),
                kinds=None if looked_for.kinds is None else names_in(looked_for.kinds),
                n_tokens=looked_for.tokens,
                length=length.max_length,
                top=top.top,
                proofs=not no_proofs,
                budget=budget,
                folder=to.out,
                workers=launched.workers,
                on=launched.on,
                threads=launched.threads,
                seed=seed.seed,
                progress=True,
            )
        if to.out is not None:
            save_atlas(measured, to.out)
        if parquet is not None:
            save_unit_table(measured, parquet)
        if other is None:
            document, print_text = atlas_document(measured), print_atlas
        else:
            document = atlas_comparison_document(
                compare_atlases(other, measured), folders=(str(against), model if saved else str(to.out or ""))
            )
            print_text = print_atlas_comparison
    answer(output, document, text=lambda: print_text(document), page=lambda path: write_page(document, path))
    for written in (to.out, parquet):
        if written is not None:
            say_written(written)
