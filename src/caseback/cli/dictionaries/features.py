"""`caseback dictionary features`: all features of a dictionary over a corpus, some as cards, and those of a prompt."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.dictionaries.shared_options import Force, NotesFile, SomeFeatures
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import MaxLength, OfModel, Output
from caseback.cli.with_options import with_options


@with_options
def features(
    dictionary: Annotated[Path, Argument(help="A dictionary: a file or folder of any layout.", show_default=False)],
    corpus: Annotated[
        Path, Argument(help="A file of texts, one a line, that features are looked for in.", show_default=False)
    ],
    of: OfModel = OfModel(),
    some: SomeFeatures = SomeFeatures().worded(
        some="Features that get a card: 3,17; by default those that stand out most."
    ),
    cards: Annotated[int, Option(min=0, help="How many get a card, without --features.")] = 50,
    prompt: Annotated[str | None, Option(help="A prompt to show with the features of each token.")] = None,
    factors: Annotated[
        int, Option(min=0, help="Factors of the prompt's neurons to show beside, without any dictionary.")
    ] = 0,
    top: Annotated[int, Option(min=1, help="Examples of a card.")] = 10,
    rows: Annotated[int, Option(min=1, help="Features listed in the terminal.")] = 20,
    explain: Annotated[
        bool, Option("--explain", help="Say on each card at which tokens the feature fires, and how far that holds.")
    ] = False,
    noted: NotesFile = NotesFile(),
    force: Force = Force(),
    length: MaxLength = MaxLength(),
    output: Output = Output(),
) -> None:
    """Show what a dictionary's features react to, and what they write."""
    with quiet():
        from caseback.decode.dictionaries import load
        from caseback.model.notes import Notes
        from caseback.reports.dictionaries.features import features_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.dictionaries.features import print_features

        model = model_of(of)
        document = features_document(
            model,
            load(dictionary, model=model, force=force.force),
            corpus,
            cards=cards if some.chosen is None else some.chosen,
            prompt=prompt,
            factors=factors,
            top=top,
            length=length.max_length,
            explain=explain,
            notes=None if noted.notes is None else Notes.load(noted.notes),
            progress=True,
        )
    answer(
        output, document, text=lambda: print_features(document, most=rows), page=lambda path: write_page(document, path)
    )
