"""Options of commands that look for kinds of units in text: how much of it, its trees, which kinds."""

from pathlib import Path
from typing import Annotated

from typer import Option

from caseback.cli.group import Group


class TreebankFile(Group):
    """Sentences with their trees."""

    treebank: Annotated[Path | None, Option(help="A treebank (.conllu), for kinds of syntax.")] = None


class Tokens(Group):
    """How much text is read."""

    tokens: Annotated[int | None, Option(min=1, help="Stop the text after about so many tokens.")] = None


class Kinds(Tokens):
    """Kinds of units, and how much text they are looked for in."""

    kinds: Annotated[str | None, Option(help="Kinds to look for, parted by commas; by default all.")] = None
