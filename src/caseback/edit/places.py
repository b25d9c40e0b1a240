"""Where a fact is written: the last token of its subject, in its prompt and behind other beginnings.

A subject is found by the characters that its tokens cover, in the whole text as the tokenizer cuts it: tokens of a
subject by itself may be others, and what stands before or after may join them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.edit.facts import Fact, spaced
from caseback.errors import EditError, TokensError
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.sites import Site
from caseback.model.running.answer_metrics import answer_ids
from caseback.model.running.model import Model

OPENINGS = ("The", "Therefore", "Because", "I", "You")


def write_site(model: Model, layer: int) -> Site:
    """The output of a layer's MLP output matrix, before a norm that follows, by the path of its module.

    Raises
    ------
    EditError
        For a layer without one such matrix, with the reason, and as ``expect_reaching``.
    """
    anatomy = model.anatomy
    if isinstance(layer, bool) or not -anatomy.n_layers <= layer < anatomy.n_layers:
        raise EditError(f"layer {layer} is out of range: this model has layers 0 to {anatomy.n_layers - 1}")
    p = anatomy.layers[layer % anatomy.n_layers]
    if p.w_out is None or p.experts is not None or p.mlp_beside is not None:
        why = anatomy.lacks.get("mlp_post", "its experts stand beside it, so no one matrix writes what the MLP writes")
        raise EditError(f"layer {layer} of this model ({anatomy.model_type}) has no MLP output matrix to edit: {why}")
    expect_reaching(model, layer % anatomy.n_layers)
    path = next(name for name, module in model.hf.named_modules() if module is p.w_out)
    return next(iter(anatomy.sites(f"{path}.output")))


def expect_reaching(model: Model, layer: int) -> None:
    """Refuse a model under edits of what a layer's MLP writes.

    They come behind the matrix: of a value that is written there another one would reach the stream, and the value that
    stands there now, by whose size steps are bounded, is another one too.

    Raises
    ------
    EditError
        Naming the edit.
    """
    for site, edit in model.anatomy.standing:
        if site.written == Site("mlp_out", layer):
            raise EditError(
                f"{site.written} is edited ({edit.describe()}) behind the matrix that a fact would be written into, so "
                "that another value than the one written would reach the stream: choose another layer, or edit the "
                "model without this edit"
            )


@dataclass(frozen=True)
class Rows:
    """Texts as ids, each with the position at which a fact is written."""

    ids: list[list[int]]
    at: list[int]

    def __len__(self) -> int:
        return len(self.ids)


def covering(model: Model, texts: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[tuple[list[int], list[int]]]:
    """Texts as ids, and of each the tokens that cover some of the characters start .. stop, by position.

    Raises
    ------
    EditError, TokensError
        For a subject of no token, or a tokenizer that does not say which characters tokens cover.
    """
    tokenizer: Any = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise TokensError("facts are found by the characters of their subjects: load the model with its fast tokenizer")
    tokens = model.tokens(list(texts))
    ids = [row[mask].tolist() for row, mask in zip(tokens.ids, tokens.mask, strict=True)]
    ends = tokenizer(list(texts), return_offsets_mapping=True)["offset_mapping"]
    rows = []
    for text, (start, stop), row, covered in zip(texts, spans, ids, ends, strict=True):
        inside = [i for i, (a, b) in enumerate(covered) if a < stop and b > start]
        if len(row) != len(covered) or not inside:
            raise EditError(f"the subject {text[start:stop]!r} has no token of its own in {text!r}")
        rows.append((row, inside))
    return rows


def located(model: Model, texts: Sequence[str], spans: Sequence[tuple[int, int]]) -> Rows:
    """Texts as ids, and of each the last token that covers some of the characters start .. stop.

    Raises
    ------
    EditError, TokensError
        As ``covering``.
    """
    rows = covering(model, texts, spans)
    return Rows([ids for ids, _ in rows], [inside[-1] for _, inside in rows])


def in_contexts(model: Model, facts: Sequence[Fact], contexts: Sequence[str]) -> Rows:
    """Each fact's prompt behind each context, fact by fact; the first context is the empty one, the bare prompt."""
    texts, spans = [], []
    for fact in facts:
        for context in ("", *contexts):
            before = f"{context} " if context else ""
            texts.append(before + fact.text)
            spans.append((len(before) + fact.span[0], len(before) + fact.span[1]))
    return located(model, texts, spans)


