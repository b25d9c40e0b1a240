"""PRIMER 3.1.10: ReAGent finds the token that is copied; scores are a distribution; blocks are steps; samplers."""

import linear_models
import numpy as np
import pytest
import torch
from linear_models import close
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs import budget
from caseback.localize.inputs.perturbation.reagent import reagent
from caseback.localize.inputs.perturbation.samplers import causal_sampler, frequency_sampler, masked_sampler
from exact import exact

FEW = {"probes": 4, "max_steps": 24}


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.mark.parametrize("place", [0, 2, 5])
def test_3_1_10_a_model_that_copies_a_token(place):
    """All that the copier predicts comes of one token, wherever it stands."""
    model, ids = linear_models.copier(7), [4, 9, 2, 11, 5, 3]
    ids[place] = 7
    best = int(model.run([ids]).logits[0, -1].argmax())
    scores = reagent(model, [ids], cb.prob(best), top=1, rank=1, **FEW)
    assert int(scores.values[0].argmax()) == place


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2", "mixtral"])
def test_3_1_10_scores_are_a_distribution_and_seeded(name):
    model, prompts = shelf.model(name), shelf.ids((6, 4))
    scores = reagent(model, prompts, cb.prob(3), seed=1, **FEW)
    assert close(np.nansum(scores, 1), 1, 1e-9) and float(scores.min()) > 0
    assert np.array_equal(scores, reagent(model, prompts, cb.prob(3), seed=1, **FEW), equal_nan=True)
    assert not close(scores, reagent(model, prompts, cb.prob(3), seed=2, **FEW), 1e-3)
    assert scores.std_error.shape == scores.shape


@pytest.mark.parametrize("rank", [1, 8])
def test_3_1_10_blocks_are_steps(rank):
    model, prompts = shelf.model("llama"), shelf.ids((6, 5))
    with exact():
        made = []
        for block in (1, 5, 16):
            with budget.override(reagent_steps=block):
                made.append(reagent(model, prompts, cb.prob(3), rank=rank, top=2, **FEW))
    for other in made[1:]:
        assert close(made[0], other) and other.attrs["steps"] == made[0].attrs["steps"]
        assert other.attrs["stopped"] == made[0].attrs["stopped"]


def test_3_1_10_one_step_is_the_formula():
    """One feature of three is replaced; its score goes up by logit(1/2 + delta / 2), the others' down."""
    model, ids = shelf.model("gpt2"), shelf.ids((3,))[0]

    def one_token(model, tokens):
        p = torch.zeros(*tokens.shape, model.d_vocab)
        p[..., 9] = 1
        return p

    with exact():
        scores = reagent(model, [ids], cb.prob(3), sampler=one_token, probes=1, max_steps=1, rank=1, top=1).values[0]
        clean = cb.prob(3)(model.run([ids]))[0]
        start = np.random.default_rng(0).standard_normal((1, 3))[0]
        possible = []
        for i in range(3):
            delta = float(clean - cb.prob(3)(model.run([[9 if p == i else t for p, t in enumerate(ids)]]))[0])
            step = np.log((0.5 + delta / 2) / (0.5 - delta / 2))
            logits = start + np.where(np.arange(3) == i, step, -step)
            possible.append(np.exp(logits) / np.exp(logits).sum())
    assert sum(close(scores, p, 1e-10) for p in possible) == 1


def test_padding_and_batch_change_nothing():
    model, prompts = shelf.model("mistral"), shelf.ids((7, 4))
    tokens = model.tokens(prompts)
    with exact():
        scores = reagent(model, tokens, cb.prob([3, 4]), keep=0, **FEW)
        left = reagent(model, tokens.padded_on("left"), cb.prob([3, 4]), keep=0, token_budget=30, **FEW)
        alone = reagent(model, [prompts[1]], cb.prob(4), keep=0, **FEW)
    assert close(scores, left, 1e-9) and close(scores.values[1, 1:4], alone.values[0, 1:], 1e-9)
    assert np.isnan(scores.values[:, 0]).all()


def test_a_logit_difference_makes_it_contrastive():
    model, prompt = shelf.model("gpt2"), shelf.ids((5,))
    with exact():
        contrast = reagent(model, prompt, cb.logit_diff(3, 5), **FEW)
        plain = [reagent(model, prompt, m, **FEW) for m in (cb.prob(3), cb.logit(3), cb.log_prob(3))]
        run = model.run(prompt)
    p = run.logits[0, -1].softmax(-1)
    assert close(contrast.attrs["metric_value"], float(p[3] / (p[3] + p[5])))
    assert close(plain[0].attrs["metric_value"], float(p[3]))
    assert close(plain[0], plain[1], 1e-12) and close(plain[0], plain[2], 1e-12)
    assert not close(contrast, plain[0], 1e-3)


