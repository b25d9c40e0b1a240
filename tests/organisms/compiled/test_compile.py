"""Compiled programs compute what the interpreter says, whatever the program, and only along their circuit."""

import doctest
import itertools
import zlib
from pathlib import Path

import pytest
import torch
from answer_book import touching
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import caseback as cb
from caseback.errors import CasebackError, TokensError, UnknownSite
from caseback.organisms.compiled import build, compile_program, names
from caseback.organisms.compiled.edges import ablate_edge
from caseback.organisms.compiled.language import (
    Aggregate,
    Map,
    ProgramError,
    Select,
    SelectorWidth,
    SequenceMap,
    everything,
    indices,
    numerical,
    tokens,
)
from caseback.organisms.compiled.organism import BOS

LENGTH = 4
PROMPTS = [list(words) for words in itertools.product("ab", repeat=LENGTH)]  # a prompt tests its prefixes too


def drawn(salt: int, *values) -> int:
    """A number that looks random and follows from its arguments."""
    return zlib.crc32(repr((salt, *values)).encode())


salts = st.integers(0, 10**6)


@st.composite
def selectors(draw, depth: int, prefer: tuple[str, ...] = ("", "latest", "earliest")):
    salt, rare = draw(salts), draw(st.sampled_from([2, 3]))
    keys, queries = draw(categoricals(depth)), draw(categoricals(depth))
    return Select(keys, queries, lambda k, q: drawn(salt, k, q) % rare == 0, draw(st.sampled_from(prefer)))


@st.composite
def categoricals(draw, depth: int):
    leaf = draw(st.sampled_from(["tokens", "indices"]))
    kind = draw(st.sampled_from(["map", "pair", "fetch", "any", "width", "number", leaf])) if depth else leaf
    salt = draw(salts)
    match kind:
        case "tokens" | "indices":
            return tokens if kind == "tokens" else indices
        case "map":
            return Map(lambda x: (drawn(salt, x) % 4) or None, draw(categoricals(depth - 1)))
        case "pair":
            x, y = draw(categoricals(depth - 1)), draw(categoricals(depth - 1))
            return SequenceMap(lambda x, y: (drawn(salt, x, y) % 4) or None, x, y)
        case "fetch":
            select = draw(selectors(depth - 1, ("latest", "earliest")))
            return Aggregate(select, draw(categoricals(depth - 1)), default=draw(st.sampled_from([None, "x", 1])))
        case "any":
            shown = Map(lambda x: drawn(salt, x) % 3, draw(categoricals(depth - 1)))
            prefer = draw(st.sampled_from(["largest", "smallest"]))
            return Aggregate(Select(shown, tokens, lambda k, q: drawn(salt, k, q) % 3 > 0, prefer), shown)
        case "width":
            return SelectorWidth(draw(selectors(depth - 1, ("",))))
        case _:
            return Map(lambda x: (drawn(salt, x) % 3) or None, draw(numericals(depth - 1)))


@st.composite
def numericals(draw, depth: int):
    salt = draw(salts)
    kind = draw(st.sampled_from(["map", "mean", "all", "sum"])) if depth else "map"
    match kind:
        case "map":
            return numerical(Map(lambda x: drawn(salt, x) % 3 - 1, draw(categoricals(max(0, depth - 1)))))
        case "mean":
            select, beginning = draw(selectors(depth - 1, ("",))), draw(st.booleans())
            return Aggregate(select, draw(numericals(depth - 1)), beginning=beginning)
        case "all":
            return Aggregate(everything, draw(numericals(depth - 1)), beginning=draw(st.booleans()))
        case _:
            return draw(numericals(depth - 1)) * draw(st.sampled_from([-1, 0.5, 2])) - draw(numericals(depth - 1)) + 1


