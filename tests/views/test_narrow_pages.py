"""Every page that a command writes fits a narrow window, and can be read in light and in dark."""

import inspect

import pytest
from browser import BROWSER, browser

from bad_inputs.commands import labeled_file
from caseback import cli
from caseback.decode.dictionaries import Facts, TopK, save_dictionary

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.usefixtures("plain"),
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on the path"),
]

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"
PAGES = {
    "explain": ("explain", CLEAN, "--corrupt", CORRUPT),
    "attribute": ("attribute", CLEAN, "--generate", "2"),
    "dla": ("dla", CLEAN),
    "lens": ("lens", CLEAN, "--target", " Mary", "--target", " John"),
    "patchscope": ("patchscope", CLEAN, "--pos", "-1"),
    "patch": ("patch", CLEAN, CORRUPT),
    "trace": ("trace", CLEAN, "--subject", "Mary", "--samples", "2"),
    "ablate": ("ablate", CLEAN, "--ablation", "zero"),
    "circuit": ("circuit", "ioi", "--method", "eap", "--edges", "40", "--count", "4"),
    "graph": ("graph", CLEAN),
    "activating": ("activating", "CORPUS", "--layer", "1", "--units", "0,3"),
    "probe": ("probe", "LABELED"),
    "training": ("dictionary", "train", "CORPUS", "--store", "STORE", "--tokens", "200", "--step-tokens", "20"),
    "dictionaries": ("dictionary", "eval", "CORPUS", "DICTIONARY"),
    "dictionary": ("dictionary", "features", "DICTIONARY", "CORPUS", "--cards", "3", "--prompt", CLEAN),
    "directions": ("directions", "LABELED"),
    "atlas": ("atlas", "meadow", "--kinds", "induction,copying,dead", "--top", "2"),
    "behavior": ("behavior", "induction", "agreement", "--count", "8"),
    "facts": ("facts", "--count", "8"),
    "truth": ("truth", "--count", "8", "--methods", "mass_mean,two_dimensional"),
    "erase": ("erase", "LABELED", "--site", "resid_post:1", "--draws", "2"),
    "edit": (
        "edit",
        "The capital of {} is",
        "--subject",
        "Italy",
        "--new",
        "Oslo",
        "--neighbor",
        "The people of Italy speak",
    ),
    "steer": ("steer", CLEAN, "--positive", "Mary was happy", "--negative", "Mary was sad", "--generate", "2"),
    "align": ("align", "ioi", "--pos", "-1", "--layers", "1", "--count", "8", "--epochs", "1"),
    "a head's weights": ("weights", "meadow", "--layer", "2", "--head", "2"),
    "a neuron's weights": ("weights", "meadow", "--layer", "1", "--neuron", "3"),
    "singular vectors": ("weights", "meadow", "--layer", "1", "--matrix", "in", "--svd", "--top", "2"),
}
# where the page is, how wide it is, and the contrast of its text with what stands behind it
SEEN = """(() => {
  const root = document.documentElement;
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
      .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = [document.body, root].map((x) => getComputedStyle(x).backgroundColor).find((x) => x !== "rgba(0, 0, 0, 0)");
  const ink = getComputedStyle(document.querySelector("h1")).color;
  const [a, b] = [luminance(ink), luminance(behind ?? "rgb(255, 255, 255)")];
  return { inside: root.clientWidth, across: root.scrollWidth, paper: b, contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) };
})()"""


@pytest.fixture(scope="module")
def tab():
    with browser() as page:
        yield page


def test_every_command_that_writes_a_page_is_here():
    writing = {c.__name__ for c in cli.COMMANDS if "html" in inspect.signature(c).parameters}
    for group in cli.GROUPS:
        if any("html" in inspect.signature(c.callback).parameters for c in group.registered_commands):
            writing.add(group.info.name)
    assert writing == {arguments[0] for arguments in PAGES.values()}


@pytest.mark.parametrize("name", PAGES)
def test_no_page_scrolls_sideways_and_its_text_can_be_read(name, tab, tmp_path):
    page, corpus = tmp_path / "page.html", tmp_path / "corpus.txt"
    corpus.write_text("Mary went to the store.\nThe dog gave it to John in the park.\n", encoding="utf-8")
    dictionary = tmp_path / "dictionary.safetensors"
    save_dictionary(TopK(160, 320, k=4, facts=Facts(site="resid_post.1")), dictionary)
    places = {"CORPUS": str(corpus), "LABELED": str(labeled_file(tmp_path)), "DICTIONARY": str(dictionary)}
    places["STORE"] = str(tmp_path / "trained")
    arguments = [places.get(x, x) for x in PAGES[name]]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--html", str(page)])
    assert ended.value.code == 0
    papers = []
    for dark in (False, True):
        tab.look(width=400, dark=dark)
        tab.open(page.as_uri())
        seen = tab.evaluate(SEEN)
        assert seen["across"] <= seen["inside"] <= 400, seen
        assert seen["contrast"] >= 7, seen
        papers.append(seen["paper"])
    assert papers[0] > 0.8 and papers[1] < 0.05, "the pages follow the reader"


def test_a_graph_of_few_heads_fits_a_phone(tab, tmp_path):
    page = tmp_path / "circuit.html"
    with pytest.raises(SystemExit):
        cli.main([*PAGES["circuit"], "--html", str(page)])
    tab.look(width=400)
    tab.open(page.as_uri())
    box = tab.evaluate(
        "(({ clientWidth, scrollWidth }) => [clientWidth, scrollWidth])(document.querySelector('.graph-box'))"
    )
    assert box[1] <= box[0]
    smallest = tab.evaluate(
        "Math.min(...[...document.querySelectorAll('.node text')].map((text) => text.getBoundingClientRect().height))"
    )
    assert smallest >= 9, "names are legible"