def test_it_stops_when_the_kept_tokens_are_enough():
    model, prompt = shelf.model("gpt2"), shelf.ids((5,))
    at_once = reagent(model, prompt, cb.prob(3), rank=model.d_vocab, **FEW)
    never = reagent(model, prompt, cb.prob(3), rank=1, **FEW)
    assert at_once.attrs["steps"] == [1.0] and at_once.attrs["stopped"] == [1.0]
    assert never.attrs["steps"][0] <= 24


def test_frequencies(meadow):
    model = shelf.model("llama")
    tokens = model.tokens(shelf.ids((5, 3)))
    with exact():
        p = frequency_sampler()(model, tokens)
        told = model.run(shelf.ids((5, 3))[:1]).logits[0].softmax(-1).mean(0)
    assert close(p[0, 0], told, 1e-10) and close(p.sum(-1), 1, 1e-9) and torch.equal(p[0, 0], p[0, 4])
    counted = frequency_sampler([[7, 7, 9, 11]])(model, tokens)
    assert close(counted[0, 0, [7, 9, 11]], [0.5, 0.25, 0.25], 1e-6)
    special = meadow.tokenizer.all_special_ids
    assert frequency_sampler()(meadow, meadow.tokens("the cat"))[..., special].max() == 0


def test_causal_samplers_by_ids_and_by_text(meadow, assets):
    model, prompts = shelf.model("llama"), shelf.ids((5, 3))
    tokens = model.tokens(prompts)
    with exact():
        p = causal_sampler(model)(model, tokens)
        left = causal_sampler(model)(model, tokens.padded_on("left"))
        told = model.run(prompts[1:]).logits[0].softmax(-1)
    assert close(p[1, 1:3], told[:2], 1e-10) and close(p[:, :3], left[:, :3], 1e-10)
    other = cb.load(assets / "models" / "stories3M")
    said = meadow.tokens("Mary went to the store")
    p = causal_sampler(other)(meadow, said)
    assert close(p.sum(-1), 1, 1e-4)
    # the other model's own prediction, of which the words that both know keep their odds
    its = other.run("Mary went to the").logits[0, -1]
    store, park = (other.token_id(w) for w in (" store", " park"))
    here = p[0, said.text[0].index(" store")]
    odds = here[meadow.token_id(" store")].log() - here[meadow.token_id(" park")].log()
    assert close(odds, its[store] - its[park], 1e-3)


def _masked_lm(words):
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[MASK]", *words])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens(["[PAD]", "[UNK]", "[MASK]"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, mask_token="[MASK]", unk_token="[UNK]", pad_token="[PAD]"
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    return BertForMaskedLM(config).eval(), tokenizer


def test_a_masked_language_model_as_sampler(meadow):
    lm, tokenizer = _masked_lm(["the", "cat", "dog", "##s", "qqqqq"])
    tokens = meadow.tokens(["the cat and", "the"])
    p = masked_sampler(lm, tokenizer)(meadow, tokens)
    place = tokens.text[0].index(" cat")
    given = tokenizer("the [MASK] and", return_tensors="pt")
    at = int((given["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
    with torch.no_grad():
        logits = lm(**given).logits[0, at]
    words = [tokenizer.convert_tokens_to_ids(w) for w in ("the", "cat", "dog", "##s")]
    ours = [meadow.token_id(w) for w in (" the", " cat", " dog", "s")]
    assert close(p[0, place, ours], logits[words].softmax(-1), 1e-5)
    scores = reagent(meadow, tokens, cb.prob(" dog"), sampler=masked_sampler(lm, tokenizer), **FEW)
    assert close(np.nansum(scores, 1), 1, 1e-9)


def test_bad_input(meadow):
    model, prompt = shelf.model("gpt2"), shelf.ids((4,))
    for bad, kind, said in (
        ({"replace": 0}, OutOfRange, "replace is 0"),
        ({"top": 0}, OutOfRange, "top is 0"),
        ({"rank": 0}, OutOfRange, "rank is 0"),
        ({"probes": 0}, OutOfRange, "probes is 0"),
        ({"max_steps": 0}, OutOfRange, "max_steps is 0"),
        ({"keep": slice(0, 4)}, CasebackError, "no token to perturb"),
        ({"features": [[]]}, CasebackError, "feature 0 of prompt 0 is empty"),
        ({"sampler": lambda m, t: torch.ones(3)}, CasebackError, r"the sampler gave \(3,\)"),
        ({"sampler": masked_sampler(*_masked_lm(["the"]))}, CasebackError, "both models need a tokenizer"),
    ):
        with pytest.raises(kind, match=said):
            reagent(model, prompt, cb.prob(3), **bad)
    with pytest.raises(CasebackError, match="loss has no target"):
        reagent(model, prompt, cb.loss())
    with pytest.raises(CasebackError, match="no mask token"):
        masked_sampler(None, meadow.tokenizer)
    with pytest.raises(CasebackError, match="no token in common"):
        masked_sampler(*_masked_lm(["qqqqq"]))(meadow, meadow.tokens("the"))
