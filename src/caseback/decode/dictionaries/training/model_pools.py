"""Pools of several models' states: one text read by each, token by token, for crosscoders of models.

site "NAME:SITE" = SITE in the model called NAME            the same rows, in one drawn order, for all
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from caseback.decode.dictionaries.training.pools import SINK, ModelPools, mixed
from caseback.decode.dictionaries.training.reading import Reading
from caseback.errors import ArgumentError
from caseback.jobs.checkpoint import Checkpoint
from caseback.model.running.model import Model
from caseback.stream.packing import Row


class SeveralModelPools:
    """Pools of states that several models have of the same tokens.

    Parameters
    ----------
    models
        By name.
    rows
        The corpus's rows as each model's tokenizer gives them, which must be the same.
    sites
        ``"NAME:SITE"`` each.
    tokens, seed, sink, progress
        As for ``ModelPools``.

    Raises
    ------
    ArgumentError
        For a site of no model, and for other tokens.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        rows: Mapping[str, Sequence[Row]],
        sites: Sequence[str],
        tokens: int,
        seed: int,
        sink: float | None = SINK,
        *,
        progress: bool = False,
    ):
        own: dict[str, list[str]] = {name: [] for name in models}
        for site in dict.fromkeys(sites):
            name, colon, place = site.partition(":")
            if not colon or name not in own:
                listed = ", ".join(own)
                raise ArgumentError(
                    f"{site!r} is of no model: expected one of {listed}, as in {next(iter(own))}:resid_post.5"
                )
            own[name].append(place)
        self.seed, self.sink = seed, sink
        (first, ids), *others = ((name, [row.ids for row in rows[name]]) for name in models)
        for name, theirs in others:
            if theirs != ids:
                raise ArgumentError(f"{name} has other tokens than {first}: a crosscoder reads the same tokens in both")
        self.pools = {
            name: ModelPools(model, rows[name], own[name], tokens, seed, None, progress=progress)
            for name, model in models.items()
            if own[name]
        }

    def pool(self, number: int, enough: int | None = None) -> dict[str, Tensor]:
        """See ``Pools``."""
        states: dict[str, Tensor] = {}
        for name, own in self.pools.items():
            states |= {f"{name}:{site}": x for site, x in own.joined(number, enough)[0].items()}
        return mixed(states, self.sink, [self.seed, number])

    def widths(self) -> dict[str, int]:
        """See ``Pools``."""
        return {f"{name}:{site}": n for name, own in self.pools.items() for site, n in own.widths().items()}

    def depends_on(self) -> dict[str, Any]:
        """See ``Pools``."""
        every = {name: own.depends_on() for name, own in self.pools.items()}
        return {"models": {name: own["model"] for name, own in every.items()}, **next(iter(every.values()))}

    def keep(self, training: Checkpoint) -> None:
        """See ``ModelPools``."""
        for i, own in enumerate(self.pools.values()):
            own.reading = Reading(training, str(i))

    def forget(self, before: int | None = None) -> None:
        """See ``ModelPools``."""
        for own in self.pools.values():
            own.forget(before)
