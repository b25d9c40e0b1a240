"""`caseback dictionary eval`: what dictionaries are worth, on text that they were not trained on."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.dictionaries.shared_options import Force, SecondModel
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import MaxLength, OfModel, Output, Seed
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def evaluate(
    corpus: Annotated[
        Path, Argument(help="A file of texts that none of them was trained on, or a folder.", show_default=False)
    ],
    dictionaries: Annotated[
        list[Path], Argument(help="Dictionaries: files or folders of any layout.", show_default=False)
    ],
    of: OfModel = OfModel(),
    other: SecondModel = SecondModel().worded(other_model="The second model of crosscoders of two."),
    rows: Annotated[int, Option(min=1, help="Rows of the corpus that are measured.")] = 200,
    frozen: Annotated[
        bool, Option("--frozen", help="Also train encoders on random decoders that stay as they are, beside each.")
    ] = False,
    entities: Annotated[
        Path | None,
        Option(help="Entities' attributes, as JSON: how far features move one attribute alone (RAVEL)."),
    ] = None,
    attribute: Annotated[str, Option(help="The attribute to move, with --entities.")] = "Country",
    examples: Annotated[int, Option(min=2, help="Examples of swapped entities, with --entities.")] = 400,
    epochs: Annotated[int, Option(min=1, help="Passes of each search over them.")] = 5,
    forget: Annotated[
        Path | None,
        Option(help="Texts and questions to forget and to retain, as JSON: what goes without features of the first."),
    ] = None,
    force: Force = Force(),
    length: MaxLength = MaxLength(),
    seed: Seed = Seed(),
    output: Output = Output(),
) -> None:
    """Measure dictionaries: active features, variance explained, what the model loses with them in place."""
    with quiet():
        from caseback.decode.dictionaries import load
        from caseback.reports.dictionaries.dictionaries import dictionaries_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.dictionaries.dictionaries import print_dictionaries

        model = model_of(of)
        models = other.beside(model)
        document = dictionaries_document(
            model,
            {name: load(path, model=model, force=force.force) for name, path in _named(dictionaries).items()},
            corpus,
            models=models,
            rows=rows,
            frozen=frozen,
            length=length.max_length,
            entities=None if entities is None else _object(entities, "--entities"),
            attribute=attribute,
            examples=examples,
            epochs=epochs,
            forgetting=None if forget is None else _object(forget, "--forget"),
            seed=seed.seed,
            progress=True,
        )
    answer(output, document, text=lambda: print_dictionaries(document), page=lambda path: write_page(document, path))


def _named(paths: list[Path]) -> dict[str, Path]:
    """Dictionaries by the names of their files or folders, and by the whole path where these are alike."""
    names = [path.name.removesuffix(".safetensors") for path in paths]
    if twice := next((path for i, path in enumerate(paths) if path in paths[:i]), None):
        raise CasebackError(f"{twice} is given twice: name each dictionary once")
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, paths, strict=True)}


def _object(path: Path, option: str) -> dict[str, Any]:
    from caseback.jobs.json_text import parse_json
    from caseback.jobs.text_file import read_text

    try:
        given = parse_json(read_text(path, option))
    except (ValueError, RecursionError) as error:
        raise CasebackError(f"{option} {path} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise CasebackError(f"{option} {path} holds a {type(given).__name__}: expected a JSON object")
    return given