@given(categoricals(3))
@settings(max_examples=60)
def test_a_random_program_computes_what_it_means(program):
    try:
        organism = compile_program(program, alphabet="ab", max_length=LENGTH)
    except ProgramError as error:
        assume(not any(limit in str(error) for limit in ("too close", "too many values", "is always nothing")))
        raise
    for prompt, said in zip(PROMPTS, organism.predict(PROMPTS), strict=True):
        expected = organism.function(prompt)
        assert [want is None or want == got for want, got in zip(expected, said, strict=True)] == [True] * LENGTH, (
            prompt
        )
    assert touching(organism.model) <= organism.circuit.edges


previous = Aggregate(Select(indices, indices, lambda k, q: k == q - 1), tokens).named("previous token")


def test_components_come_as_early_as_they_can_and_side_by_side():
    after = Aggregate(Select(indices, indices, lambda k, q: k == q - 2), tokens).named("the one before that")
    both = SequenceMap(lambda x, y: x + y, previous, after).named("pair")
    circuit = compile_program(both, alphabet="ab", max_length=5).circuit
    assert {str(node): role for node, role in circuit.roles.items()} == {
        "L0H0": "previous token", "L0H1": "the one before that", "MLP 0": "pair"
    }  # fmt: skip
    assert circuit == cb.Circuit.of(
        *(f"{source} -> L0H{h}.{slot}" for h in (0, 1) for source, slot in (("pos_embed", "q"), ("pos_embed", "k"), ("embed", "v"))),
        "L0H0 -> MLP 0", "L0H1 -> MLP 0", "MLP 0 -> logits",
    )  # fmt: skip


def test_attention_is_hard_to_the_precision_of_float64():
    for name in ("induction", "count", "fraction", "bracket_pairs"):
        organism = build(name, max_length=8, dtype=torch.float64)
        prompts = [[organism.inputs[drawn(i, j) % len(organism.inputs)] for j in range(8)] for i in range(50)]
        pattern = organism.model.run(organism.tokens(prompts), read=["pattern"])["pattern"]
        chosen = pattern > 1e-12
        torch.testing.assert_close(pattern, chosen.double() / chosen.sum(-1, keepdim=True), rtol=0, atol=1e-12)


def test_a_variable_lies_where_the_answer_book_says():
    organism = build("induction", alphabet="abc", max_length=6, dtype=torch.float64)
    words = list("cabcab")
    run = organism.model.run(organism.tokens([words]), read=["embed", "head_out", "resid_mid", "resid_pre"])
    seen = set()
    for variable in organism.variables:
        assert variable.basis.shape[0] == len(variable.values or [0])
        torch.testing.assert_close(variable.basis @ variable.basis.T, torch.eye(len(variable.basis)).double())
        if variable.name in ("previous token", "tokens"):
            held = run[variable.site.name, variable.site.layer][0]
            held = (held if variable.head is None else held[:, variable.head]) @ variable.basis.T
            expected = words if variable.name == "tokens" else [None, *words[:-1]]
            want = [[float(value == word) for value in variable.values] for word in expected]
            torch.testing.assert_close(held[1:], torch.tensor(want).double())
            seen.add((variable.name, str(variable.site)))
    assert seen == {
        ("tokens", "embed"), ("tokens", "resid_pre.0"), ("previous token", "head_out.0"), ("previous token", "resid_mid.0")
    }  # fmt: skip


def test_what_is_saved_loads_with_the_same_logits(tmp_path):
    organism = build("recall")
    organism.model.hf.save_pretrained(tmp_path)
    organism.model.tokenizer.save_pretrained(tmp_path)
    loaded, text = cb.load(tmp_path), "p b q d q"
    assert torch.equal(loaded.run(text).logits, organism.model.run(text).logits)
    assert loaded.tokens(text).ids.tolist() == organism.ids([text.split()]).tolist()
    with pytest.raises(TokensError, match="token id 9"):
        loaded.tokens("p z q")


def test_a_sort_is_generated():
    organism = build("sort")
    generated = organism.model.generate("d a g b d >", max_new_tokens=4)
    assert organism.model.text(generated) == ["d a g b d > a b d g"]


