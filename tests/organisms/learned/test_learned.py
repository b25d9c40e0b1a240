"""Learned programs: relaxed parts mean what hard ones do, what is learned is what was asked, and nothing is invented."""

import itertools
from zlib import crc32

import pytest
import torch

from caseback.errors import CasebackError, OutOfRange
from caseback.organisms.compiled import build, language
from caseback.organisms.compiled.interpret import interpret
from caseback.organisms.learned import learn_program
from caseback.organisms.learned.program import NOTHING, as_program, parts, source
from caseback.organisms.learned.relaxed import Shape, answers, draw, hardened, sampled, variables

LETTERS = "abc"
SHAPE = Shape(layers=2, heads=2, counters=1, lookups=2, codes=7, words=3)


def prompts(n=40, length=5, seed=0):
    return torch.randint(len(LETTERS), (n, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(8))
def test_hard_choices_and_the_program_that_is_written_of_them_answer_alike(seed):
    hard = hardened(draw(SHAPE, 1, torch.Generator().manual_seed(seed)))
    ids = prompts(seed=seed)
    program = as_program(SHAPE, hard, ids, torch.ones_like(ids, dtype=torch.bool), LETTERS, ("x", "y", "z"))
    wanted = answers(SHAPE, hard, ids)[0].argmax(-1)
    for row, right in zip(ids.tolist(), wanted.tolist(), strict=True):
        assert [str(word) for word in interpret(program, [LETTERS[i] for i in row])] == ["xyz"[i] for i in right]


@pytest.mark.parametrize("seed", range(4))
def test_the_source_makes_the_same_program(seed):
    hard = hardened(draw(SHAPE, 1, torch.Generator().manual_seed(seed)))
    ids = prompts(seed=seed)
    program = as_program(SHAPE, hard, ids, torch.ones_like(ids, dtype=torch.bool), LETTERS, ("x", "y", "z"))
    names = dict(vars(language))
    exec(source(program), names)
    again = names[parts(program)[-1].name] if parts(program) else program
    for row in ids.tolist():
        words = [LETTERS[i] for i in row]
        assert interpret(program, words) == interpret(again, words)


def test_a_relaxed_head_is_the_latest_of_independent_matches():
    """Every pattern of matches, with its probability, gives the same as the closed form."""
    shape = Shape(layers=1, heads=1, counters=0, lookups=0, codes=6, words=2)
    generator = torch.Generator().manual_seed(3)
    choices = {name: x.double() for name, x in sampled(draw(shape, 1, generator), 1.0, generator).items()}
    choices |= {f"head.0.{side}": torch.tensor([[[1.0, 0.0]]]).double() for side in ("query", "key")}
    choices["head.0.value"] = torch.tensor([[[0.0, 1.0]]]).double()
    ids = torch.tensor([[0, 2, 1, 0]])
    fetched = variables(shape, choices, ids)[0, 2, 0]
    match = choices["head.0.match"][0, 0][1:, 1:]
    for i in range(4):
        p = match[ids[0, i], ids[0, : i + 1]]
        wanted = torch.zeros(6).double()
        for pattern in itertools.product([False, True], repeat=i + 1):
            weight = torch.stack([q if on else 1 - q for q, on in zip(p, pattern, strict=True)]).prod()
            latest = max((j for j, on in enumerate(pattern) if on), default=None)
            wanted[0 if latest is None else latest + 1] += weight
        torch.testing.assert_close(fetched[i], wanted, atol=1e-12, rtol=0)


def test_relaxed_answers_have_the_gradients_of_finite_differences():
    shape = Shape(layers=1, heads=1, counters=1, lookups=1, codes=4, words=2)
    generator = torch.Generator().manual_seed(1)
    choices = {name: x.double() for name, x in sampled(draw(shape, 1, generator), 1.0, generator).items()}
    names = [*choices]
    ids = torch.tensor([[0, 1, 0]])

    def loss(*given):
        return answers(shape, dict(zip(names, given, strict=True)), ids).log_softmax(-1)[..., 0].sum()

    assert torch.autograd.gradcheck(loss, [choices[name].requires_grad_() for name in names], atol=1e-6)


def test_induction_is_learned_as_it_is_compiled():
    task = build("induction", alphabet="abcd", max_length=8)
    learned = learn_program(task.function, "abcd", 8, counters=0)
    assert learned.accuracy == 1 > learned.chance + 0.5
    assert learned.compile().circuit.edges == task.circuit.edges
    assert "key == query - 1" in learned.source and "key == query," in learned.source


@pytest.mark.parametrize("name", ["count", "duplicate", "previous_token"])
def test_a_task_of_one_layer_is_learned_and_its_model_answers(name):
    task = build(name, alphabet="abc", max_length=6)
    learned = learn_program(task.function, "abc", 6, layers=1)
    assert learned.accuracy == 1 > learned.chance
    words = [list("abcaba"), list("ccbbaa")]
    for row, given in zip(words, learned.compile().predict(words), strict=True):
        assert [a for a, b in zip(given, task.function(row), strict=True) if b is not None] == [
            b for b in task.function(row) if b is not None
        ]


def test_the_script_compiles_the_program():
    task = build("count", alphabet="ab", max_length=4)
    learned = learn_program(task.function, "ab", 4, layers=1, heads=0, restarts=8)
    names = {}
    exec(learned.script, names)
    assert names["organism"].predict([list("abaa")]) == learned.compile().predict([list("abaa")])


def test_answers_without_a_rule_are_not_learned():
    """On prompts it never saw, a program of random answers is no better than the word alone."""

    def random(words):
        return ["xy"[crc32("".join(words[: i + 1]).encode()) // 7 % 2] for i in range(len(words))]

    learned = learn_program(random, "abcd", 10, layers=1, restarts=8, rounds=2, steps=60)
    assert learned.accuracy < 0.65


def test_the_same_seed_learns_the_same():
    def count(words):
        return [str(words[: i + 1].count(word)) for i, word in enumerate(words)]

    one, two = (learn_program(count, "ab", 4, layers=1, heads=1, restarts=4, rounds=1, steps=30) for _ in range(2))
    assert one.source == two.source and one.rounds == two.rounds


def test_nothing_selects_nothing():
    """A head that reads a head without a match has none either."""
    hard = hardened(draw(SHAPE, 1, torch.Generator().manual_seed(2)))
    hard = {name: x.clone() for name, x in hard.items()}
    for layer in (0, 1):
        hard[f"head.{layer}.match"][..., :, :] = 0
        hard[f"head.{layer}.match"][..., 0, 0] = 1
    x = variables(SHAPE, hard, prompts())[0]
    assert bool((x[2:4].argmax(-1) == 0).all())
    assert NOTHING == "nothing"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"layers": 0}, OutOfRange, "layers=0"),
        ({"heads": 0, "counters": 0}, OutOfRange, "some part"),
        ({"restarts": 2}, OutOfRange, "restarts=2"),
        ({"alphabet": "a"}, CasebackError, "two words or more"),
        ({"alphabet": "aa"}, CasebackError, "each once"),
        ({"function": lambda words: ["x"] * len(words)}, CasebackError, "nothing is to be learned"),
        ({"function": lambda words: [None] * len(words)}, CasebackError, "nothing is to be learned"),
        ({"function": lambda words: ["x"]}, CasebackError, "1 answers to 4 words"),
    ],
)
def test_what_cannot_be_learned_says_why(given, error, words):
    asked = {"function": lambda row: row, "alphabet": "ab", "max_length": 4, "prompts": 8} | given
    with pytest.raises(error, match=words):
        learn_program(**asked)
