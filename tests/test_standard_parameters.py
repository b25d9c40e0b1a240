"""The parameters that nearly every technique has are described in the same words, to which a technique may add its own."""

import re

import pytest

import caseback as cb

SAME = {
    "model": ("The model",),
    "tokens": ("Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.",),
    "metric": ("What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.",),
    "seed": ("Same seed, same result.",),
    "progress": ("Show a progress bar.",),
    "checkpoint": (
        "A file that keeps what is done; the same call with it goes on after an interruption.",
        "A folder that keeps what is done; the same call with it goes on after an interruption.",
    ),
}

# of the same name, but something else: tokens of the vocabulary, a metric's name, what a query is measured by
OTHER = {
    "tokens": {"top_tokens", "circuit_of_tokens", "circuit_pairs"},
    "metric": {"attribute_generation", "influence_functions"},
}


def described(docstring: str) -> dict[str, str]:
    """Each parameter that has an entry of its own, with its first words on one line."""
    part = docstring.partition("Parameters\n    ----------\n")[2].partition("\n\n")[0]
    entries = re.split(r"^    (?=\S)", part, flags=re.MULTILINE)
    heads = [entry.partition("\n") for entry in entries if entry.strip()]
    return {name.strip(): " ".join(text.split()) for name, _, text in heads}


@pytest.mark.parametrize("name", SAME)
def test_a_standard_parameter_is_described_in_the_standard_words(name):
    own = {}
    for technique in cb.techniques():
        words = described(technique.function.__doc__ or "").get(name)
        if technique.function.__name__ in OTHER.get(name, ()):
            continue
        if words is not None and not words.startswith(SAME[name]):
            own[technique.name] = words
    assert own == {}


def test_entries_are_found():
    assert described(
        "A.\n\n    Parameters\n    ----------\n    a\n        One\n        two.\n    b, c\n        Three.\n\n    Raises\n"
    ) == {"a": "One two.", "b, c": "Three."}
