"""Metrics: one differentiable number per prompt, here from its logits.

    logit = f_t      logit_diff = f_t - f_o      prob = softmax(f)_t      log_prob = log softmax(f)_t
    prob_diff = sum of p over targets - sum of p over foils
    kl = KL(reference || model)                  loss = -mean_i log p(t_{i+1} | t_<=i)

A metric says which positions and which vocabulary entries it needs, so that a sweep forms only those logits; one of
another site (``site_metrics``) needs nothing behind that site, and a sweep stops there.
Targets are token ids or text of exactly one token, one for the whole batch or one per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import ArgumentError, TargetError
from caseback.jobs.fingerprint import code_of
from caseback.jobs.sent_calls import sent_as_a_call
from caseback.model.anatomy.classes import Classes
from caseback.model.anatomy.coerce import as_positions, as_tokens
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import MAPS
from caseback.model.argument_kinds import Coerced
from caseback.model.arguments import checked
from caseback.model.display import Displayed
from caseback.model.running.targets import warn_of_spaces
from caseback.model.running.tokens import Tokens, one_token

if TYPE_CHECKING:
    from caseback.model.anatomy.sites import Site
    from caseback.model.running.run import Run

Target = Annotated[
    str | int | Sequence[str | int] | Tensor, Coerced(as_tokens, "a token's text or id, or one for each prompt")
]
Position = Annotated[int | Tensor, Coerced(as_positions, "a position, or one per prompt")]


@dataclass(frozen=True, eq=False)
class Bound:
    """A metric with its targets as ids and its position as columns of one batch.

    Its ``value`` is computed from logits or, if there is a ``site``, from what that site holds.

    Attributes
    ----------
    columns
        (batch,) the padded column read in each prompt; None where all positions are.
    vocab
        (batch, k) the vocabulary entries read; None where all are.
    site
        The site that is read in place of the logits, if one is.
    value
        From logits (row, k or vocab), or (row, pos, vocab) where all positions are read, and the prompt of each row,
        to one number per row.
    """

    columns: Int[Tensor, " batch"] | None
    vocab: Int[Tensor, "batch k"] | None
    value: Callable[[Tensor, Int[Tensor, " row"]], Float[Tensor, " row"]]
    site: Site | None = None

    @cached_property
    def host_columns(self) -> list[int]:
        """The columns, read from the device once; empty where all positions are read."""
        return [] if self.columns is None else self.columns.tolist()

    def of_run(self, run: Run) -> Float[Tensor, " batch"]:
        """The metric of a whole run: of its logits, or of the site that it must have read."""
        if self.site is None:
            return self.of_logits(run.logits)
        x = run[self.site].transpose(1, 2) if self.site.name in MAPS else run[self.site]
        assert self.columns is not None
        rows = torch.arange(len(x), device=x.device)
        return self.value(x[rows, self.columns.to(x.device)], rows)

    def of_logits(self, logits: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, " batch"]:
        """The metric of a whole batch's logits."""
        rows = torch.arange(len(logits), device=logits.device)
        if self.columns is not None:
            logits = logits[rows, self.columns.to(logits.device)]
            if self.vocab is not None:
                logits = logits.gather(-1, self.vocab.to(logits.device))
        return self.value(logits, rows)


