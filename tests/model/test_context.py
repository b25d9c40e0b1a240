"""How long a text may be: one rule for prompts in every form and for generation, none where the model has no limit."""

import pytest
import torch

import caseback as cb
import zoo
from caseback.errors import SiteAbsent, TokensError
from caseback.model.running.tokens import Tokens

LIMIT = 12
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}


def tiny(name, dtype=torch.float64, **changes):
    config = zoo.FAMILIES[name]()
    config.update(changes)
    return zoo.from_config(config, dtype)


HARD = {
    "gpt2": lambda: tiny("gpt2", n_positions=LIMIT),
    "llama": lambda: tiny("llama", max_position_embeddings=LIMIT),
}


def forms(ids):
    """The same prompt in every form that is not text."""
    mask = torch.ones_like(ids, dtype=torch.bool)
    yield ids
    yield ids.tolist()
    yield ids.numpy()
    yield {"input_ids": ids, "attention_mask": mask.long()}
    yield Tokens(ids, mask, [[""] * ids.shape[1]] * len(ids))


@pytest.mark.parametrize("name", HARD)
def test_a_prompt_past_the_context_is_refused_in_every_form(name):
    model = cb.load(HARD[name]())
    fits, past = torch.arange(1, LIMIT + 1)[None], torch.arange(1, LIMIT + 2)[None]
    for prompt in forms(fits):
        assert model.run(prompt).logits.shape[1] == LIMIT
    for prompt in forms(past):
        for use in (model.tokens, model.run, lambda p: model.sweep(p, [cb.Zero("z", layer=0)], cb.logit(1))):
            with pytest.raises(TokensError, match=f"has {LIMIT + 1} tokens, the model's context is {LIMIT}"):
                use(prompt)


def test_an_id_outside_the_vocabulary_is_refused_in_every_form():
    model = cb.load(HARD["gpt2"]())
    for prompt in forms(torch.tensor([[1, zoo.VOCAB, 2]])):
        with pytest.raises(TokensError, match=f"token id {zoo.VOCAB}: expected 0 to {zoo.VOCAB - 1}"):
            model.run(prompt)
    padded = Tokens(torch.tensor([[1, 2, -100]]), torch.tensor([[True, True, False]]), [["", ""]])
    assert model.tokens(padded) is not None  # what stands in padding is no token


