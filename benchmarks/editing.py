"""Knowledge editing on meadow's residents and on SmolLM2's facts: single edits, and the curve over 1, 2, 4 … facts.

    python benchmarks/editing.py single --method rome
    python benchmarks/editing.py curve --method memit --count 287
    python benchmarks/editing.py known --method all --count 20 --model SMOLLM2 --relations FOLDER --corpus FILE

It prints what is true, as data and as a table; it asserts nothing. Without ``--layers``, ``rome`` and ``ft`` edit the
layer a third of the way up, as ``caseback edit`` does, ``memit`` and its like up to three that end there, and ``grace``
stands at two thirds. What is not given of the search is the method's own.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

import caseback as cb
from caseback import edit as ed
from caseback.edit.grace import SEARCH as GRACE_SEARCH
from caseback.edit.places import sampled_contexts
from caseback.edit.scores import begins_with
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
    right = begins_with(model, [(fact.text, str(fact.true)) for fact in facts])
    return [fact for fact, ok in zip(facts, right, strict=True) if ok]


METHODS = ("rome", "memit", "emmet", "alphaedit", "ft", "grace", "wise", "ike")
SPREAD = ("memit", "emmet", "alphaedit")


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("single", "curve", "known"))
    parser.add_argument("--method", nargs="+", default=["rome"], choices=(*METHODS, "all"))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first facts, to choose settings on others")
    parser.add_argument("--model", default="meadow")
    parser.add_argument("--layers", type=int, nargs="+")
    parser.add_argument("--relations", type=Path, help="the factual relations of the relations dataset, a folder")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--weight", type=float, default=15_000.0)
    parser.add_argument("--clamp", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--kl", type=float)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--ridge", type=float, default=0.0)
    parser.add_argument("--radius", type=float, default=1.0)
    parser.add_argument("--bound", type=float)
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--own-ridge", type=float, default=10.0, help="AlphaEdit's, which --ridge is not")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--without-c", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    model = cb.load(given.model)
    if given.what == "known":
        enough = None if {"ike", "all"} & {*given.method} else given.skip + given.count  # demonstrations are of others
        facts = list(islice(facts_of_relations(model, given.relations), enough))
        corpus = [text for text in given.corpus.read_text(encoding="utf-8").split("\n") if len(text) > 200]
        corpus, held_out = corpus[:200], [text[:200] for text in corpus[200:202]]
    else:
        facts = known(model, resident_facts(400))
        corpus, held_out = texts_of_meadow(4000), texts_of_meadow(100, seed=2)
    facts, others = facts[given.skip :][: given.count], facts[given.skip :][given.count :] + facts[: given.skip]
    methods = METHODS if "all" in given.method else given.method
    shared = Shared(model, corpus, facts, short=given.what == "known")
    out: dict[str, dict] = {}
    if given.what != "curve":
        out["before"] = singly(model, facts, held_out[:20], lambda fact: (model, ""))
    for method in methods:
        start = time.process_time()
        layers = given.layers or usual_layers(method, model.n_layers)
        if method == "ike":
            told = {str(fact): ed.demonstrations(fact, others, k=given.shots) for fact in facts}
            out[method] = singly(model, facts, held_out[:20], lambda fact, told=told: (model, told[str(fact)]))
        else:
            write = writer(shared, method, layers, given)
            if given.what == "curve":
                out[method] = curve_of(model, facts, write, held_out, one_by_one=method in ("rome", "grace"))
            else:
                values = shared.values(tuple(layers), given) if method in SPREAD else [None] * len(facts)
                edits = {id(fact): write(model, [fact], None, value) for fact, value in zip(facts, values, strict=True)}
                edited = lambda fact, edits=edits: (edits[id(fact)].on(model), "")  # noqa: E731
                out[method] = singly(model, facts, held_out[:20], edited)
        out[method] |= {"layers": layers, "cpu_seconds": round(time.process_time() - start)}
        print(json.dumps({method: out[method]}), flush=True)
    options = {name: str(value) for name, value in vars(given).items()}
    print(json.dumps({"options": options, "facts": [str(fact) for fact in facts]}, indent=1))
    print(curves(out) if given.what == "curve" else table(out))


def usual_layers(method: str, n_layers: int) -> list[int]:
    """Which layers are edited where none are given."""
    third = n_layers // 3
    if method in SPREAD:
        return list(range(max(0, third - 2), third + 1))
    return [2 * third if method == "grace" else third]


@dataclass
class Shared:
    """What several methods need: computed once."""

    model: cb.Model
    corpus: list[str]
    facts: Sequence[ed.Fact]
    short: bool
    computed: dict = field(default_factory=dict)

    def moments(self, layers: tuple[int, ...]) -> ed.KeyMoments:
        return self.of(("moments", layers), lambda: ed.key_moments(self.model, self.corpus, layers))

    def contexts(self, rome: bool) -> list[str]:
        lengths = (10,) * 5 if self.short or not rome else (5,) * 10 + (10,) * 10
        return self.of(("contexts", rome), lambda: sampled_contexts(self.model, lengths, words=not rome))

    def values(self, layers: tuple[int, ...], given: argparse.Namespace) -> list[Tensor]:
        """Of each fact by itself, a row for each."""
        options = {"contexts": self.contexts(False), "search": replace(ed.Search(clamp=0.75), **asked_of(given))}
        searched = self.of(
            ("values", layers[-1]), lambda: ed.stream_values(self.model, self.facts, layers[-1], **options)
        )
        return list(searched[:, None])

    def of(self, key: tuple, compute: Callable) -> Any:
        if key not in self.computed:
            self.computed[key] = compute()
        return self.computed[key]


def asked_of(given: argparse.Namespace) -> dict[str, Any]:
    """The settings of the search that are given."""
    return {name: x for name in ("steps", "lr", "clamp", "kl") if (x := getattr(given, name)) is not None}


Write = Callable[..., ed.KnowledgeEdit]
"""From a model, facts, an earlier edit, and the facts' values where they are known."""


