"""A model run as a circuit of nodes: everything outside it is set to other values (PRIMER 3.2.29, 3.2.21).

    x' = x + sum_i (f'_i - f_i) d_i + (e' - e),      f'_i = f_i for members, other_i for the rest, and e' likewise

f and e are read in this very pass, so what is changed upstream goes on downstream. Members keep what they are in it;
all others take the counterfactual run's value, their mean over reference prompts, or zero. Several circuits stand side
by side in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.features.places import Place, groups_of
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Node
from caseback.model.prompts.copies import repeated, repeated_metric
from caseback.model.prompts.pairs import pairs
from caseback.model.prompts.per_token import aligned
from caseback.model.running.edits import Edit, Where
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.sweeping.room import logits_per_token, tokens_per_pass

ABLATIONS = ("resample", "mean", "zero")
Others = Callable[[Tensor, Tensor], Tensor]
"""The values of nodes outside, (row, unit, size) or what broadcasts to it, at rows' prompts and positions."""


@dataclass(frozen=True, eq=False)
class Outside(Edit):
    """Set the nodes outside each row's circuit to their other values; rows are prompt by prompt, a circuit each.

    Attributes
    ----------
    members
        Of each place at this site: the place, which nodes each circuit keeps, (variant, pos or 1, unit), and what the
        others are set to.
    """

    members: Sequence[tuple[Place, Bool[Tensor, "variant pos unit"], Others]]

    def new(self, old: Tensor, where: Where) -> Tensor:
        return old + sum(self._change(old, where, *each) for each in self.members)

    def _change(self, x: Tensor, where: Where, place: Place, members: Tensor, others: Others) -> Tensor:
        value = at_least_float32(_value(place, x, where.site))
        n_circuits, n_pos, _ = members.shape
        rows = where.rows
        stays = members[rows.example % n_circuits, rows.token.clamp(max=n_pos - 1)].to(value.device)
        other = others(rows.example // n_circuits, rows.token).to(value)
        change = torch.where(stays[..., None], torch.zeros_like(value), other - value)
        if where.site == place.site and place.is_view:  # a transcoder's own codes
            return change.squeeze(-1).to(x.dtype)
        return place.written_by(change, x)


def _value(place: Place, x: Tensor, at: Site) -> Tensor:
    return x.unsqueeze(-1) if at == place.site and place.is_view else place.value(x)


@dataclass(frozen=True)
class NodeRuns:
    """What runs of circuits of nodes need, for some prompts.

    Attributes
    ----------
    model, tokens, metric, places
        The model, the prompts, what is measured, and the places whose nodes may be left out.
    others
        Of each place what its nodes outside a circuit are set to.
    """

    model: Model
    tokens: Tokens
    metric: Metric
    places: Sequence[Place]
    others: Sequence[Others]

    @classmethod
    def of(
        cls,
        model: Model,
        clean: PromptsLike,
        corrupt: PromptsLike | None,
        metric: Metric,
        places: Sequence[Place],
        ablation: str,
        over: PromptsLike | None,
    ) -> NodeRuns:
        """Read what nodes outside are set to.

        Raises
        ------
        CasebackError
            For an unknown ablation, and resampling without counterfactuals.
        """
        if ablation not in ABLATIONS:
            raise CasebackError(f"ablation {ablation!r} is unknown. {did_you_mean(ablation, ABLATIONS)}")
        if ablation == "resample" and corrupt is None:
            raise CasebackError("resampling needs corrupt=, or take ablation='mean' or 'zero'")
        tokens, others = model.tokens(clean), None
        reads = list(dict.fromkeys(place.base for place in places))
        if ablation == "resample" and corrupt is not None:
            tokens, others = pairs(model, clean, corrupt)
            run = model.run(others, read=reads)
            return cls(
                model,
                tokens,
                metric,
                places,
                [_resampled(place, aligned(run[place.base.key], others)) for place in places],
            )
        if ablation == "zero":
            return cls(model, tokens, metric, places, [lambda _, at: at.new_zeros(1, 1, 1)] * len(places))
        reference = tokens if over is None else model.tokens(over)
        run = model.run(reference, read=reads)
        own = reference.mask
        return cls(
            model, tokens, metric, places, [_mean(place, run[place.base.key][own.to(model.device)]) for place in places]
        )

    def masks(self, circuits: Sequence[Iterable[Node]]) -> list[Bool[Tensor, "variant pos unit"]]:
        """Which nodes each circuit keeps at each place; a node without a position is kept at all of them.

        Raises
        ------
        CasebackError
            For a node that no place has.
        """
        width = int(self.tokens.lengths.max())
        run = self.model.run(self.tokens[:1], read=list(dict.fromkeys(place.base for place in self.places)))
        sizes = [place.value(run[place.base.key][:, :1]).shape[-2] for place in self.places]
        at: Mapping[Any, int] = {_key(place): i for i, place in enumerate(self.places)}
        positional = any(node.pos for nodes in circuits for node in nodes)
        masks = [torch.zeros(len(circuits), width if positional else 1, size, dtype=torch.bool) for size in sizes]
        for row, nodes in enumerate(circuits):
            for node in nodes:
                if node.kind == "logits":
                    continue
                index, unit = at.get((node.kind, node.layer, node.site)), max(node.index, 0)
                if index is None or unit >= sizes[index]:
                    listed = ", ".join(str(place.site) for place in self.places)
                    raise CasebackError(f"{node} is no node of the sites {listed}: give run and circuit the same sites")
                masks[index][row, _position(node, width), unit] = True
        return masks

    def metrics(
        self, masks: Sequence[Bool[Tensor, "variant pos unit"]], progress: bool = False
    ) -> Float[Tensor, "variant batch"]:
        """The metric of each circuit on each prompt."""
        n_circuits, n = len(masks[0]), len(self.tokens)
        values = torch.zeros(n_circuits, n, dtype=torch.float64)
        at_once = max(1, self._tokens_per_pass([mask.shape[-1] for mask in masks]) // self.tokens.shape[1])
        some, each = min(n, at_once), max(1, at_once // n)
        blocks = [(p, c) for p in range(0, n, some) for c in range(0, n_circuits, each)]
        for p, c in progress_bar(blocks, "circuits of nodes", unit="batch", show=progress):
            rows, variants = slice(p, p + some), slice(c, c + each)
            tokens, mine = self.tokens[rows], [mask[variants] for mask in masks]
            count = len(mine[0])
            metric = repeated_metric(self.metric.of_rows(self.tokens, rows), tokens, count)
            _, measured_values = measured(
                self.model.anatomy, repeated(tokens, count), metric, edits=self._edits(mine, p)
            )
            values[variants, rows] = measured_values.detach().cpu().double().view(len(tokens), count).T
        return values

    def _tokens_per_pass(self, units: Sequence[int]) -> int:
        """How many tokens are run together, at sites with so many units."""
        anatomy, tokens = self.model.anatomy, self.tokens
        logits = logits_per_token(self.metric.on(tokens, anatomy), self.model.d_vocab, tokens.shape[1])
        # the units' values, their others, the change, and which of them are the circuit's
        return tokens_per_pass(anatomy, tokens, logits=logits, beside=4 * max(units, default=0))

    def whole(self) -> Float[Tensor, " batch"]:
        """The metric of the model itself."""
        return measured(self.model.anatomy, self.tokens, self.metric)[1].detach().cpu().double()

    def _edits(self, masks: Sequence[Tensor], first: int) -> list[Edit]:
        edits: list[Edit] = []
        numbers = {place: i for i, place in enumerate(self.places)}
        for site, places in groups_of(self.places).items():
            members = [(p, masks[numbers[p]], _from(self.others[numbers[p]], first)) for p in places]
            codes = [each for each in members if each[0].base != site]
            edits += [Outside(each[0].site.name, [each], layer=each[0].site.layer) for each in codes]
            if others := [each for each in members if each[0].base == site]:
                edits.append(Outside(site.name, others, layer=site.layer))
        return edits


def _key(place: Place) -> tuple[str, int, str]:
    name = place.name(0)
    return name.kind, name.layer, name.site


def _position(node: Node, width: int) -> slice | int:
    if not node.pos:
        return slice(None)
    if not node.pos.isdecimal() or int(node.pos) >= width:
        raise CasebackError(f"{node}: expected a position by number, 0 to {width - 1}")
    return int(node.pos)


def _from(others: Others, first: int) -> Others:
    """The same where rows count prompts from ``first`` on."""
    return lambda prompt, pos: others(prompt + first, pos)


def _resampled(place: Place, x: Float[Tensor, "batch pos *d"]) -> Others:
    def others(prompt: Tensor, pos: Tensor) -> Tensor:
        many = prompt if len(x) > 1 else torch.zeros_like(prompt)
        return place.value(x[many.to(x.device), pos.to(x.device)])

    return others


def _mean(place: Place, x: Float[Tensor, "token *d"]) -> Others:
    mean = at_least_float32(place.value(x)).mean(0, keepdim=True)
    return lambda prompt, pos: mean
