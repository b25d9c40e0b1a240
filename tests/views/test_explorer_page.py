"""The explorer in a browser: type, see what comes next, take a head away, ask, cancel, and share the address."""

import json
import os
import time
import urllib.parse
from pathlib import Path

import pytest
from browser import BROWSER, browser

import caseback as cb
from caseback.server import desk
from caseback.server.serving import served
from caseback.server.shelf import Shelf
from explorer_shelf import shelf_of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on the path"),
]
PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def address():
    model = cb.load("meadow")
    with served(model, shelf=shelf_of(model)) as address:
        yield address


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


def test_a_graph_is_shown_in_the_page_and_by_itself(tab, address):
    tab.open(address)
    typed(tab, "prompt", PROMPT)
    until(tab, FIRST)
    tab.evaluate("document.querySelector('.questions button[data-name=graph]').click()")
    link = until(tab, "document.querySelector('.asked a')?.href")
    assert until(tab, "document.querySelector('.asked iframe')?.src") == link
    assert state_of(tab)["view"] == "graph"
    chosen(tab, ".asked select[aria-label='Units at most']", "50")
    assert until(tab, f"(document.querySelector('.asked iframe')?.src ?? {json.dumps(link)}) !== {json.dumps(link)}")
    assert state_of(tab)["nodes"] == "50"
    tab.open(link)
    assert "caseback" in tab.evaluate("document.body.innerText")
    assert tab.evaluate("document.querySelectorAll('#page section').length") > 0


def test_a_story_is_told_in_the_page_and_its_parts_can_be_taken_away(tab, address):
    opened(tab, address, prompt=PROMPT, view="story")
    until(tab, "!!document.querySelector('.asked .story-flow svg')")
    assert "quick" in tab.evaluate("document.querySelector('.asked #story').innerText")
    name = tab.evaluate("document.querySelector('.take-away button').innerText")
    clicked(tab, ".take-away button")
    assert until(tab, "document.querySelector('.changes b')?.innerText") == name
    until(tab, "!!document.querySelector('.next-tokens .was')")
    link = tab.evaluate("document.querySelector('.asked a').href")
    tab.open(link)
    assert "Why" in tab.evaluate("document.querySelector('h1').innerText")


def test_inputs_are_attributed_in_the_page_by_the_methods_that_are_chosen(tab, address):
    opened(tab, address, prompt=PROMPT, view="inputs", methods="gradient_x_input,attention_rollout")
    until(tab, "document.querySelectorAll('.asked .strip').length === 2")
    assert tab.evaluate("[...document.querySelectorAll('.methods input:checked')].map((box) => box.value)") == [
        "gradient_x_input",
        "attention_rollout",
    ]
    clicked(tab, ".methods input[value=attention_rollout]")
    clicked(tab, ".methods button")
    until(tab, "document.querySelectorAll('.asked .strip').length === 1")
    assert state_of(tab)["methods"] == "gradient_x_input"


def test_a_mistake_is_said_where_one_looks(tab, address):
    tab.open(address)
    typed(tab, "prompt", "Mary " * 500)
    assert "context" in until(tab, "document.querySelector('[role=alert]')?.innerText")
    typed(tab, "prompt", PROMPT)
    typed(tab, "target", " no single token")
    tab.evaluate("document.querySelector('.questions button[data-name=effects]').click()")
    assert "not one" in until(tab, "document.querySelector('.asked [role=alert]')?.innerText")


def opened(tab, address, **state):
    """The page at the address that leads to a state."""
    tab.open("about:blank")
    tab.open(f"{address}#{urllib.parse.quote(json.dumps(state))}")


def state_of(tab):
    return json.loads(urllib.parse.unquote(tab.evaluate("location.hash.slice(1)")))


def clicked(tab, selector):
    tab.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def chosen(tab, selector, value):
    tab.evaluate(
        f"(() => {{ const s = document.querySelector({json.dumps(selector)}); s.value = {json.dumps(value)};"
        " s.dispatchEvent(new Event('change')) })()"
    )


