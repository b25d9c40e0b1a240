"""What `explain` and `attribute` are asked of: a text, a message, the answer that follows, or many prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from caseback.cli.group import Group
from caseback.cli.options import OfTask, Sample
from caseback.errors import CasebackError


class Chat(Group):
    """A prompt as a message."""

    chat: Annotated[
        bool, Option("--chat", help="The prompt is what a user says, put into the model's chat template.")
    ] = False


class Continuation(Group):
    """An answer that is given."""

    continuation: Annotated[str | None, Option(help="A continuation to attribute in place of a generated one.")] = None


class ManyPrompts(OfTask):
    """Prompts of a task, or of a file."""

    prompts: Annotated[
        Path | None, Option(help="The same for a file: JSON lines with prompt, target and perhaps foil.")
    ] = None

    @property
    def several(self) -> bool:
        """Whether there are any."""
        return self.task is not None or self.prompts is not None

    def asked(self, sample: Sample) -> Callable[[Any], tuple[Any, dict[str, Any]]]:
        """Read the file, or find the task, before a model is loaded; what is returned draws the prompts for it.

        With them come the arguments that their answers are, and the name of where they are from.
        """
        if self.task is not None and self.prompts is not None:
            raise CasebackError("both --task and --prompts given: expected one of them")
        if self.task is not None:
            from caseback.tasks import get

            task = get(self.task)
            return lambda model: (task.prompts(model, sample.count, seed=sample.seed), {})
        from caseback.jobs.text_file import read_text
        from caseback.reports.tables.records import records_of

        assert self.prompts is not None
        records = records_of(read_text(self.prompts, "prompts"))
        answers = {
            "targets": [row["target"] for row in records],
            "foils": [row["foil"] or None for row in records],
            "source": self.prompts.stem,
        }
        if any(row["corrupt"] for row in records):
            answers["corrupt"] = [row["corrupt"] or None for row in records]
        return lambda model: ([row["prompt"] for row in records], answers)


def first_given(options: dict[str, Any]) -> str:
    """The first option that was given, or an empty text.

    Examples
    --------
    >>> first_given({"--foil": None, "--generate": 2})
    '--generate'
    """
    return next((name for name, value in options.items() if value), "")
