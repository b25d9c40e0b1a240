"""What is predicted at the ends of prefixes of text, where a unit is replaced at the last token alone.

    entropy            -sum p log p;  still: the final norm divides by what it divided by before
    unigrams           KL(p || unigrams);  still: the logits' part along the centered log unigrams is as it was
    likeliest token    log p of the token that was likeliest

A unit that acts through the final norm alone changes the entropy as long as the norm may, and not at all otherwise; one
that moves along the unigrams changes the distance to them by nothing else. Only one token a prompt is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.neurons.frequency import log_unigrams
from caseback.behaviors.proofs.experiment import Experiment, by_means
from caseback.errors import CasebackError, SiteAbsent
from caseback.jobs.budget import limit
from caseback.model.algebra.under_edits import END
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.run import execute
from caseback.model.running.tokens import Tokens
from caseback.model.running.verify import under_edits, unembed_normed

NEEDS = {TEXT: ("neuron_moments", "token_counts")}
CUTS = 4
Value = Callable[[Tensor, Tensor], Tensor]
"""From logits (row, vocab), or a site's (row, d_model), and the prompt of each row, to one number per row."""


def prefixes(evidence: Evidence, *, longer_than: int = 7) -> Tokens:
    """Rows of text, each up to a quarter, a half, three quarters and all of it.

    Raises
    ------
    SiteAbsent
        Where none is longer than what is asked for.
    """
    cuts = [ids[: len(ids) * part // CUTS] for ids in evidence.prompts for part in range(1, CUTS + 1)]
    long = [ids for ids in cuts if len(ids) > longer_than]
    if not long:
        raise SiteAbsent(f"no text of more than {longer_than} tokens was read")
    return evidence.model.tokens(long)


def at_last(evidence: Evidence, tokens: Tokens, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """What sites hold at each prompt's last token, (prompt, ...), some prompts at a time."""
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    step = max(1, limit("stream_tokens", evidence.model.device) // tokens.shape[1])
    for first in range(0, len(tokens), step):
        some = tokens[first : first + step]
        run = execute(evidence.model.anatomy, some, read=list(sites), logits=False)
        rows = torch.arange(len(some), device=run.tokens.ids.device)
        for site, values in parts.items():
            values.append(run[site][rows, run.tokens.column(-1)].detach())
    return {site: torch.cat(values) for site, values in parts.items()}


def end_of_stream(evidence: Evidence, tokens: Tokens) -> tuple[Site, Tensor]:
    """The site that the final norm reads, and what it holds at last tokens; held, as several experiments read it."""
    site = Site("resid_post", evidence.model.n_layers - 1)
    if (key := ("ends", len(tokens))) not in evidence.computed:
        evidence.computed[key] = at_last(evidence, tokens, [site])[site]
    return site, evidence.computed[key]


def logits_of(evidence: Evidence, stream: Float[Tensor, "row d_model"], like: Tensor | None = None) -> Tensor:
    """Logits of the stream, with the final norm's denominator of ``like`` where that is given."""
    anatomy = evidence.model.anatomy
    norm, x = None if anatomy.final_norm is None else anatomy.norms[anatomy.final_norm], stream
    if norm is not None and like is None:
        x = norm(stream)
    elif norm is not None and like is not None:
        x = norm.frozen(stream, norm.scale(like))
        x = x if norm.beta is None else x + norm.beta.to(x)
    return at_least_float32(unembed_normed(anatomy, under_edits(anatomy, END, x.to(stream.dtype))))


def of_last(name: str, value: Value, site: Site | None = None) -> Metric:
    """A metric at each prompt's last token."""
    reads = () if site is None or site.layer is None else ((site.name, site.layer),)
    return Metric(name, lambda tokens, tokenizer, d_vocab: Bound(tokens.column(-1), None, value), reads=reads)


def entropy_of(logits: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
    """Of the distribution, in nats."""
    log_p = at_least_float32(logits).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def entropy(evidence: Evidence) -> Experiment:
    """How sure the model is, with the final norm's denominator free and standing still."""
    if evidence.model.weights.final_norm is None:
        raise SiteAbsent("no norm stands before the unembedding")
    tokens = prefixes(evidence)
    site, clean = end_of_stream(evidence, tokens)

    def still(x: Tensor, rows: Tensor) -> Tensor:
        return entropy_of(logits_of(evidence, x, clean[rows]))

    replaced = by_means(evidence, TEXT, pos=-1)
    free = of_last("entropy", lambda x, rows: entropy_of(x))
    return Experiment(
        "entropy", tokens, free, "nats", replaced, still=(of_last("entropy, norm still", still, site), replaced)
    )


def unigrams(evidence: Evidence) -> Experiment:
    """How far predictions are from the text's unigrams, with the logits free and standing still along these."""
    tokens = prefixes(evidence)
    log_q = log_unigrams(evidence).logsumexp(1).log_softmax(0)
    _, stream = end_of_stream(evidence, tokens)
    clean = logits_of(evidence, stream)
    if clean.shape[1] != len(log_q):
        raise CasebackError(f"{clean.shape[1]} logits and {len(log_q)} unigrams: expected as many")
    log_q = log_q.to(clean)
    along = log_q - log_q.mean()
    along = along / along.norm()
    standing = clean @ along

    def distance(x: Tensor) -> Tensor:
        log_p = x.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def still(x: Tensor, rows: Tensor) -> Tensor:
        x = at_least_float32(x)
        return distance(x + (standing[rows] - x @ along)[:, None] * along)

    replaced = by_means(evidence, TEXT, pos=-1)
    free = of_last("distance to unigrams", lambda x, rows: distance(at_least_float32(x)))
    return Experiment(
        "unigrams", tokens, free, "nats", replaced, still=(of_last("distance, unigrams still", still), replaced)
    )


def likeliest(evidence: Evidence) -> Experiment:
    """How likely is what is predicted?"""
    tokens = prefixes(evidence)
    _, stream = end_of_stream(evidence, tokens)
    best = logits_of(evidence, stream).argmax(-1)

    def value(x: Tensor, rows: Tensor) -> Tensor:
        return at_least_float32(x).log_softmax(-1).gather(-1, best[rows][:, None])[:, 0]

    return Experiment(
        "likeliest token", tokens, of_last("likeliest token", value), "nats", by_means(evidence, TEXT, pos=-1)
    )


def kl_from(reference: Float[Tensor, "prompt vocab"]) -> Value:
    """KL(reference || p), row by row."""
    log_p = at_least_float32(reference).log_softmax(-1)

    def value(x: Tensor, rows: Tensor) -> Tensor:
        own = log_p[rows]
        return (own.exp() * (own - at_least_float32(x).log_softmax(-1))).sum(-1)

    return value


def kl_at_last(evidence: Evidence, tokens: Tokens) -> Metric:
    """KL from the unedited predictions at last tokens."""
    _, stream = end_of_stream(evidence, tokens)
    return of_last("kl", kl_from(logits_of(evidence, stream)))
