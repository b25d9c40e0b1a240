"""CoNLL-U: sentences, their trees, and the tokens of their words."""

import pytest

import caseback as cb
from caseback.errors import LoadError, TokensError
from caseback.tasks import formats
from caseback.tasks.formats.treebank import UNIVERSAL_POS


def row(number, form, head=0, relation="root", pos="X", feats="_", misc="_"):
    return "\t".join([str(number), form, form.lower(), pos, "T", feats, str(head), relation, "_", misc])


DONT = [
    "# sent_id = s1",
    "# text = I don't know.",
    row(1, "I", 4, "nsubj", "PRON", "Case=Nom|Number=Sing"),
    "2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_",
    row(2, "do", 4, "aux"),
    row(3, "n't", 4, "advmod"),
    row(4, "know", 0, "root", misc="SpaceAfter=No"),
    "4.1\tit\t_\t_\t_\t_\t_\t_\t_\t_",
    row(5, ".", 4, "punct"),
]


def text(*sentences):
    return "\n\n".join("\n".join(lines) for lines in sentences) + "\n\n"


def test_a_sentence_has_its_tree_and_its_characters(write):
    (told,) = formats.conllu(write("a.conllu", text(DONT)))
    assert told.words == ("I", "do", "n't", "know", ".") and len(told) == 5
    assert told.heads == (3, 3, 3, -1, 3) and told.relations[0] == "nsubj" and told.pos[0] == "PRON"
    assert [told.text[a:b] for a, b in told.spans] == list(told.words)
    assert told.features[0] == {"Case": "Nom", "Number": "Sing"} and told.features[1] == {}
    assert told.name == "s1" and told.lemmas[3] == "know" and told.xpos[0] == "T"


def test_a_text_is_made_where_the_file_has_none(write):
    (told,) = formats.conllu(write("a.conllu", text([line for line in DONT if not line.startswith("#")])))
    assert told.text == "I don't know." and told.name == ""


def test_words_that_do_not_spell_what_is_written_share_its_characters(write):
    lines = ["1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_", row(1, "de", 3, "case"), row(2, "le", 3, "det"), row(3, "pain")]
    (told,) = formats.conllu(write("fr.conllu", text(lines)))
    assert told.text == "du pain" and told.spans == ((0, 2), (0, 2), (3, 7))


@pytest.mark.parametrize(
    "change, line, said",
    [
        ((4, row(2, "do", 4).replace("\t", " ")), 15, "10 columns between tabs"),
        ((4, row(3, "do", 4)), 15, "word 2, found '3'"),
        ((4, row("two", "do", 4)), 15, "a word's number"),
        ((4, row(2, "do", 9)), 15, "a head from 0 to 5, found '9'"),
        ((4, row(2, "do", "_")), 15, "a head from 0 to 5, found '_'"),
        ((4, row(2, "do", 2)), 15, "heads that lead to the root, found 'a circle at word 2'"),
        ((4, row(2, "do", 0)), 13, "one word with head 0, found 2"),
        ((4, row(2, "do", 4, feats="Case")), 15, "features as Name=Value"),
        ((6, row(4, "knew")), 17, "the form 'knew' next in the text, found 'know.'"),
        ((3, "2-9\tdon't\t_\t_\t_\t_\t_\t_\t_\t_"), 14, "a range of words between 1 and 5"),
    ],
)
def test_a_malformed_sentence_is_named_by_its_line_or_skipped(write, change, line, said):
    at, wrong = change
    broken = [wrong if i == at else one for i, one in enumerate(DONT)]
    file = write("a.conllu", text(DONT, broken, DONT))
    with pytest.raises(LoadError, match=rf"a\.conllu, line {line}: expected ") as caught:
        formats.conllu(file)
    assert said in str(caught.value)
    kept = formats.conllu(file, skip_malformed=True)
    assert len(kept) == 2 and kept.dropped == {"malformed records": 1}


def test_a_missing_last_blank_line_and_limit(write):
    file = write("a.conllu", "\ufeff" + text(DONT, DONT).rstrip() + "\n")
    assert len(formats.conllu(file)) == 2 and len(formats.conllu(file, limit=1)) == 1


def test_words_find_their_tokens_also_where_they_share_one(write, gpt2):
    lines = ["# text = Antidisestablishmentarians don't know.", *DONT[2:]]
    lines[1] = row(1, "Antidisestablishmentarians", 4, "nsubj")
    sentences = formats.conllu(write("a.conllu", text(DONT, lines)))
    for padding in ("right", "left"):
        made = formats.word_tokens(sentences, gpt2, padding=padding)
        assert made.tokens.text[0] == ["I", " don", "'t", " know", "."]
        assert made.spans[0].tolist() == [[0, 0], [1, 1], [1, 2], [3, 3], [4, 4]]
        first, last = made.spans[1][0].tolist()
        assert first == 0 and "".join(made.tokens.text[1][: last + 1]) == "Antidisestablishmentarians"
    opened = formats.word_tokens(sentences, gpt2, bos=True)
    assert opened.tokens.text[0][0] == gpt2.bos_token and opened.spans[0][0].tolist() == [1, 1]


def test_sentences_are_a_corpus_with_labels_at_words_last_tokens(write, gpt2):
    words = formats.word_tokens(formats.conllu(write("a.conllu", text(DONT))), gpt2, bos=True, padding="left")
    ((ids, labels),) = words.documents({"Number": ("Plur", "Sing")})
    assert ids == words.tokens.ids[0][words.tokens.mask[0]].tolist()
    pron, other = UNIVERSAL_POS.index("PRON"), UNIVERSAL_POS.index("X")
    # do ends in " don", n't in "'t"
    assert labels == {"pos": [-1, pron, other, other, other, other], "Number": [-1, 1, -1, -1, -1, -1]}
    assert set(words.documents()[0][1]) == {"pos"}


def test_sentences_past_the_context_are_counted(write):
    meadow = cb.load("meadow")
    words = [row(i, "dog", i - 1, "root" if i == 1 else "x") for i in range(1, meadow.context + 2)]
    sentences = formats.conllu(write("a.conllu", text(DONT, words)))
    made = formats.word_tokens(sentences, meadow)
    assert len(made) == 1 and made.dropped == {"longer than the model's context": 1}
    assert made.tokens.ids.shape[0] == 1 and int(made.spans[0].max()) == int(made.tokens.lengths[0]) - 1
    with pytest.raises(TokensError, match="no sentence fits"):
        formats.word_tokens(sentences[1:], meadow)
