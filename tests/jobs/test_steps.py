"""Work in steps: the first always, later ones while there is time, and what was done stays when somebody stops it."""

import pytest

from caseback.jobs.steps import Step, Steps


class Clock:
    """A clock that moves by what the work takes."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def taking(self, seconds, value=None):
        def work():
            self.now += seconds
            return value

        return work


def stops():
    raise KeyboardInterrupt


def three(clock):
    return [Step("a", 2, clock.taking(10, 1)), Step("b", 4, clock.taking(20, 2)), Step("c", 100, clock.taking(500, 3))]


@pytest.mark.parametrize(
    ("within", "done", "left_out"),
    [
        (None, {"a": 1, "b": 2, "c": 3}, {}),
        (0, {"a": 1}, {"b": "about 20 s", "c": "about 8 min"}),
        (29.0, {"a": 1}, {"b": "about 20 s", "c": "about 8 min"}),
        (30.0, {"a": 1, "b": 2}, {"c": "about 8 min"}),
        (530.0, {"a": 1, "b": 2, "c": 3}, {}),
    ],
)
def test_a_step_is_begun_where_it_will_end_in_time(within, done, left_out):
    clock = Clock()
    steps = Steps(three(clock), within, clock)
    assert [step.name for step in steps.run()] == list(done)
    assert (steps.results, steps.left_out, steps.interrupted) == (done, left_out, False)


def test_a_short_step_behind_a_long_one_is_done():
    clock = Clock()
    a, b, c = three(clock)
    steps = Steps([a, c, b], 60.0, clock)
    assert [step.name for step in steps.run()] == ["a", "b"] and list(steps.left_out) == ["c"]


def test_an_interrupt_keeps_what_is_done_and_leaves_the_rest():
    clock = Clock()
    a, b, c = three(clock)
    steps = Steps([a, Step("stopped", 1, stops), b, c], None, clock)
    assert [step.name for step in steps.run()] == ["a"]
    assert steps.interrupted and steps.results == {"a": 1}
    assert steps.left_out == dict.fromkeys(("stopped", "b", "c"), "interrupted")


def test_an_interrupt_of_the_first_step_is_one():
    with pytest.raises(KeyboardInterrupt):
        list(Steps([Step("stopped", 1, stops)]).run())
