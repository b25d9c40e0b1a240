"""Knowledge editing on meadow's residents and on SmolLM2's facts: single edits, and the curve over 1, 2, 4 … facts.

    python benchmarks/editing.py single --method rome
    python benchmarks/editing.py curve --method memit --count 256
    python benchmarks/editing.py known --model SMOLLM2 --data known_1000.json

It prints what is true; it asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import xarray as xr

import caseback as cb
from caseback import edit as ed
from caseback.edit.places import sampled_contexts
from caseback.organisms.prose import residents, world
from caseback.organisms.prose.text import document


def resident_facts(count: int, seed: int = 0) -> list[ed.Fact]:
    """Facts on meadow's residents: other wordings as paraphrases, other residents as neighbors, each with its own."""
    rng = random.Random(seed)
    wordings = [one for one in residents.WORDINGS if one not in residents.OPEN]
    by_field: dict[str, list[str]] = {}
    for wording in wordings:
        field = wording[wording.index("[ {") + 3 : wording.index("}]")]
        by_field.setdefault(field, []).append(wording.partition("[")[0].replace("{p}", "{}"))
    pairs = [(who, field) for who in world.RESIDENTS for field in by_field]
    facts = []
    for who, field in rng.sample(pairs, len(pairs))[:count]:
        prompt, *others = rng.sample(by_field[field], len(by_field[field]))
        name, true = f"{who.name} {who.surname}", getattr(who, field)
        new = rng.choice(sorted({getattr(one, field) for one in world.RESIDENTS} - {true}))
        near = rng.sample([one for one in world.RESIDENTS if one is not who and getattr(one, field) != new], 10)
        facts.append(
            ed.Fact(
                prompt,
                name,
                new,
                true,
                [text.replace("{}", name) for text in others],
                [(prompt.replace("{}", f"{one.name} {one.surname}"), getattr(one, field)) for one in near],
            )
        )
    return facts


def texts_of_meadow(count: int, seed: int = 1) -> list[str]:
    """Training-like texts about residents and everything else."""
    rng = random.Random(seed)
    return [document(rng, 6).text for _ in range(count)]


