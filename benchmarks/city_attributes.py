"""RAVEL's scores on real cities: can the country of a city be moved and its language left alone, and by what?

    python benchmarks/city_attributes.py MODEL RELATIONS CORPUS [--layer 15] [--tokens 100000] [--examples 600]

MODEL is a folder or a hub id, RELATIONS the folder ``factual`` of the relations dataset, CORPUS text that a small
BatchTopK dictionary is trained on. Cities are those of ``city_in_country``, and capitals and largest cities turned
round; a city's language is its country's. Only what the model answers right counts, with RAVEL's own questions. Beside
the dictionary stand one of random rows, masked coordinates and principal components (binary masks), DAS, and
everything swapped.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path

import torch

import caseback as cb
from caseback.decode.dictionaries import Recipe, attached, train_dictionaries
from caseback.decode.dictionaries.measures import random_dictionary
from caseback.decode.states import read_states
from caseback.localize.abstraction import disentangling, entity_examples
from caseback.tasks.formats.city_attributes import TEMPLATES

ASKED = {name: TEMPLATES[name] for name in ("Country", "Language")}


def cities(relations: Path) -> dict[str, dict[str, str]]:
    """Each city's country, and that country's language where it is in the data."""

    def pairs(name: str) -> list[tuple[str, str]]:
        samples = json.loads((relations / f"{name}.json").read_text(encoding="utf-8"))["samples"]
        return [(one["subject"], one["object"]) for one in samples]

    country = dict(pairs("city_in_country"))
    for name in ("country_capital_city", "country_largest_city"):
        for where, city in pairs(name):
            country.setdefault(city, where)
    language = dict(pairs("country_language"))
    return {
        city: {"Country": where} | ({"Language": language[where]} if where in language else {})
        for city, where in country.items()
    }


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("relations", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, site = cb.load(asked.model), f"resid_post.{asked.layer}"
    known = cities(asked.relations)
    drawn = entity_examples(model, known, ASKED, "Country", count=asked.examples)
    parts = drawn.split()
    for name in ASKED:
        own = {city for city, of in zip([*drawn.base, *drawn.source], drawn.asked * 2, strict=True) if of == name}
        print(f"{name}: {len(own)} of {sum(name in about for about in known.values())} cities in the examples")
    print(f"{len(parts[0])} examples to search on, {len(parts[1])} judged", flush=True)
    start = time.process_time()
    recipe = Recipe(site=site, options={"k": 32})
    (trained,) = train_dictionaries(model, asked.corpus, [recipe], n_tokens=asked.tokens, step_tokens=1024)
    print(f"trained in {time.process_time() - start:.0f} CPU-s", flush=True)
    states = read_states(model, parts[0].data.base, sites=site, pos=slice(1, None)).x[0]
    several = {"feature": trained.dictionary, "random": random_dictionary(trained.dictionary, states)}
    start = time.process_time()
    with contextlib.ExitStack() as stack:
        for name, one in several.items():
            stack.enter_context(attached(model, one, name=name))
        table = disentangling(
            model, *parts, "resid_post", asked.layer, features=list(several), epochs=asked.epochs, progress=True
        )
    print(f"compared in {time.process_time() - start:.0f} CPU-s")
    print(table.drop_vars(("kept_answer", "group")).to_dataframe().round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
