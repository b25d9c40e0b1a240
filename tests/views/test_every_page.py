"""Every page that a command writes: its question, widths, colors, what assistive technology hears, files and size.

With ``CASEBACK_SCREENSHOTS`` naming a folder, each page's picture in light, dark and narrow is put there, with what it
is, how large, and how much processor time its command took.
"""

import contextlib
import importlib
import inspect
import io
import json
import os
import pkgutil
import time
from pathlib import Path

import pytest
from browser import BROWSER, browser
from jsonschema import Draft202012Validator

import caseback as cb
from bad_inputs.commands import labeled_file, tiny_folder
from caseback import cli
from caseback.behaviors import atlas, save_atlas
from caseback.decode.dictionaries import Facts, TopK, save_dictionary
from caseback.reports.document import DocumentKind
from caseback.reports.forms.schema import form_of, list_schemas, result_schema
from caseback.tasks.standard.shots import FUNCTIONS

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
    "circuit at spans": ("circuit", "agreement", "--spans", "--method", "eap", "--count", "4"),
    "drivers": ("drivers", CLEAN, "L2H3"),
    "graph": ("graph", CLEAN),
    "activating": ("activating", "CORPUS", "--layer", "1", "--units", "0,3"),
    "probe": ("probe", "LABELED"),
    "training": ("dictionary", "train", "CORPUS", "--store", "STORE", "--tokens", "200", "--step-tokens", "20"),
    "dictionaries": ("dictionary", "eval", "CORPUS", "DICTIONARY"),
    "dictionary": ("dictionary", "features", "DICTIONARY", "CORPUS", "--cards", "3", "--prompt", CLEAN),
    "shown dictionary": ("dictionary", "show", "DICTIONARY", "3", "5", "-m", "meadow", "--corpus", "CORPUS"),
    "judge": (
        *("dictionary", "judge", "DICTIONARY", "LINES", "--asked", "JUDGE", "--windows", "4", "--window-tokens", "4"),
    ),
    "directions": ("directions", "LABELED"),
    "atlas": ("atlas", "meadow", "--kinds", "induction,copying,dead", "--top", "2"),
    "two atlases": ("atlas", "ATLAS", "--against", "OTHER"),
    "behavior": ("behavior", "induction", "agreement", "--count", "8"),
    "facts": ("facts", "--count", "8", "--low-rank"),
    "memorization": ("behavior", "memorization", "--task", "WORDS", "--count", "12"),
    "stories": ("explain", "--task", "ioi", "--count", "2", "--depth", "quick"),
    "answer": ("explain", CLEAN, "--generate", "2", "--depth", "quick"),
    "attributed prompts": ("attribute", "--task", "ioi", "--count", "4"),
    "context": ("attribute", " John gave a drink to", "--context", "Mary and John went to the store."),
    "emergence": ("emergence", "grokking", "--kinds", "copying,anti-copying", "--rows", "8"),
    "universality": ("universality", "meadow", "meadow", "--corpus", "CORPUS"),
    "function": ("function", "capital", "--count", "8", "--draws", "2"),
    "world": ("world", "--count", "24", "--edits", "8", "--draws", "2"),
    "learner": ("learner", "--count", "24", "--pairs", "4"),
    "binding": ("binding", "boxes", "--count", "16"),
    "heuristics": ("heuristics", "--largest", "8", "--top", "20", "--draws", "2"),
    "needle": ("needle", "--length", "60", "--needle-depth", "0", "--needle-depth", "1", "--draws", "2"),
    "requests": ("requests", "capital", "language", "--count", "8"),
    "routing": ("routing", "CORPUS", "--max-length", "6"),
    "recall": ("recall", "--count", "16", "--draws", "2"),
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
# a graph has up to 20,000 edges; docs/pages.md says what of them is largest
LARGEST = {"graph": 390_000}
# where the page is, how wide it is, and the contrast of its heading with what stands behind it
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
# every file of the menu, taken where the browser would be handed it
SAVED = """(async () => {
  const blobs = [];
  URL.createObjectURL = (blob) => (blobs.push(blob), "#");
  const menu = document.querySelector(".files");
  menu.open = true;
  await new Promise((done) => setTimeout(done, 50));
  const items = [...menu.querySelectorAll("button")];
  for (const [i, item] of items.entries()) {
    item.click();
    for (let wait = 0; wait < 100 && blobs.length <= i; wait++) await new Promise((done) => setTimeout(done, 10));
  }
  return [items.map((item) => item.querySelector("small").textContent), await Promise.all(blobs.map((blob) => blob.text()))];
})()"""


