"""What is to be trained, and how: one ``Recipe`` a dictionary.

    lr(t) = lr min(t / warmup, 1) until the last fifth, then down to 0           lr = 2e-4 / sqrt(F / 2^14)
    lambda(t + 1) = lambda(t) exp(gain (log L0 / target + 3 trend))              for architectures with a penalty

With a penalty's coefficient given, how many features are active is a by-product of it, of the width and of the data;
so the target is given, and the coefficient follows (entry 4.2.20 and its correction: past some value the coefficient
of a JumpReLU moves nothing).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts, Normalization
from caseback.decode.dictionaries.registry import architecture_of
from caseback.errors import ArgumentError, OutOfRange
from caseback.model.arguments import checked


@checked
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One dictionary to be trained.

    Attributes
    ----------
    site
        Where it reads, such as ``"resid_post.5"``; for crosscoders and cross-layer transcoders a list, in the order of
        their sources.
    target
        What it reconstructs, for a transcoder: ``"mlp_out.5"``, or a list; the site itself by default.
    architecture, options
        Its name, and the further arguments of its class, such as ``{"k": 32}``, which is what ``k`` is by default.
    expansion, width
        Features: so many times the width of the site (a cross-layer transcoder has as many for each layer), or as
        many as ``width`` in all.
    l0
        The target of active features a token, for architectures with a penalty.
    coefficient
        Of the penalty, in place of a target.
    gain
        How fast the coefficient follows the target, a step.
    k_start
        Active features a token at the start: ``k``, or the target ``l0``, is reached over half the training, by equal
        factors. Fewer features die, or share what two should have.
    lr, betas, clip
        Of Adam; the rate is 2e-4 / sqrt(F / 2^14) by default (Gao et al. 2024). A first beta of 0 leaves fewer dead
        features in wide dictionaries (Templeton et al. 2024). ``clip`` bounds the gradient's norm.
    warmup, decay
        Shares of the training in which the rate and the coefficient rise, and in which the rate falls.
    normalization
        Of states: ``"scale"`` gives all of them the mean norm sqrt(d), so that rates and thresholds mean the same on
        every model.
    centered
        Whether ``b_dec``, which starts at the mean state, is subtracted from what is read; never for transcoders.
    unit_rows
        Whether rows of ``W_dec`` keep the norm 1; by default where nothing is penalized, and for gated ones, whose
        penalty would shrink rows for which magnitudes make up.
    dead_after
        Tokens without activity after which a feature is dead; a million by default, or a fiftieth of the training.
    resample_every
        Steps after which dead features start again at badly reconstructed states (Bricken et al. 2023), until the rate
        falls; None for a twentieth of the training, and by default never: in a short training features that are rare
        look dead. Of one site alone.
    finish
        The share of the training, at its end, in which the encoder rests and nothing is penalized: codes that a
        penalty shrank grow back (Wright & Sharkey 2024).
    skip
        Whether a linear map of the input is learned beside (skip transcoders).
    products
        What a step's dense products are computed in. With ``"bfloat16"`` weights, sums over active features, losses and
        what Adam knows stay float32.
    seed
        Of the start.
    name
        What it is called; by default of site, architecture and width.
    """

    site: str | Sequence[str]
    target: str | Sequence[str] | None = None
    architecture: str = "batch_topk"
    options: Mapping[str, Any] = field(default_factory=dict)
    expansion: float = 8
    width: int | None = None
    l0: float | None = None
    coefficient: float | None = None
    gain: float = 0.02
    k_start: float | None = None
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    warmup: float = 0.05
    decay: float = 0.2
    normalization: Normalization = "scale"
    centered: bool = True
    unit_rows: bool | None = None
    dead_after: int | None = None
    resample_every: int | None = 0
    finish: float = 0.0
    skip: bool = False
    products: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        kind = architecture_of(self.architecture)
        if self.products != "float32" and not kind.fewer_bits:
            raise ArgumentError(f"{self.architecture} is trained with products in float32 alone: leave out products")
        for name in ("warmup", "decay", "finish"):
            if not 0 <= getattr(self, name) < 1:
                raise OutOfRange(f"{name} is {getattr(self, name)}: expected a share of the training, from 0 to 1")
        for name in ("expansion", "width", "l0", "k_start", "lr", "clip", "dead_after", "gain"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise OutOfRange(f"{name} is {getattr(self, name)}: expected more than 0")
        if not self.sites or len(self.sites) != len(self.targets):
            raise ArgumentError(f"sites {list(self.sites)} and targets {list(self.targets)}: expected as many of each")
        if self.resample_every is not None and self.resample_every < 0:
            raise OutOfRange(f"resample_every is {self.resample_every}: expected steps, or 0 for never")
        if self.resample_every and not isinstance(self.site, str):
            raise ArgumentError("resample_every is for dictionaries of one site: leave it out")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise OutOfRange(f"betas are {self.betas}: expected two numbers from 0 to less than 1")
        if self.l0 is not None and self.coefficient is not None:
            raise ArgumentError("l0 and coefficient are both given: a target makes the coefficient follow, give one")

    @property
    def sites(self) -> tuple[str, ...]:
        """Where it reads: one site, or one a source."""
        return (self.site,) if isinstance(self.site, str) else tuple(self.site)

    @property
    def targets(self) -> tuple[str, ...]:
        """What it reconstructs: one site, or one a source."""
        if self.target is None:
            return self.sites
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    @property
    def label(self) -> str:
        """What it is called."""
        if self.name:
            return self.name
        where = "+".join(self.sites) if self.target is None else f"{'+'.join(self.sites)}-{'+'.join(self.targets)}"
        width = f"{self.width}" if self.width is not None else f"x{self.expansion:g}"
        return f"{where}-{self.architecture}-{width}" + (f"-seed{self.seed}" if self.seed else "")

    def changed(self) -> dict[str, Any]:
        """What of it is not as by default, but for where it reads and what the dictionary itself says; JSON data.

        Examples
        --------
        >>> Recipe(site="resid_post.5", k_start=128, finish=0.1).changed()
        {'k_start': 128, 'finish': 0.1}
        """
        elsewhere = ("site", "target", "architecture", "options", "name", "seed")
        every = [one for one in fields(self) if one.name not in elsewhere]
        own = {one.name: getattr(self, one.name) for one in every if getattr(self, one.name) != one.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}

    def start(self, d_in: int, d_out: int, model: str = "", tokens: str = "") -> Dictionary:
        """The dictionary before training.

        Raises
        ------
        ArgumentError
            For options that the architecture does not have, or lacks.
        """
        kind = architecture_of(self.architecture)
        transcoder = self.targets != self.sites
        if transcoder and self.normalization in ("layer_norm", "unit_norm"):
            raise ArgumentError(f"a transcoder cannot be trained with {self.normalization}: give 'scale' or 'none'")
        unit_rows = self.unit_rows
        if unit_rows is None:
            unit_rows = kind.unit_rows or (self.l0 is None and self.coefficient is None)
        facts = Facts(
            site=_place(self.sites),
            target=_place(self.targets),
            model=model,
            centered=self.centered and not transcoder,
            normalization=self.normalization,
            unit_rows=unit_rows,
            tokens=tokens,
        )
        width = self.width if self.width is not None else round(self.expansion * d_in)
        if isinstance(self.site, str):
            sources = {}
        elif "n_sources" in kind.options:
            sources, facts = {"n_sources": len(self.sites)}, replace(facts, by_norm=True)
        elif "n_layers" in kind.options:
            sources, width = {"n_layers": len(self.sites)}, width * (1 if self.width is not None else len(self.sites))
        else:
            raise ArgumentError(f"{self.architecture} reads one site, and {len(self.sites)} are given")
        if sources:
            facts = replace(facts, provenance={"sites": list(self.sites), "targets": list(self.targets)})
        options = {"k": 32, **self.options} if "k" in kind.options else self.options
        try:
            return kind(d_in, width, d_out, facts=facts, skip=self.skip, seed=self.seed, **sources, **options)
        except TypeError as error:
            own = ", ".join(kind.options) or "none"
            raise ArgumentError(f"{self.architecture}: {error}; its options are {own}") from None


def _place(sites: Sequence[str]) -> str:
    """A site, or of several layers' what they have in common: its name without the layer, or nothing."""
    if len(sites) == 1:
        return sites[0]
    names = {site.rpartition(".")[0] for site in sites}
    return names.pop() if len(names) == 1 else ""
