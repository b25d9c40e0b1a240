"""`caseback serve`: the explorer of one model, in a browser."""

from typing import Annotated

import typer
from typer import Argument, Option

from caseback.cli.loading import DEFAULT_MODEL, model_of, quiet
from caseback.cli.options import ModelFiles, OfModel
from caseback.cli.with_options import with_options


@with_options
def serve(
    model: Annotated[str, Argument(help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    files: ModelFiles = ModelFiles(),
    host: Annotated[
        str, Option(help="Where it listens: this machine alone, unless another of its addresses is given.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(help="The port; 0 takes a free one.")] = 8765,
    token: Annotated[
        str | None, Option(help="What clients must have; by default none on this machine, else a random one.")
    ] = None,
) -> None:
    """Explore a model in the browser: type, see what comes next, ask why, turn parts up or down."""
    with quiet():
        from caseback.server.serving import serve as serving

        loaded = model_of(OfModel(model=model, **vars(files)))
    serving(loaded, host=host, port=port, token=token, ready=lambda at: typer.echo(f"{at}  (Ctrl-C ends it)"))
