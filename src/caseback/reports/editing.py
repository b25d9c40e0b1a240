"""What an edit of facts does, as plain data: each prompt before and after, the measures, the change and what it costs.

A fact's prompts are in three groups: ``efficacy`` (the edited one), ``paraphrase`` and ``neighborhood``. Each is asked
for an answer, teacher-forced and generated, beside the one that it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import xarray as xr

from caseback.edit import KnowledgeEdit, on_plain_text, scores, summary
from caseback.edit.facts import Fact, spaced
from caseback.edit.places import pieces_of
from caseback.edit.scores import begins_with, teacher_forced
from caseback.errors import EditError
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.dense import weight_matrix
from caseback.model.arguments import checked
from caseback.model.running.affine import SideTerm
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["EDITING", "GROUPS", "REMARK", "editing_document"]

EDITING = DocumentKind(
    "caseback.editing",
    1,
    "a document of an edit of facts",
    "editing_document",
    sections=("method", "layers", "facts", "summary", "changes", "plain_text", "remark"),
)
GROUPS = ("efficacy", "paraphrase", "neighborhood")
REMARK = "That an edit succeeds is no evidence that the fact was stored where it was edited (Hase et al. 2023)."


@checked
def editing_document(
    model: Model, edit: KnowledgeEdit, *, plain_text: Sequence[str] | None = None, generate: int = 5
) -> dict[str, Any]:
    """Judge an edit of facts by its own prompts, and by plain text.

    Parameters
    ----------
    model
        The model without the edit.
    edit
        What ``rome`` and its like gave.
    plain_text
        Neutral texts, whose predictions are to stay; not measured by default.
    generate
        How many tokens are generated behind each prompt, to be shown.

    Returns
    -------
    dict
        The document. ``facts`` has of each its ``prompts``, with ``group``, ``text``, the ``answer`` that is wanted,
        what it is compared with (``against``; the neighbors' is the new answer, None where that is their own), and
        ``before`` and ``after``: the mean log probability per piece of ``answer`` and ``against``, ``rank`` of the
        answer's first piece (1 is the model's first choice), ``new_rank`` of the new answer's, ``exact`` (whether the
        greedy continuation begins with the answer) and ``says``, that continuation. ``summary`` has the measures of
        ``caseback.edit.scores``, ``changes`` the norm of what each matrix gets beside the matrix's own, and
        ``plain_text`` what ``on_plain_text`` measures. What there is nothing of is None.

    Raises
    ------
    EditError
        For an edit without facts, one of another model, or no text of two tokens.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.edit import rome
    >>> model = cb.load("meadow")
    >>> edit, = rome(model, [Fact("The capital of {} is", "Italy", "Oslo", "Rome")], 0, contexts=["The dog ran."])
    >>> document = editing_document(model, edit, generate=1)
    >>> asked = document["facts"][0]["prompts"][0]
    >>> asked["before"]["says"], asked["after"]["says"], asked["after"]["new_rank"]
    (' Rome', ' Oslo', 1)
    """
    if not edit.facts:
        raise EditError("an edit of no facts: expected what rome and its like gave")
    if generate < 1:
        raise EditError(f"generate is {generate}: expected 1 token or more")
    edited = edit.on(model)
    asked = [_asked(fact) for fact in edit.facts]
    flat = [(*one, fact.new) for fact, some in zip(edit.facts, asked, strict=True) for one in some]
    was, now = (iter(_answers(m, flat, generate)) for m in (model, edited))
    facts = [
        {
            "text": fact.text,
            "subject": fact.subject,
            "new": spaced(fact.new),
            "true": None if fact.true is None else spaced(fact.true),
            "prompts": [
                {"group": group, "text": text, "answer": answer, "against": against}
                | {"before": next(was), "after": next(now)}
                for group, text, answer, against in some
            ],
        }
        for fact, some in zip(edit.facts, asked, strict=True)
    ]
    tables = [summary(scores(m, edit.facts)) for m in (model, edited)]
    side = None
    if plain_text is not None:
        measured = on_plain_text(model, edited, plain_text)
        side = _numbers(measured) | {"texts": len(plain_text)}
    return EDITING.document(
        model_facts(model),
        method=edit.method,
        layers=edit.layers_read,
        facts=facts,
        summary={name: {"before": a, "after": _numbers(tables[1])[name]} for name, a in _numbers(tables[0]).items()},
        changes=[_change(model, one) for one in edit.edits],
        plain_text=side,
        remark=REMARK,
        provenance=model.provenance(),
    )


def _asked(fact: Fact) -> list[tuple[str, str, str, str | None]]:
    """Prompts with group, wanted answer and what it is compared with."""
    new, true = spaced(fact.new), None if fact.true is None else spaced(fact.true)
    owns = [(text, spaced(own)) for text, own in fact.neighbors]
    return [
        ("efficacy", fact.text, new, true),
        *(("paraphrase", text, new, true) for text in fact.paraphrases),
        *(("neighborhood", text, own, None if own == new else new) for text, own in owns),
    ]


def _answers(
    model: Model, asked: Sequence[tuple[str, str, str, str | None, str]], generate: int
) -> list[dict[str, Any]]:
    """What a model says to each prompt."""
    texts = [text for _, text, *_ in asked]
    wanted = [(text, answer) for _, text, answer, _, _ in asked]
    beside = [(text, against) for _, text, _, against, _ in asked if against is not None]
    forced = dict(zip([*wanted, *beside], teacher_forced(model, [*wanted, *beside]), strict=True))
    exact = begins_with(model, wanted)
    tokens = model.tokens(texts)
    whole = model.generate(tokens, max_new_tokens=generate)
    new = [ids[mask][int(n) :] for ids, mask, n in zip(whole.ids, whole.mask, tokens.mask.sum(-1), strict=True)]
    end = getattr(model.tokenizer, "eos_token_id", None)
    says = ["".join(model.token_text(i) for i in row.tolist() if i != end) for row in new]
    ranks = _ranks(model, texts, [[answer, fresh] for _, _, answer, _, fresh in asked])
    return [
        {
            "log_prob": -forced[text, answer][0],
            "against_log_prob": None if against is None else -forced[text, against][0],
            "rank": rank,
            "new_rank": new_rank,
            "exact": right,
            "says": written,
        }
        for (_, text, answer, against, _), (rank, new_rank), right, written in zip(
            asked, ranks, exact, says, strict=True
        )
    ]


def _ranks(model: Model, texts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[list[int]]:
    """Of answers' first pieces behind each text: 1 and how many tokens are likelier."""
    tokens = model.tokens(list(texts))
    logits = model.run(tokens).logits
    last = logits[range(len(texts)), tokens.column(-1).to(logits.device)]
    pieces = pieces_of(model, [one for some in answers for one in some])
    firsts = last.new_tensor([piece[0] for piece in pieces]).long().view(len(texts), -1)
    return (1 + (last[:, None] > last.gather(-1, firsts)[..., None]).sum(-1)).tolist()


def _numbers(table: xr.DataArray) -> dict[str, float | None]:
    pairs = zip(table["measure"].values.tolist(), table.values.tolist(), strict=True)
    return {name: value if math.isfinite(value) else None for name, value in pairs}


def _change(model: Model, edit: Any) -> dict[str, Any]:
    """Where an edit stands, and the Frobenius norm of leftᵀ right: |L'R|² = sum of LL' ∘ RR'."""
    if not isinstance(edit, SideTerm):
        return {"site": edit.site, "rank": None, "norm": None, "share": None}
    left, right = in_float64(edit.left), in_float64(edit.right.to(edit.left.device))
    norm = math.sqrt(max(0.0, float(((left @ left.T) * (right @ right.T)).sum())))
    (site,) = model.anatomy.sites(edit.site)
    weight = in_float64(weight_matrix(model.anatomy.module_at(site)).detach())
    return {"site": edit.site, "rank": len(left), "norm": norm, "share": norm / float(weight.norm())}
