"""What all tests of commands share: plain output of one width, and a small real model."""

import pytest


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """No --debug left over from another test or from the caller's environment, no colours, 100 columns."""
    monkeypatch.setenv("CASEBACK_DEBUG", "0")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def small(assets):
    return str(assets / "models" / "stories260K")