def test_a_feature_is_looked_at_turned_and_shared(tab, address):
    opened(tab, address, prompt=PROMPT)
    clicked(tab, ".questions button[data-name=features]")
    until(tab, "document.querySelectorAll('.feature-list li').length")
    assert "Mary" in tab.evaluate("document.querySelector('.feature-list .feature-words').innerText")
    tab.evaluate("document.querySelectorAll('.asked .token')[2].click()")
    until(tab, "document.querySelector('.asked figure').innerText.includes('token 2')")
    opened(tab, address, **state_of(tab))
    until(tab, "document.querySelectorAll('.feature-list li').length")
    clicked(tab, ".feature-list .pick")
    assert until(tab, "document.querySelector('.changes b')?.innerText").startswith("words ")
    until(tab, "!!document.querySelector('.next-tokens .was')")
    held = state_of(tab)["changes"]
    assert held == [{"part": "feature", "dictionary": "words", "unit": held[0]["unit"], "factor": 0}]


def test_a_direction_is_added_by_a_slider(tab, address):
    opened(tab, address, prompt=PROMPT)
    until(tab, FIRST)
    chosen(tab, ".new-change select[aria-label=part]", "direction")
    assert not tab.evaluate("document.querySelector('.new-change .named').hidden")
    clicked(tab, ".new-change button")
    tab.evaluate(
        "(() => { const s = document.querySelector('.changes input[type=range]'); s.value = -3; s.dispatchEvent(new Event('input')) })()"
    )
    until(tab, f"{FIRST}.includes('John')")
    assert state_of(tab)["changes"] == [{"part": "direction", "direction": "she", "strength": -3}]
    clicked(tab, ".changes button")
    until(tab, f"{FIRST}.includes('Mary')")


def test_a_task_is_a_table_that_sorts_searches_and_leads_to_its_rows(tab, address):
    opened(tab, address, view="table", task="ioi")
    until(tab, "document.querySelectorAll('.prompts tbody tr').length === 24")
    clicked(tab, ".prompts th:nth-child(5) .sort")
    values = (
        "[...document.querySelectorAll('.prompts tbody tr')].map(r => Number(r.cells[4].innerText.replace('−', '-')))"
    )
    sorted_values = tab.evaluate(values)
    assert sorted_values == sorted(sorted_values, reverse=True)
    assert tab.evaluate("document.querySelector('.prompts th:nth-child(5)').ariaSort") == "descending"
    clicked(tab, ".prompts th:nth-child(5) .sort")
    assert tab.evaluate(values) == sorted_values[::-1]
    group = tab.evaluate("document.querySelector('.prompts tbody tr').cells[3].innerText")
    chosen(tab, ".asked select[aria-label=group]", group)
    assert set(tab.evaluate("[...document.querySelectorAll('.prompts tbody tr')].map(r => r.cells[3].innerText)")) == {
        group
    }
    tab.evaluate(
        "(() => { const s = document.querySelector('.asked input[type=search]'); s.value = 'no such words';"
        " s.dispatchEvent(new Event('input')) })()"
    )
    assert "no row" in tab.evaluate("document.querySelector('.asked figure').innerText")
    tab.evaluate(
        "(() => { const s = document.querySelector('.asked input[type=search]'); s.value = '';"
        " s.dispatchEvent(new Event('input')) })()"
    )
    clicked(tab, ".prompts tbody .row")
    assert tab.evaluate("document.getElementById('field-prompt').value")
    assert {"prompt", "target", "foil", "corrupt"} <= set(state_of(tab))
    # the table follows the changes
    clicked(tab, ".new-change button")
    until(tab, "[...document.querySelectorAll('.prompts th')].some(h => h.innerText.startsWith('before'))")


