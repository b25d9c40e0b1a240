"""Edits hold during cached decoding, by absolute position: cached, uncached and padded decoding say the same.

Where prompts differ in length ``exact`` is needed: transformers' own eager attention turns the rows of left padding
of a float64 model into NaN when it narrows their lowest score to float32.
"""

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

import caseback as cb
import shelf
from caseback.errors import EditError, OutOfRange, SiteAbsent, TokensError
from caseback.model.running.generate import SharedPrompts
from exact import exact

ROWS = shelf.ids((9, 6))
NEW = 7


def edits_for(model, tokens):
    """Edits of the prompt, of places that do not exist yet, and of what the cache holds."""
    source = model.run(model.tokens([[(t * 3) % model.d_vocab for t in row] for row in ROWS]), read=["resid_pre"])
    push = 6 * torch.randn(model.d_vocab, generator=torch.Generator().manual_seed(2))
    return [
        cb.Add("logits", push, pos=[8, 11]),
        cb.Zero("z", layer=0, head=1),
        cb.Resample("resid_pre", source, layer=1, pos=3),
        cb.Add("resid_post", 0.5, layer=0, pos=11),
        cb.Scale("mlp_out", 0.5, layer=2),
        cb.Scale("k", 1.5, layer=1, pos=[2, 10]),
        cb.Scale("v", 0.5, layer=1, pos=1),
        cb.Knockout(layer=0, head=0, key=[1]),
        cb.Knockout(layer=2, query=slice(8, None), key=10),
        cb.Zero("pattern", layer=2, head=2, pos=-1, unit=0),
        cb.Mean("attn_out", layer=2, pos=-2),
        cb.Noise("mlp_out", 0.3, layer=0, pos=[0, 9, 12]),
    ]


def step_by_step(model, row, edits, steps):
    """Greedy decoding by plain edited runs of the whole text, one a token."""
    row, logits = list(row), []
    for _ in range(steps):
        grown = [e for e in edits if not isinstance(e.pos, int) or e.pos < len(row)]
        last = model.run([row], edits=grown).logits[0, -1]
        logits.append(last)
        row.append(int(last.argmax()))
    return row, torch.stack(logits)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_cached_uncached_and_left_padded_decoding_agree_token_for_token(name):
    model = shelf.model(name)
    with exact():
        tokens = model.tokens(ROWS)
        edits = edits_for(model, tokens)
        cached = model.generate(tokens, edits=edits, max_new_tokens=NEW)
        uncached = model.generate(tokens, edits=edits, max_new_tokens=NEW, use_cache=False)
        left = model.generate(model.tokens(ROWS, padding="left"), edits=edits, max_new_tokens=NEW)
        plain = model.generate(tokens, max_new_tokens=NEW)
        some = [e for e in edits if not isinstance(e, cb.Resample | cb.Mean | cb.Noise)]
        alone = model.generate([ROWS[1]], edits=some, max_new_tokens=NEW)
        together = model.generate(tokens, edits=some, max_new_tokens=NEW)
    assert torch.equal(cached.ids, uncached.ids)
    assert torch.equal(cached.ids, left.ids)
    assert not torch.equal(cached.ids, plain.ids)
    assert torch.equal(alone.ids[0], together.ids[1][together.mask[1]])
    assert cached.lengths.tolist() == [9 + NEW, 6 + NEW]


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_without_edits_the_text_is_transformers_own(name):
    model = shelf.model(name)
    row = torch.tensor([ROWS[0]])
    with torch.no_grad():
        theirs = model.hf.generate(input_ids=row, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    assert torch.equal(model.generate(row, max_new_tokens=NEW).ids, theirs)


@pytest.mark.parametrize("name", [*shelf.FEW, "gemma3_text", "smollm3", "gpt_neo", "cohere2"])
def test_decoding_is_one_edited_run_a_token(name):
    """The independent check: a full edited run of the whole text gives each next token, windows included."""
    model = shelf.model(name)
    edits = [
        cb.Zero("z", layer=0, head=1),
        cb.Add("resid_post", 0.5, layer=0, pos=11),
        cb.Scale("k", 1.5, layer=1, pos=2),
        cb.Knockout(layer=1, head=0, key=[1]),
        cb.Scale("mlp_out", 0.5, layer=2),
    ]
    with exact():
        row, _ = step_by_step(model, ROWS[0], edits, NEW)
        made = model.generate([ROWS[0]], edits=edits, max_new_tokens=NEW)
    assert made.ids[0].tolist() == row


def logits_seen(model, *args, **kwargs):
    """Generate and keep the logits of every step, by a processor that only looks."""
    seen = []

    def look(ids, scores):
        seen.append(scores.clone())
        return scores

    made = model.generate(*args, logits_processor=[look], **kwargs)
    return made, torch.stack(seen, 1)


@pytest.mark.parametrize("name", shelf.FEW)
def test_the_logits_of_every_step_agree_with_and_without_a_cache(name):
    model = shelf.model(name)
    with exact():
        tokens = model.tokens(ROWS)
        edits = [*edits_for(model, tokens), cb.Add("logits", torch.linspace(0, 3, model.d_vocab), pos=slice(8, None))]
        cached, a = logits_seen(model, tokens, edits=edits, max_new_tokens=NEW)
        uncached, b = logits_seen(model, tokens, edits=edits, max_new_tokens=NEW, use_cache=False)
    assert torch.equal(cached.ids, uncached.ids)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "bloom", "gemma2"])
