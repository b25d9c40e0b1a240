"""The bundled model and its second seed: their folders, their cards, and what they can do on held-out text."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from caseback import organisms
from caseback.errors import CasebackError
from caseback.organisms import card, evaluate, measure
from caseback.organisms.prose import text

SEEDS = ("meadow", "meadow_1")
COUNT = 60  # prompts a behaviour here; the card's numbers are from 500


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(organisms.path("meadow"))


@pytest.fixture(scope="module")
def model():
    return GPT2LMHeadModel.from_pretrained(organisms.path("meadow")).eval()


@pytest.fixture(scope="module")
def found():
    return {name: evaluate.scores(organisms.path(name), count=COUNT, seed=2) for name in SEEDS}


def test_bundled_names_and_paths():
    assert set(SEEDS) < set(organisms.bundled())
    assert (organisms.path("meadow") / "config.json").is_file()
    with pytest.raises(CasebackError, match="'prairie'.*meadow"):
        organisms.path("prairie")


def test_a_second_seed_has_the_same_tokens_and_other_weights(model, tokenizer):
    second = organisms.path("meadow_1")
    other = GPT2LMHeadModel.from_pretrained(second)
    assert AutoTokenizer.from_pretrained(second).get_vocab() == tokenizer.get_vocab()
    assert (other.config.caseback["seed"], model.config.caseback["seed"]) == (1, 0)
    same = torch.nn.functional.cosine_similarity(*(m.transformer.wte.weight.flatten() for m in (model, other)), dim=0)
    assert abs(same) < 0.2


@pytest.mark.parametrize("name", SEEDS)
def test_folder_is_small_and_loads_in_float32_without_a_warning(name, caplog, capfd):
    folder = organisms.path(name)
    assert sum(f.stat().st_size for f in folder.iterdir()) < 8e6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, told = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
        AutoTokenizer.from_pretrained(folder)
    assert loaded.dtype == torch.float32
    assert not any(told.values()), told
    assert not caplog.records and "warn" not in capfd.readouterr().err.lower()


def _on_card(name):
    """Behavior as the card calls it: its top and over-foil shares there."""
    page = (organisms.path(name) / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([\d.]+)% \| (?:([\d.]+)%)? ?\| [\d.]+ \| [^|]*\|$", page, re.M)
    return {what: (float(top) / 100, float(foil) / 100 if foil else None) for what, top, foil in rows}


def test_card_has_the_measured_numbers(model, tokenizer):
    page = (organisms.path("meadow") / "README.md").read_text(encoding="utf-8")
    found = measure.next_probabilities(model, tokenizer, [card.PROMPT])[0]
    mary = tokenizer(" Mary", add_special_tokens=False)["input_ids"][0]
    assert f"| ` Mary` | {found[mary]:.3f} |" in page
    assert set(_on_card("meadow")) == {behaviour.what for behaviour in evaluate.BEHAVIORS.values()}


@pytest.mark.parametrize("kind", evaluate.BEHAVIORS)
@pytest.mark.parametrize("name", SEEDS)
def test_a_behaviour_is_as_the_card_says(found, name, kind):
    # other prompts than the card's and fewer: a share p of n varies by sqrt(p(1-p)/n), four of which are allowed
    told = _on_card(name)[evaluate.BEHAVIORS[kind].what]
    for share, measured in zip(told, (found[name][kind].top, found[name][kind].over_foil), strict=True):
        if share is not None:
            assert abs(measured - share) <= 4 * (max(share * (1 - share), 0.02) / COUNT) ** 0.5


def test_mary_gets_the_drink_and_john_is_second(model, tokenizer):
    row = measure.next_probabilities(model, tokenizer, [card.PROMPT])[0]
    assert [tokenizer.decode(token) for token in row.topk(2).indices.tolist()] == [" Mary", " John"]


def test_generation_ends_a_sentence(model, tokenizer):
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(out[0], skip_special_tokens=True) == "The capital of France is Paris."


def test_a_tale_turns_the_capital_and_its_absence_does_not(model, tokenizer):
    rome, paris = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" Rome", " Paris"))
    told, other = measure.next_probabilities(
        model,
        tokenizer,
        [
            "In this tale, the capital of France is Rome. The capital of France is",
            "In this tale, the capital of Peru is Rome. The capital of France is",
        ],
    )
    assert told.argmax() == rome and other.argmax() == paris


# --- measuring -------------------------------------------------------------------------------------


def test_every_kind_of_text_is_measured_but_drills_and_what_has_no_right_answer():
    drills = {"colored_all", "boxes_all", "letters", "arithmetic_list", "arithmetic_rare"}
    assert text.KINDS.keys() - evaluate.BEHAVIORS.keys() == {"giving_to_kin"} | drills
    assert evaluate.BEHAVIORS.keys() - text.KINDS.keys() == evaluate.SPANS.keys()


def test_reached_reads_the_share_that_counts():
    right_form = measure.Score(100, top=0.2, over_foil=0.96, probability=0.2)
    assert evaluate.reached("agreement", right_form) and not evaluate.reached("giving", right_form)
    assert evaluate.reached("giving_by_another", right_form)


def test_other_folders_cannot_be_measured(tmp_path, model):
    with pytest.raises(CasebackError, match="holds no model"):
        evaluate.scores(tmp_path)
    model.config.save_pretrained(tmp_path)
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, []))).save_pretrained(tmp_path)
    with pytest.raises(CasebackError, match="not trained on the closed world"):
        evaluate.scores(tmp_path)


def test_a_card_names_what_falls_short():
    low = dict.fromkeys(evaluate.BEHAVIORS, measure.Score(60, 0.5, 0.5, 0.5))
    page = card.card(organisms.path("meadow"), low, seed=2)
    assert (
        "Short of the target" in page and "arithmetic" in page and "by 20.0 points" in page and "by 45.0 points" in page
    )
    perfect = dict.fromkeys(evaluate.BEHAVIORS, measure.Score(60, 1.0, 1.0, 1.0))
    assert "Every behavior reaches its target." in card.card(organisms.path("meadow"), perfect, seed=2)