def test_a_link_holds_how_a_table_is_sorted_searched_and_sliced(tab, address):
    opened(tab, address, view="table", task="ioi")
    until(tab, "document.querySelectorAll('.prompts tbody tr').length === 24")
    group = tab.evaluate("document.querySelector('.prompts tbody tr').cells[3].innerText")
    clicked(tab, ".prompts th:nth-child(5) .sort")
    clicked(tab, ".prompts th:nth-child(5) .sort")
    chosen(tab, ".asked select[aria-label=group]", group)
    tab.evaluate(
        "(() => { const s = document.querySelector('.asked input[type=search]'); s.value = 'the';"
        " s.dispatchEvent(new Event('input')) })()"
    )
    held, rows = state_of(tab), tab.evaluate("document.querySelector('.prompts tbody').innerText")
    assert (held["sort"], held["slices"], held["search"]) == ("+logit_diff", [["group", group]], "the")
    opened(tab, address, **held)
    assert until(tab, "document.querySelector('.prompts tbody')?.innerText") == rows
    assert tab.evaluate("document.querySelector('.prompts th:nth-child(5)').ariaSort") == "ascending"
    assert tab.evaluate("document.querySelector('.asked input[type=search]').value") == "the"
    # a row that is chosen, and a change that is made, leave it as it is
    clicked(tab, ".prompts tbody .row")
    clicked(tab, ".new-change button")
    until(tab, "[...document.querySelectorAll('.prompts th')].some(h => h.innerText.startsWith('before'))")
    assert tab.evaluate("document.querySelector('.prompts th:nth-child(5)').ariaSort") == "ascending"
    assert tab.evaluate("document.querySelector('.asked select[aria-label=group]').value") == group
    # another table begins anew
    clicked(tab, ".table-form button[type=submit]")
    until(tab, "document.querySelectorAll('.prompts tbody tr').length === 24")
    assert not {"sort", "slices", "search"} & set(state_of(tab))


def test_what_drives_a_unit_is_a_table_in_two_colours(tab, address):
    opened(tab, address, prompt=PROMPT, view="attention", layer="2", head="3")
    until(tab, "!!document.querySelector('.asked .grid')")
    tab.evaluate("[...document.querySelectorAll('.asked button')].find(b => b.innerText.includes('why does')).click()")
    until(tab, "document.querySelectorAll('.drivers tbody tr').length === 40")
    assert state_of(tab)["unit"] == "head 2 3" and state_of(tab)["view"] == "drivers"
    signs = tab.evaluate(
        "[...document.querySelectorAll('.drivers tbody tr')].map(r => [r.querySelector('.num').innerText[0],"
        " r.querySelector('.bar').className, getComputedStyle(r.querySelector('.bar')).backgroundColor])"
    )
    assert {sign == "−" for sign, *_ in signs} == {True, False}
    assert all((sign == "−") == ("foil" in kind) for sign, kind, _ in signs)
    assert len({color for *_, color in signs}) == 2
    # another place, then a neuron by the fields, and the link leads back to it
    clicked(tab, ".drivers tbody .pick")
    until(tab, "document.querySelectorAll('.drivers tbody tr').length && document.querySelector('.asked h3').innerText")
    assert "pos" in state_of(tab)
    chosen(tab, ".drivers-form select", "neuron")
    tab.evaluate('document.querySelector(".drivers-form input[aria-label=\\"the unit\'s unit\\"]").value = 17')
    clicked(tab, ".drivers-form button")
    until(tab, "document.querySelector('.asked h3')?.innerText.includes('L0N17')")
    held = state_of(tab)
    assert held["unit"] == "neuron 0 17" and "key" not in held
    opened(tab, address, **held)
    until(tab, "document.querySelector('.asked h3')?.innerText.includes('L0N17')")
    assert tab.evaluate("document.querySelector('.drivers-form select').value") == "neuron"


def test_a_feature_and_a_part_that_is_changed_can_be_traced(tab, address):
    opened(tab, address, prompt=PROMPT, view="features")
    until(tab, "document.querySelectorAll('.feature-list li').length")
    tab.evaluate("document.querySelector('.feature-list .pick:last-child').click()")
    until(tab, "document.querySelector('.asked h3')?.innerText.includes('What drives words')")
    assert state_of(tab)["unit"].startswith("feature words ")
    # writers above the dictionary's layer are its features, or with the other choice what wrote those
    opened(tab, address, prompt=PROMPT, view="drivers", unit="neuron 3 0")
    until(tab, "document.querySelector('.drivers')?.innerText.includes('L2F')")
    chosen(tab, ".drivers-form label:last-of-type select", "heads and MLPs")
    clicked(tab, ".drivers-form button")
    until(tab, "document.querySelector('.drivers') && !document.querySelector('.drivers').innerText.includes('L2F')")
    assert state_of(tab)["writers"] == "heads and MLPs"
    opened(tab, address, prompt=PROMPT, changes=[{"part": "head", "layer": 1, "head": 2, "factor": 0}])
    until(tab, FIRST)
    clicked(tab, ".changes button[aria-label='why? what drives L1H2']")
    until(tab, "document.querySelector('.asked h3')?.innerText.includes('Why L1H2 looks from')")


