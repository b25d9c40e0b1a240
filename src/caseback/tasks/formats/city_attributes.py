"""RAVEL's cities: a JSON object from each city to its attributes. (Huang et al. 2024, as MIB ships it)

    {"Aarau": {"Continent": "Europe", "Country": "Switzerland", "Language": "German", …}, …}
    The city of Aarau is in the country of ->  Switzerland

The counterfactual asks the same about another city. An intervention should move one attribute and leave the others:
asking for another attribute of the same two cities shows whether it does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caseback.errors import LoadError, did_you_mean
from caseback.model.arguments import checked
from caseback.tasks.formats.reading import Examples, Malformed, Unfit, examples, json_items, value_at
from caseback.tasks.formats.swapped_subjects import Fact, pairs_of
from caseback.tasks.prompts import Pair

TEMPLATES = {
    "Country": "The city of {entity} is in the country of",
    "Continent": "The city of {entity} is on the continent of",
    "Language": "In the city of {entity}, most people speak",
    "Latitude": "In whole degrees, the latitude of the city of {entity} is",
    "Longitude": "In whole degrees, the longitude of the city of {entity} is",
    "Timezone": "The city of {entity} is in the time zone of",
}


@checked
def ravel(
    path: str | Path,
    *,
    attribute: str = "Country",
    template: str | None = None,
    corruption: str = "subject",
    model: Any = None,
    seed: int = 0,
    skip_malformed: bool = False,
    limit: int | None = None,
) -> Examples[Pair]:
    """Read entities and ask for one attribute; its value is the target.

    Positions: ``entity``, ``end``. The group is the attribute.

    Parameters
    ----------
    path
        A JSON object from entities to attributes.
    attribute
        The key asked for: Country, Continent, Language, Latitude, Longitude or Timezone, or any other with a
        ``template``.
    template
        A text with ``{entity}``; None takes the built-in one for the attribute.
    corruption
        ``"subject"``: another entity with another value, which is the foil; ``"none"``: corrupt is the prompt itself.
    model
        A ``Model`` or a tokenizer: the other entities are then as many tokens long, and their values one token.
        Without it most pairs do not align.
    seed
        Same seed, same result. Draws the other entity. Two attributes get the same entities only where the values
        differ for both attributes.
    skip_malformed
        Count malformed entities in ``dropped`` instead of raising.
    limit
        Stop after so many pairs.

    Raises
    ------
    LoadError
        For an attribute without a template, or a malformed entity, with its line.

    References
    ----------
    Huang et al. 2024, "RAVEL: Evaluating Interpretability Methods on Disentangling Language Model Representations".

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "cities.json"
    >>> _ = file.write_text(json.dumps({"Paris": {"Country": "France"}, "Rome": {"Country": "Italy"}}))
    >>> pair = ravel(file)[0]
    >>> pair.clean.text, pair.target, pair.corrupt.text
    ('The city of Paris is in the country of', (' France',), 'The city of Rome is in the country of')
    """
    if template is None and attribute not in TEMPLATES:
        raise LoadError(f"attribute {attribute!r} has no template. {did_you_mean(attribute, TEMPLATES)}")
    text = TEMPLATES[attribute] if template is None else template
    if text.count("{entity}") != 1:
        raise LoadError(f"template {text!r}: expected a text with {{entity}} once")
    before, after = text.split("{entity}")

    def make(item: tuple[str, Any]) -> Fact:
        entity, about = item
        if not isinstance(about, dict):
            raise Malformed(f"an object of attributes under {entity!r}", about)
        if attribute not in about:
            raise Malformed(f"the attribute {attribute!r} under {entity!r}", ", ".join(about))
        if about[attribute] is None:
            raise Unfit(f"no value for {attribute}")
        return Fact(before, entity, after, value_at(about, attribute), relation=attribute, name="entity")

    facts = examples(path, json_items(path), make, skip_malformed=skip_malformed)
    return pairs_of(facts, path=path, corruption=corruption, model=model, seed=seed, limit=limit, dropped=facts.dropped)
