"""Are concepts of the bundled model readable, used, and steerable? Each beside its controls.

    python benchmarks/concepts.py

Gender of a name, number of a subject, sentiment of a review, the year of a span, and where a person lives. For each:
at which layer held-out groups are told apart (by the direction of the mean difference), what the model's prediction
loses when LEACE takes the label out there, beside random concepts of equal variance, and what adding the direction
does, beside random vectors as long, up to where the perplexity of plain text doubles.
"""

from dataclasses import dataclass

import numpy as np

import caseback as cb
from caseback import lexicon
from caseback.decode import States, read_states
from caseback.decode.directions import find_directions
from caseback.decode.erasure import amnesic, leace
from caseback.decode.steering import dose_response
from caseback.model.running.metrics import Metric
from caseback.organisms.prose import world
from caseback.organisms.prose.text import documents

DOSES = (-2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass
class Concept:
    """Texts with one of two labels each, what belongs together, and what their prediction is."""

    name: str
    texts: list[str]
    positive: list[bool]
    groups: list[str]
    metric: Metric


def concepts(model: cb.Model) -> list[Concept]:
    """The five concepts, as the bundled model's own world has them."""
    people = [(name, True) for name in lexicon.WOMEN] + [(name, False) for name in lexicon.MEN]
    gender = [
        (f"{name} went to the {place} and then", she, name) for name, she in people for place in lexicon.PLACES[:6]
    ]
    nouns = [*lexicon.PEOPLE, *lexicon.ITEMS]
    number = [
        (f"The {noun} near the {other}", many, pair[0])
        for pair in nouns
        for many, noun in enumerate(pair)
        for other in ("table", "door", "garden")
    ]
    review = [
        (f"Review: The {work} was {one} and the show was {two}. Sentiment:", good, work)
        for work in lexicon.WORKS
        for good, words in ((True, lexicon.PRAISE), (False, lexicon.BLAME))
        for one, two in zip(words, words[3:] + words[:3], strict=True)
    ]
    years = [
        (f"The {era} lasted from the year {century}{year:02} to the year {century}", year >= 50, era)
        for era in lexicon.ERAS[:12]
        for century in (15, 17)
        for year in (5, 15, 25, 35, 65, 75, 85, 95)
    ]
    homes = [
        (wording.format(f"{one.name} {one.surname}"), one.city == "Moscow", one.surname)
        for one in world.RESIDENTS
        if one.city in ("Moscow", "Bangkok")
        for wording in ("The home of {} is in", "You can meet {} in the streets of", "{} has a house in")
    ]
    late, early = ([f"{y:02}" for y in part] for part in (range(80, 99), range(20, 49)))
    metrics = {
        "gender": (gender, cb.logit_diff(" she", " he")),
        "number": (number, cb.logit_diff(" are", " is")),
        "sentiment": (review, cb.logit_diff(" positive", " negative")),
        "year": (years, cb.prob_diff(late, early)),
        "city": (homes, cb.logit_diff(" Moscow", " Bangkok")),
    }
    return [Concept(name, *map(list, zip(*rows, strict=True)), metric) for name, (rows, metric) in metrics.items()]


def main() -> None:
    """Print the table."""
    model = cb.load("meadow")
    plain = [one.text for kind in ("giving", "story", "fact", "tale") for one in documents(kind, 20, seed=0)]
    columns = [
        "concept",
        "layer",
        "AUROC (shuffled)",
        "KL when erased (by chance: equal rank, equal variance)",
        "effect of +.25, +.5 (random vectors)",
        "perplexity doubles at",
        "one way up to there",
    ]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for concept in concepts(model):
        states = read_states(model, concept.texts, sites="resid_post")
        found = find_directions(states, concept.positive, groups=concept.groups)
        best = int(
            (found.table.auroc.round(2) * 1e6 + found.table.separation).values.argmax()
        )  # of equal ones the widest
        here = found.at(found.names[best])
        names = sorted(set(concept.groups))
        held = set(np.random.default_rng(0).permutation(names)[: len(names) // 3])
        test = np.array([group in held for group in concept.groups])
        some = States(states.x[[best]][:, ~test], here.places, states.prompt[~test])
        labels = np.array(concept.positive)
        eraser = leace(some, labels[~test].tolist())
        judged = [text for text, out in zip(concept.texts, test, strict=True) if out]
        lost = amnesic(model, judged, labels[test].tolist(), eraser, pos=-1)
        negative = [text for text, good in zip(judged, labels[test], strict=True) if not good][:20]
        curve = dose_response(model, here, negative, concept.metric, strengths=DOSES, pos=-1, plain_text=plain)
        clean = float(curve.effect.sel(dose=0.0).mean())
        effects = [float(curve.effect.sel(dose=d).mean()) - clean for d in (0.25, 0.5)]
        random = [float(np.abs(curve.control_effect.sel(dose=d).mean("batch") - clean).max()) for d in (0.25, 0.5)]
        rank, variance = (float(lost.high.sel(control=kind)[0]) for kind in ("equal rank", "equal variance"))
        auroc, shuffled = float(here.table.auroc[0]), float(here.table.shuffled[0])
        cells = [
            concept.name,
            found.names[best],
            f"{auroc:.2f} ({shuffled:.2f})",
            f"{float(lost.effect[0]):.3f} ({rank:.3f}, {variance:.3f})",
            ", ".join(f"{effect:+.2f} ({chance:.2f})" for effect, chance in zip(effects, random, strict=True)),
            f"{float(curve.doubles_above):.2f}",
            "yes" if curve.attrs["monotone"] else "no",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
