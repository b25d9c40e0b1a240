"""What a neuron does when it is clamped to its largest activation in text, at the last token of prefixes.

    D = logits with the neuron clamped - logits as they are
    written tokens                 skew of D over the vocabulary: above 1 where few tokens rise, below -1 where few fall
    promoted words                 mean of D, in its deviations, over the ten words that the look says are promoted
    class of tokens                share of D's variance that the best of the classes of tokens explains
    attention to the first token   change of what the head named by the look gives to the row's first token

A row of weights says what is written; these say what is left of it behind the layers, heads and norms that follow. The
largest activation is the highest one; where an MLP is gated and activations have either sign, it is the one furthest
from 0. Like units are clamped to theirs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look
from caseback.behaviors.neurons.partition import classes
from caseback.behaviors.neurons.value_vectors import promoted
from caseback.behaviors.proofs.ends import end_of_stream, logits_of, of_last, prefixes
from caseback.behaviors.proofs.experiment import Experiment, Unit, address
from caseback.errors import SiteAbsent
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.edits import Edit, Replace
from caseback.model.running.site_metrics import activation
from caseback.model.running.tokens import Tokens

SKEWED, RAISED, EXPLAINED, MOVED = 1.0, 1.0, 0.1, 0.01
"""The least effects: of the skew, in deviations, of the share of variance, of attention."""


def to_largest(evidence: Evidence) -> Callable[[Unit], Edit]:
    """The edit that clamps a neuron."""
    ends = [evidence.by_neuron(TEXT, "neuron_moments", f"mlp_post_{end}") for end in ("max", "min")]
    high, low = ends[0].max(1), ends[1].min(1)
    try:
        evidence.model.weights.W_gate[evidence.neuron_layers[0]]
        ends_of = np.where(high > -low, high, low)
    except SiteAbsent:
        ends_of = high
    largest = dict(zip(evidence.neurons, ends_of.tolist(), strict=True))

    def clamped(unit: Unit) -> Edit:
        return Replace("mlp_post", layer=unit[1], value=largest[unit[1:]], pos=-1, **address(unit))

    return clamped


def _changes(evidence: Evidence, tokens: Tokens) -> Callable[[Tensor, Tensor], Tensor]:
    """The change of logits, centered."""
    _, stream = end_of_stream(evidence, tokens)
    clean = logits_of(evidence, stream)

    def change(x: Tensor, rows: Tensor) -> Tensor:
        moved = at_least_float32(x) - clean[rows]
        return moved - moved.mean(-1, keepdim=True)

    return change


def written_tokens(evidence: Evidence) -> Experiment:
    """Few tokens rise, or few fall."""
    tokens = prefixes(evidence)
    change = _changes(evidence, tokens)

    def skew(x: Tensor, rows: Tensor) -> Tensor:
        moved = change(x, rows)
        spread = moved.square().mean(-1)
        # below what rounding leaves of the same logits there is no shape
        real = spread.sqrt() > 1e-5 * at_least_float32(x).abs().amax(-1)
        return torch.where(real, moved.pow(3).mean(-1) / torch.where(real, spread, 1.0).pow(1.5), 0.0)

    metric = of_last("skew of the change", skew)
    return Experiment("written tokens", tokens, metric, "skew", to_largest(evidence), least=SKEWED)


def promoted_words(evidence: Evidence, look: Look, unit: int) -> Experiment:
    """The words that a neuron is said to promote rise above the others."""
    tokens, own = prefixes(evidence), promoted(evidence, unit)
    change = _changes(evidence, tokens)

    def risen(x: Tensor, rows: Tensor) -> Tensor:
        moved = change(x, rows)
        spread = moved.square().mean(-1).sqrt()
        real = spread > 1e-5 * at_least_float32(x).abs().amax(-1)
        return torch.where(real, moved[:, own].mean(-1) / torch.where(real, spread, 1.0), 0.0)

    metric = of_last("rise of the words", risen)
    return Experiment("promoted words", tokens, metric, "deviations", to_largest(evidence), least=RAISED)


def class_of_tokens(evidence: Evidence) -> Experiment:
    """One class of tokens against the others."""
    tokens = prefixes(evidence)
    change = _changes(evidence, tokens)
    own = torch.stack(list(classes(evidence).values()), 1)
    own = own - own.mean(0)
    own = own / own.norm(dim=0)

    def explained(x: Tensor, rows: Tensor) -> Tensor:
        moved = change(x, rows)
        size = moved.norm(dim=-1)
        real = size > 1e-5 * at_least_float32(x).norm(dim=-1)
        share = ((moved @ own.to(moved)) / torch.where(real, size, 1.0)[:, None]).square().amax(-1)
        return torch.where(real, share, 0.0)

    metric = of_last("share of a class", explained)
    return Experiment("class of tokens", tokens, metric, "share", to_largest(evidence), least=EXPLAINED)


def attention_to_first(evidence: Evidence, look: Look, unit: int) -> Experiment:
    """What the head that a neuron is said to switch gives to the first token."""
    layer, head = (int(look.beside[name][unit]) for name in ("layer", "head"))
    metric = activation("pattern", layer=layer, head=head, unit=0)
    tokens = prefixes(evidence)
    return Experiment(
        "attention to the first token",
        tokens,
        metric,
        f"attention of L{layer}H{head}",
        to_largest(evidence),
        least=MOVED,
        either=True,
        before=layer,
    )
