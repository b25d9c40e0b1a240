"""What commands that load a model share: which one by default, how, and quiet libraries and progress meanwhile."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from caseback.errors import LoadError

if TYPE_CHECKING:
    from caseback.cli.options import OfModel
    from caseback.model.running.model import Model

DEFAULT_MODEL = "meadow"


def there(model: str) -> str:
    """Refuse a model's folder that is not there before anything that is slow to import."""
    from caseback.model.loading.model_files import expect_there

    expect_there(model)
    return model


def model_of(of: OfModel) -> Model:
    """The model that a command's options name."""
    from caseback.model.loading.load import load

    return load(of.model, **of.how)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers, the hub's client and Python warnings off the screen; put their settings back afterwards.

    What matters of a warning is in an explanation's checks; the rest would stand between a user and the answer. That
    a target's leading space was forgotten is said on standard error, since all that follows is of another token, and
    that the model's own answer is a guess.
    What takes long shows that it goes on.
    """
    from huggingface_hub.utils import logging as of_hub
    from transformers.utils import logging as of_transformers

    from caseback.jobs.progress import heartbeat

    levels = [(logging, logging.get_verbosity()) for logging in (of_hub, of_transformers)]
    bars = of_transformers.is_progress_bar_enabled()
    try:
        for logging, _ in levels:
            logging.set_verbosity_error()
        of_transformers.disable_progress_bar()
        with warnings.catch_warnings(record=True) as noted, heartbeat("working"):
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", message=".* has no leading space|.* hardly knows how")
            warnings.filterwarnings("always", message="left out: ")  # what another package adds and cannot be loaded
            try:
                yield
            finally:
                for line in dict.fromkeys(str(one.message) for one in noted):
                    typer.echo(f"caseback: {line}", err=True)
    finally:
        for logging, level in levels:
            logging.set_verbosity(level)
        if bars:
            of_transformers.enable_progress_bar()


def dictionaries_of(paths: list[Path] | None, model: Any, *, force: bool) -> list[Any]:
    """The dictionaries of files, folders and sets of them; with ``force`` also those of a model of another name."""
    from caseback.decode.dictionaries import load, load_set

    every: list[Any] = []
    for path in paths or []:
        try:
            every += load_set(path, model=model, force=force).values()
        except LoadError:  # one dictionary, or none: then its own reader says what it lacks
            every.append(load(path, model=model, force=force))
    return every