def test_many_dictionaries_are_found_by_typing(tab):
    model = cb.load("meadow")
    words = shelf_of(model).dictionaries["words"]
    many = {f"layer_{i:03d}_{'x' * 60}": words for i in range(60)}
    with served(model, shelf=Shelf({**many, "more": words})) as address:
        opened(tab, address, prompt=PROMPT, view="features", dictionary="more")
        until(tab, "document.querySelectorAll('.feature-list li').length")
        assert tab.evaluate("document.querySelectorAll('.asked datalist option').length") == 50
        tab.evaluate(
            "(() => { const f = document.querySelector('.asked .name-field input'); f.value = 'LAYER_05';"
            " f.dispatchEvent(new Event('input')) })()"
        )
        listed = "[...document.querySelectorAll('.asked datalist option')].map(o => o.value)"
        assert len(until(tab, f"({listed}).every(name => name.startsWith('layer_05')) && {listed}")) == 10
        tab.evaluate(
            "(() => { const f = document.querySelector('.asked .name-field input'); f.value = 'nothing';"
            " f.dispatchEvent(new Event('change')) })()"
        )
        assert "no dictionary" in until(tab, "document.querySelector('.asked .warn')?.innerText")


def test_what_was_warned_of_stands_beside_the_answer_as_text(tab, address):
    opened(tab, address, prompt=PROMPT, target="Mary", view="effects")
    line = until(tab, "document.querySelector('.asked .warnings li')?.innerText")
    assert line.startswith("target 'Mary' has no leading space")
    opened(tab, address, prompt=PROMPT, target=" Mary", view="effects")
    until(tab, "!!document.querySelector('.asked .grid')")
    assert not tab.evaluate("document.querySelectorAll('.warnings').length")


def test_lines_of_json_are_a_table_and_a_mistake_is_said_by_its_line(tab, address):
    opened(tab, address, view="table")
    until(tab, "!!document.querySelector('.table-form')")
    chosen(tab, ".table-form select", "")
    lines = '{"prompt": "Mary went to the", "target": " store", "kind": "<b>place</b>"}\n{"prompt": 3}'
    tab.evaluate(f"document.querySelector('.own-lines textarea').value = {json.dumps(lines)}")
    clicked(tab, ".table-form button")
    assert "line 2" in until(tab, "document.querySelector('.asked [aria-live] .warn')?.innerText")
    tab.evaluate(f"document.querySelector('.own-lines textarea').value = {json.dumps(lines.splitlines()[0])}")
    clicked(tab, ".table-form button")
    assert "<b>place</b>" in until(tab, "document.querySelector('.prompts tbody')?.innerText")


def test_heads_are_thumbnails_and_one_is_large(tab, address):
    opened(tab, address, prompt=PROMPT, view="attention", layer="2", head="3")
    until(tab, "document.querySelectorAll('.thumb').length === 5")
    assert tab.evaluate("document.querySelector('.thumb[aria-pressed=true]').ariaLabel") == "L2H3"
    clicked(tab, ".thumb:nth-child(2)")
    assert state_of(tab)["head"] == "1"
    assert "L2H1" in tab.evaluate("document.querySelector('.asked .grid').ariaLabel")
    chosen(tab, ".chooser select", "0")
    until(tab, "document.querySelector('.thumb')?.ariaLabel === 'L0H0'")
    assert state_of(tab)["layer"] == "0"


def test_a_head_is_seen_as_the_model_is_and_under_the_changes(tab, address):
    changes = [{"part": "attention", "layer": 0, "factor": 0}]
    opened(tab, address, prompt=PROMPT, view="attention", layer="2", head="0", changes=changes)
    until(tab, "document.querySelectorAll('.asked .grid').length === 2")
    labels = tab.evaluate("[...document.querySelectorAll('.asked .grid')].map((grid) => grid.ariaLabel)")
    assert "as the model is" in labels[0] and "under the changes" in labels[1]
    assert "elsewhere" in tab.evaluate("document.querySelector('.thumbs + h3').innerText")
    clicked(tab, ".changes button")
    until(tab, "document.querySelectorAll('.asked .grid').length === 1")
    tab.evaluate(
        "[...document.querySelectorAll('.asked button')].find((b) => b.innerText.startsWith('take L2H0')).click()"
    )
    assert until(tab, "document.querySelector('.changes b')?.innerText") == "L2H0"


