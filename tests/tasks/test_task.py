"""Drawing from fillers: which are left out, how many there are, the same by the same seed."""

import random

import pytest

import caseback as cb
import shelf
from caseback.errors import CasebackError, TokensError
from caseback.tasks import Pair, Task
from caseback.tasks.task import another


def of_words(words, **options):
    """A task with as many examples as there are ordered pairs of words."""

    def draw(rng, fillers):
        one, other = rng.sample(list(fillers["words"]), 2)
        return Pair.of(f"So {one} is", f"So {other} is", " here", " there")

    return Task("toy", "Words.", draw, {"words": words}, **options)


def test_fillers_of_several_tokens_are_left_out_and_counted(meadow):
    made = of_words(["Mary", "John", "Anna", "Xanthippe", "Zoroaster"]).prompts(meadow, 6)
    assert {pair.clean.text for pair in made.pairs} == {f"So {name} is" for name in ("Mary", "John", "Anna")}
    assert made.dropped["words that are not one token (Xanthippe, Zoroaster)"] == 2


def test_free_lists_are_left_to_alignment(meadow):
    made = of_words(["Mary", "John", "Xanthippe", "Zoroaster"], free=("words",)).prompts(meadow, 2)
    assert made.dropped["clean and corrupt differ in length"] > 0
    assert not any("not one token" in reason for reason in made.dropped)


def test_too_few_fillers_names_them_and_what_to_do(meadow):
    task = of_words(["Mary", "Xanthippe", "Zoroaster"], needs={"words": 2})
    with pytest.raises(
        TokensError,
        match=r"toy: only 1 of 3 words are one token .*Xanthippe, Zoroaster are not.* 2 are needed.*with_fillers\(words=",
    ):
        task.prompts(meadow, 1)
    with pytest.raises(
        TokensError, match=r"names are one token .* 5 are needed: give others, as in with_fillers\(names="
    ):
        cb.tasks.ioi().with_fillers(names=["Mary", "John", "Tom", "Anna", "Xanthippe"]).prompts(meadow, 1)
    with pytest.raises(TokensError, match="ioi: 1 names were given, 5 are needed"):
        cb.tasks.ioi().with_fillers(names=["Mary"]).prompts(meadow, 1)


def test_more_examples_than_there_are(meadow):
    task = of_words(["Mary", "John", "Anna"])
    assert len(task.prompts(meadow, 6)) == 6
    with pytest.raises(TokensError, match=r"toy: only 6 of 7 distinct examples .*no more distinct ones.*ask for fewer"):
        task.prompts(meadow, 7)


def test_longer_than_the_context(meadow):
    with pytest.raises(TokensError, match="longer than the model's context"):
        cb.tasks.needle(length=meadow.context + 60).prompts(meadow, 1)


def test_counts_and_names_that_are_wrong(meadow):
    with pytest.raises(CasebackError, match="0 examples asked for"):
        cb.tasks.ioi().prompts(meadow, 0)
    with pytest.raises(CasebackError, match="no task is called 'iio'. Did you mean ioi"):
        cb.tasks.get("iio")
    with pytest.raises(AttributeError, match="'iio': the tasks are .*ioi"):
        cb.tasks.iio  # noqa: B018
    with pytest.raises(CasebackError, match="ioi has no fillers 'name'. Did you mean names"):
        cb.tasks.ioi().with_fillers(name=["Mary"])
    with pytest.raises(CasebackError, match=r"people: expected 2 words that go together, as in .*, got 'king'"):
        cb.tasks.agreement().with_fillers(people=["king"])
    with pytest.raises(CasebackError, match="measure 'kl' is unknown"):
        of_words(["Mary"], measure="kl")


def test_other_words(meadow):
    made = cb.tasks.ioi().with_fillers(places=["zoo"]).prompts(meadow, 10)
    assert all("the zoo" in pair.clean.text for pair in made.pairs)


def test_same_seed_same_examples(meadow):
    ioi = cb.tasks.ioi()
    one, again, other = (ioi.prompts(meadow, 20, seed=seed) for seed in (1, 1, 2))
    assert one.pairs == again.pairs
    assert one.pairs != other.pairs
    # fewer of them are the first of them
    assert ioi.prompts(meadow, 20, seed=1)[:5].pairs == one.pairs[:5]


def test_a_task_of_text_needs_a_tokenizer():
    with pytest.raises(TokensError, match="made of text: give a tokenizer"):
        cb.tasks.ioi().prompts(shelf.model("gpt2"), 1)


def test_a_task_of_ids_does_not():
    tiny = shelf.model("gpt2")
    made = cb.tasks.induction(length=10).prompts(tiny, 30)
    assert int(made.clean.ids.max()) < tiny.d_vocab
    assert made.metric(tiny.run(made.clean)).shape == (30,)
    with pytest.raises(TokensError, match=r"different tokens are needed, the vocabulary has .*shorter span"):
        cb.tasks.induction(length=tiny.d_vocab).prompts(tiny, 1)


def test_another():
    assert another(random.Random(0), ["a", "b", "c"], "a", "c") == "b"
    with pytest.raises(TokensError, match="no filler is left besides a, b"):
        another(random.Random(0), ["a", "b"], "a", "b")


def test_no_file_hides_a_task():
    """A module of a task's name would take the place of its function in the package."""
    from pkgutil import iter_modules

    assert not {module.name for module in iter_modules(cb.tasks.__path__)} & set(cb.tasks.names())
    for name in cb.tasks.names():
        assert getattr(cb.tasks, name)().name == name
        assert name in dir(cb.tasks)
