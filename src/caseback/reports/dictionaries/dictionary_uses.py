"""What dictionaries are good for, as plain data: an attribute of an entity moved alone, some text forgotten alone.

{"entities": {"Paris": {"Country": "France", …}, …}, "templates": {"Country": "{entity} is in", …}}
{"forget": {"texts": […], "questions": [[prompt, answer], …]}, "retain": {the same}}
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from caseback.decode.dictionaries import Dictionary, attached
from caseback.decode.dictionaries.architectures.several_sources import expect_one_source
from caseback.decode.dictionaries.measures import random_dictionary, unlearning
from caseback.decode.states import read_states
from caseback.errors import ArgumentError
from caseback.jobs.json_text import expect_form
from caseback.localize.abstraction import disentangling, entity_examples
from caseback.model.anatomy.sites import as_site
from caseback.model.running.model import Model
from caseback.tasks.formats.city_attributes import TEMPLATES


def attribute_rows(
    model: Model,
    dictionaries: Mapping[str, Dictionary],
    given: Mapping[str, Any],
    attribute: str,
    *,
    count: int,
    epochs: int,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """RAVEL's scores of each dictionary's features, of random directions, and of ways without a dictionary."""
    with expect_form("the entities are no object of objects of attributes"):
        entities = given.get("entities", given)
        known = {name: {key: str(word) for key, word in dict(about).items()} for name, about in entities.items()}
        asked = {str(key): str(text) for key, text in dict(given.get("templates", TEMPLATES)).items()}
    asked = {key: text for key, text in asked.items() if any(key in about for about in known.values())}
    site = as_site(_one_site(dictionaries))
    trained, judged = entity_examples(model, known, asked, attribute, count=count, seed=seed).split(seed=seed)
    sample = read_states(model, trained.data.base, sites=str(site), pos=slice(1, None)).x[0]
    several = dict(dictionaries)
    several |= {f"{name}, random": random_dictionary(one, sample, seed=seed) for name, one in dictionaries.items()}
    names = {f"feature_{i}": name for i, name in enumerate(several)}
    with contextlib.ExitStack() as stack:
        for place, name in names.items():
            stack.enter_context(attached(model, several[name], name=place, force=True))
        table = disentangling(
            model,
            trained,
            judged,
            site.name,
            site.layer,
            features=list(names),
            k=min(8, model.d_model),
            epochs=epochs,
            seed=seed,
            progress=progress,
        )
    called = [_called(variant, names) for variant in table.variant.values.tolist()]
    columns = [table[name].values.tolist() for name in ("cause", "isolation", "disentangle", "size")]
    return {
        "attribute": attribute,
        "others": table.group.values.tolist(),
        "site": str(site),
        "trained": len(trained),
        "judged": len(judged),
        "rows": [
            dict(zip(("name", "cause", "isolation", "disentangle", "size"), row, strict=True))
            for row in zip(called, *columns, strict=True)
        ],
    }


def forgetting_rows(
    model: Model, dictionaries: Mapping[str, Dictionary], given: Mapping[str, Any], *, seed: int, progress: bool
) -> dict[str, Any]:
    """What is forgotten and what is retained without the features of some text, at each setting."""
    with expect_form("what is to be forgotten is no object of forget and retain, each with texts and questions"):
        sides = [given[side] for side in ("forget", "retain")]
        texts = [[str(text) for text in side["texts"]] for side in sides]
        questions = [[(str(prompt), str(answer)) for prompt, answer in side["questions"]] for side in sides]
    site = _one_site(dictionaries)
    states = [read_states(model, some, sites=site, pos=slice(1, None)).x[0] for some in texts]
    (forget, retain), (lost, answered) = states, questions
    table = unlearning(model, dictionaries, forget, retain, lost, answered, seed=seed, progress=progress)
    rows = []
    for name in table.dictionary.values.tolist():
        own = table.sel(dictionary=name)
        settings = [
            {"k": int(k), "strength": float(dose)}
            | {key: float(own[key].sel(k=k, dose=dose)) for key in ("forgotten", "retained")}
            for k in own.k.values
            for dose in own.dose.values
        ]
        score = float(own.score)
        rows.append({"name": name, "score": score if math.isfinite(score) else None, "settings": settings})
    counts = {key: int(table.attrs[key]) for key in ("forget_questions", "retain_questions")}
    return counts | {"least_retained": float(table.attrs["least_retained"]), "rows": rows}


def _one_site(dictionaries: Mapping[str, Dictionary]) -> str:
    for one in dictionaries.values():
        expect_one_source(one, "what its features are good for")
    sites = {one.facts.site for one in dictionaries.values()}
    if len(sites) > 1 or "" in sites:
        raise ArgumentError(f"dictionaries of {', '.join(sorted(map(repr, sites)))}: expected those of one site")
    return sites.pop()


def _called(variant: str, names: Mapping[str, str]) -> str:
    place, _, rest = variant.partition(", ")
    return variant if place not in names else names[place] + (f": {rest}" if rest else ": masked features")