def test_a_link_holds_pasted_lines_and_says_where_they_are_too_long(tab, address):
    line = '{"prompt": "Mary went to the", "target": " store"}'
    opened(tab, address, view="table", lines=f"{line}\n{line}")
    until(tab, "document.querySelectorAll('.prompts tbody tr').length === 2")
    assert state_of(tab)["lines"] == f"{line}\n{line}"
    tab.evaluate(f"document.querySelector('.own-lines textarea').value = {json.dumps((line + chr(10)) * 200)}")
    clicked(tab, ".table-form button")
    until(tab, "document.querySelectorAll('.prompts tbody tr').length === 200")
    assert "more than an address holds" in tab.evaluate("document.querySelector('.table-form .warn').innerText")
    held = state_of(tab)
    assert "lines" not in held and held["unlinked"] == str(200 * len(line) + 200)
    opened(tab, address, **held)
    assert f"{held['unlinked']} characters" in until(tab, "document.querySelector('.asked .note')?.innerText")
    assert not tab.evaluate("document.querySelector('.own-lines').hidden")


@pytest.mark.parametrize(
    ("state", "where", "words"),
    [
        ({"view": "poem"}, ".asked", "no question “poem”"),
        ({"view": "attention", "layer": "99"}, ".asked", "no layer 99"),
        ({"view": "attention", "layer": "x"}, ".asked", "no layer x"),
        ({"view": "attention", "head": "9"}, ".asked", "no head 9"),
        ({"view": "table", "task": "poems"}, ".asked", "no task “poems”"),
        ({"view": "table", "task": "ioi", "count": "many"}, ".asked", "count"),
        ({"view": "table", "task": "ioi", "sort": "-poem"}, ".asked", "no column “poem”"),
        ({"view": "table", "task": "ioi", "slices": [["group", "poem"]]}, ".asked", "no group “poem”"),
        ({"view": "table", "task": "ioi", "slices": [["poem", "x"]]}, ".asked", "no column “poem”"),
        ({"view": "drivers", "unit": "poem 1 2"}, ".asked", "no unit “poem 1 2”"),
        ({"view": "drivers", "unit": "head 0 99"}, ".asked", "no head 99"),
        ({"view": "drivers", "unit": "head 0 0", "pos": "x"}, ".asked", "no position x"),
        ({"view": "drivers", "unit": "head 0 0", "pos": "99"}, ".asked", "99"),
        ({"view": "drivers", "unit": "neuron 0 99999"}, ".asked", "neurons"),
        ({"view": "drivers", "unit": "head 0 0", "writers": "poets"}, ".asked", "no kind of writers “poets”"),
        ({"view": "drivers", "unit": "feature none 3"}, ".asked", "no dictionary “none”"),
        ({"view": "features", "dictionary": "none"}, ".asked", "no dictionary “none”"),
        ({"view": "story", "depth": "bottomless"}, ".asked", "no depth “bottomless”"),
        ({"view": "inputs", "methods": "occlusion,poem"}, ".asked", "no method “poem”"),
        ({"view": "graph", "units": "features"}, ".asked", "no kind of units “features”"),
        ({"view": "graph", "nodes": "7"}, ".asked", "no number of units “7”"),
        ({"changes": [{"part": "mlp", "layer": 99, "factor": 0}]}, ".page", "99"),
        ({"changes": [{"part": "direction", "direction": "she", "place": "z.9", "strength": 1}]}, ".page", "z.9"),
        ({"changes": [{"part": "mlp", "layer": 1}]}, ".page", "a change that is none"),
        ({"poem": "x"}, ".page", "“poem”"),
    ],
)
def test_what_a_link_names_and_is_not_there_is_said_in_its_place(tab, address, state, where, words):
    opened(tab, address, prompt=PROMPT, **state)
    until(tab, f"document.querySelector({json.dumps(where)}).innerText.includes({json.dumps(words)})")
    # and nothing else stands in its place
    if where == ".asked":
        time.sleep(1)
        assert not tab.evaluate("document.querySelector('.asked .grid, .asked iframe, .asked table, .asked .part')")


