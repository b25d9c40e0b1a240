"""Warnings of the package: as Python's own, or heard by the block around them, in its own thread."""

import threading
import warnings

import pytest

from caseback.jobs.warned import heard, warn


def test_unheard_it_is_a_python_warning_at_its_caller():
    with pytest.warns(RuntimeWarning, match="empty") as seen:
        warn("empty", RuntimeWarning)
    assert seen[0].filename == __file__


def test_heard_it_is_once_in_the_innermost_list_whatever_the_filters():
    with warnings.catch_warnings(), heard() as outer:
        warnings.simplefilter("error")
        warn("first")
        with heard() as inner:
            warn("second")
            warn("second")
    assert (outer, inner) == (["first"], ["second"])


def test_threads_hear_their_own():
    both = threading.Barrier(2)
    lists: dict[str, list[str]] = {}

    def work(name: str) -> None:
        with heard() as lists[name]:
            both.wait()
            warn(name)
            both.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lists == {"a": ["a"], "b": ["b"]}
