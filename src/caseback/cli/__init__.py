"""The command line: one command a job, each a thin function in a file of its own.

To add a command, write `cli/<room>/<command>.py` with one function of that name (or a `typer.Typer` of that name, for a
command with commands of its own), import torch, transformers and what brings them inside the function (so that
`caseback --help` answers at once), and add it to `BY_JOB` (or `GROUPS`).

A mistake of the user ends with exit status 2 and one line on stderr; with `--debug` or CASEBACK_DEBUG=1, with
the traceback. Anything else that goes wrong is a bug of ours and keeps its traceback.
"""

import errno
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from caseback.cli.dictionaries.group import dictionary
from caseback.cli.explaining.attribute import attribute
from caseback.cli.explaining.dla import dla
from caseback.cli.explaining.drivers import drivers
from caseback.cli.explaining.explain import explain
from caseback.cli.explaining.influence import influence
from caseback.cli.explaining.mcp import mcp
from caseback.cli.explaining.serve import serve
from caseback.cli.finding.atlas import atlas
from caseback.cli.finding.behavior import behavior
from caseback.cli.finding.binding import binding
from caseback.cli.finding.emergence import emergence
from caseback.cli.finding.facts import facts
from caseback.cli.finding.function import function
from caseback.cli.finding.graph import graph
from caseback.cli.finding.heuristics import heuristics
from caseback.cli.finding.learner import learner
from caseback.cli.finding.needle import needle
from caseback.cli.finding.recall import recall
from caseback.cli.finding.requests import requests
from caseback.cli.finding.routing import routing
from caseback.cli.finding.truth import truth
from caseback.cli.finding.universality import universality
from caseback.cli.finding.world import world
from caseback.cli.intervening.ablate import ablate
from caseback.cli.intervening.align import align
from caseback.cli.intervening.circuit import circuit
from caseback.cli.intervening.edit import edit
from caseback.cli.intervening.erase import erase
from caseback.cli.intervening.patch import patch
from caseback.cli.intervening.steer import steer
from caseback.cli.intervening.trace import trace
from caseback.cli.listing.label import label
from caseback.cli.listing.organisms import organisms
from caseback.cli.listing.push import push
from caseback.cli.listing.tasks import tasks
from caseback.cli.listing.techniques import techniques
from caseback.cli.reading.activating import activating
from caseback.cli.reading.directions import directions
from caseback.cli.reading.lens import lens
from caseback.cli.reading.patchscope import patchscope
from caseback.cli.reading.probe import probe
from caseback.cli.reading.weights import weights
from caseback.cli.retired import command_now, now_called
from caseback.cli.streaming.collect import collect
from caseback.cli.streaming.jobs import jobs
from caseback.cli.streaming.similar import similar
from caseback.cli.streaming.work import work
from caseback.errors import CasebackError
from caseback.version import __version__

# the commands, by the job that one comes with: how `caseback --help` lists them
BY_JOB = {
    "Why did it say that?": (explain, attribute, influence, dla, drivers, graph, serve, mcp),
    "What is inside the model?": (
        *(atlas, behavior, facts, recall, requests, function, binding, needle, heuristics, routing),
        *(learner, world, truth, emergence, universality, weights, activating),
    ),
    "Which part did it?": (patch, ablate, trace, circuit, align),
    "What is represented?": (lens, patchscope, probe, directions),
    "Change it": (steer, erase, edit),
    "Text by the million": (collect, similar, work, jobs),
    "Look up, and keep notes": (techniques, tasks, label, push),
}
COMMANDS = tuple(command for commands in BY_JOB.values() for command in commands)
# commands with commands of their own
GROUPS = {dictionary: "What is represented?", organisms: "Look up, and keep notes"}

app = typer.Typer(
    help="See a language model work: why it predicted this, and what is inside.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for title, commands in BY_JOB.items():
    for command in commands:
        app.command(rich_help_panel=title)(command)
for group, title in GROUPS.items():
    app.add_typer(group, rich_help_panel=title)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"caseback {__version__}")
        raise typer.Exit


def _turn_on_debug(asked: bool) -> None:
    if asked:
        # the environment rather than a variable: worker processes follow it too
        os.environ["CASEBACK_DEBUG"] = "1"


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            callback=_turn_on_debug,
            is_eager=True,
            help="Show the traceback of an error (or set CASEBACK_DEBUG=1).",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _retired(error: Exception) -> str | None:
    """What an option is called now that the command no longer knows."""
    context = getattr(error, "ctx", None)
    return now_called(getattr(context, "info_name", None), getattr(error, "option_name", None))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    arguments
        What follows `caseback` on the line; by default what the process was given.

    Raises
    ------
    SystemExit
        Always: status 0 where all went well, 2 for a mistake of the user, 130 where it was interrupted, 141 where
        whoever read the output had gone.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a token that a terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _expect_text(given)
        if (moved := command_now(given)) is not None:
            raise CasebackError(moved)
        status = app(args=arguments, prog_name="caseback", standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:  # what the library makes of an interrupt
            raise typer.Abort
    except BrokenPipeError:
        # so that Python's own flush at the end has somewhere to write
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (CasebackError, typer.TyperException) as error:
        if os.environ.get("CASEBACK_DEBUG", "0") not in ("", "0"):
            raise
        message = _retired(error) or (error.format_message() if isinstance(error, typer.TyperException) else str(error))
        one_line = " ".join(line.strip() for line in message.splitlines() if line.strip())
        typer.echo(f"caseback: {_shortened(one_line) or type(error).__name__}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        typer.echo(f"caseback: cannot write the output: {error.strerror}", err=True)
        sys.exit(2)
    except typer.Abort:
        typer.echo(f"caseback: interrupted{_left_behind(given)}", err=True)
        sys.exit(INTERRUPTED)
    # a command returns None; leaving early (--version, --help) gives its status
    sys.exit(status if isinstance(status, int) else 0)


def _left_behind(arguments: Sequence[str]) -> str:
    """What an interrupted job left, from which the same line goes on; an empty text where it left nothing."""
    for option, value in pairwise(arguments):
        if option in ("--checkpoint", "--out", "--store"):
            there = os.path.exists(value) if option != "--store" else os.path.isdir(value) and bool(os.listdir(value))
            return (
                f": what is done is in {value}, and the same line goes on from there" if there else ": nothing was done"
            )
    return ""


INTERRUPTED = 130
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_LONGEST = 900  # characters of a refusal; what is left out is the middle of what was given


def _shortened(line: str) -> str:
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}"


def _expect_text(arguments: Sequence[str]) -> None:
    """Refuse bytes that are not UTF-8, which Python hands over as half characters."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise CasebackError(f"the argument {argument!a} is not valid UTF-8") from None
