"""Which tests run when: marks that follow from what a test uses, and options that run a part of the suite.

``families`` and ``real`` follow from a test's parameters and fixtures, so nobody has to write them; ``slow``,
``browser``, ``ray``, ``gpu`` and ``peers`` are written where the test is. pyproject.toml says what each means.
"""

import time

import pytest

FEW = "few"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tiers")
    group.addoption(
        "--families",
        help=f"of the tests that run on many families, keep those of these: gpt2,llama for example, or {FEW!r}",
    )
    group.addoption("--within", type=float, help="start no test after so many seconds; the rest is skipped and says so")


def family_of(item: pytest.Item) -> str | None:
    """The family of the zoo among a test's parameters, by itself or as the first of several."""
    from zoo_families import FAMILIES

    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    firsts = (value[0] if isinstance(value, tuple) and value else value for value in parameters)
    return next((value for value in firsts if isinstance(value, str) and value in FAMILIES), None)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = wanted_families(config.getoption("--families"))
    kept, left_out = [], []
    for item in items:
        family = family_of(item)
        if family is not None:
            item.add_marker("families")
        if "assets" in getattr(item, "fixturenames", ()):
            item.add_marker("real")
        (kept if wanted is None or family is None or family in wanted else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def wanted_families(option: str | None) -> set[str] | None:
    from zoo_families import FAMILIES

    if option is None:
        return None
    if option == FEW:
        import shelf

        return set(shelf.FEW)
    unknown = sorted(set(option.split(",")) - set(FAMILIES))
    if unknown:
        raise pytest.UsageError(f"--families: the zoo has no {', '.join(unknown)}; it has {', '.join(FAMILIES)}")
    return set(option.split(","))


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.started = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("--within")
    if seconds is not None and time.monotonic() - item.config.started > seconds:
        pytest.skip(f"not reached within {seconds:g} seconds")