def writer(shared: Shared, method: str, layers: list[int], given: argparse.Namespace) -> Write:
    """What writes facts by a method with the settings given."""
    model, asked, last = shared.model, asked_of(given), layers[-1]
    if method == "ft":
        of_ft = {name: value for name, value in asked.items() if name in ("steps", "lr")}
        return lambda now, some, *_: ed.fine_tuned(now, some, last, bound=given.bound, check=False, **of_ft)
    if method == "grace":
        search = replace(GRACE_SEARCH, **asked)
        return lambda now, some, before, *_: ed.grace(
            model, some, last, radius=given.radius, book=before, search=search, check=False
        )
    if method == "wise":
        of_wise = {name: value for name, value in asked.items() if name in ("steps", "lr")}
        return lambda now, some, *_: ed.wise(now, some, last, shared.corpus[:100], check=False, **of_wise)
    rome = method == "rome"
    moments = None if rome and given.without_c else shared.moments(tuple(layers))
    search = replace(ed.Search() if rome else ed.Search(clamp=0.75), **asked)
    how = {"moments": moments, "contexts": shared.contexts(rome), "search": search, "check": False}
    if rome:
        how |= {"ridge": given.ridge, "published": given.published}
        return lambda now, some, *_: ed.rome(now, some, last, **how)[0]
    if method == "memit":
        how |= {"weight": given.weight, "ridge": given.ridge}
        return lambda now, some, before, values=None: ed.memit(now, some, layers, values=values, **how)
    if method == "emmet":
        return lambda now, some, before, values=None: ed.emmet(
            now, some, layers, values=values, ridge=given.ridge, **how
        )
    return lambda now, some, before, values=None: ed.alphaedit(
        now, some, layers, values=values, share=given.share, ridge=given.own_ridge, after=before, **how
    )


def singly(
    model: cb.Model, facts: Sequence[ed.Fact], texts: list[str], edited: Callable[[ed.Fact], tuple[cb.Model, str]]
) -> dict:
    """The means of all measures over edits of one fact each; ``edited`` gives the model and what stands before."""
    rows: list[xr.DataArray] = []
    more: dict[str, list[float]] = defaultdict(list)
    for fact in facts:
        after, context = edited(fact)
        rows.append(ed.scores(after, [fact], context=context))
        written = ed.of_generation(after, [fact], max_new_tokens=25, context=context)[0]
        for one in (written, *([ed.on_plain_text(model, after, texts)] if after is not model else [])):
            for name in one["measure"].values:
                more[str(name)].append(float(one.sel(measure=name)))
    means = ed.summary(xr.concat(rows, dim="batch"))
    out = {str(m): round(float(means.sel(measure=m)), 3) for m in means["measure"].values}
    n = int(xr.concat(rows, dim="batch").sel(measure="portability_accuracy").notnull().sum())
    return out | {"facts with portability": n} | {name: _mean(of) for name, of in more.items()}


def _mean(values: list[float]) -> float:
    """Of those that are numbers."""
    numbers = [value for value in values if not math.isnan(value)]
    return round(sum(numbers) / len(numbers), 4) if numbers else math.nan


