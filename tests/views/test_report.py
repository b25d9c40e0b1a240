import base64
import copy
import gzip
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from page_data import page_data

from caseback.errors import CasebackError
from caseback.reports.tokens_text import visible
from caseback.views.page.explanation import report_html, write_report


class Page(HTMLParser):
    """What a browser would see: the elements, the text of scripts and of styles, and the text of the rest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.styles, self.text, self._into = [], [], [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._into = {"script": self.scripts, "style": self.styles}.get(tag)
        if self._into is not None:
            self._into.append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._into = None

    def handle_data(self, data):
        if self._into is None:
            self.text.append(data)
        else:
            self._into[-1] += data


def test_the_page_carries_the_explanation(explanation):
    data = page_data(report_html(explanation))
    assert data["metric"]["value"] == pytest.approx(explanation["metric"]["value"], rel=1e-5)
    assert data["prompt"] == explanation["prompt"]
    texts, top = data["lens"]["texts"], data["lens"]["top"]
    for row, expected in zip(top, explanation["lens"]["top_text"], strict=True):
        for cell, words in zip(row, expected, strict=True):
            assert [texts[index] for index in cell] == [visible(word) for word in words]
    assert len(texts) == len(set(texts))


def test_patterns_survive_packing(explanation):
    data = page_data(report_html(explanation))
    for head, packed in zip(explanation["heads"], data["heads"], strict=True):
        n = packed["pattern"]["n"]
        raw = gzip.decompress(base64.b64decode(packed["pattern"]["data"]))
        values = np.frombuffer(raw, "<u2").reshape(n, n) / packed["pattern"]["scale"]
        assert np.abs(values - np.array(head["pattern"])).max() < 1e-5


def test_the_explanation_is_left_alone(explanation):
    before = copy.deepcopy(explanation)
    report_html(explanation)
    assert explanation == before


def test_the_same_explanation_gives_the_same_page(explanation):
    assert report_html(explanation) == report_html(copy.deepcopy(explanation))


def test_hostile_text_stays_text(hostile):
    text = report_html(hostile)
    page = Page(text)
    assert len(page.scripts) == 2, "the data and the program: no token opened or closed a script"
    assert not {"img", "s"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert [token["text"] for token in page_data(text)["tokens"]] == [token["text"] for token in hostile["tokens"]]
    assert page_data(text)["prompt"] == hostile["prompt"]
    text.encode("utf-8")  # a lone surrogate in a token would fail here
    without_script = text.replace(page.scripts[1], "")
    assert "<!--" not in without_script
    assert not re.search("[\u2028\u200b\u202e\x00\x07\x1b]", text)


def test_nothing_is_loaded_from_anywhere(explanation):
    page = Page(report_html(explanation))
    for tag, attributes in page.tags:
        assert "src" not in attributes and "href" not in attributes, f"<{tag}> refers to something outside"
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    for kind, content in (("script", page.scripts[1]), ("style", page.styles[0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", page.scripts[1] + page.styles[0]))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in page.styles[0] and "url(" not in page.styles[0]


def test_the_bundle_is_small_and_never_parses_data_as_markup():
    static = files("caseback.views") / "static"
    script, style = ((static / name).read_bytes() for name in ("explanation.js", "page.css"))
    assert len(script) + len(style) <= 150 * 1024
    for way in (
        b"innerHTML",
        b"outerHTML",
        b"insertAdjacentHTML",
        b"document.write",
        b"eval(",
        b"new Function",
    ):
        assert way not in script
    assert b"</script" not in script.lower() and b"</style" not in style.lower()
    assert b"Permission to use, copy, modify" in script, "the licence of what was bundled goes with it"


def test_the_main_numbers_are_there_without_javascript(explanation):
    text = report_html(explanation)
    fallback = " ".join(Page(text[text.index("<noscript>") : text.index("</noscript>")]).text)
    for token in explanation["predictions"]:
        assert visible(token["text"]) in fallback and f"{token['prob']:.4f}" in fallback
    for row in explanation["ablations"]["rows"][:5]:
        assert row["name"] in fallback and f"{row['effect']:+.4f}" in fallback
    for check in explanation["checks"]:
        assert check["name"] in fallback
    for value in explanation["lens"]["logit_diff"]:
        assert f"{value:+.3f}" in fallback


@pytest.mark.parametrize("strip", ["heads", "methods", "rows", "patterns", "checks", "predictions", "patching"])
def test_parts_may_be_empty(explanation, strip):
    if strip == "methods":
        explanation["inputs"]["methods"] = []
    elif strip == "rows":
        explanation["ablations"].update(rows=[], spearman=None)
    elif strip == "patterns":
        for head in explanation["heads"]:
            head["pattern"] = None
    elif strip == "patching":
        explanation["patching"] = None
    else:
        explanation[strip] = []
    explanation["components"]["pos_embed"] = None
    assert Page(report_html(explanation)).scripts


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda e: e.update(kind="circuit"), "'circuit', expected 'caseback.explanation'"),
        (lambda e: e.update(version=1), "version 1"),
        (lambda e: e.pop("lens"), "without lens"),
        (lambda e: e.update(position=99), "position is 99"),
        (lambda e: e.update(tokens=[]), "tokens is empty"),
        (lambda e: e["lens"]["kl"][3].pop(), r"lens.kl\[3\] has 14 entries, expected 15"),
        (lambda e: e["lens"]["logit_diff"].pop(), "lens.logit_diff has 12 entries, expected 13"),
        (lambda e: e["lens"]["target_rank"][0].__setitem__(0, 0), "rank below 1"),
        (lambda e: e["inputs"]["methods"][0]["scores"].append(1.0), r"scores has 16 entries, expected 15"),
        (lambda e: e["components"]["head"][2].pop(), r"components.head\[2\] has 11"),
        (lambda e: e["heads"][0]["pattern"][1].pop(), r"heads\[0\].pattern\[1\] has 14"),
        (lambda e: e["patching"]["corrupt"].pop(), "patching.corrupt has 14 entries, expected 15"),
        (lambda e: e["patching"]["maps"][1]["recovery"][2].pop(), r"patching.maps\[1\].recovery\[2\] has 14"),
        (lambda e: e["patching"]["heads"].pop(), "patching.heads has 11 entries, expected 12"),
        (lambda e: e["lens"]["kl"][3].__setitem__(2, float("inf")), r"lens.kl\[3\]\[2\] is inf"),
        (lambda e: e["metric"].update(value=float("nan")), "metric.value is nan"),
        (lambda e: e["metric"].update(value=np.float32(1)), "metric.value is a float32"),
    ],
)
def test_an_unfit_document_is_refused_by_name(explanation, spoil, says):
    spoil(explanation)
    with pytest.raises(CasebackError, match=says):
        report_html(explanation)


def test_something_else_is_refused():
    with pytest.raises(CasebackError, match="not an explanation document: kind is 'list'"):
        report_html([])


def test_writing_replaces_the_file_and_leaves_no_other(explanation, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert write_report(explanation, path) == path
    assert path.read_text(encoding="utf-8") == report_html(explanation)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_old_file(explanation, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(CasebackError, match=r"report\.html: No space left on device"):
        write_report(explanation, path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_missing_folder_is_named(explanation, tmp_path):
    with pytest.raises(CasebackError, match="there is no folder .*nowhere"):
        write_report(explanation, tmp_path / "nowhere" / "report.html")


def test_a_folder_is_not_a_file(explanation, tmp_path):
    with pytest.raises(CasebackError, match="it is a folder"):
        write_report(explanation, tmp_path)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on the path")
def test_a_browser_draws_every_section(hostile, tmp_path):
    path = write_report(hostile, tmp_path / "report.html")
    arguments = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    arguments += "--disable-component-update --disable-sync --virtual-time-budget=4000 --dump-dom"
    command = [BROWSER, *arguments.split(), f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    drawn = Page(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)
    ids = {attributes.get("id") for _, attributes in drawn.tags}
    assert {"lens", "inputs", "components", "attention", "patching", "claims"} <= ids
    text = " ".join(drawn.text)
    assert "Why" in text and "</script>" in text
    assert "It looks at" in text, "the attention patterns were unpacked and drawn"
    assert "owned" not in re.search(r"Why .* · caseback", text).group()
    assert not {"img", "s"} & {tag for tag, _ in drawn.tags}
    shown = [attributes for tag, attributes in drawn.tags if attributes.get("class") == "token-text"]
    assert len(shown) == 4 * len(hostile["tokens"]), "prompt, two methods, attention"
