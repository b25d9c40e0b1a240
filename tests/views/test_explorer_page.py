"""The explorer in a browser: type, see what comes next, take a head away, ask, cancel, and share the address."""

import json
import threading
import time
import urllib.parse

import pytest
from browser import BROWSER, browser

import caseback as cb
from caseback.server.serving import serve

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on the path"),
]
PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def address():
    up, addresses = threading.Event(), []
    options = {"port": 0, "ready": lambda at: (addresses.append(at), up.set())}
    threading.Thread(target=serve, args=(cb.load("meadow"),), kwargs=options, daemon=True).start()
    assert up.wait(60)
    return addresses[0]


@pytest.fixture
def tab():
    with browser() as page:
        yield page


def until(tab, expression, seconds=20):
    """The expression's value once it is true of the page."""
    deadline = time.monotonic() + seconds
    while not (value := tab.evaluate(expression)):
        assert time.monotonic() < deadline, (
            f"{expression}: not after {seconds} s; {tab.evaluate('document.body.innerText')}"
        )
        time.sleep(0.1)
    return value


def typed(tab, name, text):
    tab.evaluate(
        f"(() => {{ const f = document.getElementById('field-{name}'); f.value = {json.dumps(text)};"
        " f.dispatchEvent(new Event('input')) })()"
    )


FIRST = "document.querySelector('.next-tokens li')?.innerText"


def test_what_comes_next_is_shown_while_one_types(tab, address):
    tab.open(address)
    typed(tab, "prompt", PROMPT)
    assert "Mary" in until(tab, FIRST)
    typed(tab, "prompt", PROMPT.replace("John gave", "Mary gave"))
    until(tab, f"{FIRST}.includes('John')")
    # the address leads back to it
    held = json.loads(urllib.parse.unquote(tab.evaluate("location.hash.slice(1)")))
    assert held == {"prompt": PROMPT.replace("John gave", "Mary gave")}


def test_a_head_that_is_clicked_is_taken_away_and_a_slider_brings_it_back(tab, address):
    state = urllib.parse.quote(json.dumps({"prompt": PROMPT, "view": "effects"}))
    tab.open(f"{address}#{state}")
    until(tab, "!!document.querySelector('.asked .grid')")
    tab.evaluate(
        "(() => { const g = document.querySelector('.asked .grid'); g.focus();"
        " for (const key of ['ArrowRight', 'Enter']) g.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true })) })()"
    )
    name = until(tab, "document.querySelector('.changes b')?.innerText")
    assert name.startswith(("L", "MLP"))
    until(tab, "!!document.querySelector('.next-tokens .was')")
    tab.evaluate(
        "(() => { const s = document.querySelector('.changes input[type=range]'); s.value = 1; s.dispatchEvent(new Event('input')) })()"
    )
    until(tab, "!document.querySelector('.next-tokens .was')")


def test_a_report_is_shown_in_the_page_and_by_itself(tab, address):
    tab.open(address)
    typed(tab, "prompt", PROMPT)
    until(tab, FIRST)
    tab.evaluate("document.querySelector('.questions button[data-name=inputs]').click()")
    link = until(tab, "document.querySelector('.asked a')?.href")
    assert until(tab, "document.querySelector('.asked iframe')?.src") == link
    tab.open(link)
    assert "caseback" in tab.evaluate("document.body.innerText")
    assert tab.evaluate("document.querySelectorAll('#page section').length") > 0


def test_a_mistake_is_said_where_one_looks(tab, address):
    tab.open(address)
    typed(tab, "prompt", "Mary " * 500)
    assert "context" in until(tab, "document.querySelector('[role=alert]')?.innerText")
    typed(tab, "prompt", PROMPT)
    typed(tab, "target", " no single token")
    tab.evaluate("document.querySelector('.questions button[data-name=effects]').click()")
    assert "not one" in until(tab, "document.querySelector('.asked [role=alert]')?.innerText")


def test_nothing_scrolls_sideways_on_a_phone_in_light_and_dark(tab, address):
    state = urllib.parse.quote(json.dumps({"prompt": PROMPT, "view": "effects"}))
    for dark in (False, True):
        tab.look(width=360, dark=dark)
        tab.open("about:blank")
        tab.open(f"{address}#{state}")
        until(tab, "!!document.querySelector('.asked .grid')")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_everything_can_be_named_by_a_screen_reader(tab, address):
    tab.open(address)
    typed(tab, "prompt", PROMPT)
    until(tab, FIRST)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    unnamed = [
        node["role"]["value"]
        for node in nodes
        if node.get("role", {}).get("value") in {"button", "textbox", "slider", "combobox", "spinbutton"}
        and not node.get("name", {}).get("value")
    ]
    assert unnamed == []
