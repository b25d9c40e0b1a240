"""Which parts carry what fine-tuning changed? A model, a copy tuned on new facts, and the parts of one in the other.

    python benchmarks/tuned_pair.py MODEL [--by edit|all] [--layer 10] [--count 6]

``edit``: constrained fine-tuning of one MLP output matrix, written into a copy's weights. ``all``: every weight of the
copy is trained. Both learn that the capitals of some countries are others'. The measure is the new answer's logit less
the true one's, at the end of the prompt.
"""

from __future__ import annotations

import argparse
import copy

import numpy as np
import torch

import caseback as cb
from caseback.edit import Fact, applied, fine_tuned, relation_facts
from caseback.edit.facts import spaced
from caseback.localize.components import patch_models

PLACES = {"subject's last token": -2, "end": -1}


def tuned_on(model: cb.Model, facts: list[Fact], steps: int, rate: float) -> cb.Model:
    """A copy of which all weights were trained on the facts' first new tokens."""
    hf = copy.deepcopy(model.hf).train(False)
    for weight in hf.parameters():
        weight.requires_grad_(True)
    tokens = model.tokens([fact.text for fact in facts])
    new = first_tokens(model, facts, "new")
    optimizer = torch.optim.AdamW(hf.parameters(), lr=rate, weight_decay=0.0)
    rows = torch.arange(len(facts))
    for step in range(steps):
        optimizer.zero_grad()
        logits = hf(input_ids=tokens.ids, attention_mask=tokens.mask.long()).logits[rows, tokens.column(-1)]
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(new))
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.3f}", flush=True)
        if loss.item() < 0.1:
            break
    for weight in hf.parameters():
        weight.requires_grad_(False)
    return cb.load(hf, tokenizer=model.tokenizer)


def first_tokens(model: cb.Model, facts: list[Fact], which: str) -> list[int]:
    """The first token of each fact's new or true answer."""
    return [
        int(model.with_answer([fact.text], [spaced(getattr(fact, which))]).ids[0, len(model.tokens(fact.text).ids[0])])
        for fact in facts
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--by", choices=("edit", "all"), default="edit")
    parser.add_argument("--layer", type=int, default=10)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--bound", type=float)
    asked = parser.parse_args()
    model = cb.load(asked.model)
    facts = []
    for fact in relation_facts("capital", neighbors=0, wordings=["The capital of {} is"]):
        says = int(model.run(fact.text).logits[0, -1].argmax())
        if says == first_tokens(model, [fact], "true")[0]:
            facts.append(fact)
    facts = facts[: asked.count]
    print(f"{len(facts)} facts: " + "; ".join(f"{fact.text} {fact.new} ({fact.true})" for fact in facts))
    if asked.by == "edit":
        how = {} if asked.bound is None else {"bound": asked.bound, "lr": asked.bound}
        tuned = applied(model, fine_tuned(model, facts, asked.layer, steps=asked.steps, **how))
    else:
        tuned = tuned_on(model, facts, asked.steps, asked.rate)
    tokens = model.tokens([fact.text for fact in facts])
    new, true = (first_tokens(model, facts, which) for which in ("new", "true"))
    metric = cb.logit_diff(new, true)
    for name, one in (("base", model), ("tuned", tuned)):
        values = metric(one.run(tokens))
        print(f"{name}: new less true {values.mean():+.2f}, new above true in {(values > 0).double().mean():.0%}")
    for words, onto, source in (("tuned into base", model, tuned), ("base into tuned", tuned, model)):
        print(f"\n{words}: mean recovery\n| layer | " + " | ".join(f"{s}, {p}" for s in
              ("resid_post", "mlp_out", "attn_out") for p in PLACES) + " |")  # fmt: skip
        columns = [
            patch_models(onto, source, tokens, metric, site=site, by=["layer"], pos=pos).recovery.mean("batch").values
            for site in ("resid_post", "mlp_out", "attn_out")
            for pos in PLACES.values()
        ]
        for layer, row in enumerate(np.array(columns).T):
            print(f"| {layer} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
        heads = patch_models(onto, source, tokens, metric, pos=-1).recovery.mean("batch")
        flat = heads.stack(part=("layer", "head")).sortby(heads.stack(part=("layer", "head")), ascending=False)
        print("heads at the end: " + ", ".join(f"L{i}H{h} {v:.2f}" for (i, h), v in
              zip(flat.part.values[:8], flat.values[:8], strict=True)))  # fmt: skip


if __name__ == "__main__":
    main()
