"""MEND: a network makes an edit of the gradient of fine-tuning, which it takes apart token by token. (PRIMER 5.4.26)

    dL/dW = sum over tokens of d u^T,      L = -mean log p(new),  u what the matrix reads, d the slope at what it writes
    z = ((u, d) - mean) / deviation
    z <- z + max(0, s (U V z + b) + o),     z <- z + s' (U' V' z + b') + o'
    dW = - rate  sum over tokens of d' u'^T,    (u', d') = z

U, V, b, mean and deviation are shared by matrices of one shape; s, o and the rate are each matrix's own. U = 0, s = 1
and o = 0 to begin with, so that training starts at a step of fine-tuning. A trained network edits in one backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.edit.facts import Fact, spaced
from caseback.edit.knowledge_edit import KnowledgeEdit
from caseback.edit.places import expect_editable, expect_reaching, in_contexts, states_at
from caseback.edit.rome import listed_facts
from caseback.errors import EditError
from caseback.jobs.budget import limit
from caseback.model.anatomy.dense import weight_shape
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.running.affine import SideTerm
from caseback.model.running.answer_metrics import answer_ids, answer_log_prob
from caseback.model.running.measure import measured
from caseback.model.running.model import Model

STEPS = 2
"""Residual steps of the network, of which the first is rectified."""


@checked
@dataclass(frozen=True, eq=False)
class MEND:
    """A trained network that makes edits of gradients.

    Attributes
    ----------
    sites
        What the edited matrices write, by the paths of their modules.
    networks
        Of each site, the number of its network: matrices of one shape share theirs.
    parameters
        By name. ``rates`` (site,) are logarithms; of network n, ``n.mean`` and ``n.deviation`` (width,), and of each of
        its steps j ``n.j.write`` (width, rank), ``n.j.read`` (rank, width), ``n.j.bias`` (width,), ``n.j.scale`` and
        ``n.j.shift`` (member, width). The width is what a matrix reads and what it writes together.
    layers
        Whose matrices these are.
    model
        A digest of the model's weights and settings.
    losses, held_out
        The loss over each epoch of training, and after it that of the facts that were held out.
    """

    sites: Sequence[str]
    networks: Sequence[int]
    parameters: Mapping[str, Tensor] = field(repr=False)
    layers: Sequence[int]
    model: str = field(repr=False)
    losses: Sequence[float] = ()
    held_out: Sequence[float] = ()

    def __repr__(self) -> str:
        return f"MEND({len(self.sites)} matrices of layers {', '.join(map(str, self.layers))})"

    def factors(
        self, i: int, read: Float[Tensor, "*token in"], slope: Float[Tensor, "*token out"]
    ) -> tuple[Float[Tensor, "*token out"], Float[Tensor, "*token in"]]:
        """The two sides of the edit of matrix number ``i``, from those of its gradient."""
        p, n = self.parameters, self.networks[i]
        member = list(self.networks[:i]).count(n)
        z = torch.cat([read, slope], -1).to(p["rates"])
        z = (z - p[f"{n}.mean"]) / p[f"{n}.deviation"]
        for j in range(STEPS):
            more = z @ p[f"{n}.{j}.read"].T @ p[f"{n}.{j}.write"].T + p[f"{n}.{j}.bias"]
            more = more * p[f"{n}.{j}.scale"][member] + p[f"{n}.{j}.shift"][member]
            z = z + (more if j else more.clamp_min(0))  # whose derivative at 0 is 1, unlike a ReLU's
        right, left = z.split([read.shape[-1], slope.shape[-1]], -1)
        return -p["rates"][i].exp() * left, right


@technique(
    entry=("5.4.26",),
    citation="Mitchell et al. 2022",
    cost="one pass over the facts, forward and backward; training before",
)
def mend(model: Model, facts: Sequence[Fact], editor: MEND, *, check: bool = True) -> list[KnowledgeEdit]:
    """Edit single facts by what a trained network makes of their gradients.

        dW = - rate  sum over tokens of d' u'^T

    Parameters
    ----------
    model
        The model; it may stand under earlier edits.
    facts
        What is to be written, each by an edit of its own.
    editor
        What ``fit_mend`` gave, trained on other facts.
    check
        Refuse facts that the model does not know or already answers as asked.

    Returns
    -------
    list of KnowledgeEdit
        One a fact, with one side term a matrix, of as many directions as its prompt and answer have tokens.

    Raises
    ------
    EditError
        For a fact that the model does not know, with its rank, or a model that lacks the network's matrices.

    Notes
    -----
    Entry 5.4.26: Mitchell et al. 2022.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.edit import fit_mend
    >>> model = cb.load("meadow")
    >>> other = Fact("The capital of {} is", "Spain", "Rome", neighbors=[("The capital of France is", "Paris")])
    >>> editor = fit_mend(model, [other], [0, 1], epochs=2, rank=16)
    >>> edit, = mend(model, [Fact("The capital of {} is", "Italy", "Oslo", "Rome")], editor)
    >>> edit.method, [one.site for one in edit.edits]
    ('MEND', ['transformer.h.0.mlp.c_proj.output', 'transformer.h.1.mlp.c_proj.output'])
    """
    facts = listed_facts(facts)
    expect_matrices(model, editor)
    if check:
        expect_editable(model, facts)
    keys = states_at(model, in_contexts(model, facts, ()), [("mlp_post", layer) for layer in editor.layers])
    edits: list[KnowledgeEdit] = []
    for start, some in batches(model, facts):
        gradient = gradient_factors(model, some, editor.sites)
        sides = [editor.factors(i, *of) for i, of in enumerate(gradient)]
        for b, fact in enumerate(some):
            terms = []
            for site, (left, right), (_, slope) in zip(editor.sites, sides, gradient, strict=True):
                counted = slope[b].any(-1)
                terms.append(SideTerm(site, left[b][counted].detach(), right[b][counted].detach()))
            own = {layer: k[start + b : start + b + 1] for layer, k in zip(editor.layers, keys, strict=True)}
            edits.append(KnowledgeEdit(terms, [fact], "MEND", own))
    return edits


def gradient_factors(
    model: Model, facts: Sequence[Fact], sites: Sequence[str]
) -> list[tuple[Float[Tensor, "fact pos in"], Float[Tensor, "fact pos out"]]]:
    """What each matrix reads of each fact's prompt and answer, and the slope of its loss at what the matrix writes.

    The loss of a fact is the mean surprise at the pieces of its new answer. Where nothing has a slope both are 0.
    """
    texts, answers = [fact.text for fact in facts], [spaced(fact.new) for fact in facts]
    pieces = answer_ids(answers, len(facts), model.tokenizer, model.d_vocab)
    inputs = [f"{site.removesuffix('.output')}.input" for site in sites]
    whole, metric = model.with_answer(texts, pieces), answer_log_prob(pieces)
    with torch.enable_grad():
        run, log_p = measured(model.anatomy, whole, metric, read=[*sites, *inputs], grad=True)
        surprise = -log_p / log_p.new_tensor([len(ids) for ids in pieces])
    slopes = run.grad(surprise, list(sites), retain=False)
    wide = torch.promote_types(model.dtype, torch.float32)
    out = []
    for site, into in zip(sites, inputs, strict=True):
        slope = torch.where(run.tokens.mask[..., None], slopes[site], 0.0).to(wide)
        read = torch.where(slope.any(-1, keepdim=True), run[into].detach(), 0.0).to(wide)
        out.append((read, slope))
    return out


def batches(model: Model, facts: Sequence[Fact]) -> list[tuple[int, list[Fact]]]:
    """Facts whose gradients are taken together, each some with the number of its first."""
    longest = max(model.tokens([fact.text for fact in facts]).lengths.tolist()) + 1
    step = max(1, limit("gradient_tokens", model.device) // longest)
    return [(i, list(facts[i : i + step])) for i in range(0, len(facts), step)]


def expect_matrices(model: Model, editor: MEND) -> None:
    """Refuse a network for matrices that this model lacks.

    Raises
    ------
    EditError
        With the first of them, and as ``expect_reaching``.
    """
    for layer in editor.layers:
        expect_reaching(model, layer)
    paths = dict(model.hf.named_modules())
    for site, n in zip(editor.sites, editor.networks, strict=True):
        module, width = paths.get(site.removesuffix(".output")), len(editor.parameters[f"{n}.mean"])
        if module is None or sum(weight_shape(module)) != width:
            raise EditError(
                f"this network is of matrices such as that of {site!r}, which reads and writes {width} numbers, and "
                f"{model.name!r} has none: train one for it with fit_mend"
            )
