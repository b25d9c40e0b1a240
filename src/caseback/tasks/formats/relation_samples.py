"""Relations: JSON with templates and the subjects and objects that they hold between. (Hernandez et al. 2023, LRE)

{"name": "country capital city", "prompt_templates": ["The capital city of {} is"],
 "prompt_templates_zs": ["What is the capital of {}? It is the city of"],
 "samples": [{"subject": "Canada", "object": "Ottawa"}, …]}
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from caseback.errors import LoadError
from caseback.model.arguments import checked
from caseback.tasks.formats.reading import Examples, examples, json_under, json_value, value_at
from caseback.tasks.formats.swapped_subjects import Fact, pairs_of
from caseback.tasks.prompts import Pair


@checked
def relations(
    path: str | Path,
    *,
    template: int | None = 0,
    zero_shot: bool = False,
    corruption: str = "subject",
    model: Any = None,
    seed: int = 0,
    skip_malformed: bool = False,
    limit: int | None = None,
) -> Examples[Pair]:
    """Read a relation (s, r, o), or a folder of them: the object is the target.

    Positions: ``subject``, ``end``. The group is the relation's name.

    Parameters
    ----------
    path
        A JSON file of one relation, or a folder: all its JSON files, in subfolders too.
    template
        Which template, counted from 0; None takes all in turn.
    zero_shot
        Take the templates of ``prompt_templates_zs``, which ask without examples before them.
    corruption
        ``"subject"``: another subject of the relation, whose object is the foil; ``"none"``: corrupt is the prompt
        itself.
    model
        A ``Model`` or a tokenizer: the other subjects are then as many tokens long, and their answers one token.
        Without it most pairs do not align.
    seed
        Same seed, same result. Draws the other subject.
    skip_malformed
        Count malformed samples in ``dropped`` instead of raising.
    limit
        Stop after so many pairs.

    Raises
    ------
    LoadError
        For a file without templates, a template that the file does not have, or a malformed sample, with its line.

    References
    ----------
    Hernandez et al. 2023, "Linearity of Relation Decoding in Transformer Language Models".

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "capital.json"
    >>> samples = [{"subject": "Canada", "object": "Ottawa"}, {"subject": "Kenya", "object": "Nairobi"}]
    >>> _ = file.write_text(json.dumps({"name": "capital", "prompt_templates": ["The capital of {} is"],
    ...     "prompt_templates_zs": ["What is the capital of {}? It is"], "samples": samples}))
    >>> pair = relations(file)[0]
    >>> pair.clean.text, pair.target, pair.corrupt_target, pair.group
    ('The capital of Canada is', (' Ottawa',), (' Nairobi',), 'capital')
    """
    folder = os.path.isdir(path)
    files = sorted(Path(path).rglob("*.json")) if folder else [Path(path)]
    if not files:
        raise LoadError(f"{path} has no .json file: expected relations")
    facts, dropped = [], Counter()
    for file in files:
        read = _facts(file, template, zero_shot, skip_malformed)
        facts += read
        dropped += read.dropped
    return pairs_of(facts, path=path, corruption=corruption, model=model, seed=seed, limit=limit, dropped=dropped)


def _facts(file: Path, template: int | None, zero_shot: bool, skip_malformed: bool) -> Examples[Fact]:
    key = "prompt_templates_zs" if zero_shot else "prompt_templates"
    whole = json_value(file)
    templates = whole.get(key) if isinstance(whole, dict) else None
    if not isinstance(templates, list) or not templates:
        raise LoadError(f"{file}: expected a list of templates under {key!r}, found none")
    wrong = [t for t in templates if not isinstance(t, str) or t.count("{}") != 1]
    if wrong:
        raise LoadError(f"{file}: expected templates with one {{}} for the subject under {key!r}, found {wrong[0]!r}")
    if template is not None and not 0 <= template < len(templates):
        raise LoadError(f"{file} has no template {template} under {key!r}: expected 0 to {len(templates) - 1}, or None")
    chosen = templates if template is None else [templates[template]]
    name = str(whole.get("name", file.stem))
    facts: Examples[Fact] = Examples()
    for one in chosen:
        before, after = one.split("{}")

        def make(record: Any, before: str = before, after: str = after) -> Fact:
            return Fact(before, value_at(record, "subject"), after, value_at(record, "object"), relation=name)

        read = examples(file, json_under(file, "samples"), make, skip_malformed=skip_malformed)
        facts += read
        # Every template reads the same samples, so what is wrong with them counts once.
        facts.dropped = read.dropped
    return facts
