"""Quadratures: degrees of exactness, and panels that are halved where they miss."""

import numpy as np
import pytest
import torch

from caseback.localize.inputs.gradients.quadrature import FEWEST, RULES, Panels


def refine(panels, derivative, function):
    """Evaluate until nothing is wanted; how often each node was."""
    asked = []
    while nodes := panels.wanted():
        asked += nodes
        for a in nodes:
            panels.put(a, torch.tensor([derivative(a)], dtype=torch.float64), function(a))
    return asked


@pytest.mark.parametrize(
    ("rule", "degree"), [("gauss_legendre", 11), ("riemann_middle", 1), ("trapezoid", 1), ("riemann_left", 0)]
)
def test_rules_integrate_polynomials_up_to_their_degree(rule, degree):
    at, weight = RULES[rule](6)
    assert len(at) == len(weight) == 6 and (at >= 0).all() and (at <= 1).all()
    for d in range(degree + 1):
        assert abs((weight * at**d).sum() - 1 / (d + 1)) < 1e-14
    assert abs((weight * at ** (degree + 1)).sum() - 1 / (degree + 2)) > 1e-14


def test_left_and_right_sums_are_a_node_apart():
    (left, _), (right, weight) = RULES["riemann_left"](4), RULES["riemann_right"](4)
    assert left.tolist() == [0, 0.25, 0.5, 0.75] and right.tolist() == [0.25, 0.5, 0.75, 1]
    assert weight.tolist() == [0.25] * 4


@pytest.mark.parametrize("degree", range(6))
def test_panels_are_exact_for_polynomials_of_degree_5_from_the_start(degree):
    panels = Panels(1e-13, 100)
    asked = refine(panels, lambda a: (degree + 1) * a**degree, lambda a: a ** (degree + 1))
    assert len(asked) == FEWEST and abs(float(panels.integral()[0]) - 1) < 1e-13


def test_panels_compute_no_node_twice_and_gather_where_the_integrand_is_steep():
    width = 1e-4
    panels = Panels(1e-6, 2000)
    asked = refine(panels, lambda a: 1 / (1 + (a / width) ** 2) / width, lambda a: np.arctan(a / width))
    assert panels.reached() and len(asked) == len(set(asked)) == len(panels.values)
    assert abs(float(panels.integral()[0]) - np.arctan(1 / width)) < 1e-6
    assert np.median(asked) < 0.01
    at, weight = RULES["gauss_legendre"](len(asked))
    equal = (weight / (1 + (at / width) ** 2) / width).sum()
    assert abs(equal - np.arctan(1 / width)) > 1e-6


@pytest.mark.parametrize("most", [9, 12, 13, 40])
def test_panels_stop_at_the_most_nodes_and_say_that_they_miss(most):
    panels = Panels(1e-9, most)
    asked = refine(panels, lambda a: abs(a - 1 / 3) ** -0.5 / 2, lambda a: np.sign(a - 1 / 3) * abs(a - 1 / 3) ** 0.5)
    assert most - 4 < len(asked) <= most and not panels.reached()


def test_a_jump_ends_the_halving():
    """No gradient sees it: the panel around it stays off however narrow it is."""
    panels = Panels(1e-3, 100_000)
    asked = refine(panels, lambda a: 1.0, lambda a: a + (a > 0.3))
    assert not panels.reached() and len(asked) < 400


def test_misses_that_cancel_do_not_pass():
    """The integral may be right in sum and wrong in its parts."""
    panels = Panels(0.01, 400)
    wave = lambda a: np.sin(16 * np.pi * a)  # noqa: E731
    panels_only_sum = refine(panels, lambda a: 16 * np.pi * np.cos(16 * np.pi * a), wave)
    assert panels.reached() and len(panels_only_sum) > FEWEST


def test_the_change_to_simpsons_rule_bounds_the_error():
    panels = Panels(1e-5, 500)
    refine(panels, lambda a: np.exp(3 * a) * 3, lambda a: np.exp(3 * a))
    assert abs(float(panels.integral()[0]) - np.exp(3) + 1) < float(panels.change()[0]) < 0.05
