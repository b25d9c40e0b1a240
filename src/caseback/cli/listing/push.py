"""`caseback push`: a fitted thing, such as a lens or a dictionary, put on the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.options import Json
from caseback.cli.with_options import with_options


@with_options
def push(
    file: Annotated[Path, Argument(help="What a command or a save_… function wrote.", show_default=False)],
    address: Annotated[str, Argument(help="hf://owner/name, or hf://owner/name/path.", show_default=False)],
    private: Annotated[bool, Option("--private", help="Make the repository private, where it is made now.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Check the file and the address; nothing goes up.")] = False,
    output: Json = Json(),
) -> None:
    """Put a fitted thing on the hub, with a card that says what it is; it is read by its address."""
    from caseback.model.published import push as put

    where = put(file, address, private=private, dry_run=dry_run)
    answer(output, {"address": where}, text=lambda: print(where))
