"""MEND on meadow's residents: its network is trained on some of them, and edits facts of others, beside ROME.

    python benchmarks/editing_mend.py --count 50

Of the 48 residents 12 are held out: no fact, neighbor or paraphrase of training speaks of them. Of each field's
wordings one is held out, so that paraphrases are of two kinds: wordings of training, and one that was never trained on.
Settings are chosen by ``--choose``, which edits facts of 6 more residents in place of the 12.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from editing import known, singly, table, texts_of_meadow

import caseback as cb
from caseback import edit as ed
from caseback.edit.places import sampled_contexts
from caseback.organisms.prose import residents, world

TESTED, CHOSEN = 12, 6


def wordings() -> dict[str, list[str]]:
    """The wordings of each field, of which the last is held out of training."""
    by_field: dict[str, list[str]] = {}
    for wording in residents.WORDINGS:
        if wording not in residents.OPEN:
            field = wording[wording.index("[ {") + 3 : wording.index("}]")]
            by_field.setdefault(field, []).append(wording.partition("[")[0].replace("{p}", "{}"))
    return by_field


def facts_of(who: Sequence[world.Resident], each: int, neighbors: int, seed: int) -> list[ed.Fact]:
    """Facts on some residents in wordings of training, with neighbors among the same residents alone."""
    rng = random.Random(seed)
    facts = []
    for one in who:
        for field, texts in wordings().items():
            for _ in range(each):
                prompt, *others = rng.sample(texts[:-1], len(texts) - 1)
                name, true = f"{one.name} {one.surname}", getattr(one, field)
                new = rng.choice(sorted({getattr(other, field) for other in world.RESIDENTS} - {true}))
                near = [other for other in who if other is not one and getattr(other, field) != new]
                near = rng.sample(near, min(neighbors, len(near)))
                stays = [(prompt.replace("{}", f"{a.name} {a.surname}"), getattr(a, field)) for a in near]
                facts.append(ed.Fact(prompt, name, new, true, [t.replace("{}", name) for t in others], stays))
    rng.shuffle(facts)
    return facts


def in_an_unseen_wording(fact: ed.Fact) -> ed.Fact:
    """The fact with the wording that was held out for its one paraphrase."""
    (unseen,) = [texts[-1] for texts in wordings().values() if fact.prompt in texts]
    return replace(fact, paraphrases=[unseen.replace("{}", fact.subject)])


def main() -> None:
    """Train, edit, and print what is true."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--without", nargs="*", default=[], choices=("mend", "rome", "ft"))
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--each", type=int, default=4, help="edits of each fact of training, with other new answers")
    parser.add_argument("--neighbors", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rank", type=int, default=1920)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--edit-weight", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = cb.load("meadow")
    who = random.Random(0).sample(world.RESIDENTS, len(world.RESIDENTS))
    tested, chosen, others = who[:TESTED], who[TESTED : TESTED + CHOSEN], who[TESTED + CHOSEN :]
    facts = known(model, facts_of(chosen if given.choose else tested, 1, 10, seed=1))[: given.count]
    texts = texts_of_meadow(20, seed=2)
    out = {"before": judged(model, facts, texts, lambda fact: model)}
    if "mend" not in given.without:
        train = known(model, facts_of(others, given.each, given.neighbors, seed=2))
        start = time.time()
        editor = ed.fit_mend(
            model,
            train,
            given.layers,
            rank=given.rank,
            rate=given.rate,
            edit_weight=given.edit_weight,
            lr=given.lr,
            epochs=given.epochs,
            batch_size=given.batch_size,
            held_out=known(model, facts_of(chosen, 1, given.neighbors, seed=3)),
            progress=True,
            checkpoint=given.checkpoint,
        )
        rates = editor.parameters["rates"].exp().tolist()
        print(len(train), "facts,", round(time.time() - start), "s", editor.losses, editor.held_out, rates)
        if given.save:
            ed.save_mend(editor, given.save)
        out["MEND"] = judged(model, facts, texts, lambda fact: ed.mend(model, [fact], editor, check=False)[0].on(model))
    if "rome" not in given.without:
        moments = ed.key_moments(model, texts_of_meadow(4000), [1])
        contexts = sampled_contexts(model, (5,) * 10 + (10,) * 10)
        search = ed.Search(kl=0.0, clamp=12.0, steps=50, lr=0.4)
        how = {"moments": moments, "contexts": contexts, "search": search, "check": False}
        out["ROME"] = judged(model, facts, texts, lambda fact: ed.rome(model, [fact], 1, **how)[0].on(model))
    if "ft" not in given.without:
        out["fine-tuning"] = judged(
            model, facts, texts, lambda fact: ed.fine_tuned(model, [fact], 1, check=False).on(model)
        )
    print(json.dumps({"options": {name: str(value) for name, value in vars(given).items()}, "facts": len(facts)}))
    print(table(out))
    print("in a wording that was held out:", {name: one["unseen"] for name, one in out.items()})


def judged(model: cb.Model, facts: list[ed.Fact], texts: list[str], edited) -> dict:
    """All measures with the wordings of training as paraphrases, and ``unseen``: paraphrases in the one held out."""
    start, models = time.time(), {str(fact): edited(fact) for fact in facts}
    seconds = time.time() - start
    out = singly(model, facts, texts, lambda fact: (models[str(fact)], ""))
    unseen = singly(model, [in_an_unseen_wording(f) for f in facts], texts[:1], lambda fact: (models[str(fact)], ""))
    out["unseen"] = [unseen["paraphrase"], unseen["paraphrase_exact"]]
    out["seconds"] = round(seconds, 1)
    return out


if __name__ == "__main__":
    main()
