"""Facts about a subject: the known facts of causal tracing and CounterFact, both JSON. (Meng et al. 2022)

    known     {"subject": "Vinson Massif", "attribute": "Antarctica", "prompt": "Vinson Massif is located in …",
               "relation_id": "P30"}
    CounterFact   {"requested_rewrite": {"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux",
               "target_true": {"str": "French"}, "target_new": {"str": "English"}, "relation_id": "P103"},
               "paraphrase_prompts": […], "neighborhood_prompts": […], "attribute_prompts": […]}

Neighborhood prompts are about other subjects whose answer is the true target, attribute prompts about subjects whose
answer is the new one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caseback.model.arguments import checked
from caseback.tasks.formats.reading import Examples, Malformed, Unfit, choose, examples, json_records, value_at
from caseback.tasks.formats.swapped_subjects import Fact, pairs_of
from caseback.tasks.prompts import Pair

PROMPTS = ("rewrite", "paraphrase", "neighborhood", "attribute")


@checked
def known_facts(
    path: str | Path,
    *,
    corruption: str = "subject",
    model: Any = None,
    seed: int = 0,
    skip_malformed: bool = False,
    limit: int | None = None,
) -> Examples[Pair]:
    """Read known facts: the attribute is the target, ``subject`` its named position, the relation the group.

    Parameters
    ----------
    path
        JSON, an array or lines, with ``subject``, ``attribute`` and ``prompt``.
    corruption
        ``"subject"``: another subject of the same ``relation_id``, whose attribute is the foil; ``"none"``: corrupt is
        the prompt itself and there is no foil, for causal tracing, which adds noise (align with
        ``measure="log_prob"``).
    model
        A ``Model`` or a tokenizer: the other subjects are then as many tokens long, and their answers one token.
        Without it most pairs do not align.
    seed
        Same seed, same result. Draws the other subject.
    skip_malformed
        Count malformed records in ``dropped`` instead of raising.
    limit
        Stop after so many pairs.

    Raises
    ------
    LoadError
        For a malformed record, with its line.

    References
    ----------
    Meng et al. 2022, "Locating and Editing Factual Associations in GPT".

    Examples
    --------
    >>> import json, tempfile
    >>> facts = [("Rome", "Italy"), ("Paris", "France")]
    >>> file = Path(tempfile.mkdtemp()) / "known.json"
    >>> _ = file.write_text(json.dumps([
    ...     {"subject": s, "attribute": a, "prompt": f"{s} is in", "relation_id": "P17"} for s, a in facts]))
    >>> pair = known_facts(file)[0]
    >>> pair.clean.text, pair.corrupt.text, pair.target, pair.foil
    ('Rome is in', 'Paris is in', (' Italy',), (' France',))
    """

    def make(record: Any) -> Fact:
        prompt, subject = value_at(record, "prompt"), value_at(record, "subject")
        relation = str(record.get("relation_id", ""))
        return _fact(prompt, subject, value_at(record, "attribute"), relation=relation)

    facts = examples(path, json_records(path), make, skip_malformed=skip_malformed)
    return pairs_of(facts, path=path, corruption=corruption, model=model, seed=seed, limit=limit, dropped=facts.dropped)


@checked
def counterfact(
    path: str | Path,
    *,
    prompts: str = "rewrite",
    corruption: str = "subject",
    model: Any = None,
    seed: int = 0,
    skip_malformed: bool = False,
    limit: int | None = None,
) -> Examples[Pair]:
    """Read CounterFact: target is ``target_true``, foil ``target_new``, the group the relation.

    Parameters
    ----------
    path
        JSON, an array or lines.
    prompts
        ``"rewrite"``: one prompt per record. ``"paraphrase"``: its paraphrases, which end in the same question.
        ``"neighborhood"``: prompts about other subjects with the same true answer. ``"attribute"``: prompts about
        subjects whose answer is ``target_new``, which is then the target and ``target_true`` the foil. The records do
        not name the subjects of the last two: corrupt is the prompt itself and no position but ``end`` is named.
    corruption
        ``"subject"``: another subject of the relation, if possible one whose true answer is the foil; ``"none"``:
        corrupt is the prompt itself.
    model
        A ``Model`` or a tokenizer: the other subjects are then as many tokens long, and their answers one token.
        Without it most pairs do not align.
    seed
        Same seed, same result. Draws the other subject.
    skip_malformed
        Count malformed records in ``dropped`` instead of raising.
    limit
        Stop after so many pairs.

    Raises
    ------
    LoadError
        For a malformed record, with its line.

    References
    ----------
    Meng et al. 2022, "Locating and Editing Factual Associations in GPT".

    Examples
    --------
    >>> import json, tempfile
    >>> asked = {"prompt": "The mother tongue of {} is", "subject": "Ada", "relation_id": "P103"}
    >>> asked |= {"target_true": {"str": "English"}, "target_new": {"str": "French"}}
    >>> file = Path(tempfile.mkdtemp()) / "counterfact.json"
    >>> _ = file.write_text(json.dumps([{"case_id": 0, "requested_rewrite": asked}]))
    >>> pair = counterfact(file, corruption="none")[0]
    >>> pair.clean.text, pair.target, pair.foil
    ('The mother tongue of Ada is', (' English',), (' French',))
    """
    choose("prompts", prompts, PROMPTS)

    def make(record: Any) -> list[Fact]:
        asked = value_at(record, "requested_rewrite", kind=dict)
        true, new = (value_at(record, "requested_rewrite", side, "str") for side in ("target_true", "target_new"))
        subject, relation = value_at(record, "requested_rewrite", "subject"), str(asked.get("relation_id", ""))
        if prompts == "rewrite":
            template = value_at(record, "requested_rewrite", "prompt")
            if template.count("{}") != 1:
                raise Malformed("a prompt with one {} for the subject", template)
            before, after = template.split("{}")
            return [Fact(before, subject, after, true, new, relation)]
        listed = value_at(record, f"{prompts}_prompts", kind=list)
        if not all(isinstance(one, str) and one.strip() for one in listed):
            raise Malformed(f"texts under '{prompts}_prompts'", listed)
        if prompts == "paraphrase":
            # A few paraphrases spell the subject differently, so there is no place to put another subject in.
            paraphrases = [one for one in listed if subject in one]
            if not paraphrases:
                raise Unfit("no paraphrase has the subject in it")
            return [_fact(one, subject, true, new, relation) for one in paraphrases]
        answers = (true, new) if prompts == "neighborhood" else (new, true)
        return [Fact(one, "", "", *answers, relation) for one in listed]

    read = examples(path, json_records(path), make, skip_malformed=skip_malformed)
    facts, unnamed = [fact for some in read for fact in some], prompts in ("neighborhood", "attribute")
    how = "none" if unnamed else corruption
    return pairs_of(facts, path=path, corruption=how, model=model, seed=seed, limit=limit, dropped=read.dropped)


def _fact(prompt: str, subject: str, answer: str, against: str = "", relation: str = "") -> Fact:
    """A prompt cut at its last mention of the subject, which is the one that the question is about."""
    before, mention, after = prompt.rpartition(subject)
    if not mention:
        raise Malformed(f"the subject {subject!r} in the prompt", prompt)
    return Fact(before, subject, after, answer, against, relation)
