"""Whole runs of many edited variants side by side, for what a sweep does not give: their activations.

Each prompt is in one padded batch once per variant, variant after variant, and every edit finds the rows of its own
variant by its owner. A ``sweep`` recomputes only what an edit can change and keeps one number of it; here every layer
runs on every copy, and any site can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.classes import logits_of
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Frame, Span
from caseback.model.running.passing import no_rows, undisturbed
from caseback.model.running.run import Run, execute, inputs_of, resolve, with_clean
from caseback.model.running.session import Session
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.running.user_hooks import expect_no_user_hooks
from caseback.model.running.wiring import wired
from caseback.model.sweeping.room import numbers_of, tokens_per_pass


def side_by_side(
    anatomy: Anatomy,
    tokens: Tokens,
    variants: Sequence[Edit | Sequence[Edit]],
    read: Sequence[Any],
    *,
    token_budget: int | None = None,
) -> Iterator[tuple[range, Run]]:
    """Run variants of the same prompts in batches, and read sites; nothing is unembedded.

    Parameters
    ----------
    anatomy, tokens
        The model and its prompts.
    variants
        Each an edit, or a list of edits.
    read
        The sites to keep.
    token_budget
        The most tokens in one pass, padding included, but never less than one variant; by default a sweep's.

    Yields
    ------
    The variants of one pass, and its run: all prompts under the first of these variants, then all under the next.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> heads = [cb.Zero("z", layer=0, head=h) for h in range(model.n_heads)]
    >>> for which, run in side_by_side(model.anatomy, model.tokens("the cat"), heads, ["mlp_out"]):
    ...     print(which, run["mlp_out", 0].shape[0] == len(which))
    range(0, ...) True
    """
    reads = [site for given in read for site in anatomy.sites(given)]
    numbers = [numbers_of(anatomy, site, tokens.shape[1]) for site in reads]
    budget = tokens_per_pass(anatomy, tokens, token_budget, beside=sum(numbers))
    at_once = max(1, budget // tokens.ids.numel())
    resolved = [item for i, edits in enumerate(variants) for item in resolve(edits, anatomy, tokens, owner=i)]
    resolved = with_clean(resolved, lambda sites: execute(anatomy, tokens, read=sites, logits=False))
    for start in range(0, len(variants), at_once):
        which = range(start, min(start + at_once, len(variants)))
        copies = _copies(tokens, len(which))
        session = Session(
            anatomy,
            _frame(tokens, which),
            copies.shape,
            reads=reads,
            edits=[item for item in resolved if item[0] in which],
            columns_before=[at for at, _ in tokens.extents],
        )
        _run(session, copies)
        yield which, Run(anatomy, copies, session.acts, None, edited=True)


@as_found
def _run(session: Session, tokens: Tokens) -> None:
    anatomy = session.anatomy
    expect_no_user_hooks(anatomy, "running variants side by side")
    with undisturbed(anatomy, grad=False), wired(session), no_rows(anatomy.unembed):
        logits_of(anatomy.hf, inputs_of(tokens, anatomy.hf))
    session.finish()


def _copies(tokens: Tokens, times: int) -> Tokens:
    return Tokens(tokens.ids.repeat(times, 1), tokens.mask.repeat(times, 1), tokens.text * times)


def _frame(tokens: Tokens, which: range) -> Frame:
    width, lengths, first = tokens.ids.shape[1], tokens.lengths.tolist(), tokens.first.tolist()
    spans = [
        Span(variant, b, 0, n, (i * len(tokens) + b) * width + at)
        for i, variant in enumerate(which)
        for b, (n, at) in enumerate(zip(lengths, first, strict=True))
    ]
    return Frame(spans, lengths)
