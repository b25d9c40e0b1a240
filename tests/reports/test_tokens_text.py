import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caseback.reports.tokens_text import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "∅"),
        (" Mary", "␣Mary"),
        ("\n", "↵"),
        ("\t\r\n", "⇥\\r↵"),
        ("a  b", "a␣␣b"),
        ("\u200b", "\\u200b"),
        ("\u00a0", "\\xa0"),
        ("\u2028", "\\u2028"),
        ("\u202eabc", "\\u202eabc"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\ud83d", "\\ud83d"),
        ("\U000e0041", "\\U000e0041"),
        ("\u3164", "\\u3164"),
        ("\u0301", "◌\u0301"),
        ("e\u0301", "e\u0301"),
        ("🙂", "🙂"),
        (" שלום", "␣שלום"),
        ("<b>&amp;", "<b>&amp;"),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown


@given(st.text(st.characters(codec=None), max_size=8))
def test_nothing_invisible_is_left(text):
    shown = visible(text)
    assert shown
    assert not any(unicodedata.category(c)[0] in "CZ" for c in shown)
    shown.encode("utf-8")
