"""Half a character, as a surrogate that stands alone, is refused in words wherever a text is cut into tokens."""

import pytest

import caseback as cb
from caseback.errors import CasebackError
from caseback.localize.inputs import bm25
from caseback.tasks.align import align
from caseback.tasks.corpus import corpus_rows
from caseback.tasks.formats.treebank import Sentence
from caseback.tasks.formats.word_tokens import word_tokens
from caseback.tasks.prompts import Pair
from caseback.tasks.text import Text

HALF = "Mary \ud83d went to the store"
SENTENCE = Sentence(HALF, ("Mary",), ((0, 4),), (-1,), ("root",), ("PROPN",), ("NNP",), ("Mary",), ({},))

DOORS = {
    "prompt": lambda model: model.tokens(HALF),
    "corpus": lambda model: cb.stream.collect(model, [HALF, "a b"], "stream_moments"),
    "training text": lambda model: bm25(model, "Mary", [HALF]),
    "pair": lambda model: align([Pair(Text(HALF), Text(HALF), (" Mary",), (" John",))], model),
    "lines": lambda model: list(corpus_rows(model, [HALF])),
    "sentence": lambda model: word_tokens([SENTENCE], model),
    "target": lambda model: model.token_id("\ud83d"),
}


@pytest.mark.parametrize("door", DOORS)
def test_half_a_character_is_refused_in_words(door):
    with pytest.raises(CasebackError, match="holds half a character"):
        DOORS[door](cb.load("meadow"))
