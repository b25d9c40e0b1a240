"""WISE: a second copy of one MLP output matrix, used only for what reads like the edits. (PRIMER 5.4.26)

    y = (W + D) a  where Delta(a) = |D a| >= eps,   else W a;      eps = the least Delta at the edits' tokens

    minimize over D   mean -log p(new | prompt)  +  mean max(0, Delta(other) - alpha)
                      +  mean max(0, beta - Delta(edit))  +  mean max(0, gamma - (Delta(edit) - Delta(other)))

a is what the matrix reads at a token; an edit's tokens are those that its answer's pieces are read at, the others those
of plain texts. What the matrix reads does not depend on D, so it is computed once. In training the gate is the one that
will stand there: eps is the least Delta of the moment. Shards of the facts may be trained each within a random mask and
merged as TIES does: of each entry the sign with more mass is elected, and the changes that have it are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.edit.facts import Fact, spaced
from caseback.edit.knowledge_edit import KnowledgeEdit
from caseback.edit.places import Rows, expect_editable, in_contexts, pieces_of, states_at, write_site
from caseback.edit.rome import listed_facts
from caseback.errors import CasebackError, EditError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.dense import weight_matrix
from caseback.model.registry import technique
from caseback.model.running.affine import SideMemory
from caseback.model.running.answer_metrics import answer_log_prob
from caseback.model.running.measure import measured
from caseback.model.running.model import Model

PUBLISHED = (5.0, 20.0, 10.0)
"""alpha, beta and gamma of the reference, for models of seven billion weights."""
RATE = 0.1
"""Adam's rate, as a share of the root mean square of the matrix's entries."""
ENOUGH = 0.02
"""The loss, with the margins', at which training stops."""


