"""Features: every token in one group, by the word or sentence where it begins; aggregations by name."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs.gradients.gradients import gradient_x_input
from caseback.model.prompts.granularity import AGGREGATIONS, aggregate, features_of, grouped

TEXT = "Mary didn't go (to town).  John, who's tall, did!\nWhat then? Nothing"
WORDS = "Mary didn't go ( to town ). John , who's tall , did ! What then ? Nothing".split()
SENTENCES = ["Mary didn't go (to town).", "John, who's tall, did!", "What then?", "Nothing"]


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.fixture(scope="module", params=["stories260K", "babyllama105"])
def sentencepiece(request, assets):
    return cb.load(assets / "models" / request.param)


def _is_partition(model, tokens, level):
    features = features_of(model, tokens, level)
    for row, text, names in zip(features.groups, tokens.text, features.text, strict=True):
        assert [p for group in row for p in group] == list(range(len(text)))
        assert "".join(names) == "".join(text)
    return features


@pytest.mark.parametrize("level", ["token", "word", "sentence"])
def test_every_token_is_in_one_feature_and_in_order(meadow, level):
    _is_partition(meadow, meadow.tokens([TEXT, "One.", "don't stop", "¡Señor — naïve 日本。はい"]), level)


def test_words_and_sentences_by_offsets_of_a_byte_level_tokenizer(meadow):
    tokens = meadow.tokens(TEXT, bos=False)
    assert [w.strip() for w in features_of(meadow, tokens, "sentence").text[0]] == SENTENCES
    words = [w.strip() for w in features_of(meadow, tokens, "word").text[0]]
    # one token may cover two signs that the text splits, never the other way round
    assert "".join(words) == "".join(WORDS) and set(words) <= set(WORDS) | {"),", "!\n"}


def test_words_and_sentences_by_offsets_of_sentencepiece(sentencepiece):
    tokens = sentencepiece.tokens("Once upon a time. There was a girl!")
    special = int(tokens.ids[0, 0]) in sentencepiece.tokenizer.all_special_ids
    features = _is_partition(sentencepiece, tokens, "word")
    words = [w.strip() for w in features.text[0]][int(special) :]
    assert words == ["Once", "upon", "a", "time", ".", "There", "was", "a", "girl", "!"]
    sentences = [s.strip() for s in _is_partition(sentencepiece, tokens, "sentence").text[0]][int(special) :]
    assert sentences == ["Once upon a time.", "There was a girl!"]


def test_a_special_token_is_by_itself(meadow):
    special = meadow.tokenizer.all_special_ids[0]
    ids = meadow.tokens("Hi there", bos=False).ids[0].tolist()
    for level in ("word", "sentence"):
        groups = features_of(meadow, meadow.tokens([[special, *ids, special, *ids]]), level).groups[0]
        assert [0] in groups and [1 + len(ids)] in groups


def test_kept_tokens_are_in_no_feature_and_padding_moves_nothing(meadow):
    tokens = meadow.tokens(["Mary went home again. So did I.", "Mary went."], bos=False)
    for moved in (tokens, tokens.padded_on("left")):
        features = features_of(meadow, moved, "word", keep=[0, -1])
        assert features.text[1] == [" went"] and features.groups[1] == [[1]]
    member = features.membership(tokens.ids.shape[1])
    assert member.shape == (2, features.most, tokens.ids.shape[1]) and member[1].sum() == 1 and member[1, 0, 1]


def test_groups_may_be_given(meadow):
    tokens = meadow.tokens(["a b c d", "a b c"], bos=False)
    assert features_of(meadow, tokens, [[0, 1], [-1]]).groups == [[[0, 1], [3]], [[0, 1], [2]]]
    assert features_of(meadow, tokens, [[[0], [3, 2]], [[1, 2]]]).groups == [[[0], [3, 2]], [[1, 2]]]


def test_aggregations_are_what_they_say():
    x = torch.tensor([[3.0, -4.0]])
    made = {how: aggregate(x, how).item() for how in AGGREGATIONS}
    assert made == {"sum": -1.0, "mean": -0.5, "max": 3.0, "min": -4.0, "max_abs": -4.0, "norm": 5.0}


def test_grouped_sums_keep_the_total(meadow):
    tokens = meadow.tokens(["Mary went home. John stayed here.", "Mary went."])
    scores = gradient_x_input(meadow, tokens, cb.logit(" The"))
    for level in ("token", "word", "sentence"):
        made = grouped(scores, features_of(meadow, tokens, level))
        assert made.dims == ("batch", "feature") and made.attrs["entry"] == "3.1.2"
        assert np.allclose(np.nansum(made, 1), np.nansum(scores, 1), atol=1e-5)
    by_dimension = gradient_x_input(meadow, tokens, cb.logit(" The"), by_dimension=True)
    assert grouped(by_dimension, features_of(meadow, tokens, "word"), "norm").dims == ("batch", "feature", "d_model")


def test_bad_features(meadow):
    tokens = meadow.tokens(["a b c", "a b"], bos=False)
    for bad, said in (
        ("words", "Did you mean word"),
        ([[0], []], "feature 1 of prompt 0 is empty"),
        ([[0, 1], [1]], "in two features"),
        ([[[0]], [[1]], [[0]]], "3 lists of groups for 2 prompts"),
        ([[[0]], []], "prompt 1 has no features"),
    ):
        with pytest.raises(CasebackError, match=said):
            features_of(meadow, tokens, bad)
    with pytest.raises(OutOfRange, match="position 2 is out of range: prompt 1"):
        features_of(meadow, tokens, [[2]])
    with pytest.raises(CasebackError, match="prompt 1 has no token to perturb"):
        features_of(meadow, tokens, keep=slice(0, 2))
    with pytest.raises(CasebackError, match="no tokenizer"):
        features_of(shelf.model("gpt2"), shelf.model("gpt2").tokens([1, 2]), "word")
    with pytest.raises(CasebackError, match="aggregation 'average' is unknown"):
        aggregate(torch.ones(2), "average")
