"""What programs mean in plain Python, and the errors of those that mean nothing."""

from fractions import Fraction

import pytest

from caseback.organisms.compiled.infer import infer
from caseback.organisms.compiled.interpret import interpret
from caseback.organisms.compiled.language import (
    Aggregate,
    Map,
    ProgramError,
    Select,
    SelectorWidth,
    SequenceMap,
    categorical,
    everything,
    indices,
    numerical,
    tokens,
)

same = lambda key, query: key == query  # noqa: E731
before = Aggregate(Select(indices, indices, lambda key, query: key == query - 1), tokens)
is_a = Map(lambda word: word == "a", tokens)


def test_the_word_before_is_nothing_at_the_first():
    assert interpret(before, list("abc")) == [None, "a", "b"]
    assert interpret(Map(str.upper, before), list("abc")) == [None, "A", "B"]
    assert interpret(numerical(Map(lambda word: 2, before)), list("abc")) == [0, 2, 2]


def test_nothing_selects_nothing_and_is_selected_by_nothing():
    assert interpret(SelectorWidth(Select(before, before, lambda k, q: True)), list("abc")) == [0, 1, 2]
    assert interpret(Aggregate(Select(before, tokens, same, "latest"), tokens, default="no"), list("aba")) == [
        "no",
        "no",
        "b",
    ]


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [("latest", [0, 1, 2, 3]), ("earliest", [0, 0, 0, 0]), ("largest", [0, 0, 2, 2]), ("smallest", [0, 1, 1, 1])],
)
def test_one_of_several_is_preferred(prefer, expected):
    words = list("baca")
    if prefer in ("latest", "earliest"):
        assert interpret(Aggregate(Select(tokens, tokens, lambda k, q: True, prefer), indices), words) == expected
    else:
        fetched = interpret(Aggregate(Select(tokens, tokens, lambda k, q: True, prefer), tokens), words)
        assert fetched == [words[i] for i in expected]


def test_means_are_exact_and_may_count_the_beginning():
    share = Aggregate(everything, numerical(is_a))
    assert interpret(share, list("aba")) == [1, Fraction(1, 2), Fraction(2, 3)]
    assert interpret(Aggregate(everything, numerical(is_a), beginning=True), list("aba")) == [
        Fraction(1, 2), Fraction(1, 3), Fraction(1, 2)
    ]  # fmt: skip
    assert interpret(2 - 3 * share / 2 + share, list("ab")) == [Fraction(3, 2), Fraction(7, 4)]
    assert interpret(categorical(share), list("ab")) == [1, Fraction(1, 2)]


def test_truth_values_combine():
    is_first = Map(lambda i: i == 0, indices)
    assert interpret(is_a & ~is_first, list("aab")) == [False, True, False]
    assert interpret(is_a | is_first, list("bab")) == [True, True, False]


@pytest.mark.parametrize(
    ("program", "values", "optional"),
    [
        (before, ("a", "b"), True),
        (SelectorWidth(Select(tokens, tokens, same)), (1, 2, 3), False),
        (SelectorWidth(Select(tokens, indices, lambda k, q: k == "a")), (0, 1, 2, 3), False),
        (Aggregate(Select(indices, indices, lambda k, q: k == 0), tokens), ("a", "b"), False),
        (Aggregate(Select(indices, tokens, lambda k, q: k == 0), tokens), ("a", "b"), False),
        (Aggregate(Select(indices, tokens, lambda k, q: k == 1), tokens), ("a", "b"), True),
        (
            categorical(Aggregate(everything, numerical(is_a))),
            (0, Fraction(1, 3), Fraction(1, 2), Fraction(2, 3), 1),
            False,
        ),
        (Aggregate(Select(is_a, is_a, lambda k, q: k), is_a, default="none"), (True, False, "none"), False),
    ],
)
def test_values_are_inferred(program, values, optional):
    kind = infer(program, "ab", 3).kinds[program]
    assert (kind.values, kind.optional) == (values, optional)


WRONG = [
    ("no mean", lambda: Aggregate(Select(tokens, tokens, same), indices), "prefer='latest'"),
    ("no mean", lambda: Aggregate(Select(tokens, indices, lambda k, q: True, "largest"), indices).named("x"), "x may select"),
    ("numerical keys", lambda: SelectorWidth(Select(numerical(is_a), tokens, same)), "numerical, expected a categorical"),
    ("numerical pair", lambda: SequenceMap(same, tokens, numerical(is_a)), r"take categorical\(Map\(<lambda>, tokens\)\)"),
    ("predicate", lambda: SelectorWidth(Select(tokens, tokens, lambda k, q: 1)), "gives 1 for key 'a'.*True or False"),
    ("predicate", lambda: SelectorWidth(Select(tokens, tokens, lambda k, q: k < 3)), "undefined on key 'a' and query 'a'"),
    ("function", lambda: Map({"a": 1}.__getitem__, tokens).named("rank"), "rank: its function is undefined on 'b'"),
    ("function", lambda: Map(lambda w: [w], tokens), "undefined on 'a' .TypeError: unhashable"),
    ("nothing", lambda: Map({}.get, tokens).named("x"), "x is always nothing"),
    ("no number", lambda: numerical(tokens), "makes 'a' of 'a', expected a number"),
    ("categorical sum", lambda: tokens + 1, r"tokens is categorical, expected numbers; take numerical\(tokens\)"),
    ("text", lambda: numerical(is_a) + "1.5.2", "'1.5.2' is not a number"),
    ("infinite", lambda: numerical(is_a) * float("inf"), "expected a finite one"),
    ("selector", lambda: Map(str, everything), "Aggregate or SelectorWidth make one"),
    ("selector", lambda: everything, "is not a program"),
    ("no selector", lambda: Aggregate(tokens, tokens), "expected Select"),
    ("preference", lambda: Select(tokens, tokens, same, "last"), "expected one of latest, earliest"),
    ("width", lambda: SelectorWidth(Select(tokens, tokens, same, "latest")), "leave out prefer='latest'"),
    ("no order", lambda: Aggregate(Select(Map(lambda w: 1 if w == "a" else w, tokens), tokens, same, "largest"), tokens), "no order"),
    ("default", lambda: Aggregate(everything, numerical(is_a), default="none"), "expected a number"),
    ("beginning", lambda: Aggregate(everything, tokens, beginning=True), "beginning=True adds a 0"),
    ("too many", lambda: SequenceMap(lambda i, j: 0, pairs(), pairs()), "at most 4096; map x or y to fewer"),
    ("too many", lambda: categorical(Aggregate(everything, numerical(pairs()))), "too many values to list"),
]  # fmt: skip


def pairs():
    spread = SequenceMap(lambda i, j: i * 997 + j * j, indices, SelectorWidth(everything))
    return SequenceMap(lambda x, word: x + 0.1 * (word == "a"), spread, tokens)


@pytest.mark.parametrize(("what", "program", "said"), WRONG, ids=[f"{i}-{w[0]}" for i, w in enumerate(WRONG)])
def test_a_program_that_does_not_type_check_is_refused_by_name(what, program, said):
    with pytest.raises(ProgramError, match=said):
        infer(program(), "ab", 12)


def test_the_oracle_refuses_a_mean_of_words():
    with pytest.raises(ProgramError, match="no mean"):
        interpret(Aggregate(everything, tokens), list("ab"))
