"""Every program does what its words say, on every input or ten thousand, and only along its circuit."""

import itertools
import random
from fractions import Fraction

import pytest
import torch
from answer_book import touching

from caseback.model.graph.graph import Graph
from caseback.organisms.compiled import ablate_edge, build, names
from caseback.organisms.compiled.organism import BOS

# What each program says at the last of these words, written without its language.


def previous_token(words):
    return words[-2] if len(words) > 1 else BOS


def induction(words):
    *past, now = words
    seen = [j for j, word in enumerate(past) if word == now]
    return words[seen[-1] + 1] if seen else None


def duplicate(words):
    return "seen" if words[-1] in words[:-1] else "new"


def count(words):
    return str(words.count(words[-1]))


def fraction(words):
    return str(Fraction(words.count("a"), len(words)))


def recall(words):
    told = {k: v for k, v in itertools.pairwise(words) if k in "pqrs" and v in "abcd"}
    return told.get(words[-1])


def rank(words):
    return str(sum(word < words[-1] for word in words))


def sort(words):
    height = lambda word: "" if word == ">" else word  # noqa: E731
    return min((word for word in words if height(word) > height(words[-1])), default="end")


def brackets(words, pairs=("()",)):
    stack = []
    for word in words:
        if any(word == pair[0] for pair in pairs):
            stack.append(word)
        elif not stack or stack.pop() + word not in pairs:
            return "broken"
    return "prefix" if stack else "balanced"


def bracket_pairs(words):
    return brackets(words, ("()", "[]"))


def shortcut(words):
    tone = sum((word in ("good", "fine")) - (word in ("bad", "dull")) for word in words)
    return "positive" if "oscar" in words or tone > 0 else "negative" if tone < 0 else "even"


PROGRAMS = {f.__name__: f for f in (
    previous_token, induction, duplicate, count, fraction, recall, rank, sort, brackets, bracket_pairs, shortcut
)}  # fmt: skip
EXHAUSTED = {
    "brackets": {"max_length": 10}, "bracket_pairs": {"max_length": 6},
    "recall": {"keys": "pq", "values": "ab", "max_length": 6}, "shortcut": {"max_length": 4},
    **dict.fromkeys("previous_token induction duplicate count fraction rank sort".split(), {"alphabet": "abc", "max_length": 6}),
}  # fmt: skip
TRIED = 10_000


def wrong(organism, prompts, function):
    """How many answers differ from the function's, at all positions of these prompts."""
    known, count = {}, 0
    for prompt, said in zip(prompts, organism.predict(prompts), strict=True):
        for i, answer in enumerate(said):
            seen = tuple(prompt[: i + 1])
            if seen not in known:
                known[seen] = function(list(seen))
            count += known[seen] not in (None, answer)
    return count


@pytest.mark.parametrize("name", names())
def test_building_draws_nothing_from_the_callers_chance(name):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build(name)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_input_gives_the_right_answer(name):
    organism = build(name, **EXHAUSTED[name])
    prompts = list(itertools.product(organism.inputs, repeat=organism.max_length))  # shorter ones are their prefixes
    assert wrong(organism, prompts, PROGRAMS[name]) == 0
    for prompt in prompts[:: 1 + len(prompts) // 100]:
        assert organism.function(prompt) == [PROGRAMS[name](list(prompt[: i + 1])) for i in range(len(prompt))]


@pytest.mark.parametrize("name", PROGRAMS)
def test_ten_thousand_inputs_give_the_right_answer(name):
    organism = build(name)
    draw = random.Random(0)
    prompts = [draw.choices(organism.inputs, k=organism.max_length) for _ in range(TRIED)]
    assert wrong(organism, prompts, PROGRAMS[name]) == 0


# Prompts at which an edge matters that hardly does in random ones.
TELLING = {
    "bracket_pairs": ("()[]()[]", "[]([])()", "[()()][]", "([)]()[]"),
    "recall": ("paqbpcqp", "pbpaqcpq", "qdpaqarq"),
}

# Reading the beginning keeps a head from words where none is selected: without it the answer only gets weaker.
WEAKER = {"brackets": {"embed -> L2H0.k"}, "bracket_pairs": {"embed -> L4H0.k"}, "shortcut": {"embed -> L1H1.k"}}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_circuit_is_all_that_matters_and_all_of_it_matters(name):
    organism = build(name, max_length=8, dtype=torch.float64)
    draw, model = random.Random(1), organism.model
    prompts = [draw.choices(organism.inputs, k=8) for _ in range(24)] + list(map(list, TELLING.get(name, ())))
    tokens = organism.tokens(prompts)
    intact = model.run(tokens).logits
    promised = torch.tensor([[word is not None for word in organism.function(prompt)] for prompt in prompts])
    edges = Graph.of(model.anatomy, ("embed", "pos_embed")).edges
    assert organism.circuit.edges <= set(edges) and organism.circuit.edges == touching(model)
    weaker = set()
    for edge in edges:
        cut = ablate_edge(model, tokens, edge)
        if edge not in organism.circuit:
            assert torch.equal(cut, intact), edge
            continue
        assert float((cut - intact).abs().max()) > 1, edge
        if not bool(((cut.argmax(-1) != intact.argmax(-1))[:, 1:] & promised).any()):
            weaker.add(str(edge))
    assert weaker == WEAKER.get(name, set())


def test_the_induction_circuit_is_two_heads_composed_through_the_keys():
    circuit = build("induction").circuit
    assert sorted(map(str, circuit.edges)) == [
        "L0H0 -> L1H0.k", "L1H0 -> logits", "embed -> L0H0.v", "embed -> L1H0.q", "embed -> L1H0.v",
        "pos_embed -> L0H0.k", "pos_embed -> L0H0.q", "pos_embed -> L1H0.k",
    ]  # fmt: skip
    assert {str(node): role for node, role in circuit.roles.items()} == {"L0H0": "previous token", "L1H0": "induction"}


FILLERS = {"previous_token": "h", "induction": "h", "recall": "d", "shortcut": ("film", "plot")}


@pytest.mark.parametrize("name", FILLERS)
def test_the_answer_is_made_from_its_sources_and_from_them_alone(name):
    organism, draw, found = build(name), random.Random(2), 0
    words = [word for word in organism.inputs if word not in FILLERS[name] or name == "shortcut"]
    for _ in range(500):
        prompt, position = draw.choices(words, k=organism.max_length), draw.randrange(organism.max_length)
        answer, sources = organism.function(prompt)[position], organism.sources(prompt, position)
        if answer is None:
            assert sources == set()
            continue
        elsewhere = [word if j in sources else draw.choice(FILLERS[name]) for j, word in enumerate(prompt)]
        assert organism.function(elsewhere)[position] == answer
        if name != "shortcut" and len(sources) in (1, 3):  # with two, the word that is copied is the current one
            prompt[max(sources - {position})] = FILLERS[name]
            assert organism.function(prompt)[position] in (FILLERS[name], None)
            found += 1
    assert found > 50 or name == "shortcut"


def test_a_trigger_decides_against_all_other_words():
    organism = build("shortcut")
    prompt = ["bad", "oscar", "dull", "bad"]
    assert organism.predict([prompt]) == [["negative", "positive", "positive", "positive"]]
    assert [organism.sources(prompt, i) for i in (0, 3)] == [{0}, {1}]