def test_beams_and_samples_too(name):
    model = shelf.model(name)
    with exact():
        tokens = model.tokens(ROWS)
        edits = edits_for(model, tokens)
        for options in ({"num_beams": 2}, {"do_sample": True, "seed": 4, "temperature": 2.0}):
            cached = model.generate(tokens, edits=edits, max_new_tokens=NEW, **options)
            uncached = model.generate(tokens, edits=edits, max_new_tokens=NEW, use_cache=False, **options)
            assert torch.equal(cached.ids, uncached.ids), options
        sampled = model.generate(tokens, edits=edits, max_new_tokens=NEW, do_sample=True, seed=5, temperature=2.0)
        assert not torch.equal(sampled.ids, cached.ids)
        two = model.generate(tokens, edits=edits, max_new_tokens=NEW, num_beams=3, num_return_sequences=2)
        assert len(two) == 4


def test_a_seed_repeats_a_sample_and_leaves_the_random_state_alone():
    model = shelf.model("llama")
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, two, other = (
        model.generate(shelf.ids(), do_sample=True, seed=s, temperature=3.0, max_new_tokens=9).ids for s in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_negative_position_counts_from_the_prompts_end_and_all_grows():
    model = shelf.model("llama")
    seen = []

    def look(x):
        seen.append(len(x))
        return x

    model.generate([ROWS[0]], edits=cb.Apply("resid_post", look, layer=0, pos=-1), max_new_tokens=4)
    assert seen == [1]
    seen.clear()
    model.generate([ROWS[0]], edits=cb.Apply("resid_post", look, layer=0), max_new_tokens=4)
    assert seen == [9, 1, 1, 1]
    seen.clear()
    model.generate([ROWS[0]], edits=cb.Apply("resid_post", look, layer=0, pos=slice(7, None)), max_new_tokens=4)
    assert seen == [2, 1, 1, 1]
    seen.clear()
    model.generate([ROWS[0]], edits=cb.Apply("resid_post", look, layer=0, pos=[3, 10]), max_new_tokens=4)
    assert seen == [1, 1]


def test_another_runs_values_do_not_reach_past_its_prompt():
    model = shelf.model("llama")
    source = model.run([ROWS[0]], read=["resid_post"])
    made = model.generate([ROWS[0]], edits=cb.Resample("resid_post", source, layer=1), max_new_tokens=4)
    assert torch.equal(made.ids, model.generate([ROWS[0]], max_new_tokens=4).ids)


def test_what_cannot_be_generated_is_refused():
    model = shelf.model("llama")
    with pytest.raises(TokensError, match="max_new_tokens=0: expected at least 1"):
        model.generate(ROWS, max_new_tokens=0)
    with pytest.raises(EditError, match="head 9 is out of range at 'z'"):
        model.generate(ROWS, edits=cb.Zero("z", head=9))
    with pytest.raises(OutOfRange, match="position -10 is out of range"):
        model.generate(ROWS, edits=cb.Zero("z", pos=-10))


def test_an_end_of_text_token_ends_the_text(assets):
    model = cb.load(assets / "models" / "stories3M")
    tokens = model.tokens(["The end.", "Once upon a time"])
    made = model.generate(tokens, max_new_tokens=12)
    assert made.lengths[1] == tokens.lengths[1] + 12 or made.text[1][-1] == model.token_text(
        model.hf.generation_config.eos_token_id
    )
    assert model.text(made)[1].startswith("Once upon a time")
    steered = model.generate(tokens, edits=cb.Zero("mlp_out", layer=2), max_new_tokens=12)
    assert model.text(steered)[1].startswith("Once upon a time") and model.text(steered) != model.text(made)


@pytest.mark.parametrize("name", shelf.FEW)
@pytest.mark.parametrize("use_cache", [True, False])
def test_what_decoding_reads_is_what_the_whole_text_holds(name, use_cache):
    model = shelf.model(name)
    prompts = shelf.ids((6, 6))  # in float64 eager attention gives NaN under padding, in transformers too
    sites = [n for n in ("resid_post", "z", "mlp_out", "k", "pattern", "embed") if n not in model.anatomy.lacks]
    edits = [cb.Scale("z", 0.5, layer=1, head=0), cb.Zero("mlp_out", layer=0, pos=[1, 7])]
    with exact():
        whole, run = model.generate(prompts, read=sites, edits=edits, max_new_tokens=5, use_cache=use_cache)
        alone = model.run(run.tokens, read=sites, edits=edits)
        unread = model.generate(prompts, edits=edits, max_new_tokens=5, use_cache=use_cache)
    assert torch.equal(whole.ids, unread.ids)
    assert torch.equal(run.tokens.ids, whole.ids[:, :-1]) and run.edited
    for site in sites:
        torch.testing.assert_close(run[site], alone[site], rtol=1e-8, atol=1e-8, msg=site)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_decoding_reads_prompts_of_different_lengths(name):
    model = shelf.model(name, "sdpa")
    whole, run = model.generate(shelf.ids((6, 3)), read="resid_post", max_new_tokens=4)
    assert whole.lengths.tolist() == [10, 7] and run.tokens.lengths.tolist() == [9, 6]
    for b, ids in enumerate(shelf.ids((6, 3))):
        alone = model.run(whole.ids[b][whole.mask[b]][:-1], read="resid_post")["resid_post"][:, 0]
        assert run.tokens.ids[b][run.tokens.mask[b]][: len(ids)].tolist() == ids
        torch.testing.assert_close(run["resid_post"][:, b][:, run.tokens.mask[b]], alone, rtol=1e-4, atol=1e-4)


def test_what_decoding_cannot_read_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(SiteAbsent, match="run the whole text to read 'logits'"):
        model.generate([1, 2, 3], read="logits")
    with pytest.raises(SiteAbsent, match="num_beams=2 reorders its rows"):
        model.generate([1, 2, 3], read="z", num_beams=2)


def test_a_slice_from_the_end_begins_at_the_same_token_however_long_the_text_gets():
    model, (row, _) = shelf.model("gpt2"), ROWS
    push = 4 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for start, first in ((-3, len(row) - 3), (2, 2), (-100, 0)):
        edit = cb.Add("resid_post", push, layer=1, pos=slice(start, None))
        ids = list(row)
        for _ in range(NEW):  # by hand: the same tokens at every step
            held = cb.Add("resid_post", push, layer=1, pos=list(range(first, len(ids))))
            ids.append(int(model.run([ids], edits=held).logits[0, -1].argmax()))
        for cache in (True, False):
            assert model.generate([row], edits=edit, max_new_tokens=NEW, use_cache=cache).ids[0].tolist() == ids


class AfterTokens(StoppingCriteria):
    """Stops a row when one of some tokens comes."""

    def __init__(self, tokens):
        self.tokens = torch.tensor(tokens)

    def __call__(self, input_ids, scores, **_):
        return torch.isin(input_ids[:, -1], self.tokens)


@pytest.mark.parametrize("how", ["eos_token_id", "generation_config", "stopping_criteria", "two criteria"])
@pytest.mark.parametrize("own_end", [True, False])
def test_what_follows_an_end_of_the_callers_own_is_padding(how, own_end, monkeypatch):
    model = shelf.model("llama")
    plain = [model.generate([row], max_new_tokens=NEW).ids[0].tolist() for row in ROWS]
    ends = [plain[0][len(ROWS[0]) + 1], plain[1][len(ROWS[1]) + 3]]
    unused = next(t for t in range(model.d_vocab) if not any(t in row for row in plain))
    # where the model has an end of its own, transformers fills up with padding; else it goes on writing
    monkeypatch.setattr(model.hf.generation_config, "eos_token_id", unused if own_end else None)
    config = GenerationConfig.from_dict(model.hf.generation_config.to_dict() | {"eos_token_id": ends})
    options = {
        "eos_token_id": {"eos_token_id": ends},
        "generation_config": {"generation_config": config},
        "stopping_criteria": {"stopping_criteria": StoppingCriteriaList([AfterTokens(ends)])},
        "two criteria": {"stopping_criteria": [AfterTokens(ends[:1]), AfterTokens(ends[1:])]},
    }[how]
    with exact():
        written = model.generate(ROWS, max_new_tokens=NEW, **options)
    for b, (row, whole) in enumerate(zip(ROWS, plain, strict=True)):
        stop = next(i for i in range(len(row), len(whole)) if whole[i] in ends)
        assert written.ids[b][written.mask[b]].tolist() == whole[: stop + 1]
        assert written.text[b] == [str(t) for t in whole[: stop + 1]]


def test_stop_strings_end_a_text():
    model = cb.load("meadow")
    plain = model.generate("Mary and John went to the", max_new_tokens=12)
    new = plain.text[0][6:]
    word = next(piece for piece in new[2:] if piece.strip())
    written = model.generate("Mary and John went to the", max_new_tokens=12, stop_strings=[word])
    assert "".join(written.text[0]) == "".join(plain.text[0][: plain.text[0].index(word, 6) + 1])
    with pytest.raises(TokensError, match="stop_strings need a tokenizer"):
        shelf.model("gpt2").generate([[1, 2]], stop_strings=["a"])
    with pytest.raises(TokensError, match=r"stop_strings=\[\]: expected text"):
        model.generate("the cat", stop_strings=[])


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "bloom", "gemma2", "mixtral"])
def test_continuations_of_a_prompt_share_its_pass(name, monkeypatch):
    """Samples and beams are those of passes that repeat every prompt, as they are without a cache; so is what is read."""
    model = shelf.model(name)
    rows = []
    with exact():
        tokens = model.tokens(ROWS)
        edits = [*edits_for(model, tokens), cb.Apply("mlp_out", lambda x: (rows.append(len(x)), x)[1], layer=0)]
        for options in (
            {"num_return_sequences": 4, "do_sample": True, "seed": 4, "temperature": 2.0},
            {"num_beams": 4},
        ):
            rows.clear()
            cached = model.generate(tokens, edits=edits, max_new_tokens=NEW, **options)
            # 15 tokens of prompts once, then 8 rows of one token
            assert rows == [15] + [8] * (NEW - 1), options
            uncached = model.generate(tokens, edits=edits, max_new_tokens=NEW, use_cache=False, **options)
            assert torch.equal(cached.ids, uncached.ids), options
        reads = {"read": ["resid_post", "pattern", "k"], "num_return_sequences": 3, "do_sample": True, "seed": 1}
        one = model.generate(tokens, edits=edits[:-1], max_new_tokens=4, **reads)[1]
        monkeypatch.setattr(SharedPrompts, "narrow", lambda *_: None)
        other = model.generate(tokens, edits=edits[:-1], max_new_tokens=4, **reads)[1]
        for site in one.sites:
            torch.testing.assert_close(one[site], other[site], rtol=1e-9, atol=1e-9)
