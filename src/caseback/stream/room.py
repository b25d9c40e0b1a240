"""How many tokens of a corpus go through the model together: what tables read of each, against the free memory.

    bytes of a token = 2 size (numbers of all sites read + vocabulary where logits are read)
    tokens           = limit("stream_tokens", each=bytes), rounded down to a power of 2

Twice, since tables take a site without its padding beside what was read. A power of 2, and what a job in the folder
began with goes before it, so that a job goes on where a little more or less is free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from caseback.jobs.budget import limit
from caseback.jobs.job import plan_in
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.sweeping.room import numbers_of
from caseback.stream.packing import row_length


def batch_tokens_of(
    model: Model,
    sites: Iterable[Site],
    *,
    length: int | None = None,
    folder: str | Path | None = None,
    given: int | None = None,
) -> int:
    """Tokens of a batch, padding included.

    Parameters
    ----------
    model
        The model.
    sites
        What is read, each once.
    length
        Tokens per row at most, as for ``rows_of``.
    folder
        Of the job, whose own number counts where it was begun.
    given
        What a caller asked for, which goes before all else.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> batch_tokens_of(model, [Site("resid_post", 0)]), batch_tokens_of(model, [], given=7)
    (2048, 7)
    """
    if given is None and folder is not None and os.path.isdir(folder) and (plan := plan_in(Path(folder))) is not None:
        held = plan.options.get("batch_tokens")
        given = held if type(held) is int and held > 0 else None  # of anything else the job is refused
    if given is not None:
        return given
    width = row_length(model, length)
    numbers = sum(numbers_of(model.anatomy, site, width) for site in sites)
    fits = limit("stream_tokens", model.device, each=max(1, 2 * model.dtype.itemsize * numbers))
    return 1 << (fits.bit_length() - 1)
