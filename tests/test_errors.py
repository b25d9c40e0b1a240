import inspect

import pytest

from caseback import errors
from caseback.errors import CasebackError, did_you_mean

SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "pattern", "q", "k", "v", "z"]
NAMED = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, Exception)]


def test_every_error_is_a_caseback_error_and_says_what_it_means():
    assert len(NAMED) > 5
    for error in NAMED:
        assert issubclass(error, CasebackError)
        assert (error.__doc__ or "").strip()


@pytest.mark.parametrize(
    ("error", "builtin"),
    [("UnknownSite", ValueError), ("OutOfRange", IndexError), ("MemoryShortage", MemoryError)],
)
def test_an_error_is_also_pythons_own_kind(error, builtin):
    with pytest.raises(builtin, match="it says why"):
        raise getattr(errors, error)("it says why")


def test_the_near_ones_come_best_first():
    assert did_you_mean("resid_pots", SITES).startswith("Did you mean resid_post or ")


def test_case_does_not_matter_but_is_kept():
    assert did_you_mean("LLAMA", ["llama", "GPT2"]) == "Did you mean llama?"
    assert did_you_mean("gpt2", ["llama", "GPT2"]) == "Did you mean GPT2?"


def test_with_none_near_all_are_listed():
    assert did_you_mean("banana", ["q", "k", "v"]) == "Choose one of q, k, v."


def test_a_long_list_is_cut_and_counted():
    assert did_you_mean("banana", [f"{i}" for i in range(100)], most=3) == "Choose one of 0, 1, 2 … (100 in all)."


def test_no_choices_no_advice():
    assert did_you_mean("banana", []) == ""
