"""Attributing a generation: every row is what the method says of that prefix, whatever the batch."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, TargetError, TokensError
from caseback.localize.inputs import attribute_generation, gradient_norm, gradient_x_input
from caseback.model.prompts.granularity import features_of
from exact import exact

PROMPTS = [[7, 2, 9, 4, 8], [5, 6, 3]]
MORE = [[1, 9, 2], [4, 8]]


@pytest.mark.parametrize("name", shelf.FEW)
def test_a_row_is_the_attribution_of_that_prefix(name):
    model = shelf.model(name)
    with exact():
        found = attribute_generation(model, PROMPTS, "gradient_x_input", metric="log_prob", continuation=MORE)
        again = attribute_generation(
            model, PROMPTS, "gradient_x_input", metric="log_prob", continuation=MORE, token_budget=1
        )
        assert found.dims == ("batch", "step", "pos") and found.shape == (2, 3, 7)
        for b, (prompt, more) in enumerate(zip(PROMPTS, MORE, strict=True)):
            for t, target in enumerate(more):
                prefix = [*prompt, *more[:t]]
                alone = gradient_x_input(model, prefix, cb.log_prob(target)).values[0]
                assert np.allclose(found.values[b, t, : len(prefix)], alone, atol=1e-10)
                assert np.isnan(found.values[b, t, len(prefix) :]).all()
                p = model.run(prefix).logits[0, -1].softmax(-1)[target]
                assert np.isclose(float(found.probability[b, t]), float(p), atol=1e-10)
    assert np.isnan(found.values[1, 2]).all() and found.target.values.tolist()[1] == ["4", "8", ""]
    assert np.allclose(found.values, again.values, atol=1e-9, equal_nan=True)


def test_padding_on_either_side_gives_the_same():
    model = shelf.model("llama")
    with exact():
        sides = [
            attribute_generation(model, model.tokens(PROMPTS, padding=side), "gradient_norm", max_new_tokens=3).values
            for side in ("left", "right")
        ]
    assert np.allclose(*sides, atol=1e-10, equal_nan=True)


def test_what_is_generated_is_what_the_model_generates():
    model = cb.load("meadow")
    prompt = "When Mary and John went to the store, John gave a drink to"
    found = attribute_generation(model, prompt, "gradient_norm", max_new_tokens=2)
    whole = model.generate(prompt, max_new_tokens=2)
    assert [*found.token.values[0].tolist(), found.target.values[0, -1]] == whole.text[0]
    given = attribute_generation(model, prompt, "gradient_norm", continuation=" Mary.")
    assert given.target.values[0].tolist() == [" Mary", "."] and np.allclose(given.values, found.values, equal_nan=True)


def test_foils_are_the_runner_up_or_as_given_or_another_texts_tokens():
    model = cb.load("meadow")
    prompt, more = "When Mary and John went to the store, John gave a drink to", " Mary."
    by_default = attribute_generation(model, prompt, "gradient_x_input", metric="logit_diff", continuation=more)
    assert by_default.foil.values[0, 0] == " John"
    named = attribute_generation(
        model, prompt, "gradient_x_input", metric="logit_diff", continuation=more, foils=[" John", " Anna"]
    )
    assert named.foil.values[0].tolist() == [" John", " Anna"]
    assert np.allclose(named.values[0, 0], by_default.values[0, 0], atol=1e-4, equal_nan=True)
    other = attribute_generation(
        model, prompt, "gradient_x_input", metric="logit_diff", continuation=more, contrast=" John."
    )
    assert other.foil.values[0].tolist() == [" John", ""], "both end in a full stop, which has no contrast"
    assert np.isnan(other.values[0, 1]).all() and np.allclose(
        other.values[0, 0], named.values[0, 0], atol=1e-4, equal_nan=True
    )
    made = attribute_generation(
        model,
        prompt,
        "gradient_x_input",
        metric=lambda t, f: cb.logit_diff(t, f),
        continuation=more,
        foils=[" John", ","],
    )
    assert np.allclose(made.values[0, 0], named.values[0, 0], atol=1e-4, equal_nan=True)


def test_sources_are_summed_to_words():
    model = cb.load("meadow")
    tokens = attribute_generation(model, "Mary Carter went", "gradient_x_input", continuation=" to the")
    words = attribute_generation(model, "Mary Carter went", "gradient_x_input", continuation=" to the", features="word")
    whole = model.tokens("Mary Carter went to the")
    groups = features_of(model, whole, "word").groups[0]
    assert words.dims == ("batch", "step", "feature")
    for f, group in enumerate(groups[: words.sizes["feature"]]):
        kept = [p for p in group if p < tokens.sizes["pos"]]
        assert np.isclose(words.values[0, 1, f], np.nansum(tokens.values[0, 1, kept]))


def test_the_method_may_be_any_function():
    model = shelf.model("llama")
    found = attribute_generation(model, PROMPTS[0], gradient_norm, continuation=MORE[0], options={"p": 1.0})
    alone = gradient_norm(model, PROMPTS[0], cb.logit(MORE[0][0]), p=1.0)
    assert np.allclose(found.values[0, 0, :5], alone.values[0]) and found.attrs["method"] == "gradient_norm"


def test_bad_input_is_told():
    model, prompt = shelf.model("llama"), PROMPTS[0]

    def fails(error, said, **options):
        with pytest.raises(error, match=said):
            attribute_generation(model, prompt, "gradient_norm", **{"continuation": [1, 9], **options})

    fails(CasebackError, "metric 'logits' is unknown. Did you mean logit", metric="logits")
    fails(CasebackError, "takes none: use metric='logit_diff'", foils=[1, 2])
    fails(TargetError, "foil 9 of step 1 is the token generated there", metric="logit_diff", foils=[3, 9])
    fails(TargetError, "give one for each", metric="logit_diff", foils=[3])
    fails(TokensError, "contrast 0 has 3 tokens, the continuation 2", metric="logit_diff", contrast=[3, 4, 5])
    fails(TargetError, "nothing is contrasted", metric="logit_diff", contrast=[1, 9])
    fails(CasebackError, "expected one of them", metric="logit_diff", contrast=[3, 4], foils=[3, 4])
    fails(TokensError, "no continuation", continuation=torch.tensor([], dtype=torch.long))
    fails(CasebackError, "a continuation is given", num_beams=2)
    fails(TokensError, "no tokenizer", continuation=" more")
    meadow = cb.load("meadow")
    with pytest.raises(TokensError, match="does not follow the tokens"):
        attribute_generation(meadow, "Mary went to the sto", "gradient_norm", continuation="re")
