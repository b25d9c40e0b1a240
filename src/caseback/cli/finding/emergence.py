"""`caseback emergence`: what arises in training, and when, from a folder of checkpoints."""

import os
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.inputs import names_in
from caseback.cli.loading import quiet
from caseback.cli.options import CorpusFile, Kinds, MaxLength, Output, Resume, Save, Seed
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def emergence(
    run: Annotated[
        str,
        Argument(
            help="A folder with checkpoints step-N (or checkpoints/step-N), or a bundled model that ships them; or a "
            "file that --save wrote.",
            show_default=False,
        ),
    ],
    texts: CorpusFile = CorpusFile().worded(
        corpus="Plain text: texts, JSON lines or Parquet, or a folder of such files."
    ),
    looked_for: Kinds = Kinds().worded(kinds="Kinds of heads, parted by commas; by default ten."),
    length: MaxLength = MaxLength(),
    rows: Annotated[int, Option(min=8, help="Rows of random tokens, of each sort.")] = 64,
    coefficient: Annotated[
        bool, Option("--learning-coefficient", help="Also how flat the text's loss is around the weights; slow.")
    ] = False,
    resume: Resume = Resume(),
    to: Save = Save().worded(save="Write what was measured to this file, which this command draws again."),
    seed: Seed = Seed(),
    output: Output = Output(),
) -> None:
    """What arises in training: kinds of heads, learning from context, n-grams and norms, checkpoint by checkpoint."""
    saved = os.path.isfile(run)
    given = {
        "--corpus": texts.corpus,
        "--kinds": looked_for.kinds,
        "--tokens": looked_for.tokens,
        "--checkpoint": resume.checkpoint,
        "--learning-coefficient": coefficient or None,
    }
    if saved and (unused := [name for name, value in given.items() if value is not None]):
        raise CasebackError(f"{run} was measured already, and {unused[0]} is for measuring")
    with quiet():
        from caseback.behaviors import emergence as emergence_of
        from caseback.behaviors import load_emergence, save_emergence
        from caseback.reports.concepts.emergence import emergence_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.emergence import print_emergence

        if saved:
            measured = load_emergence(run)
        else:
            measured = emergence_of(
                run,
                texts.corpus,
                kinds=None if looked_for.kinds is None else names_in(looked_for.kinds),
                n_tokens=looked_for.tokens,
                length=length.max_length,
                rows=rows,
                coefficient=coefficient,
                checkpoint=resume.checkpoint,
                seed=seed.seed,
                progress=True,
            )
        if to.save is not None:
            save_emergence(measured, to.save)
        document = emergence_document(measured)
    answer(output, document, text=lambda: print_emergence(document), page=lambda path: write_page(document, path))
    if to.save is not None:
        say_written(to.save)
