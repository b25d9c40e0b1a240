"""Log probabilities of whole sentences, and what real models make of the published agreement sets."""

import pytest
import torch

import caseback as cb
from caseback.errors import TokensError
from caseback.jobs.budget import override
from caseback.tasks import formats
from caseback.tasks.sentence_scores import MinimalPair, preference, sentence_log_prob
from exact import exact

SENTENCES = ["Mary went to the store.", "Dogs run", "When Mary and John went to the park, John gave a drink to Mary."]


@pytest.fixture(scope="module")
def stories(assets) -> cb.Model:
    folder = assets / "models" / "stories3M"
    if not folder.is_dir():
        pytest.skip(f"needs a small real model in {folder}")
    return cb.load(folder)


@pytest.mark.parametrize("bos", [True, False])
def test_the_sum_is_that_of_each_sentence_alone(bos):
    model = cb.load("meadow", dtype=torch.float64)
    with exact():
        together = sentence_log_prob(model, SENTENCES, bos=bos)
        for budget in (1, 40 * model.d_vocab):
            with override(sentence_logits=budget):
                made = sentence_log_prob(model, SENTENCES, bos=bos)
            torch.testing.assert_close(made, together, rtol=0, atol=1e-12)
        for sentence, told in zip(SENTENCES, together, strict=True):
            ids = model.tokenizer(sentence, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[model.tokenizer.bos_token_id] * bos + ids])
            with torch.no_grad():
                log_p = model.hf(ids).logits[0, :-1].log_softmax(-1)
            torch.testing.assert_close(
                log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum(), told, rtol=0, atol=1e-12
            )


def test_no_sentence_is_an_error():
    with pytest.raises(TokensError, match="no sentence given"):
        sentence_log_prob(cb.load("meadow"), [])


def test_preference_is_good_less_bad():
    model = cb.load("meadow")
    pairs = [MinimalPair(SENTENCES[0], SENTENCES[1]), MinimalPair(SENTENCES[1], SENTENCES[2])]
    scores = sentence_log_prob(model, SENTENCES)
    torch.testing.assert_close(preference(model, pairs), scores[:2] - scores[1:], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "paradigm, least",
    # Measured on the first 200: .86, .86, .915, .685. Chance is .5, and .5 ± .1 covers three standard errors.
    [
        ("anaphor_number_agreement", 0.8),
        ("anaphor_gender_agreement", 0.8),
        ("irregular_past_participle_verbs", 0.85),
        ("irregular_plural_subject_verb_agreement_2", 0.6),
    ],
)
def test_a_small_model_prefers_the_good_sentence(assets, stories, paradigm, least):
    pairs = formats.blimp_sentences(assets / "data" / "blimp" / "data" / f"{paradigm}.jsonl", limit=200)
    assert float((preference(stories, pairs) > 0).double().mean()) > least


def test_a_small_model_prefers_the_right_reflexive_after_the_prefix(assets, stories):
    file = assets / "data" / "blimp" / "data" / "anaphor_gender_agreement.jsonl"
    prompts = cb.tasks.align(formats.blimp(file, limit=200), stories)
    assert float((prompts.metric(stories.run(prompts.clean)) > 0).double().mean()) > 0.75  # measured: .85


@pytest.mark.parametrize("name, least", [("simple_train", 5.0), ("nounpp_train", 1.0)])  # measured: 6.4 and 1.6
def test_agreement_turns_with_the_subject(assets, stories, name, least):
    pairs = formats.agreement_pairs(assets / "data" / "sva_feature_circuits" / f"{name}.json", limit=300)
    prompts = cb.tasks.align(pairs, stories)
    clean, corrupt = (prompts.metric(stories.run(side)) for side in (prompts.clean, prompts.corrupt))
    assert len(prompts) > 50 and float((clean - corrupt).mean()) > least
    assert float((clean > corrupt).double().mean()) > 0.9
