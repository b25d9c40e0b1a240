"""The pictures of pages in README and docs, taken again from the bundled model: `make pictures`.

Each page is what a command writes, in a window of 1280 pixels, light, in headless Chromium; of its colors the 128 that
fit it best are kept, which makes a picture a third as large and hardly different.
"""

import json
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

FOLDER = Path(__file__).parent / "pictures"
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


def main() -> None:
    if CHROMIUM is None:
        sys.exit("pictures are taken by chromium or chrome, and none is on the path")
    FOLDER.mkdir(exist_ok=True)
    explorer()
    with tempfile.TemporaryDirectory() as folder:
        pages(Path(folder))


if __name__ == "__main__":
    main()
