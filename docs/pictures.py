"""The pictures of pages in README and docs, taken again from the bundled model: `make pictures`.

Each page is what a command writes, in a window of 1280 pixels, light, in headless Chromium; of its colors the 128 that
fit it best are kept, which makes a picture a third as large and hardly different. `docs/pages.md` has the top of every
page, at half its width, as the test of all pages looks at them.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "pictures"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROMPT = "When Mary and John went to the store, John gave a drink to"


def caseback(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "caseback", *map(str, words)]


def take(address: str, name: str, height: int) -> None:
    """A picture of a page, from its top down."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=9000".split()
        flags += [f"--window-size=1280,{height}", f"--screenshot={shot}", f"--user-data-dir={folder}/profile"]
        subprocess.run([str(CHROMIUM), *flags, address], check=True, capture_output=True, timeout=120)
        few = Image.open(shot).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few.save(FOLDER / f"{name}.png", optimize=True)
    print(f"{name}.png  {(FOLDER / f'{name}.png').stat().st_size // 1000} kB")


def pages(folder: Path) -> None:
    """What commands write, each with the height of its picture."""
    commands = {
        "explain": (["explain", PROMPT], 1800),
        "circuit": (["circuit", "ioi", "--method", "eap-ig", "--edges", "60"], 1300),
        "atlas": (["atlas", "meadow", "--kinds", "previous token,induction,duplicate token,copying"], 1300),
    }
    for name, (words, height) in commands.items():
        page = folder / f"{name}.html"
        subprocess.run(caseback(*words, "--html", page), check=True, stdout=subprocess.DEVNULL)
        take(page.as_uri(), name, height)


def explorer() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(caseback("serve", "meadow", "--port", str(port)))
    try:
        address = f"http://127.0.0.1:{port}/"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}api/model", timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
        state = {"prompt": PROMPT, "changes": [{"part": "head", "layer": 0, "head": 0, "factor": 0}]}
        take(address + "#" + urllib.parse.quote(json.dumps(state)), "explorer", 800)
    finally:
        server.terminate()
        server.wait()


HEAD = """# Every page

What commands write with `--html`: one file each, which loads nothing, follows light and dark, fits 360 to 1600 pixels
and can be saved as data, tables and pictures. Below the table is the top of each.

Of the bundled model, with a `PROMPT` of 15 tokens and few examples (capital words stand for it, its counterfactual, and
files): the size of the file, and the processor time of its command on one thread, without the imports. `make pictures`
takes them again; `tests/views/test_every_page.py` opens all of them in a browser, light, dark and narrow, and reads
what assistive technology hears.

All but one of these files are below 300 kB. A graph has up to 20,000 edges, each with its weight and the heads that it
goes through. Of SmolLM2-135M with a prompt of 72 tokens it is 430 kB: 112 are the script, the style sheets and the
tables for readers without a script, 49 nodes and texts, 14 sources, 28 shares, 83 weights of six digits, 139 the heads
of edges and their percentages. Columns are bytes there, and 300 kB cannot be reached without a loss: the entropies of
these columns sum to 181 kB (weights 57, heads 54, percentages 41 given the larger one before, shares 20, sources 9),
which in base64 are 241, and with the nodes and what stands around them 402. Fewer edges make it smaller:
`most_edges=10_000` of `attribution_graph_document` gives 305 kB there.

| page | command | kB | s |
|---|---|---|---|
"""


def gallery(shots: Path) -> None:
    """The page of all pages, with their pictures, from what the test of all pages leaves in a folder."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "views")]
    from test_every_page import CLEAN, CORRUPT, PAGES  # pyright: ignore[reportMissingImports]

    (FOLDER / "pages").mkdir(exist_ok=True)
    rows, pictures, short = [], [], {CLEAN: "PROMPT", CORRUPT: "COUNTERFACTUAL"}
    about = json.loads((shots / "pages.json").read_text(encoding="utf-8"))
    for name, words in PAGES.items():
        whole = Image.open(shots / f"{name.replace(' ', '-')}-1280-light.png").convert("RGB")
        stem = name.replace(" ", "-").replace("'", "")
        top = whole.crop((0, 0, whole.width, min(900, whole.height)))
        top = top.resize((640, 640 * top.height // top.width))
        top.quantize(64, dither=Image.Dither.NONE).save(FOLDER / "pages" / f"{stem}.png", optimize=True)
        command = shlex.join(short.get(word, word) for word in words)
        size, seconds = about[name]["bytes"] / 1000, about[name]["seconds"]
        rows.append(f"| [{name}](#{stem}) | `caseback {command}` | {size:.0f} | {seconds:.1f} |\n")
        picture = f"![The page of {name}](pictures/pages/{stem}.png){{ loading=lazy }}"
        pictures.append(f'<figure id="{stem}" markdown>\n{picture}\n<figcaption>{name}</figcaption>\n</figure>\n')
    grid = "\n".join(["", '<div class="gallery" markdown>', "", *pictures, "</div>", ""])
    (ROOT / "docs" / "pages.md").write_text(HEAD + "".join(rows) + grid, encoding="utf-8")


def taken(folder: Path) -> Path:
    """The folder, once the test of all pages has put its pictures there."""
    test = [sys.executable, "-m", "pytest", "-q", "tests/views/test_every_page.py", "-k", "sideways"]
    settings = {**os.environ, "CASEBACK_SCREENSHOTS": str(folder), "OMP_NUM_THREADS": "1"}
    subprocess.run(test, check=True, cwd=ROOT, env=settings)
    return folder


def main() -> None:
    if CHROMIUM is None:
        sys.exit("pictures are taken by chromium or chrome, and none is on the path")
    FOLDER.mkdir(exist_ok=True)
    explorer()
    with tempfile.TemporaryDirectory() as folder:
        pages(Path(folder))
        gallery(taken(Path(folder) / "shots"))


if __name__ == "__main__":
    main()
