"""Marks that follow from what a test uses, and the options that run a part of the suite."""

import subprocess
import sys
from pathlib import Path

import pytest

import shelf
from tiers import wanted_families

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("case", "marked"), [("gpt2", True), (("llama", 3), True), ("no family", False), (7, False)])
def test_a_parameter_that_is_a_family_marks_the_test(case, marked, request):
    assert (request.node.get_closest_marker("families") is not None) == marked


def test_the_assets_mark_the_test(assets, request):
    assert request.node.get_closest_marker("real")


def test_without_the_assets_there_is_no_mark(request):
    assert not request.node.get_closest_marker("real") and not request.node.get_closest_marker("families")


def test_families_are_chosen_by_name_or_a_few():
    assert wanted_families(None) is None
    assert wanted_families("gpt2,llama") == {"gpt2", "llama"}
    assert wanted_families("few") == set(shelf.FEW)
    with pytest.raises(pytest.UsageError, match="the zoo has no no_such"):
        wanted_families("gpt2,no_such")


@pytest.mark.slow
@pytest.mark.parametrize(("within", "outcome"), [("60", "3 passed, 1 deselected"), ("0", "3 skipped, 1 deselected")])
def test_a_part_of_the_suite(within, outcome):
    tests = f"{__file__}::{test_a_parameter_that_is_a_family_marks_the_test.__name__}"
    options = ["-q", "-p", "no:cacheprovider", "--families", "gpt2", "--within", within, tests]
    ran = subprocess.run([sys.executable, "-m", "pytest", *options], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0 and outcome in ran.stdout, ran.stdout + ran.stderr