@pytest.fixture(scope="module")
def tab():
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page's path by its name in ``PAGES``, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("pages")
    corpus, dictionary = folder / "corpus.txt", folder / "dictionary.safetensors"
    corpus.write_text("Mary went to the store.\nThe dog gave it to John in the park.\n", encoding="utf-8")
    save_dictionary(TopK(160, 320, k=4, facts=Facts(site="resid_post.1")), dictionary)
    places = {"CORPUS": str(corpus), "LABELED": str(labeled_file(folder)), "DICTIONARY": str(dictionary)}
    places["LINES"], places["JUDGE"] = str(folder / "lines.txt"), str(tiny_folder(folder / "judge", 512))
    rows = map(json.loads, Path(places["LABELED"]).read_text(encoding="utf-8").splitlines())
    Path(places["LINES"]).write_text("\n".join(row["text"] for row in rows), encoding="utf-8")
    places["STORE"] = str(folder / "trained")
    places["WORDS"] = str(folder / "capitals.json")
    pairs = [{"input": f"The capital of {given} is", "output": output} for given, output in FUNCTIONS["capital"]]
    Path(places["WORDS"]).write_text(json.dumps(pairs), encoding="utf-8")
    model = cb.load("meadow")
    for name, one in (("OTHER", model), ("ATLAS", model.edited([cb.Zero("z", layer=0, head=2)]))):
        places[name] = str(folder / name)
        save_atlas(atlas(one, kinds=["induction", "previous token"], proofs=False), places[name])

    seconds = {}

    def path(name):
        page = folder / f"{name.replace(' ', '-')}.html"
        if not page.exists():
            began = time.process_time()
            with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(io.StringIO()) as printed:
                cli.main([*(places.get(x, x) for x in PAGES[name]), "--html", str(page), "--json"])
            assert ended.value.code == 0
            page.with_suffix(".json").write_text(printed.getvalue(), encoding="utf-8")
            seconds[name] = time.process_time() - began
        return page

    yield path
    if pictures := os.environ.get("CASEBACK_SCREENSHOTS"):
        rows = {one: {"seconds": took, "bytes": path(one).stat().st_size} for one, took in seconds.items()}
        Path(pictures, "pages.json").write_text(json.dumps(rows), encoding="utf-8")


def kinds():
    """Every kind of document by its name."""
    packages = pkgutil.walk_packages(cb.reports.__path__, "caseback.reports.")
    values = [value for info in packages for value in vars(importlib.import_module(info.name)).values()]
    return {value.kind: value for value in values if isinstance(value, DocumentKind)}


def test_every_kind_of_document_has_a_form_that_names_its_sections():
    for name, kind in kinds().items():
        assert set(kind.sections) <= set(form_of(name.rpartition(".")[2]) or ()), name


def test_every_command_that_writes_a_page_is_here():
    writing = {c.__name__ for c in cli.COMMANDS if "html" in inspect.signature(c).parameters}
    for group in cli.GROUPS:
        if any("html" in inspect.signature(c.callback).parameters for c in group.registered_commands):
            writing.add(group.info.name)
    assert writing == {arguments[0] for arguments in PAGES.values()}


@pytest.mark.parametrize("name", PAGES)
def test_no_page_scrolls_sideways_and_its_text_can_be_read(name, tab, pages):
    page, pictures = pages(name), os.environ.get("CASEBACK_SCREENSHOTS")
    assert page.stat().st_size < LARGEST.get(name, 300_000)
    papers = []
    for width in (1600, 1280, 360):
        for dark in (False, True):
            tab.look(width=width, dark=dark)
            tab.open(page.as_uri())
            seen = tab.evaluate(SEEN)
            assert seen["across"] <= seen["inside"] <= width, seen
            assert seen["contrast"] >= 7, seen
            papers.append(seen["paper"])
            if pictures and width != 1600:
                Path(pictures).mkdir(parents=True, exist_ok=True)
                tab.picture(Path(pictures) / f"{page.stem}-{width}-{'dark' if dark else 'light'}.png")
    assert all(paper > 0.8 for paper in papers[::2]) and all(paper < 0.05 for paper in papers[1::2])


@pytest.mark.parametrize("name", PAGES)
def test_what_a_command_prints_as_json_keeps_its_published_schema(name, pages):
    printed = json.loads(pages(name).with_suffix(".json").read_text("utf-8"))
    if "kind" in printed:
        schema = kinds()[printed["kind"]].schema()
        kinds()[printed["kind"]].check(printed)
    else:
        schema = list_schemas()["weights --neuron"] if name == "a neuron's weights" else result_schema()
    Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) >= set(printed)
    wrong = [f"{error.json_path}: {error.message[:200]}" for error in Draft202012Validator(schema).iter_errors(printed)]
    assert wrong == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_a_question_and_says_of_which_model_and_how(name, tab, pages):
    tab.look(width=1280)
    tab.open(pages(name).as_uri())
    assert tab.evaluate("document.querySelector('h1').textContent.trim().endsWith('?')")
    assert tab.evaluate("document.querySelector('.masthead .model b').textContent")
    assert tab.evaluate("document.querySelectorAll('footer .provenance dt').length") >= 3
    heads = tab.evaluate("document.querySelectorAll('main h2').length")
    links = tab.evaluate("[...document.querySelectorAll('.contents a')].map(a => a.getAttribute('href'))")
    assert len(links) == (heads if heads >= 3 else 0)
    if links:
        tab.evaluate("[...document.querySelectorAll('.contents a')].at(-1).click()")
        assert tab.evaluate("location.hash") == links[-1] and tab.evaluate("scrollY") > 0
        tab.open(f"{pages(name).as_uri()}{links[-1]}")
        assert tab.evaluate("scrollY") > 0, "a link leads to the section"


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_shows_can_be_saved(name, tab, pages):
    tab.look(width=1280)
    tab.open(pages(name).as_uri())
    kinds, texts = tab.evaluate(SAVED)
    # a figure's data is the result that it was drawn from
    assert len(kinds) == len(texts) and {"JSON", "SVG"} & set(kinds)
    for kind, text in zip(kinds, texts, strict=True):
        if kind == "JSON":
            assert json.loads(text)["kind"].startswith("caseback.")
        elif kind == "SVG":
            assert text.startswith("<svg") and "xmlns" in text
        else:
            assert text


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_assistive_technology_can_read_a_page(name, dark, tab, pages):
    tab.look(width=1280, dark=dark)
    tab.open(pages(name).as_uri())
    assert tab.unheard() == []


