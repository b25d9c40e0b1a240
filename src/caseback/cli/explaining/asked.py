"""What `explain` and `attribute` are asked of: a text, a message, or the answer that follows."""

from typing import Annotated

from typer import Option

from caseback.cli.group import Group


class Chat(Group):
    """A prompt as a message."""

    chat: Annotated[
        bool, Option("--chat", help="The prompt is what a user says, put into the model's chat template.")
    ] = False


class Continuation(Group):
    """An answer that is given."""

    continuation: Annotated[str | None, Option(help="A continuation to attribute in place of a generated one.")] = None
