"""`caseback dictionary show`: what a dictionary is, as its files say it, and cards of some of its features."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.dictionaries.shared_options import Force
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import MaxLength, ModelFiles, OfModel, Output
from caseback.cli.with_options import with_options


@with_options
def show(
    dictionary: Annotated[
        str,
        Argument(help="A file, a folder of one or of several, or a hub id, of any layout.", show_default=False),
    ],
    features: Annotated[
        list[int] | None, Argument(help="Features that get a card: 3 17.", show_default=False, min=0)
    ] = None,
    model: Annotated[
        str | None,
        Option("--model", "-m", help="The model that it reads, for the tokens that features raise and lower."),
    ] = None,
    files: ModelFiles = ModelFiles(),
    corpus: Annotated[
        Path | None, Option(help="A file of texts, one a line, that the features are looked for in; needs a model.")
    ] = None,
    top: Annotated[int, Option(min=1, help="Examples of a card.")] = 10,
    layout: Annotated[
        str | None, Option("--from", help="The layout of what is read, where its files do not tell it.")
    ] = None,
    subfolder: Annotated[str | None, Option(help="Of a hub repository, or a folder of many.")] = None,
    force: Force = Force(),
    length: MaxLength = MaxLength(),
    output: Output = Output(),
) -> None:
    """Show what a dictionary is: layout, architecture, sites, training; and cards of its features."""
    with quiet():
        from caseback.decode.dictionaries.formats.loading import load_all
        from caseback.reports.dictionaries.dictionary import dictionary_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.dictionaries.dictionary import print_dictionary

        loaded = None if model is None else model_of(OfModel(model=model, **vars(files)))
        several = load_all(
            dictionary,
            format=layout,
            subfolder=subfolder,
            allow_pickle=files.allow_pickle,
            model=loaded,
            force=force.force,
        )
        document = dictionary_document(
            several,
            features or [],
            model=loaded,
            corpus=corpus,
            top=top,
            length=length.max_length,
            progress=True,
        )
    answer(output, document, text=lambda: print_dictionary(document), page=lambda path: write_page(document, path))