@checked
@dataclass(frozen=True, eq=False)
class Metric(Displayed):
    """A metric before it meets a batch; call it on a ``Run``.

    Attributes
    ----------
    name
        For labels and provenance.
    bind
        From (tokens, tokenizer, vocabulary size) to a ``Bound``.
    target, foil
        As given, for labels.
    """

    name: str
    bind: Callable[[Tokens, Any, int], Bound]
    target: Any = None
    foil: Any = None
    pos: Position | None = -1
    tokenizer: Any = field(default=None, repr=False)
    reads: tuple[str | tuple[str, int], ...] = ()
    """What a run must have read for it, to pass on as ``read=``: the site that is measured; empty for logits."""
    compared_with: Tensor | None = field(default=None, repr=False)
    """A direction or reference logits, which distinguish it from another metric of the same name."""

    def __call__(self, run: Run) -> Float[Tensor, " batch"]:
        """The metric on a run, one number per prompt; a target that lacks its leading space is warned of."""
        bound = self.on(run.tokens, run.anatomy)
        if bound.columns is not None and bound.site is None:
            columns = bound.columns.tolist()
            warn_of_spaces(run.anatomy, self.target, self.foil, len(columns), lambda b: run.logits[b, columns[b]])
        return bound.of_run(run)

    def fingerprint_parts(self) -> dict[str, Any]:
        """What is measured, for ``jobs.fingerprint``: a function counts by its code, not by its state (a counter)."""
        return {
            "name": self.name,
            "target": self.target,
            "foil": self.foil,
            "pos": self.pos,
            "reads": self.reads,
            "compared_with": self.compared_with,
            "code": code_of(self.bind),
        }

    def of_rows(self, tokens: Tokens, rows: slice | Sequence[int] | Int[Tensor, " row"]) -> Metric:
        """The same metric for some prompts of a batch, which keep their own targets and the batch's columns.

        Parameters
        ----------
        tokens
            The whole batch.
        rows
            Which of its prompts the metric will be called on; a tensor may give them in any order, and several times.
        """

        def bind(part: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
            whole = self.bind(tokens, tokenizer, d_vocab)
            mine = torch.arange(len(tokens), device=tokens.ids.device)[rows]
            columns, vocab = (None if x is None else x[mine] for x in (whole.columns, whole.vocab))
            return Bound(columns, vocab, lambda x, which: whole.value(x, mine.to(which.device)[which]))

        return replace(self, bind=bind)

    def on(self, tokens: Tokens, anatomy: Any) -> Bound:
        """Bind to a batch.

        Raises
        ------
        TargetError
            For a target that is not one token, a position that is not there, or a site in several layers.
        """
        names = getattr(anatomy, "classes", None) or getattr(anatomy, "tokenizer", self.tokenizer)
        bound = self.bind(tokens, names, getattr(anatomy, "d_logits", anatomy.d_vocab))
        if not isinstance(bound, Bound):
            raise TargetError(
                f"{self.name}: its bind gave {type(bound).__name__}, expected a Bound, as cb.function makes one"
            )
        if not self.reads:
            return bound
        sites = [site for read in self.reads for site in anatomy.sites(read)]
        if len(sites) != 1:
            raise TargetError(f"{self.reads[0]!r} is in {len(sites)} layers of this model: say which one, layer=")
        return replace(bound, site=sites[0])


def expect_logits(metric: Metric, what: str) -> None:
    """Refuse a metric of a site where only one of the logits makes sense.

    Raises
    ------
    TargetError
        Naming what needs the logits.
    """
    if metric.reads:
        raise TargetError(f"{what} needs a metric of the logits, such as cb.logit_diff: {metric.name!r} reads a site")


def target_ids(
    target: Target, tokens: Tokens, tokenizer: Any, d_vocab: int, what: str = "target"
) -> Int[Tensor, " batch"]:
    """One token id per prompt.

    Raises
    ------
    TargetError
        For text that is not one token, an id outside the vocabulary, or a wrong number of targets.
    """
    named = as_tokens(target, what, TargetError)
    many = named if isinstance(named, list) else [named] * len(tokens)
    if len(many) != len(tokens):
        raise TargetError(f"{len(many)} {what}s for {len(tokens)} prompts: give one, or one per prompt")
    ids = [one_token(tokenizer, t, d_vocab, what) for t in many]
    return torch.tensor(ids, device=tokens.ids.device)


def _at_a_position(name: str, bind: Any, target: Any = None, foil: Any = None, *, pos: Any, **more: Any) -> Metric:
    """A metric of one position per prompt: that there is none is refused here, rather than when a model was run."""
    if pos is None:
        raise ArgumentError(
            f"{name}(pos=None): expected a position, or one per prompt; all positions are measured by cb.loss(), or by "
            "cb.function(fn, pos=None) of a function from (prompt, pos, vocab) to one number a prompt"
        )
    return Metric(name, bind, target, foil, pos=pos, **more)


@sent_as_a_call
def logit(target: Target, *, pos: Position = -1) -> Metric:
    """The target's logit.

    Parameters
    ----------
    target
        A token's id or text, or one per prompt.
    pos
        The position whose next-token prediction is read; the last by default.
    """

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        ids = target_ids(target, tokens, tokenizer, d_vocab)
        return Bound(tokens.column(pos), ids[:, None], lambda x, rows: at_least_float32(x)[:, 0])

    return _at_a_position("logit", bind, target, pos=pos)


@sent_as_a_call
def logit_diff(target: Target, foil: Target, *, pos: Position = -1) -> Metric:
    """The target's logit minus the foil's (PRIMER 3.2.5).

    Parameters
    ----------
    target, foil
        A token's id or text, or one per prompt.
    pos
        The position whose next-token prediction is read; the last by default.
    """

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        ids = [target_ids(t, tokens, tokenizer, d_vocab, w) for t, w in ((target, "target"), (foil, "foil"))]
        return Bound(
            tokens.column(pos),
            torch.stack(ids, -1),
            lambda x, rows: at_least_float32(x)[:, 0] - at_least_float32(x)[:, 1],
        )

    return _at_a_position("logit_diff", bind, target, foil, pos=pos)


def _of_all_vocab(name: str, target: Target, pos: Position, fn: Callable[[Tensor], Tensor]) -> Metric:
    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        ids = target_ids(target, tokens, tokenizer, d_vocab)

        def value(x: Tensor, rows: Tensor) -> Tensor:
            return fn(at_least_float32(x)).gather(-1, ids.to(x.device)[rows][:, None])[:, 0]

        return Bound(tokens.column(pos), None, value)

    return _at_a_position(name, bind, target, pos=pos)


@sent_as_a_call
def prob(target: Target, *, pos: Position = -1) -> Metric:
    """The target's probability. It cannot show a component that acts against a target already near 0."""
    return _of_all_vocab("prob", target, pos, lambda x: x.softmax(-1))


@sent_as_a_call
def log_prob(target: Target, *, pos: Position = -1) -> Metric:
    """The target's log probability, in nats."""
    return _of_all_vocab("log_prob", target, pos, lambda x: x.log_softmax(-1))


@sent_as_a_call
def is_first(target: Target, *, pos: Position = -1) -> Metric:
    """1 where no token has a higher logit than the target, else 0. It has no gradient."""
    return _of_all_vocab("is_first", target, pos, lambda x: (x >= x.amax(-1, keepdim=True)).to(x))


Several = str | int | Sequence[str | int] | Sequence[Sequence[str | int]]


@sent_as_a_call
def prob_diff(target: Several, foil: Several, *, pos: Position = -1) -> Metric:
    """Probability of any target minus that of any foil (PRIMER 3.2.13).

    The greater-than task counts every later year against every earlier one with it (5.4.5).

    Parameters
    ----------
    target, foil
        Tokens as ids or text: one, several that count together for every prompt, or one list per prompt.
    pos
        The position whose next-token prediction is read; the last by default.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> metric = prob_diff([" Mary", " Anna"], [" John"])
    >>> bool(metric(model.run("When Mary and John went to the store, John gave a drink to")) > 0)
    True
    """

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        ids = [_sets(given, tokens, tokenizer, d_vocab, what) for given, what in ((target, "target"), (foil, "foil"))]

        def value(x: Tensor, rows: Tensor) -> Tensor:
            p = at_least_float32(x).softmax(-1)
            # Shorter sets are filled up with -1.
            mine = (listed.to(x.device)[rows] for listed in ids)
            gained, lost = (torch.where(i >= 0, p.gather(-1, i.clamp_min(0)), 0.0).sum(-1) for i in mine)
            return gained - lost

        return Bound(tokens.column(pos), None, value)

    return _at_a_position("prob_diff", bind, target, foil, pos=pos)


def _sets(given: Several, tokens: Tokens, tokenizer: Any, d_vocab: int, what: str) -> Int[Tensor, "batch k"]:
    """One set of token ids per prompt, filled up with -1."""
    alone = isinstance(given, str | bytes) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0
    several: list[Any] = [given] if alone else list(given)  # pyright: ignore[reportArgumentType]
    sets = (list, tuple, set, np.ndarray, Tensor)
    if not any(isinstance(one, sets) and getattr(one, "ndim", 1) for one in several):
        several = [several] * len(tokens)
    named = [as_tokens(one, what, TargetError) for one in several]
    listed = [one if isinstance(one, list) else [one] for one in named]
    if len(listed) != len(tokens):
        raise TargetError(f"{len(listed)} sets of {what}s for {len(tokens)} prompts: give one, or one per prompt")
    known: dict[Any, int] = {}
    for word in (word for words in listed for word in words):
        known[word] = known[word] if word in known else one_token(tokenizer, word, d_vocab, what)
    width = max(1, *(len(words) for words in listed))
    ids = [[known[word] for word in words] + [-1] * (width - len(words)) for words in listed]
    return torch.tensor(ids, device=tokens.ids.device)


@sent_as_a_call
def kl(reference: Run | Float[Tensor, "batch pos vocab"], *, pos: Position = -1) -> Metric:
    """KL(reference || model) of the next-token distributions, in nats.

    It is 0 with gradient 0 on the reference itself, so gradient approximations of it there say nothing.

    Parameters
    ----------
    reference
        A run, or logits (batch, pos, vocab). Where ``pos`` counts from the end, it is the end of the reference's own
        prompts.
    """

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        theirs = getattr(reference, "tokens", tokens)
        logits = reference if isinstance(reference, Tensor) else reference.logits
        at = torch.arange(len(theirs), device=logits.device)
        log_p = at_least_float32(logits.detach()[at, theirs.column(pos).to(logits.device)]).log_softmax(-1)

        def value(x: Tensor, rows: Tensor) -> Tensor:
            ref = log_p.to(x.device)[rows if len(log_p) > 1 else torch.zeros_like(rows)]
            return (ref.exp() * (ref - at_least_float32(x).log_softmax(-1))).sum(-1)

        return Bound(tokens.column(pos), None, value)

    compared_with = reference if isinstance(reference, Tensor) else reference.logits
    return _at_a_position("kl", bind, pos=pos, compared_with=compared_with)


@sent_as_a_call
def loss() -> Metric:
    """Mean next-token cross-entropy over a prompt, in nats; a prompt needs two tokens."""

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        if isinstance(tokenizer, Classes):
            raise TargetError("the loss is of next tokens, and this model has logits of classes: measure a class")
        if int(tokens.lengths.min()) < 2:
            raise TargetError("the loss needs prompts of at least 2 tokens")
        both = tokens.mask[:, 1:] & tokens.mask[:, :-1]

        def value(x: Tensor, rows: Tensor) -> Tensor:
            ids, real = (t.to(x.device)[rows] for t in (tokens.ids[:, 1:], both))
            log_p = at_least_float32(x[:, :-1]).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
            return -(log_p * real).sum(-1) / real.sum(-1)

        return Bound(None, None, value)

    return Metric("loss", bind, pos=None)


@checked
def function(fn: Callable[[Tensor], Tensor], *, pos: Position | None = -1, name: str | None = None) -> Metric:
    """Any differentiable function of logits.

    Parameters
    ----------
    fn
        From (row, vocab) to (row,); with ``pos=None`` from (row, pos, vocab), padding included.
    """

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        def value(x: Tensor, rows: Tensor) -> Tensor:
            values = fn(x)
            if not isinstance(values, Tensor) or values.shape != x.shape[:1]:
                shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise TargetError(
                    f"the metric's function returned {shape}, expected one number per row {(len(x),)}, as "
                    "cb.logit_diff gives; cb.function makes a metric of a function of one position's logits"
                )
            return values

        return Bound(None if pos is None else tokens.column(pos), None, value)

    return Metric(name or getattr(fn, "__name__", "function"), bind, pos=pos)
