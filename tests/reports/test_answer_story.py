"""An answer's story is the stories of its tokens, each after all before it; a message goes through the chat template."""

import json

import pytest

import caseback as cb
from caseback.errors import CasebackError, TokensError
from caseback.reports.explain import explain
from caseback.reports.story.answer import answer_stories
from caseback.reports.story.several import stories
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.stories import answer_rows, print_stories

PROMPT = "When Mary and John went to the store, John gave a drink to"
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def document(meadow):
    return answer_stories(meadow, PROMPT, max_new_tokens=2)


def test_each_row_is_the_story_of_its_prefix(document, meadow):
    ids = meadow.tokens(PROMPT).ids[0].tolist()
    written = meadow.generate(PROMPT, max_new_tokens=2).ids[0].tolist()[len(ids) :]
    assert [row["target"]["id"] for row in document["rows"]] == written
    for t, row in enumerate(document["rows"]):
        alone = stories(meadow, [ids + written[:t]], targets=[written[t]])["rows"][0]
        # as the padding of a longer text may round otherwise
        for part, other in zip(row["parts"], alone["parts"], strict=True):
            assert part["name"] == other["name"] and part["share"] == pytest.approx(other["share"], abs=1e-4)
        assert row["changes"] == alone["changes"] and row["foil"] == alone["foil"]
        assert row["prob"] == pytest.approx(alone["prob"], abs=1e-5)


def test_a_given_answer_is_told_as_a_written_one(document, meadow):
    given = answer_stories(meadow, PROMPT, document["answer"]["text"])
    assert given["answer"] == document["answer"] and given["rows"] == document["rows"]


def test_the_first_token_hangs_on_the_name_and_words_of_the_answer_are_marked(document):
    first = answer_rows(document)[0]
    assert first[0] == "␣Mary" and first[3].startswith("␣Mary +")
    word = document["rows"][0]["words"][0]
    late = json.loads(json.dumps(document))
    late["rows"][1]["words"] = [{**word, "pos": document["answer"]["start"]}]
    assert "␣Mary (answer)" in answer_rows(late)[1][3]


def test_it_is_drawn(document, capsys):
    page = page_html(json.loads(json.dumps(document, allow_nan=False)))
    assert "What does each token hang on in" in page and "Token by token" in page
    print_stories(document)
    assert "hangs on" in capsys.readouterr().out


def test_a_message_is_explained_as_the_template_writes_it(meadow):
    model = cb.load("meadow")
    model.tokenizer.chat_template = TEMPLATE
    message = [{"role": "user", "content": "Mary went to the"}]
    text = "user: Mary went to the\n"
    assert (
        explain(model, message, depth="quick")["tokens"]
        == explain(meadow, meadow.tokenizer(text, add_special_tokens=False)["input_ids"], depth="quick")["tokens"]
    )
    document = answer_stories(model, message, max_new_tokens=1)
    assert document["answer"]["prompt"] == text and len(document["rows"]) == 1


def test_bad_input_is_refused(meadow):
    with pytest.raises(TokensError, match="of one"):
        answer_stories(meadow, [PROMPT, PROMPT])
    with pytest.raises(TokensError, match="does not follow|no continuation|one token"):
        answer_stories(meadow, PROMPT, "")
    with pytest.raises(CasebackError, match="no story"):
        answer_stories(meadow, PROMPT, " Mary", depth="none")
