"""Prompts of a behavior with both runs, and what is measured of a model's parts on them.

look(part)   mean attention from ``at`` to ``to``
fall(part)   metric(clean) - metric(clean, the part's output at ``at`` from the corrupt run)     one sweep for all
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.behaviors.mechanisms.role import DIRECT, TOTAL, Behavior, Role
from caseback.localize.circuits.path_patching import path_patch
from caseback.model.anatomy.coerce import in_float64
from caseback.model.graph.names import Name, head_name, parse_name
from caseback.model.running.edits import Edit, Resample
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.tasks.prompts import Prompts

Part = tuple[str, int, int]
"""Its sort, its layer, its number there (-1 for an MLP)."""
SITES = {"head": "z", "mlp": "mlp_out"}


def name_of(part: Part) -> str:
    """A part's name: ``L3H2``, ``MLP 4``."""
    sort, layer, index = part
    return head_name(layer, index) if sort == "head" else str(Name("mlp", layer))


def parts_of(model: Model, sort: str) -> list[Part]:
    """All parts of a sort that a model has."""
    layers = model.anatomy.layers
    if sort == "head":
        return [("head", i, h) for i, layer in enumerate(layers) for h in range(layer.dims.n_heads)]
    return [("mlp", site.layer, -1) for site in model.anatomy.sites("mlp_out") if site.layer is not None]


class Scene:
    """Prompts of a behavior under both runs.

    Parameters
    ----------
    model, behavior, prompts
        What is run.
    progress
        Show progress bars.
    """

    def __init__(self, model: Model, behavior: Behavior, prompts: Prompts, *, progress: bool = False):
        self.model, self.behavior, self.prompts, self.progress = model, behavior, prompts, progress
        self.metric: Metric = prompts.metric
        named = {place for role in behavior.roles for place in (role.at, role.to, *(role.control or ())) if place}
        self.at: dict[str, Int[Tensor, " batch"]] = {
            place: behavior.at(prompts, place) for place in (*behavior.places, *sorted(named))
        }

    @cached_property
    def clean(self) -> Run:
        """The run of the prompts."""
        return self.model.run(self.prompts.clean, read=["pattern"])

    @cached_property
    def corrupt(self) -> Run:
        """The run of their counterfactuals."""
        sites = [SITES[sort] for sort in dict.fromkeys(role.sort for role in self.behavior.roles)]
        return self.model.run(self.prompts.corrupt, read=["pattern", "resid_pre", *sites])

    def look(self, at: str, to: str, *, corrupt: bool = False) -> Float[np.ndarray, "part batch"]:
        """Attention of all heads from a place to another, in the clean or the corrupt prompts."""
        run, side = (self.corrupt, self.prompts.corrupt) if corrupt else (self.clean, self.prompts.clean)
        first, rows = side.first.cpu(), torch.arange(len(self.prompts))
        q, k = (self.at[place].cpu() + first for place in (at, to))
        # (batch, head) of each layer, side by side
        seen = [in_float64(run["pattern", layer][rows, :, q, k]) for layer in range(self.model.n_layers)]
        return torch.cat(seen, 1).T.cpu().numpy()

    def control(self, role: Role) -> Float[np.ndarray, "part batch"]:
        """A role's look where the relation is absent."""
        if role.control is None:
            return self.look(role.at, role.to, corrupt=True)
        return self.look(*role.control)

    def falls(
        self, role: Role, sets: Sequence[Sequence[Part]], proved: Mapping[str, Sequence[str]]
    ) -> Float[np.ndarray, "variant batch"]:
        """How far the metric falls for each set of parts, by the role's own intervention, times its sign.

        Parameters
        ----------
        role
            The role.
        sets
            Parts that are exchanged together; one each, where the intervention is not ``"total"``.
        proved
            Names of parts by role, through whose queries others work.
        """
        signs = role.signs(self.prompts)
        if not sets:
            return np.zeros((0, len(self.prompts)))
        if role.by == TOTAL:
            return signs * self.exchanged([[self._exchange(role.at, part) for part in parts] for parts in sets])
        names = [name_of(part) for (part,) in sets]
        receivers = ["logits"] if role.by == DIRECT else [f"{name}.q" for name in proved[role.by]]
        last = max((layer for _, layer, _ in map(_parsed, proved.get(role.by, ()))), default=self.model.n_layers)
        senders = [name for name, ((_, layer, _),) in zip(names, sets, strict=True) if layer < last]
        moved = np.zeros((len(names), len(self.prompts)))
        if senders:
            moved[[names.index(name) for name in senders]] = path_patch(
                self.model,
                self.prompts.clean,
                self.prompts.corrupt,
                self.metric,
                receivers=receivers,
                senders=senders,
                pos=-1,
                progress=self.progress,
            ).values
        return -signs * moved

    def together(self, role: Role, sets: Sequence[Sequence[Part]]) -> Float[np.ndarray, "variant batch"]:
        """How far the metric falls, times the role's sign, when sets of parts are exchanged at its place."""
        edits = [[self._exchange(role.at, part) for part in parts] for parts in sets]
        return role.signs(self.prompts) * self.exchanged(edits)

    def exchanged(self, variants: Sequence[Sequence[Edit]]) -> Float[np.ndarray, "variant batch"]:
        """How far the metric falls under edits of the clean run."""
        swept = self.model.sweep(self.prompts.clean, variants, self.metric, progress=self.progress)
        return swept["clean"].values - swept.values

    def _exchange(self, place: str, part: Part) -> Edit:
        sort, layer, index = part
        head = {"head": index} if sort == "head" else {}
        return Resample(SITES[sort], self.corrupt, layer=layer, pos=self.at[place], **head)

    def carried(self, layers: Sequence[int]) -> Float[np.ndarray, "place layer"]:
        """What of the margin is lost where a place of the stream is the counterfactual's, as a share."""
        places = self.behavior.places
        edits = [[Resample("resid_pre", self.corrupt, layer=i, pos=self.at[p])] for p in places for i in layers]
        falls = self.exchanged(edits).mean(1).reshape(len(places), len(layers))
        return falls / self.gap if self.gap else np.zeros_like(falls)

    @cached_property
    def gap(self) -> float:
        """Mean metric of the clean run less that of the corrupt one."""
        return float((in_float64(self.metric(self.clean)) - in_float64(self.metric(self.corrupt))).mean())


def _parsed(name: str) -> Part:
    parsed = parse_name(name)
    return parsed.kind, parsed.layer, parsed.index