@technique(
    entry=("5.4.26",),
    citation="Wang et al. 2024",
    cost="steps passes over the facts, forward and backward, and one over the texts",
)
def wise(
    model: Model,
    facts: Sequence[Fact],
    layer: int,
    texts: Sequence[str],
    *,
    margins: tuple[float, float, float] | None = None,
    steps: int = 100,
    lr: float | None = None,
    shards: int = 1,
    density: float = 1.0,
    contexts: Sequence[str] = (),
    seed: int = 0,
    check: bool = True,
    progress: bool = False,
) -> KnowledgeEdit:
    """Write new facts into a side memory, another MLP output matrix that only tokens like the edits' are sent through.

        y = (W + D) a  where |D a| >= eps,  else W a

    Where the gate is closed the output is the unedited one, bit by bit. Memories add up, each with its own gate.

    Parameters
    ----------
    model
        The model; it may stand under earlier edits.
    facts
        What is to be written, all into one memory.
    layer
        Whose MLP output matrix is doubled; late ones read most of the prompt.
    texts
        Plain texts, at all of whose tokens the gate is to be closed.
    margins
        alpha, beta and gamma, lengths of what the matrix writes. By default beta is the mean length of what W
        writes at the edits' tokens and the others are in the published proportion to it, a quarter and a half;
        ``(5, 20, 10)`` are the published ones, which are of the scale of models of seven billion weights.
    steps, lr
        Of Adam on all facts of a shard together, until the loss is below 0.02; the rate is a tenth of the root mean
        square of W's entries by default. The reference takes gradient steps of rate 1.
    shards
        In how many parts the facts are trained; the reference has 2 where facts come one after another.
    density
        The share of D's entries that a shard may change; 0.2 in the reference.
    contexts
        Texts before the prompts, each fact trained behind each too, which lowers eps; none by default. The
        reference samples ten from the model.
    seed
        Same seed, same result. The shards' masks follow from it.
    check
        Refuse facts that the model does not know or already answers as asked.
    progress
        Show a progress bar.

    Returns
    -------
    KnowledgeEdit
        With one side memory. ``checks``: each shard's loss by step, the margins, the least Delta of an edit's token,
        the largest of a text's, and the share of the texts' tokens at which the gate is open. The threshold lies
        below the least Delta by the square root of the model's precision, so that a batch's rounding shuts no gate.

    Raises
    ------
    EditError
        As ``rome``, and for texts that are none.
    OutOfRange
        For numbers that cannot be, and more shards than facts.

    Notes
    -----
    Entry 5.4.26: Wang et al. 2024 (arXiv 2405.14768); merging by Yadav et al. 2023 (TIES).

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> texts = ["The capital of Spain is Madrid.", "Mary went to the store."]
    >>> edit = wise(model, [Fact("The capital of {} is", "Italy", "Oslo", "Rome")], 2, texts)
    >>> model.text(edit.on(model).generate(["The capital of Italy is", "The capital of Spain is"], max_new_tokens=1))
    ['The capital of Italy is Oslo', 'The capital of Spain is Madrid']
    """
    facts, site = listed_facts(facts), write_site(model, layer)
    layer = layer % model.n_layers
    texts = _listed(texts)
    weight = in_float64(weight_matrix(model.anatomy.module_at(site)).detach())
    lr = RATE * float(weight.square().mean().sqrt()) if lr is None else lr
    if not (0 < lr < float("inf") and steps >= 1 and 1 <= shards <= len(facts) and 0 < density <= 1):
        raise OutOfRange(
            f"lr={lr}, steps={steps}, shards={shards}, density={density}: expected lr above 0, a step or more, 1 to "
            f"{len(facts)} shards, as many as facts at most, and a density above 0, 1 at most"
        )
    if check:
        expect_editable(model, facts)
    parts = [facts[i::shards] for i in range(shards)]
    read = [states_at(model, _answering(model, part, contexts), [("mlp_post", layer), site]) for part in parts]
    keys = [one for one, _ in read]
    others = _keys_in(model, texts, layer).to(keys[0])
    margins = _margins(margins, torch.cat([written for _, written in read]))
    generator = torch.Generator().manual_seed(seed)
    shape, changes, losses = (read[0][1].shape[1], others.shape[1]), [], []
    with progress_bar(total=steps * shards, show=progress, what="side memory") as bar:
        for part, own in zip(parts, keys, strict=True):
            mask = (torch.rand(shape, generator=generator) < density).to(model.device)
            change, loss = _trained(model, part, contexts, site.name, own, others, mask, margins, steps, lr)
            changes.append(change)
            losses.append(loss)
            bar.update(steps)
    change = merged(torch.stack(changes))
    at_edits, elsewhere = (_apart(x, change) for x in (torch.cat(keys), others))
    least = at_edits.min()
    if not bool(least > 0):
        raise CasebackError("the side memory differs from the matrix at no edit: raise steps, lr or density")
    threshold = _threshold(at_edits, model)
    checks = {
        "loss": losses,
        "margins": list(margins),
        "least_at_edits": float(least),
        "largest_elsewhere": float(elsewhere.max()),
        "open_elsewhere": float(in_float64(elsewhere >= threshold).mean()),
    }
    return KnowledgeEdit([SideMemory(site.name, change, threshold.to(change))], facts, "WISE", {}, checks)


def routing_loss(
    at_edits: Float[Tensor, " edit"], elsewhere: Float[Tensor, " other"], margins: tuple[float, float, float]
) -> Float[Tensor, ""]:
    """The three margins of the module's formula, each a mean; the last one's over all pairs.

    Examples
    --------
    >>> float(routing_loss(torch.tensor([18.0]), torch.tensor([6.0, 12.0]), (5.0, 20.0, 10.0)))
    8.0
    """
    alpha, beta, gamma = margins
    between = gamma - (at_edits[:, None] - elsewhere)
    return (elsewhere - alpha).relu().mean() + (beta - at_edits).relu().mean() + between.relu().mean()


def merged(changes: Float[Tensor, "shard out in"]) -> Float[Tensor, "out in"]:
    """Shards' changes as one: of each entry the mean of those that have the sign of their sum.

    Examples
    --------
    >>> merged(torch.tensor([[[3.0, 1.0, 0.0]], [[-1.0, 2.0, 4.0]]])).tolist()
    [[3.0, 1.5, 4.0]]
    """
    sign = changes.sum(0).sign()
    agree = (changes.sign() == sign) & (changes != 0)
    return (changes * agree).sum(0) / agree.sum(0).clamp_min(1)


