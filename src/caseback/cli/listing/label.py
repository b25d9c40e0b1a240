"""`caseback label`: notes that people keep on a model's units, in one small file."""

import os
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.dictionaries.shared_options import Force
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Json, OfModel
from caseback.cli.with_options import with_options


@with_options
def label(
    file: Annotated[Path, Argument(help="The file of notes; written where there is none.", show_default=False)],
    unit: Annotated[
        str | None,
        Argument(
            help="L3H2, MLP 4, L3N17 or L3F1042:resid_post; without, what is there is listed.", show_default=False
        ),
    ] = None,
    words: Annotated[
        str | None, Argument(metavar="LABEL", help="What it is, in a few words.", show_default=False)
    ] = None,
    note: Annotated[str, Option(help="More words.")] = "",
    author: Annotated[str, Option(help="Who says so; each has one note on a unit.")] = "",
    withdraw: Annotated[bool, Option("--withdraw", help="Take the note back.")] = False,
    dictionary: Annotated[
        Path | None, Option(help="The dictionary whose features are meant; notes on another are refused.")
    ] = None,
    merge: Annotated[Path | None, Option(help="Another file, whose notes are taken in.")] = None,
    export: Annotated[
        Path | None, Option(help="Write notes on the dictionary's features to this folder, in Neuronpedia's form.")
    ] = None,
    force: Force = Force(),
    of: OfModel = OfModel(),
    output: Json = Json(),
) -> None:
    """Keep notes on heads, MLPs, neurons and features: what each is taken to be, and by whom."""
    if unit is None and (words is not None or withdraw or note):
        raise BadParameter("which unit? name it, such as L3H2", param_hint="UNIT")
    if unit is not None and withdraw == (words is not None):
        raise BadParameter("expected a label behind the unit, or --withdraw", param_hint="LABEL")
    if export is not None and dictionary is None:
        raise BadParameter("whose features? name the dictionary", param_hint="--dictionary")
    if force.force and dictionary is None:
        raise BadParameter("it reads --dictionary of a model of another name: give one", param_hint="--force")
    from caseback.model.notes import Notes
    from caseback.views.text.listings.notes import print_notes

    if unit is None and merge is None and export is None:
        notes = Notes.load(file)
    else:
        with quiet():
            from caseback.decode.dictionaries import dictionary_digest, load

            notes = before = Notes.load(file) if os.path.exists(file) or unit is None else Notes()
            model = model_of(of)
            features = None if dictionary is None else load(dictionary, model=model, force=force.force)
            digest = "" if features is None else dictionary_digest(features)
            notes.expect(model, digest)
            notes = notes.merged(Notes(model=model.name, dictionary=digest))
            if merge is not None:
                notes = notes.merged(Notes.load(merge))
            if unit is not None:
                notes = notes.withdraw(unit, by=author) if withdraw else notes.put(unit, words or "", note, by=author)
            notes.expect(model, digest)
            if features is not None and export is not None:
                _export(notes, features, model.name, export)
            if notes != before:
                notes.save(file)
    shown = {"model": notes.model, "dictionary": notes.dictionary, "notes": [vars(one) for one in notes]}
    answer(output, shown, text=lambda: print_notes(shown))


def _export(notes: Any, features: Any, model: str, folder: Path) -> None:
    """The features' labels in Neuronpedia's form."""
    from caseback.decode.dictionaries import explanations_of_notes, write_explanations
    from caseback.model.anatomy.sites import as_site

    site = as_site(features.facts.target or features.facts.site)
    layer = 0 if site.layer is None else site.layer
    explained = explanations_of_notes(notes, layer, site.name)
    write_explanations(explained, folder, model=model, layer=layer, dictionary=features.architecture)
    say_written(folder)
