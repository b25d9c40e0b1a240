"""What holds of every task: enough distinct aligned examples, and a model that tells clean from corrupt."""

import pytest
import torch

import caseback as cb
from caseback.tasks import Prompts

COUNT = 100
NAMES = cb.tasks.names()


@pytest.fixture(scope="module")
def on_meadow(meadow):
    made: dict[str, Prompts] = {}

    def prompts(name: str) -> Prompts:
        if name not in made:
            made[name] = cb.tasks.get(name).prompts(meadow, COUNT)
        return made[name]

    return prompts


def check(made: Prompts) -> None:
    """Distinct, aligned token by token, every named word where its span says, every answer one token."""
    assert len(made) == COUNT
    assert len({(pair.clean.text, pair.corrupt.text) for pair in made.pairs}) == COUNT
    assert made.clean.shape == made.corrupt.shape
    assert torch.equal(made.clean.mask, made.corrupt.mask)
    assert bool((made.clean.ids != made.corrupt.ids).any(-1).all())
    assert "end" in made.spans
    for i, pair in enumerate(made.pairs):
        assert len(made.target[i]) == len(pair.target) >= 1
        assert not set(made.target[i]) & set(made.foil[i])
        for side in ("clean", "corrupt"):
            text, tokens = getattr(pair, side), getattr(made, side).text[i]
            assert made.at("end")[i] == len(tokens) - 1
            for name, (start, stop) in text.spans.items():
                if name in made.spans and text.ids is None:
                    first, last = made.spans[name][i]
                    assert "".join(tokens[first : last + 1]).strip() == text.text[start:stop]


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_aligned_examples_on_meadow(name, on_meadow, meadow):
    made = on_meadow(name)
    check(made)
    assert int(made.clean.lengths.max()) <= meadow.context


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_aligned_examples_on_gpt2(name, gpt2):
    check(cb.tasks.get(name).prompts(gpt2, COUNT))


@pytest.mark.parametrize("name", NAMES)
def test_meadow_tells_clean_from_corrupt(name, on_meadow, meadow):
    made = on_meadow(name)
    with torch.no_grad():
        clean, corrupt = (made.metric(meadow.run(tokens)).mean().item() for tokens in (made.clean, made.corrupt))
    assert clean > corrupt


@pytest.mark.parametrize("name", ["ioi", "agreement", "pronoun"])
def test_a_real_model_tells_clean_from_corrupt(name, assets):
    folder = assets / "models" / "stories3M"
    if not folder.is_dir():
        pytest.skip(f"needs the model in {folder}")
    model = cb.load(folder)
    made = cb.tasks.get(name).prompts(model, 50)
    with torch.no_grad():
        clean, corrupt = (made.metric(model.run(tokens)).mean().item() for tokens in (made.clean, made.corrupt))
    assert clean > max(corrupt, 0)


@pytest.mark.parametrize("name", ["agreement", "induction", "relation", "ioi"])
def test_a_language_model_that_people_use_tells_clean_from_corrupt(name, smollm):
    made = cb.tasks.get(name).prompts(smollm, 8)
    with torch.no_grad():
        clean, corrupt = (made.metric(smollm.run(tokens)).mean().item() for tokens in (made.clean, made.corrupt))
    assert clean > max(corrupt, 0)


@pytest.mark.parametrize("name", ["ioi", "induction", "needle", "plain_text", "few_shot"])
def test_same_seed_same_examples(name, on_meadow, meadow):
    again = cb.tasks.get(name).prompts(meadow, COUNT)
    assert torch.equal(again.clean.ids, on_meadow(name).clean.ids)
    assert torch.equal(again.corrupt.ids, on_meadow(name).corrupt.ids)
    assert not torch.equal(cb.tasks.get(name).prompts(meadow, COUNT, seed=1).clean.ids, again.clean.ids)
