"""One dictionary, of whatever architecture: a state as a few features, each with a row to read and one to write.

    z = W_enc (s x - b_dec) + b_enc                          scores: what each feature reads
    a = activate(z) where selected, else 0                   codes: what is active, and how much
    x^ = (a W_dec + b_dec) / s'   (+ W_skip x)               what the active features write

The selection is the architecture's. What dictionaries of one architecture still differ in, and files leave unsaid, is
declared: ``Facts``. A transcoder is a dictionary whose target is another site than the one that it reads; a skip
transcoder adds a linear map of its input.

Row i of ``W_enc`` is what feature i reads and row i of ``W_dec`` what it writes: both are (feature, d). Most libraries
keep the encoder as (d, feature).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from caseback.decode.dictionaries.facts import NORMALIZATIONS, Facts
from caseback.decode.dictionaries.sparse import Pattern, pattern_of, selected_scores, sparse_decode
from caseback.errors import ArgumentError, OutOfRange, TokensError
from caseback.model.anatomy.coerce import narrowing
from caseback.model.arguments import checked
from caseback.model.display import Displayed

DENSE_ABOVE = 0.04
"""The share of active entries from which dense products are faster than sums over bags; measured at d = 768."""


class Losses(NamedTuple):
    """What one training step minimizes, and what it saw.

    Attributes
    ----------
    total
        error + coefficient x penalty + auxiliary.
    error
        The squared error, summed over d, mean over tokens, of normalized states.
    penalty
        What the coefficient multiplies; 0 where nothing is penalized.
    auxiliary
        What revives dead features; 0 where there is none.
    l0
        Active features a token.
    fired
        (feature), at how many tokens each is active.
    errors
        (token, d), what is not reconstructed, normalized; the gradient of the reconstruction passes through it.
    """

    total: Tensor
    error: Tensor
    penalty: Tensor
    auxiliary: Tensor
    l0: Tensor
    fired: Tensor
    errors: Tensor


@checked
class Dictionary(Displayed, nn.Module):
    """What all architectures share; each says how features are selected (see ``architectures``).

    Parameters
    ----------
    d_in, n_features, d_out
        Width of what is read, number of features, width of what is written (``d_in`` unless given).
    facts
        What the weights do not tell.
    skip
        Whether a linear map of the input is added (skip transcoders).
    seed
        Of the random start: unit rows in ``W_dec``, the same in ``W_enc`` where the widths agree, biases 0. None: all
        weights 0, for those that are read from a file.
    dtype
        Of the weights.
    """

    architecture: ClassVar[str] = ""
    signed: ClassVar[bool] = False  # whether codes may be negative
    unit_rows: ClassVar[bool] = False  # whether its penalty needs rows of W_dec whose norm is 1
    fewer_bits: ClassVar[bool] = True  # whether the products of its step may be in bfloat16
    paired: ClassVar[bool] = False  # whether its loss takes pairs of tokens, each with the one before it
    reborn: ClassVar[float] = 1.0  # how long a resampled feature's row of W_enc is, in mean lengths
    of_all: ClassVar[tuple[str, ...]] = ("b_dec", "W_skip")  # parameters that are no feature's
    options: ClassVar[tuple[str, ...]] = ()  # the names of its constructor's further arguments, kept in files

    W_skip: nn.Parameter | None
    scale: Tensor
    out_scale: Tensor

    def __init__(
        self,
        d_in: int,
        n_features: int,
        d_out: int | None = None,
        *,
        facts: Facts | None = None,
        skip: bool = False,
        seed: int | None = 0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        for name, size in (("d_in", d_in), ("n_features", n_features), ("d_out", d_out if d_out is not None else d_in)):
            if size < 1:
                raise OutOfRange(f"{name} is {size}: expected 1 or more")
        if facts is not None and facts.normalization not in NORMALIZATIONS:
            raise ArgumentError(f"normalization {facts.normalization!r}: expected one of {', '.join(NORMALIZATIONS)}")
        self.d_in, self.n_features, self.d_out = d_in, n_features, d_out or d_in
        self.facts = facts or Facts()
        if seed is None:
            rows, reads = torch.zeros(n_features, self.d_out, dtype=dtype), torch.zeros(n_features, d_in, dtype=dtype)
        else:
            rows = reads = random_rows(n_features, self.d_out, draw := torch.Generator().manual_seed(seed))
            if d_in != self.d_out or self.facts.is_transcoder:
                reads = random_rows(n_features, d_in, draw)
        self.W_enc = nn.Parameter(reads.to(dtype))
        self.b_enc = nn.Parameter(torch.zeros(n_features, dtype=dtype))
        self.W_dec = nn.Parameter(rows.to(dtype).clone())
        self.b_dec = nn.Parameter(torch.zeros(self.d_out, dtype=dtype))
        self.register_parameter("W_skip", nn.Parameter(torch.zeros(d_in, self.d_out, dtype=dtype)) if skip else None)
        self.register_buffer("scale", torch.ones((), dtype=dtype))
        self.register_buffer("out_scale", torch.ones((), dtype=dtype))
        if self.facts.centered and d_in != self.d_out:
            self.facts = replace(self.facts, centered=False)

    # what an architecture says -------------------------------------------------------------------------------------

    def keep(self, scores: Float[Tensor, "... feature"]) -> Tensor:
        """Which features are active where, by their scores; what is not kept is 0. A mask."""
        raise NotImplementedError

    def activate(self, scores: Tensor, at: Tensor | slice) -> Tensor:
        """Codes of selected features from their scores: whole rows, or entries of the features ``at``."""
        return scores

    def select(self, scores: Float[Tensor, "token feature"]) -> Pattern | Tensor:
        """In training: the entries through which a gradient may pass, as a pattern or a mask."""
        return self.keep(scores)

    def penalty(self, scores: Tensor, codes: Tensor, at: Tensor | slice, n_tokens: int) -> Tensor:
        """What a coefficient multiplies in the loss, a mean over tokens; of whole rows or of selected entries."""
        return codes.new_zeros(())

    def auxiliary(self, x: Tensor, error: Tensor, dead: Tensor | None) -> Tensor:
        """What else is minimized, so that dead features learn again.

        Parameters
        ----------
        x
            Normalized and centered states.
        error
            What the features did not reconstruct, without its gradient.
        dead
            A mask of the features that are dead.
        """
        return error.new_zeros(())

    def guide(self, scores: Tensor, pattern: Pattern | None, wanted: Tensor) -> Tensor:
        """What else the scores themselves are to do, where codes alone would not teach the encoder.

        Parameters
        ----------
        scores, pattern
            Of the pattern's entries, or whole rows where there is no pattern.
        wanted
            What is to be reconstructed, normalized.
        """
        return wanted.new_zeros(())

    def at(self, share: float) -> None:
        """Go to where a training is of which ``share`` is done, 0 to 1; called before each step."""

    def settle(self, x: Tensor) -> None:
        """Set from states (token, d_in), when training is over, what encoding a token alone needs."""

    def after_step(self) -> None:
        """Put weights back that a step of the optimizer may not leave as they are."""
        if self.facts.unit_rows:
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    # what all share ------------------------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(narrowing(fn), recurse)  # a threshold is float64, which not every device has

    def norms(self) -> Float[Tensor, " feature"]:
        """The norm of each feature's row of ``W_dec``."""
        return self.W_dec.norm(dim=1)

    def ranked(self, scores: Tensor) -> Tensor:
        """What features are selected by: the scores, or scores times norms."""
        return scores * self.norms() if self.facts.by_norm else scores

    def scores(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... feature"]:
        """What each feature reads of each state, before any selection."""
        return self.read(self._centered(self.normalized(self._expected(x))))

    def read(self, x: Tensor) -> Float[Tensor, "... feature"]:
        """Scores of normalized and centered states."""
        return linear(x, self.W_enc, self.b_enc)

    def read_entries(self, x: Tensor, scores: Tensor, pattern: Pattern) -> Float[Tensor, " entry"]:
        """The scores of a pattern's entries, with a gradient that is computed for these alone."""
        return selected_scores(x, self.W_enc, self.b_enc, scores, pattern)

    def write(self, codes: Tensor, pattern: Pattern | None = None) -> Tensor:
        """What codes write, normalized and without the bias; of dense or sparse rows, or of a pattern's entries."""
        if pattern is not None:
            return sparse_decode(codes, self.W_dec, pattern)
        return codes @ self.W_dec if codes.layout == torch.strided else torch.sparse.mm(codes, self.W_dec)

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... feature"]:
        """Codes: what is active, and how much; 0 elsewhere."""
        scores = self.scores(x)
        return torch.where(self.keep(scores), self.activate(scores, slice(None)), scores.new_zeros(()))

    def codes(self, x: Float[Tensor, "token d_in"]) -> Tensor:
        """Codes as a sparse tensor (token, feature), coalesced; without a gradient."""
        with torch.no_grad():
            scores = self.scores(x)
            pattern = pattern_of(self.keep(scores))
            values = self.activate(scores[pattern.token, pattern.feature], pattern.feature)
            some = values != 0
            return pattern.only(some).sparse(values[some])

    def decode(
        self, codes: Float[Tensor, "... feature"], x: Float[Tensor, "... d_in"] | None = None
    ) -> Float[Tensor, "... d_out"]:
        """What codes write, in the units of the target.

        Parameters
        ----------
        codes
            Dense, or sparse rows.
        x
            The states that they are codes of: needed where tokens are normalized one by one, or a skip is added.

        Raises
        ------
        ArgumentError
            Where the states are needed and not given.
        """
        return self._restored(self.write(codes) + self.b_dec, x)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """The reconstruction."""
        return self.decode(self.encode(x), x)

    def change(
        self, coded: Float[Tensor, "... feature"], edited: Float[Tensor, "... feature"], x: Float[Tensor, "... d_in"]
    ) -> Float[Tensor, "... d_out"]:
        """What other codes write in place of those of ``x``: as a site of a model, a dictionary adds this alone.

        What it does not reconstruct stays where it is.
        """
        written = (edited - coded).to(self.W_dec.dtype) @ self.W_dec
        if self.facts.normalization in ("none", "scale"):
            return written / self.out_scale
        _, factor = self._factors(self._expected(x))
        assert factor is not None
        return written / factor

    def reconstructed(self, losses: Losses, x: Tensor, target: Tensor) -> Float[Tensor, "token d_out"]:
        """What a step's codes reconstructed of its target, in the target's units."""
        if self.facts.normalization in ("none", "scale"):
            return target - losses.errors / self.out_scale
        _, factor = self._factors(self._expected(x))
        assert factor is not None
        return target - losses.errors / factor

    def slopes(self, feature: Int[Tensor, " entry"]) -> Float[Tensor, " entry"]:
        """How much a code grows with its score, where the feature is active."""
        return torch.ones(len(feature), dtype=self.W_enc.dtype, device=self.W_enc.device)

    def reads(
        self, x: Float[Tensor, "token d_in"], token: Int[Tensor, " entry"], feature: Int[Tensor, " entry"]
    ) -> Float[Tensor, "entry d_in"]:
        """What active features read of the states of some tokens: their codes' slopes there, all factors held."""
        rows = self.W_enc[feature] * self.slopes(feature)[:, None]
        match self.facts.normalization:
            case "none":
                return rows
            case "scale":
                return rows * self.scale
        _, factor = self._factors(self._expected(x))
        assert factor is not None
        rows = rows * factor[token]
        return rows - rows.mean(-1, keepdim=True) if self.facts.normalization == "layer_norm" else rows

    def writes(
        self, x: Float[Tensor, "token d_in"], token: Int[Tensor, " entry"], feature: Int[Tensor, " entry"]
    ) -> Float[Tensor, "entry 1 d_out"]:
        """What one unit of some features writes at some tokens, in the units of the target."""
        rows = self.W_dec[feature]
        match self.facts.normalization:
            case "none" | "scale":
                return (rows / self.out_scale)[:, None]
            case "layer_norm":
                return (rows * self._expected(x).std(-1, keepdim=True)[token])[:, None]
        _, factor = self._factors(self._expected(x))
        assert factor is not None
        return (rows / factor[token])[:, None]

    def rest(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_out"]:
        """What is written that no feature writes, but for the skip's map of the states."""
        like = {"dtype": self.W_dec.dtype, "device": self.W_dec.device}
        none = torch.sparse_coo_tensor(size=(len(x), self.n_features), check_invariants=False, **like)
        written = self.decode(none, x)
        return written if self.W_skip is None else written - self._expected(x) @ self.W_skip

    def losses(
        self,
        x: Float[Tensor, "token d_in"],
        target: Float[Tensor, "token d_out"] | None = None,
        *,
        coefficient: float | Tensor = 0.0,
        dead: Tensor | None = None,
    ) -> Losses:
        """What a step minimizes on a batch.

        Where few entries are active, nothing of the size (token, feature) is kept for the backward pass: scores are
        looked at and dropped, and gradients go through the selected entries.

        Parameters
        ----------
        x, target
            States, and what is to be reconstructed: the states themselves unless given.
        coefficient
            Of the penalty.
        dead
            A mask of dead features, for the auxiliary loss.
        """
        inner = self.normalized(self._expected(x))
        wanted = inner if target is None else target * self.out_scale
        if self.W_skip is not None:
            wanted = wanted - (x @ self.W_skip) * self.out_scale
        read = self._centered(inner)
        scores = self.read(read).to(read.dtype)  # products may be in fewer bits
        with torch.no_grad():
            selected = self.select(scores)
        pattern = None
        if isinstance(selected, Pattern):
            pattern = selected
        elif float(selected.sum()) <= DENSE_ABOVE * selected.numel():
            pattern = pattern_of(selected)
        if pattern is not None:
            at: Tensor | slice = pattern.feature
            z = self.read_entries(read, scores, pattern)
            codes = self.activate(z, at)
        else:
            assert isinstance(selected, Tensor)
            at, z = slice(None), scores
            codes = torch.where(selected, self.activate(scores, at), scores.new_zeros(()))
        errors, error = self.errors(codes, pattern, wanted)
        penalty = self.penalty(z, codes, at, len(x))
        auxiliary = self.auxiliary(read, errors.detach(), dead) + self.guide(z, pattern, wanted)
        with torch.no_grad():
            active = codes != 0
            fired = active.sum(0) if pattern is None else pattern.only(active).counts()
        total = error + coefficient * penalty + auxiliary
        return Losses(total, error, penalty, auxiliary, fired.sum() / len(x), fired, errors)

    def errors(self, codes: Tensor, pattern: Pattern | None, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """What is not reconstructed at each token, and the loss of it.

        Parameters
        ----------
        codes, pattern
            Codes of the pattern's entries, or whole rows where there is no pattern.
        wanted
            What is to be reconstructed, normalized.
        """
        errors = wanted - self.write(codes, pattern) - self.b_dec
        return errors, errors.square().sum(-1).mean()

    def _expected(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            where = f" at {self.facts.site}" if self.facts.site else ""
            raise TokensError(f"states of {x.shape[-1]} numbers: this dictionary reads {self.d_in}{where}")
        return x.to(self.W_enc.dtype)

    def _centered(self, inner: Tensor) -> Tensor:
        return inner - self.b_dec if self.facts.centered else inner

    def normalized(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """States as the encoder takes them, before the center is subtracted."""
        shift, factor = self._factors(x)
        return (x if shift is None else x - shift) * factor if factor is not None else x

    def _factors(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What is subtracted from each token's state, and what it is then multiplied by."""
        match self.facts.normalization:
            case "none":
                return None, None
            case "scale":
                return None, self.scale
            case "layer_norm":
                return x.mean(-1, keepdim=True), 1 / (x.std(-1, keepdim=True) + 1e-5)
            case "unit_norm":
                return None, self.d_in**0.5 / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def _restored(self, written: Tensor, x: Tensor | None) -> Tensor:
        by_token = self.facts.normalization in ("layer_norm", "unit_norm")
        if x is None:
            if by_token or self.W_skip is not None:
                why = "normalizes each token" if by_token else "adds a map of its input"
                raise ArgumentError(f"this dictionary {why}: give decode the states too, decode(codes, x)")
            return written / self.out_scale
        x = self._expected(x)
        if self.facts.normalization == "layer_norm":  # published ones are restored without the epsilon, so all are
            written = written * x.std(-1, keepdim=True) + x.mean(-1, keepdim=True)
        elif by_token:
            _, factor = self._factors(x)
            assert factor is not None
            written = written / factor
        else:
            written = written / self.out_scale
        return written if self.W_skip is None else written + x @ self.W_skip

    def own_options(self) -> dict[str, Any]:
        """The constructor's further arguments, as this dictionary has them."""
        return {name: getattr(self, name) for name in self.options}

    def extra_repr(self) -> str:
        where = f"{self.facts.site}" + (f" -> {self.facts.target}" if self.facts.is_transcoder else "")
        own = "".join(f", {name}={value}" for name, value in self.own_options().items())
        return f"{self.d_in} -> {self.n_features} features -> {self.d_out}{own}" + (f", {where}" if where else "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def random_rows(count: int, width: int, draw: torch.Generator) -> Tensor:
    """Random rows of norm 1, in float64."""
    try:
        rows = torch.randn(count, width, generator=draw, dtype=torch.float64)
    except RuntimeError:  # torch's words for what no memory holds
        raise OutOfRange(f"{count:,} features of {width:,} numbers: there is no memory for them") from None
    return rows / rows.norm(dim=1, keepdim=True)
