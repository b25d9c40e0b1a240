"""`caseback serve`: the explorer of one model, in a browser."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from caseback.cli.dictionaries.shared_options import Dictionaries
from caseback.cli.loading import DEFAULT_MODEL, dictionaries_of, model_of, quiet, there
from caseback.cli.options import DirectionsFiles, ModelFiles, OfModel
from caseback.cli.with_options import with_options


@with_options
def serve(
    model: Annotated[str, Argument(callback=there, help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    files: ModelFiles = ModelFiles(),
    host: Annotated[
        str, Option(help="Where it listens: this machine alone, unless another of its addresses is given.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8765,
    dictionaries: Dictionaries = Dictionaries().worded(
        dictionaries="A dictionary whose features can be turned and looked at; give it again for each."
    ),
    vectors: DirectionsFiles = DirectionsFiles(),
    token: Annotated[
        str | None, Option(help="What clients must have; by default none on this machine, else a random one.")
    ] = None,
) -> None:
    """Explore a model in the browser: type, see what comes next, ask why, turn parts up or down."""
    dictionaries.expect_forced()
    with quiet():
        from caseback.server.serving import serve as serving

        loaded = model_of(OfModel(model=model, **vars(files)))
        shelf = _shelf(loaded, dictionaries, vectors.directions or [])
    serving(
        loaded, host=host, port=port, token=token, shelf=shelf, ready=lambda at: typer.echo(f"{at}  (Ctrl-C ends it)")
    )


def _shelf(model: Any, dictionaries: Dictionaries, directions: list[Path]) -> Any:
    """What clients may name, from files."""
    from caseback.decode.directions import load_directions
    from caseback.server.shelf import Shelf, names_of

    files, loaded = [], []
    for path in dictionaries.dictionaries or []:
        held = dictionaries_of([path], model, force=dictionaries.force)
        loaded += held
        files += [path.stem] if len(held) == 1 else [f"{path.stem}_{one.facts.site.replace('.', '_')}" for one in held]
    vectors = [load_directions(path, model=model) for path in directions]
    return Shelf(
        dict(zip(names_of(files), loaded, strict=True)),
        dict(zip(names_of(path.stem for path in directions), vectors, strict=True)),
    )