def test_the_map_of_an_atlas_shows_any_kind_and_a_card_of_any_unit(tab, pages):
    tab.look(width=1280)
    tab.open(pages("atlas").as_uri())
    kinds = tab.evaluate("[...document.querySelectorAll('#atlas-kind option')].map(option => option.value)")
    assert {"induction", "copying"} <= set(kinds)
    tab.evaluate(
        "const s = document.querySelector('#atlas-kind'); s.value = 'copying'; s.dispatchEvent(new Event('change'))"
    )
    units = "[...document.querySelectorAll('.field .unit')].map(unit => unit.title.split(':')[0])"
    assert len(set(tab.evaluate(units))) == 4 * 5
    tab.evaluate("document.querySelector('.field .unit[title^=\"L2H2:\"]').click()")
    assert tab.evaluate("document.querySelector('.unit-card h3').textContent") == "L2H2"
    cells = tab.evaluate("[...document.querySelectorAll('.unit-card tbody tr')].map(row => row.innerText)")
    assert any(row.startswith("induction") and "proved" in row for row in cells)
    address = tab.evaluate("location.hash")
    assert "kind=copying" in address and "unit=L2H2" in address
    tab.open("about:blank")
    tab.open(f"{pages('atlas').as_uri()}{address}")
    assert tab.evaluate("document.querySelector('#atlas-kind').value") == "copying"
    assert tab.evaluate("document.querySelector('.unit-card h3').textContent") == "L2H2"
    tab.evaluate("const u = document.querySelector('#atlas-unit'); u.value = 'x'; u.dispatchEvent(new Event('change'))")
    assert "is no unit" in tab.evaluate("document.querySelector('.atlas-card').textContent")


def test_an_atlas_lists_units_by_a_word(tab, pages):
    tab.look(width=1280)
    tab.open(pages("atlas").as_uri())
    tab.evaluate("document.querySelector('.field .unit[title^=\"L2H2:\"]').click()")
    word = tab.evaluate("document.querySelector('.unit-words td code').textContent").strip()
    write = "const w = document.querySelector('#atlas-word'); w.value = {}; w.dispatchEvent(new Event('input'))"
    tab.evaluate(write.format(json.dumps(word)))
    buttons = "[...document.querySelectorAll('.strongest .name')].map(button => button.textContent)"
    assert any(text.startswith("L2H2 ") for text in tab.evaluate(buttons))
    tab.evaluate(
        "[...document.querySelectorAll('.strongest .name')].find(b => b.textContent.startsWith('L2H2 ')).click()"
    )
    assert tab.evaluate("document.querySelector('.unit-card h3').textContent") == "L2H2"
    address = tab.evaluate("location.hash")
    assert "word=" in address
    tab.open("about:blank")
    tab.open(f"{pages('atlas').as_uri()}{address}")
    assert any(text.startswith("L2H2 ") for text in tab.evaluate(buttons))
    tab.evaluate(write.format(json.dumps("zzz<b>")))
    said = tab.evaluate("document.querySelector('.atlas-view').innerText")
    assert "none has “zzz<b>”" in said and "caseback weights" in said and tab.evaluate(buttons) == []


def test_a_choice_is_in_the_address(tab, pages):
    tab.look(width=1280)
    tab.open(pages("explain").as_uri())
    tab.evaluate("document.querySelectorAll('input[name=colour-the-cells-by]')[2].click()")
    address = tab.evaluate("location.hash")
    assert "colour-the-cells-by=2" in address
    tab.open("about:blank")
    tab.open(f"{pages('explain').as_uri()}{address}")
    assert tab.evaluate(
        "document.querySelector('input[name=colour-the-cells-by]:checked').nextSibling.textContent"
    ).startswith("Rank of")


def test_a_graph_of_few_heads_fits_a_phone(tab, pages):
    tab.look(width=400)
    tab.open(pages("circuit").as_uri())
    box = tab.evaluate(
        "(({ clientWidth, scrollWidth }) => [clientWidth, scrollWidth])(document.querySelector('.graph-box'))"
    )
    assert box[1] <= box[0]
    smallest = tab.evaluate(
        "Math.min(...[...document.querySelectorAll('.node text')].map((text) => text.getBoundingClientRect().height))"
    )
    assert smallest >= 9, "names are legible"