def test_prompts_that_an_organism_was_not_written_for_are_refused():
    organism = build("count", alphabet="ab", max_length=12)
    model = organism.model
    with pytest.raises(TokensError, match="'z' is not a word of this model"):
        model.tokens("a z b")
    with pytest.raises(TokensError, match="13"):
        model.tokens("a " * 13)
    with pytest.raises(cb.model.running.tokens.TargetError, match="'z'"):
        cb.logit("z")(model.run("a b"))
    assert model.token_id("b") == 2
    with pytest.raises(CasebackError, match="does not know the word 'z'.*a b"):
        organism.predict([["a", "z"]])
    with pytest.raises(CasebackError, match="13 words: count was written for 1 to 12"):
        organism.predict([["a"] * 13])
    with pytest.raises(CasebackError, match="prompts of 1 and 2 words: .*one length"):
        organism.predict([["a"], ["a", "b"]])
    with pytest.raises(CasebackError, match="of no words"):
        organism.predict([])


@pytest.mark.parametrize(
    ("program", "sizes", "said"),
    [
        (numerical(Map(lambda w: 1, tokens)), {}, r"compile categorical\("),
        (Map(lambda w: 1 if w == "a" else "1", tokens), {}, "two of its values .* are the same word"),
        (Map(lambda w: "two words", tokens), {}, "cannot be a word"),
        (tokens, {"alphabet": "aa"}, "expected distinct words"),
        (tokens, {"alphabet": ("a", BOS)}, "cannot be a word"),
        (tokens, {"max_length": 0}, "a length of 1 or more"),
        (SelectorWidth(everything), {"max_length": 100}, "too close to be told apart in float32; shorten max_length"),
    ],
)
def test_what_cannot_be_compiled_is_refused(program, sizes, said):
    with pytest.raises(CasebackError, match=said):
        compile_program(program, **{"alphabet": "ab", "max_length": 4, **sizes})


def test_unknown_names_and_sizes_are_refused():
    assert {"induction", "recall", "brackets"} <= set(names())
    with pytest.raises(CasebackError, match="Did you mean induction"):
        build("inducton")
    with pytest.raises(CasebackError, match="of='z' is not in the alphabet"):
        build("fraction", of="z")


def test_an_edge_is_cut_to_zero_to_a_mean_or_to_another_run():
    organism = build("previous_token", alphabet="ab", max_length=4, dtype=torch.float64)
    model, clean, corrupt = organism.model, organism.tokens([list("abab")]), organism.tokens([list("bbaa")])
    other = model.run(corrupt, read=["embed", "head_out"])
    last = lambda logits: logits[0, -1, 1:].tolist()  # noqa: E731
    torch.testing.assert_close(ablate_edge(model, clean, "L0H0 -> logits", other), other.logits)
    torch.testing.assert_close(ablate_edge(model, clean, "embed -> L0H0.v", other), other.logits)
    assert last(ablate_edge(model, clean, "L0H0 -> logits")) == [0, 0]
    # the head writes nothing but what stands before: <bos> twice (it attends to itself), a, b, a
    torch.testing.assert_close(last(ablate_edge(model, clean, "L0H0 -> logits", "mean")), [4.0, 2.0])


def test_the_page_on_compiled_organisms_says_what_happens():
    page = Path(__file__).parents[3] / "docs" / "organisms_compiled.md"
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert (failed, tried > 20) == (0, True)


@pytest.mark.parametrize(
    ("edge", "value", "said", "error"),
    [
        ("embed -> MLP 0 N0", "zero", "whole components", CasebackError),
        ("embed@1 -> logits", "zero", "whole components", CasebackError),
        ("embed -> logits", "average", "expected 'zero', 'mean' or a run", CasebackError),
        ("embed -> L7H0.q", "zero", "layer 7", UnknownSite),
    ],
)
def test_an_edge_that_cannot_be_cut_is_refused(edge, value, said, error):
    organism = build("previous_token", alphabet="ab", max_length=4)
    with pytest.raises(error, match=said):
        ablate_edge(organism.model, organism.tokens([list("ab")]), edge, value)
