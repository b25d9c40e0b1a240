"""PRIMER 4.3.8 across models: between trained models of two widths, a mapped state is read for what it says.

No two published models among the test assets read a text as the same tokens, so that a narrower model is trained on
meadow's tokenizer and sentences first.
"""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.decode.vocabulary import fit_mapping, patchscope
from caseback.decode.vocabulary.lenses.draws import Draws
from caseback.decode.vocabulary.lenses.lens import streams
from caseback.errors import CasebackError
from caseback.organisms.prose.text import documents

STEPS, RATE, WIDTH = 150, 5e-3, 64


def texts(count, seed, heldout=False):
    kinds = ("giving", "fact", "series", "agreement")
    return [d.text for kind in kinds for d in documents(kind, count, seed, heldout=heldout)]


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def narrow(meadow):
    config = GPT2Config(
        vocab_size=meadow.d_vocab, n_positions=128, n_embd=WIDTH, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = GPT2LMHeadModel(config)
    optimizer = torch.optim.Adam(hf.parameters())
    drawn = Draws(meadow, texts(300, 0), batch=32)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        for some in drawn.of_step(step, tokens=1):
            logits = hf(some.ids, attention_mask=some.mask.long()).logits[:, :-1]
            wanted = some.ids[:, 1:].masked_fill(~some.mask[:, 1:], -100)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted).backward()
            optimizer.step()
    return cb.load(hf.eval(), tokenizer=meadow.tokenizer)


@pytest.fixture(scope="module")
def both(meadow, narrow):
    return {"wider": (narrow, meadow), "narrower": (meadow, narrow)}


def resized(width):
    """The state as it is, cut or padded with zeros: no map at all."""
    return lambda h: torch.nn.functional.pad(h, (0, width - h.shape[-1]))


def mean_state(model, row):
    tokens = model.tokens(texts(30, 1))
    mean = streams(model, tokens, [row])[row][tokens.mask].mean(0)
    return lambda h: mean.expand(len(h), -1)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["wider", "narrower"])
@pytest.mark.parametrize("before_the_end", [0, 1])
def test_4_3_8_a_mapped_state_says_what_the_other_model_would(both, way, before_the_end):
    source, target = both[way]
    row, target_row = source.n_layers, target.n_layers - before_the_end
    fitted = fit_mapping(source, target, texts(150, 1), row=row, target_row=target_row, batch=32)
    held_out = texts(10, 9, heldout=True)
    tokens = target.tokens(held_out)
    answers = target.run(tokens).logits.argmax(-1).masked_fill(~tokens.mask, 0)

    def read(mapping):
        # one token as target, whose own state makes way: all that is said comes from the state that is written
        found = patchscope(
            source, held_out, [0], rows=row, target_row=target_row, mapping=mapping, target_model=target,
            answers=answers,
        )  # fmt: skip
        return float(found["surprisal"].mean()), float(found["hit"].mean())

    (surprisal, hit), *others = map(read, (fitted, mean_state(target, target_row), resized(target.d_model)))
    for baseline_surprisal, baseline_hit in others:
        assert surprisal < baseline_surprisal and hit > baseline_hit, (surprisal, hit, others)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["wider", "narrower"])
def test_4_3_8_what_is_explained_holds_on_other_text_and_is_more_than_the_token(both, way):
    source, target = both[way]
    held_out = source.tokens(texts(10, 9, heldout=True))
    y = streams(target, held_out, [target.n_layers])[target.n_layers][held_out.mask]
    shares = {}
    for row in (0, source.n_layers):
        fitted = fit_mapping(source, target, texts(150, 1), row=row, target_row=target.n_layers, batch=32)
        x = streams(source, held_out, [row])[row][held_out.mask]
        shares[row] = 1 - float((y - fitted(x)).square().sum() / (y - y.mean(0)).square().sum())
        assert np.isclose(shares[row], fitted.explained, atol=0.1)
    # the embedding knows which token and where, and nothing of those before it
    assert shares[source.n_layers] > shares[0] > 0, shares


def test_models_that_read_a_text_differently_are_refused(meadow, assets):
    other = cb.load(assets / "models" / "stories260K")
    with pytest.raises(CasebackError, match=f"{meadow.d_vocab} tokens and 'stories260K' {other.d_vocab}"):
        fit_mapping(meadow, other, ["Once upon a time"], row=1, target_row=1)
    elsewhere = cb.load(meadow.hf, tokenizer=str(assets / "tokenizers" / "gpt2"))
    with pytest.raises(CasebackError, match="as different tokens"):
        fit_mapping(meadow, elsewhere, ["Mary went to the store."], row=1, target_row=1)