def _trained(
    model: Model,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    site: str,
    keys: Tensor,
    others: Tensor,
    mask: Tensor,
    margins: tuple[float, float, float],
    steps: int,
    lr: float,
) -> tuple[Tensor, list[float]]:
    """D of some facts, no entry of it outside the mask, and the loss of each step."""
    begun = ["", *(f"{context} " for context in contexts)]
    answers = [spaced(fact.new) for fact in facts for _ in begun]
    prompts = [before + fact.text for fact in facts for before in begun]
    whole, metric = model.with_answer(prompts, answers), answer_log_prob(answers)
    wide = torch.promote_types(model.dtype, torch.float32)
    change = torch.zeros(mask.shape, dtype=wide, device=model.device).requires_grad_()
    keys, others = keys.to(change), others.to(change)
    optimizer, losses = torch.optim.Adam([change], lr=lr), []
    for _ in range(steps):
        optimizer.zero_grad()
        at_edits = _apart(keys, change)
        memory = SideMemory(site, change, _threshold(at_edits.detach(), model))
        log_p = measured(model.anatomy, whole, metric, edits=[memory], grad=True)[1]
        loss = -log_p.mean() + routing_loss(at_edits, _apart(others, change), margins)
        losses.append(float(loss.detach()))
        if not losses[-1] < float("inf"):
            raise CasebackError("the loss of the side memory is not finite: lower lr")
        if losses[-1] < ENOUGH:
            break
        loss.backward()
        assert change.grad is not None
        change.grad.mul_(mask)
        optimizer.step()
    return change.detach(), losses


def _apart(x: Tensor, change: Tensor) -> Tensor:
    """Delta of what the matrix reads."""
    return (x.to(change) @ change.T).norm(dim=-1)


def _threshold(at_edits: Float[Tensor, " edit"], model: Model) -> Float[Tensor, " one"]:
    """Just below the least Delta of an edit's token, so that a batch's rounding shuts no gate."""
    return at_edits.min()[None] * (1 - torch.finfo(model.dtype).eps ** 0.5)


def _answering(model: Model, facts: Sequence[Fact], contexts: Sequence[str]) -> Rows:
    """Each fact's prompt, behind each context too, with none to all but the last of its answer's pieces: their ends."""
    prompts = in_contexts(model, facts, contexts).ids
    pieces = pieces_of(model, [fact.new for fact in facts for _ in range(1 + len(contexts))])
    ids = [row + own[:j] for row, own in zip(prompts, pieces, strict=True) for j in range(len(own))]
    return Rows(ids, [len(row) - 1 for row in ids])


def _keys_in(model: Model, texts: Sequence[str], layer: int) -> Float[Tensor, "token neuron"]:
    """What a layer's matrix reads at every token of some texts."""
    tokens = model.tokens(texts)
    ids = [row[mask].tolist() for row, mask in zip(tokens.ids, tokens.mask, strict=True)]
    some = max(1, limit("stream_tokens", model.device) // max(map(len, ids)))
    blocks = [model.tokens(ids[i : i + some]) for i in range(0, len(ids), some)]
    runs = ((tokens, model.run(tokens, read=[("mlp_post", layer)])["mlp_post", layer]) for tokens in blocks)
    return torch.cat([in_float64(x[tokens.mask.to(x.device)]) for tokens, x in runs])


def _margins(margins: tuple[float, float, float] | None, written: Tensor) -> tuple[float, float, float]:
    if margins is None:
        scale = float(written.norm(dim=-1).mean()) / PUBLISHED[1]
        margins = (PUBLISHED[0] * scale, PUBLISHED[1] * scale, PUBLISHED[2] * scale)
    if len(margins) != 3 or not all(0 < one < float("inf") for one in margins) or not margins[0] < margins[1]:
        raise OutOfRange(f"margins are {margins}: expected alpha, beta and gamma above 0, alpha below beta")
    return margins


def _listed(texts: Sequence[str]) -> list[str]:
    given = list(texts)
    if not given or not all(isinstance(text, str) and text.strip() for text in given):
        raise EditError(f"texts are {texts!r}: expected plain texts, one or more")
    return given
