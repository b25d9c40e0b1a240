"""Tiny random models with planted neurons, and evidence of them on streams of random ids."""

import numpy as np
import torch

import caseback as cb
import zoo
from caseback.behaviors.evidence import TEXT, collect_evidence
from caseback.behaviors.kinds import KINDS, labels
from caseback.stream.marks import KINDS as BITS

ALL_NEEDS = {
    TEXT: (
        *("neuron_moments", "neuron_histograms", "neuron_groups", "token_counts", "stream_moments"),
        "query_key_means",
    )
}
DIGITS = frozenset(range(5, 15))
"""The ids that count as numbers."""


def fresh(family, seed=0):
    """A model that a test may change."""
    return cb.load(zoo.tiny(family, seed=seed))


def corpus(documents=60, length=40, seed=0, ids=None):
    """Documents of random ids."""
    rng = np.random.default_rng(seed)
    draw = (lambda: rng.integers(1, zoo.VOCAB, length)) if ids is None else (lambda: ids(rng, length))
    return [draw().tolist() for _ in range(documents)]


def evidence_of(model, texts=None, needs=ALL_NEEDS):
    return collect_evidence(model, corpus() if texts is None else texts, needs, length=40)


def bits_of(model):
    """Kinds of tokens in place of a tokenizer: some are numbers, the others letters."""
    size = int(model.hf.get_input_embeddings().weight.shape[0])
    of = [1 << BITS.index("digits" if token in DIGITS else "letters") for token in range(size)]
    return torch.tensor(of, dtype=torch.int32)


def labeled(evidence, name):
    """Names of the neurons that have a label, and how many would on the control."""
    kind = KINDS[name]
    look = kind.look(evidence)
    names = np.array(evidence.names("neuron"))
    bound = np.maximum(look.band, kind.threshold)
    return set(names[labels(look, kind.threshold)].tolist()), int((look.control > bound).sum())


@torch.no_grad()
def reserve(model, dim):
    """Let nothing read or write a dimension of the stream."""
    weights = model.weights
    for layer in range(model.n_layers):
        for name in ("W_Q", "W_K", "W_V", "W_in", "W_gate"):
            try:
                getattr(weights, name)[layer][..., dim, :] = 0
            except cb.errors.SiteAbsent:
                continue
        weights.W_O[layer][..., dim] = 0
        weights.W_out[layer][..., dim] = 0
        for name in ("b_O", "b_out"):
            module = getattr(model.anatomy.layers[layer], {"b_O": "o", "b_out": "w_out"}[name])
            if getattr(module, "bias", None) is not None:
                module.bias[dim] = 0
    weights.W_E[:, dim] = 0


@torch.no_grad()
def permute_neurons(model, layer, order):
    """The same function with the neurons of a layer in another order."""
    weights = model.weights
    for name, dim in (("W_in", 1), ("W_gate", 1), ("W_out", 0)):
        try:
            own = getattr(weights, name)[layer]
        except cb.errors.SiteAbsent:
            continue
        own.copy_(own.index_select(dim, order))
    parts = model.anatomy.layers[layer]
    for module in (parts.w_in, parts.w_gate):
        if module is not None and getattr(module, "bias", None) is not None:
            module.bias.copy_(module.bias[order])