def test_an_address_that_was_cut_short_is_said_and_another_link_is_followed(tab, address):
    tab.open("about:blank")
    tab.open(f"{address}#%7B%22prompt%22%3A%22Ma")
    assert "cut short" in until(tab, "document.querySelector('.page').innerText")
    tab.evaluate(f"location.hash = {json.dumps(urllib.parse.quote(json.dumps({'prompt': PROMPT})))}")
    assert "Mary" in until(tab, FIRST)


def test_a_job_ends_when_its_page_goes_away(tab, address, monkeypatch):
    seen, watch = [], desk.Job.watch

    def slowly(job, *where):
        seen.append(job)
        time.sleep(0.05)
        watch(job, *where)

    monkeypatch.setattr(desk.Job, "watch", slowly)
    opened(tab, address, prompt="When Tom and Mary went to the park, Tom gave a ball to", view="story")
    until(tab, "!!document.querySelector('.running progress')")
    deadline = time.monotonic() + 30
    while not seen and time.monotonic() < deadline:  # the page shows a bar before the work has one
        time.sleep(0.05)
    tab.open("about:blank")
    while seen[-1].state == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen[-1].state == "canceled"


def test_patching_asks_for_a_counterfactual_and_shows_where_the_answer_comes_back(tab, address):
    opened(tab, address, prompt=PROMPT)
    until(tab, FIRST)
    clicked(tab, ".questions button[data-name=patching]")
    assert "counterfactual" in until(tab, "document.querySelector('.asked .note')?.innerText")
    typed(tab, "corrupt", PROMPT.replace("John gave", "Mary gave"))
    clicked(tab, ".questions button[data-name=patching]")
    until(tab, "document.querySelectorAll('.asked .patching .grid').length === 2")
    assert "Mary" in tab.evaluate("document.querySelector('.asked .note .target').innerText")


VIEWS = ("effects", "features", "drivers", "attention", "table", "patching", "story", "inputs", "graph")
DRAWN = "!!document.querySelector('.asked figure, .asked iframe')"
LOOKED_AT = {"prompt": PROMPT, "corrupt": PROMPT.replace("John gave", "Mary gave"), "task": "ioi", "unit": "head 2 3"}


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_scrolls_sideways_on_a_phone_in_light_and_dark(tab, address, view):
    for dark in (False, True):
        tab.look(width=360, dark=dark)
        opened(tab, address, view=view, **LOOKED_AT)
        until(tab, DRAWN)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("view", ["", *VIEWS])
def test_everything_can_be_named_by_a_screen_reader(tab, address, view):
    opened(tab, address, view=view, **LOOKED_AT)
    until(tab, FIRST)
    if view:
        until(tab, DRAWN)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    unnamed = [
        node["role"]["value"]
        for node in nodes
        if node.get("role", {}).get("value") in {"button", "textbox", "slider", "combobox", "spinbutton"}
        and not node.get("name", {}).get("value")
    ]
    assert unnamed == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("view", ["", *VIEWS])
def test_assistive_technology_can_read_every_answer(tab, address, view, dark):
    tab.look(width=1280, dark=dark)
    changes = [{"part": "attention", "layer": 0, "factor": 0.5}]
    opened(tab, address, view=view, changes=changes, **LOOKED_AT)
    until(tab, FIRST)
    if view:
        until(tab, DRAWN)
    assert tab.unheard() == []
    if pictures := os.environ.get("CASEBACK_SCREENSHOTS"):
        for width in (1280, 400):
            tab.look(width=width, dark=dark)
            Path(pictures).mkdir(parents=True, exist_ok=True)
            tab.picture(Path(pictures) / f"explorer-{view or 'start'}-{width}-{'dark' if dark else 'light'}.png")


def test_the_keyboard_reaches_all_that_can_be_used(tab, address):
    opened(tab, address, view="attention", changes=[{"part": "mlp", "layer": 0, "factor": 0}], **LOOKED_AT)
    until(tab, "document.querySelectorAll('.asked .grid').length === 2")
    reached = set()
    for _ in range(120):
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.add(tab.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    usable = "button, input, select, textarea, summary, a[href], [tabindex='0']"
    waiting = tab.evaluate(
        f"[...document.querySelectorAll({json.dumps(usable)})].filter((one) => one.checkVisibility() && !one.disabled)"
        ".map((one) => [[...document.querySelectorAll('*')].indexOf(one), one.outerHTML.slice(0, 120)])"
    )
    assert [said for at, said in waiting if at not in reached] == []
