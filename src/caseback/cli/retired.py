"""Spellings of earlier versions, and what they are called now: whoever uses one is told before any work is done."""

from collections.abc import Sequence

RETIRED = {
    ("patch", "--save"): "--html FILE",
    ("ablate", "--save"): "--html FILE",
    ("ablate", "--kind"): "--ablation KIND",
    ("trace", "--save"): "--html FILE",
    ("align", "--save"): "--html FILE",
    ("attribute", "--save"): "--html FILE",
    ("dla", "--save"): "--html FILE",
    ("lens", "--k"): "--top N",
    ("patchscope", "--save"): "--html FILE",
    ("patchscope", "--layer"): "--layers LIST",
    ("patchscope", "--tokens"): "--generate N",
    ("activating", "--save"): "--html FILE",
    ("activating", "--batch"): "--batch-size N",
    ("activating", "--length"): "--max-length N",
    ("circuit", "--prompts"): "--count N",
    ("circuit", "--methods"): "--list",
    ("circuit", "--write"): "--markdown FILE",
}
"""By command and option. Two that were given a new meaning are answered where they are read: `lens --save page.html`
(`files.not_a_page`), and `lens --fit ... --lens FILE` (`reading.lens`)."""

COMMANDS = {"ioi": "behavior ioi"}
"""Commands that are no more, and what answers in their place."""


def command_now(arguments: Sequence[str]) -> str | None:
    """What to say to whoever calls a command that is no more; None for a line that calls no such command.

    Examples
    --------
    >>> command_now(["ioi", "--model", "meadow"])
    'caseback ioi is now: caseback behavior ioi'
    """
    command = next((word for word in arguments if not word.startswith("-")), "")
    return f"caseback {command} is now: caseback {COMMANDS[command]}" if command in COMMANDS else None


def now_called(command: str | None, option: str | None) -> str | None:
    """What to say to whoever uses a retired spelling; None for one that never was.

    Examples
    --------
    >>> now_called("patch", "--save")
    '--save of patch is now --html: caseback patch ... --html FILE'
    """
    spelling = RETIRED.get((command or "", option or ""))
    if spelling is None:
        return None
    return f"{option} of {command} is now {spelling.split()[0]}: caseback {command} ... {spelling}"