def sampled_contexts(model: Model, lengths: Sequence[int], *, words: bool = False, seed: int = 0) -> list[str]:
    """Texts to put before prompts, sampled from the model itself: one of each length, in tokens.

    They begin with nothing but the tokenizer's first token; with a common word where there is none, or with ``words``.
    """
    if model.tokenizer is None:
        raise TokensError("contexts are sampled as text: load the model with its tokenizer, or give contexts=[]")
    texts, bos = [], getattr(model.tokenizer, "bos_token_id", None)
    for length in dict.fromkeys(lengths):
        n = sum(one == length for one in lengths)
        named = [OPENINGS[i % len(OPENINGS)] for i in range(n)]
        begun = named if words or bos is None else [[bos]] * n
        out = model.generate(begun, max_new_tokens=length, min_new_tokens=length, do_sample=True, top_k=5, seed=seed)
        texts += [" ".join(text.split()).rstrip(".") + "." for text in model.text(out)]
    return texts


def states_at(model: Model, rows: Rows, sites: Sequence[Any]) -> list[Float[Tensor, "row d"]]:
    """What some sites hold at each row's position, in float32 at least."""
    parts: list[list[Tensor]] = [[] for _ in sites]
    for block in _blocks(rows, limit("stream_tokens", model.device)):
        tokens = model.tokens([rows.ids[i] for i in block])
        run = model.run(tokens, read=list(sites))
        at = tokens.column(torch.tensor([rows.at[i] for i in block], device=tokens.ids.device))
        for part, site in zip(parts, sites, strict=True):
            x = run[site]
            part.append(in_float64(x[torch.arange(len(x), device=x.device), at.to(x.device)]))
    return [torch.cat(part) for part in parts]


def _blocks(rows: Rows, budget: int) -> list[list[int]]:
    blocks: list[list[int]] = [[]]
    for i, ids in enumerate(rows.ids):
        longest = max((len(rows.ids[j]) for j in blocks[-1]), default=0)
        if blocks[-1] and (len(blocks[-1]) + 1) * max(longest, len(ids)) > budget:
            blocks.append([])
        blocks[-1].append(i)
    return blocks


def pieces_of(model: Model, answers: Sequence[str]) -> list[list[int]]:
    """The token ids of answers, with the space before them."""
    return answer_ids([spaced(one) for one in answers], len(answers), model.tokenizer, model.d_vocab)


def expect_editable(model: Model, facts: Sequence[Fact]) -> None:
    """Refuse facts that the model does not know, and those that it already answers as asked.

    Raises
    ------
    EditError
        With the rank of the answer that should be known.
    """
    tokens = model.tokens([fact.text for fact in facts])
    run = model.run(tokens)
    logits = run.logits[torch.arange(len(facts)), tokens.column(-1).to(run.logits.device)]
    for fact, row in zip(facts, logits, strict=True):
        says = model.token_text(row.argmax())
        new = pieces_of(model, [fact.new])[0]
        if fact.true is not None:
            true = pieces_of(model, [fact.true])[0]
            rank = int((row > row[true[0]]).sum())
            if rank:
                raise EditError(
                    f"the model does not know that {fact.text!r} is answered by {fact.true!r}: that is its answer "
                    f"number {rank + 1}, and {says!r} its first. Give another fact, or check=False to edit it anyway"
                )
        if int(row.argmax()) == new[0] and (len(new) == 1 or _says(model, fact, new)):
            raise EditError(f"the model already answers {fact.text!r} by {fact.new!r}: there is nothing to edit")


def _says(model: Model, fact: Fact, new: list[int]) -> bool:
    given = model.tokens([fact.text]).ids[0].tolist()
    logits = model.run([given + new]).logits[0, len(given) - 1 : -1]
    return logits.argmax(-1).tolist() == new
