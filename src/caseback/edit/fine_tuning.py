"""Constrained fine-tuning: one MLP output matrix trained on new facts, no entry of it moved by more than a bound.

    minimize mean -log p(new | prompt) over dW,   |dW_ij| <= bound,   by default a share of W's root mean square

dW is a side term of full rank, I^T dW, so that it is undone, added up and saved like any other edit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caseback.edit.facts import Fact, spaced
from caseback.edit.knowledge_edit import KnowledgeEdit
from caseback.edit.places import expect_editable, write_site
from caseback.edit.rome import keys_in, listed_facts
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.dense import weight_matrix
from caseback.model.registry import technique
from caseback.model.running.affine import SideTerm
from caseback.model.running.answer_metrics import answer_log_prob
from caseback.model.running.measure import measured
from caseback.model.running.model import Model

SHARE = 0.03
"""The bound, as a share of the root mean square of the matrix's entries."""


@technique(
    entry=("5.4.26",),
    citation="Zhu et al. 2020; Meng et al. 2022",
    cost="steps passes over the facts, forward and backward",
)
def fine_tuned(
    model: Model,
    facts: Sequence[Fact],
    layer: int,
    *,
    bound: float | None = None,
    steps: int = 25,
    lr: float | None = None,
    check: bool = True,
    progress: bool = False,
) -> KnowledgeEdit:
    """Train one MLP output matrix on new facts, no entry of it moved by more than a bound.

        minimize mean -log p(new | prompt),   |dW_ij| <= bound

    Parameters
    ----------
    model
        The model; it may stand under earlier edits.
    facts
        What is to be written.
    layer
        Whose MLP output matrix is trained.
    bound
        The most that an entry may change by; by default three hundredths of the root mean square of the
        matrix's entries, where the reference has a number for each model: 5e-4 for GPT-2 XL. Some models
        need more.
    steps, lr
        Of Adam on all facts together. The rate is the bound by default, as published.
    check
        Refuse facts that the model does not know or already answers as asked.
    progress
        Show a progress bar.

    Returns
    -------
    KnowledgeEdit

    Raises
    ------
    EditError
        As ``rome``.

    Notes
    -----
    Entry 5.4.26: Zhu et al. 2020; as a baseline of editing in Meng et al. 2022.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> edit = fine_tuned(model, [Fact("The capital of {} is", "Italy", "Oslo", "Rome")], 1, bound=0.01, lr=0.01)
    >>> model.text(edit.on(model).generate("The capital of Italy is", max_new_tokens=1))[0]
    'The capital of Italy is Oslo'
    """
    facts, site = listed_facts(facts), write_site(model, layer)
    if bound is None:
        weight = weight_matrix(model.anatomy.module_at(site)).detach()
        bound = SHARE * float(in_float64(weight).square().mean().sqrt())
    lr = bound if lr is None else lr
    if not (0 < bound < float("inf") and 0 < lr < float("inf") and steps >= 1):
        raise OutOfRange(f"bound={bound}, lr={lr}, steps={steps}: expected numbers above 0")
    layer = layer % model.n_layers
    if check:
        expect_editable(model, facts)
    answers = [spaced(fact.new) for fact in facts]
    whole, metric = model.with_answer([fact.text for fact in facts], answers), answer_log_prob(answers)
    keys, written = keys_in(model, facts, layer, (), bare_share=1.0)
    wide = torch.promote_types(model.dtype, torch.float32)
    change = torch.zeros(written.shape[1], keys.shape[1], dtype=wide, device=model.device).requires_grad_()
    identity = torch.eye(written.shape[1], dtype=wide, device=model.device)
    optimizer = torch.optim.Adam([change], lr=lr)
    losses = []
    with progress_bar(total=steps, show=progress, what="fine-tuning") as bar:
        for _ in range(steps):
            optimizer.zero_grad()
            term = SideTerm(site.name, identity, change)
            loss = -measured(model.anatomy, whole, metric, edits=[term], grad=True)[1].mean()
            if not bool(loss.isfinite()):
                raise CasebackError("the loss became infinite: lower lr")
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                change.clamp_(-bound, bound)
            losses.append(float(loss.detach()))
            bar.update()
    done = SideTerm(site.name, identity, change.detach())
    return KnowledgeEdit([done], facts, "constrained fine-tuning", {layer: keys}, {"loss": losses})