def curve_of(
    model: cb.Model, facts: list[ed.Fact], write: Write, texts: list[str], *, one_by_one: bool
) -> dict[str, dict[int, dict[str, float]]]:
    """The measures after 1, 2, 4 … facts."""
    _, curve = ed.sequential(model, facts, write, texts=texts, one_by_one=one_by_one)
    chosen = ["efficacy", "paraphrase", "neighborhood", "efficacy_exact", "paraphrase_exact", "neighborhood_exact"]
    chosen += ["score", "change", "kl", "perplexity_after"]
    return {"curve": {int(k): {n: round(float(curve.sel(k=k, measure=n)), 3) for n in chosen} for k in curve["k"]}}


def curves(out: dict[str, dict]) -> str:
    """A row for each count: efficacy, paraphrase and neighborhood as generated, and perplexity on plain text."""
    kinds = ("efficacy_exact", "paraphrase_exact", "neighborhood_exact")
    some = {method: one["curve"] for method, one in out.items() if "curve" in one}
    lines = ["| facts | " + " | ".join(some) + " |", "|---" * (1 + len(some)) + "|"]
    for k in next(iter(some.values()), {}):
        cells = [
            " / ".join(f"{one[k][kind]:.2f}" for kind in kinds) + f" · {one[k]['perplexity_after']:.2f}"
            for one in some.values()
        ]
        lines.append(f"| {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(out: dict[str, dict]) -> str:
    """A row for each method: likelier than the other answer / generated, of each kind of prompt; then the rest."""
    rest = {"fluency": ".2f", "consistency": ".3f", "kl": ".4f"}
    heads = ["method", "efficacy", "paraphrase", "neighborhood", "portability", *rest]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for method, one in out.items():
        cells = [[(one[kind], ".2f"), (one[f"{kind}_exact"], ".2f")] for kind in heads[1:4]]
        cells.append([(one["portability_accuracy"], ".2f"), (one["portability_exact"], ".2f")])
        cells += [[(one.get(name, math.nan), digits)] for name, digits in rest.items()]
        shown = [" / ".join("–" if math.isnan(x) else format(x, digits) for x, digits in some) for some in cells]
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def facts_of_relations(model: cb.Model, folder: Path) -> Iterator[ed.Fact]:
    """Facts of all relations of a folder in turn that the model answers, with the paraphrases and neighbors it answers.

    A fact is asked for when its turn comes: of 26 relations, most facts are not needed.

    The new answer is another object of the relation. Where objects are countries, what follows from the new one is its
    language and capital. References are texts about other subjects that have the new object.
    """
    data = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    follows = {
        "In the country of {}, people speak": {s["subject"]: s["object"] for s in data["country_language"]["samples"]},
        "The capital of the country of {} is": {
            s["subject"]: s["object"] for s in data["country_capital_city"]["samples"]
        },
    }
    by_relation = []
    for relation in data.values():
        wordings = list(dict.fromkeys([*relation["prompt_templates"], *relation["prompt_templates_zs"]]))
        try:
            drawn = ed.relation_facts(relation, wordings=wordings, neighbors=3)[:10]
        except cb.CasebackError:  # one object alone
            continue
        by_relation.append(answered(model, [_with_more(fact, relation, follows) for fact in drawn]))
    return (fact for turn in zip_longest(*by_relation) for fact in turn if fact is not None)


def _with_more(fact: ed.Fact, relation: dict, follows: dict[str, dict[str, str]]) -> ed.Fact:
    pairs = [(text.replace("{}", fact.subject), of[fact.new]) for text, of in follows.items() if fact.new in of]
    like = [sample["subject"] for sample in relation["samples"] if sample["object"] == fact.new]
    statements = [f"{fact.prompt.replace('{}', subject)} {fact.new}." for subject in like]
    return replace(fact, portability=pairs, openings=[fact.subject], references=statements)


def answered(model: cb.Model, facts: list[ed.Fact]) -> Iterator[ed.Fact]:
    """Facts that the model answers, each with the paraphrases and neighbors that it answers, one of either at least."""
    for fact in facts:
        if not known(model, [fact]):
            continue
        asked = [*((text, str(fact.true)) for text in fact.paraphrases), *fact.neighbors]
        right = {question for question, ok in zip(asked, begins_with(model, asked), strict=True) if ok} if asked else {}
        paraphrases = [text for text in fact.paraphrases if (text, str(fact.true)) in right][:2]
        neighbors = [question for question in fact.neighbors if question in right]
        if paraphrases and neighbors:
            yield replace(fact, paraphrases=paraphrases, neighbors=neighbors)


if __name__ == "__main__":
    main()