def known(model: cb.Model, facts: list[ed.Fact]) -> list[ed.Fact]:
    """Those whose true answer the model gives."""
    plain = [ed.Fact(f.prompt, f.subject, f.true or "", None) for f in facts]
    exact = ed.scores(model, plain).sel(measure="efficacy_exact").values
    return [fact for fact, ok in zip(facts, exact, strict=True) if ok == 1]


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("single", "curve", "known"))
    parser.add_argument("--method", default="rome", choices=("rome", "memit", "emmet", "alphaedit", "ft", "grace"))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--model", default="meadow")
    parser.add_argument("--layers", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--weight", type=float, default=15_000.0)
    parser.add_argument("--clamp", type=float)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kl", type=float, default=0.0625)
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--ridge", type=float, default=0.0)
    parser.add_argument("--radius", type=float, default=1.0)
    parser.add_argument("--bound", type=float, default=5e-4)
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--without-c", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    model = cb.load(given.model)
    print(json.dumps(run(model, given), indent=1))


def run(model: cb.Model, given: argparse.Namespace) -> dict:
    """The numbers."""
    start = time.time()
    if given.what == "known":
        facts = facts_of_known(model, given.data, given.count)
        corpus = [text for text in given.corpus.read_text(encoding="utf-8").split("\n") if len(text) > 200]
        corpus, held_out = corpus[:400], corpus[400:420]
    else:
        corpus, held_out = texts_of_meadow(4000), texts_of_meadow(100, seed=2)
        facts = known(model, resident_facts(400))[: given.count]
    moments = ed.key_moments(model, corpus, given.layers)
    clamp = given.clamp or (0.75 if given.method in ("memit", "emmet", "alphaedit") else 4.0)
    search = ed.Search(steps=given.steps, lr=given.lr, clamp=clamp, kl=given.kl)
    rome = given.method == "rome"
    contexts = sampled_contexts(model, (5,) * 10 + (10,) * 10 if rome else (10,) * 5, words=not rome)

    def write(now: cb.Model, some: Sequence[ed.Fact], before: ed.KnowledgeEdit | None) -> ed.KnowledgeEdit:
        layers, last = given.layers, given.layers[-1]
        spread = {"moments": moments, "contexts": contexts, "search": search, "check": False}
        if given.method == "rome":
            c = None if given.without_c else moments
            options = {**spread, "moments": c, "ridge": given.ridge, "published": given.published}
            return ed.rome(now, some, last, **options)[0]
        if given.method == "memit":
            return ed.memit(now, some, layers, weight=given.weight, ridge=given.ridge, **spread)
        if given.method == "emmet":
            return ed.emmet(now, some, layers, ridge=given.ridge, **spread)
        if given.method == "alphaedit":
            return ed.alphaedit(now, some, layers, share=given.share, after=before, **spread)
        if given.method == "ft":
            return ed.fine_tuned(now, some, last, bound=given.bound, lr=given.lr, steps=given.steps, check=False)
        return ed.grace(model, some, last, radius=given.radius, check=False)

    options = {name: str(value) for name, value in vars(given).items()}
    out: dict = {"facts": len(facts), "tokens of C": moments.n_tokens, "options": options}
    if given.what == "curve":
        one_by_one = given.method in ("rome", "grace")
        _, curve = ed.sequential(model, facts, write, texts=held_out, one_by_one=one_by_one)
        chosen = ["efficacy", "paraphrase", "neighborhood", "efficacy_exact", "paraphrase_exact", "neighborhood_exact"]
        chosen += ["score", "change", "kl", "perplexity_after"]
        out["curve"] = {int(k): {n: round(float(curve.sel(k=k, measure=n)), 3) for n in chosen} for k in curve["k"]}
    else:
        before = ed.summary(ed.scores(model, facts))
        rows: list[xr.DataArray] = []
        kls = []
        for fact in facts:
            after = write(model, [fact], None).on(model)
            rows.append(ed.scores(after, [fact]))
            kls.append(float(ed.on_plain_text(model, after, held_out[:20]).sel(measure="kl")))
        after = ed.summary(xr.concat(rows, dim="batch"))
        for name, table in (("before", before), ("after", after)):
            out[name] = {str(m): round(float(table.sel(measure=m)), 3) for m in table["measure"].values}
        out["kl on plain text"] = sum(kls) / len(kls)
    out["seconds"] = round(time.time() - start, 1)
    return out


def facts_of_known(model: cb.Model, path: Path, count: int) -> list[ed.Fact]:
    """Facts that the model knows, each with an object of the same relation as the new one, and its neighbors."""
    rng = random.Random(0)
    records = json.loads(path.read_text(encoding="utf-8"))
    by_relation: dict[str, list[dict]] = {}
    for record in records:
        if record["prompt"].count(record["subject"]) == 1:
            by_relation.setdefault(record["relation_id"], []).append(record)
    facts = []
    for record in rng.sample(records, len(records)):
        same = by_relation.get(record["relation_id"], [])
        others = sorted({one["attribute"] for one in same} - {record["attribute"]})
        near = [one for one in same if one["attribute"] == record["attribute"] and one is not record]
        wordings = sorted({one["prompt"].replace(one["subject"], "{}") for one in same})
        own = record["prompt"].replace(record["subject"], "{}")
        if record in same and others and near and len(wordings) > 1:
            paraphrases = [text.replace("{}", record["subject"]) for text in wordings if text != own][:2]
            questions = [(one["prompt"], one["attribute"]) for one in near[:10]]
            new = rng.choice(others)
            facts.append(ed.Fact(own, record["subject"], new, record["attribute"], paraphrases, questions))
    chosen: list[ed.Fact] = []
    for start in range(0, len(facts), 40):
        chosen += known(model, facts[start : start + 40])
        if len(chosen) >= count:
            break
    return chosen[:count]


if __name__ == "__main__":
    main()
