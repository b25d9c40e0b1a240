"""`caseback dictionary convert`: a dictionary of one layout in the files of another."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import say_written
from caseback.cli.loading import quiet
from caseback.cli.with_options import with_options


@with_options
def convert(
    source: Annotated[str, Argument(help="A file, a folder or a hub id, of any layout.", show_default=False)],
    folder: Annotated[Path, Argument(help="Where to write it.", show_default=False)],
    to: Annotated[str, Option(help="saelens, sparsify, circuit_tracer, circuit_tracer_clt or caseback.")] = "saelens",
    layout: Annotated[
        str | None, Option("--from", help="The layout of what is read, where its files do not tell it.")
    ] = None,
    subfolder: Annotated[str | None, Option(help="Of a hub repository, or a folder of many.")] = None,
    allow_pickle: Annotated[
        bool, Option("--allow-pickle", help="Read pickled weights, which can run code: of whom you trust.")
    ] = False,
) -> None:
    """Read a dictionary of any published layout, and write it in another."""
    with quiet():
        from caseback.decode.dictionaries import load, save

        save(load(source, format=layout, subfolder=subfolder, allow_pickle=allow_pickle), folder, format=to)
    say_written(folder)