@pytest.mark.parametrize("name", HARD)
def test_generating_past_the_context_is_refused_before_it_begins(name):
    hf = HARD[name]()
    model, prompt = cb.load(hf), torch.arange(1, 9)[None]
    room = LIMIT - 8 + 1  # the last token is never put into the model
    with torch.no_grad():
        plain = hf.generate(prompt, max_new_tokens=room, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(model.generate(prompt, max_new_tokens=room, eos_token_id=None, pad_token_id=0).ids, plain)
    with pytest.raises(TokensError, match=f"context is {LIMIT}, so at most {room} can be added"):
        model.generate(prompt, max_new_tokens=room + 1)


def test_rotations_that_stretch_with_the_text_have_no_limit():
    hf = tiny("llama", max_position_embeddings=LIMIT, rope_parameters=DYNAMIC)
    model, long = cb.load(hf), torch.arange(1, 2 * LIMIT)[None]
    with torch.no_grad():
        expected = hf(long).logits
    assert model.context is None
    for prompt in forms(long):
        assert torch.equal(model.run(prompt).logits, expected)
    whole = model.generate(long[:, :8], max_new_tokens=LIMIT, eos_token_id=None)
    with torch.no_grad():
        assert torch.equal(model.run(whole).logits, hf(whole.ids).logits)
        assert torch.equal(model.run(whole.ids).logits, hf(whole.ids).logits)


def longrope():
    """Phi-3's two sets of frequencies: one up to the original context, another for all past it."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": LIMIT}
    pairs = zoo.FAMILIES["phi3"]().head_dim // 2
    factors = {"short_factor": [1.0] * pairs, "long_factor": [5.0 + pair for pair in range(pairs)]}
    rope |= {"partial_rotary_factor": 1.0, **factors}
    changes = {"max_position_embeddings": 64, "original_max_position_embeddings": LIMIT, "rope_parameters": rope}
    return tiny("phi3", torch.float32, **changes)


STRETCHING = {
    "dynamic": lambda: tiny("llama", torch.float32, max_position_embeddings=LIMIT, rope_parameters=DYNAMIC),
    "longrope": longrope,
}


@pytest.mark.parametrize("name", STRETCHING)
def test_no_batch_in_which_prompts_change_each_others_rotations(name):
    hf = STRETCHING[name]()
    model, short, long = cb.load(hf), list(range(1, 6)), list(range(1, 20))
    with torch.no_grad():
        mask = torch.tensor([[1] * 5 + [0] * 14])
        padded = hf(torch.tensor([short + [0] * 14]), attention_mask=mask).logits[:, :5]
        alone = {len(prompt): hf(torch.tensor([prompt])).logits for prompt in (short, long)}
    assert not torch.allclose(padded, alone[5], atol=1e-3)  # the reason
    for padding in ("left", "right"):
        with pytest.raises(TokensError, match=f"prompts of 5 to 19 tokens in one batch: past {LIMIT} this"):
            model.run(model.tokens([short, long], padding=padding))
    for prompt in (short, long):
        assert torch.equal(model.run([prompt]).logits, alone[len(prompt)])
    fits = model.run([short, short[:3]]).logits
    with torch.no_grad():
        assert torch.allclose(fits[1, :3], hf(torch.tensor([short[:3]])).logits[0], atol=1e-5)


@pytest.mark.parametrize("name", STRETCHING)
def test_no_batch_that_grows_to_where_prompts_change_each_others_rotations(name):
    hf = STRETCHING[name]()
    model, prompts = cb.load(hf), [list(range(1, 11)), [3, 4, 5]]
    with pytest.raises(TokensError, match=f"3 to 10 tokens in one batch with 5 more each: past {LIMIT} this"):
        model.generate(prompts, max_new_tokens=6, eos_token_id=None)
    together = model.generate(prompts, max_new_tokens=3, eos_token_id=None)
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            plain = hf.generate(torch.tensor([prompt]), max_new_tokens=3, **options)
        assert together.ids[row][together.mask[row]].tolist() == plain[0].tolist()


@pytest.mark.parametrize("bos", [None, True])
def test_a_text_that_begins_with_the_first_token_gets_no_second(bos, assets):
    model = cb.load(assets / "models" / "stories260K", verify=False)
    tokenizer = model.tokenizer
    expected = [tokenizer.bos_token_id, *tokenizer("Once upon", add_special_tokens=False)["input_ids"]]
    assert model.tokens("<s>Once upon", bos=bos).ids[0].tolist() == expected
    assert model.tokens("Once upon", bos=bos).ids[0].tolist() == expected
    assert model.tokens(["<s>Once upon", "Once"], bos=bos).ids[:, 0].tolist() == [tokenizer.bos_token_id] * 2
    twice = model.tokens("<s><s>Once", bos=bos).ids[0].tolist()
    assert twice[:2] == [tokenizer.bos_token_id] * 2 and twice[2] != tokenizer.bos_token_id  # as it is written
    assert model.tokens("<s>Once upon", bos=False).ids[0].tolist() == expected
    assert tokenizer.bos_token_id not in model.tokens("Once upon", bos=False).ids[0].tolist()


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("return_dict_in_generate", SiteAbsent),
        ("output_scores", SiteAbsent),
        ("output_attentions", SiteAbsent),
        ("attention_mask", TokensError),
        ("input_ids", TokensError),
        ("past_key_values", TokensError),
    ],
)
def test_what_generating_sets_by_itself_is_refused_by_name(option, kind):
    meadow = cb.load("meadow")
    with pytest.raises(kind, match=option):
        meadow.generate("Mary and John", max_new_tokens=2, **{option: True})


def test_options_that_change_nothing_are_taken():
    meadow = cb.load("meadow")
    plain = meadow.generate("Mary and John", max_new_tokens=3)
    options = {"return_dict_in_generate": False, "output_scores": False, "attention_mask": None}
    same = meadow.generate("Mary and John", max_new_tokens=3, tokenizer=meadow.tokenizer, **options)
    assert torch.equal(same.ids, plain.ids)
