"""A fitted thing goes to a hub and comes back, whatever its kind; what cannot go says why."""

import json
import os
import subprocess
import sys

import pytest
from a_hub import a_hub

import caseback as cb
from caseback.artifacts.hub import HubAddress
from caseback.errors import CasebackError, LoadError, WriteError

PUSHED = """
import sys
import caseback as cb
for path, address in zip(sys.argv[1::2], sys.argv[2::2]):
    print(cb.push(path, address))
edits = cb.load_edits("hf://ours/things/edits.safetensors")
print([edit.describe() for edit in edits])
circuit = cb.Circuit.load("hf://ours/things/found/circuit.json")
print(sorted(map(str, circuit.edges)))
"""


@pytest.fixture
def things(tmp_path):
    """A file with tensors and one of JSON."""
    edits, circuit = tmp_path / "edits.safetensors", tmp_path / "circuit.json"
    cb.save_edits([cb.Zero("z", layer=0, head=1)], edits)
    cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits").save(circuit)
    return edits, circuit


def asked(hub, code, *arguments, token="ours", home):
    """Python with that hub as its hub, since the client reads the environment once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    surroundings = kept | {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": token,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=surroundings
    )


def test_what_is_pushed_is_loaded_by_its_address(things, tmp_path):
    edits, circuit = things
    with a_hub() as hub:
        addresses = (edits, "hf://ours/things", circuit, "hf://ours/things/found/circuit.json")
        ran = asked(hub, PUSHED, *addresses, home=tmp_path / "home")
        assert ran.returncode == 0, ran.stderr
    one, two, read, edges = ran.stdout.splitlines()
    assert (one, two) == ("hf://ours/things/edits.safetensors", "hf://ours/things/found/circuit.json")
    assert read == str([edit.describe() for edit in cb.load_edits(edits)]) and "L0H1 -> logits" in edges
    held = {path: data for (repository, path), data in hub.files.items() if repository == "ours/things"}
    assert held["edits.safetensors"] == edits.read_bytes() and held["found/circuit.json"] == circuit.read_bytes()
    card = held["README.md"].decode()
    assert "A list of edits of caseback" in card and "load_edits('hf://ours/things/edits.safetensors')" in card


def test_what_is_there_already_stays(things, tmp_path):
    with a_hub() as hub:
        hub.files["ours/things", "README.md"] = b"Ours."
        ran = asked(hub, PUSHED.partition("edits =")[0], things[0], "hf://ours/things", home=tmp_path / "home")
        assert ran.returncode == 0, ran.stderr
        assert hub.files["ours/things", "README.md"] == b"Ours." and len(hub.files) == 2


def test_without_the_right_to_write_it_is_said(things, tmp_path):
    with a_hub() as hub:
        ran = asked(
            hub, PUSHED.partition("edits =")[0], things[0], "hf://ours/things", token="theirs", home=tmp_path / "home"
        )
    assert ran.returncode == 1 and hub.files == {}
    assert "WriteError" in ran.stderr and "cannot be put at 'hf://ours/things/edits.safetensors'" in ran.stderr


def test_a_file_that_is_not_there_is_said(tmp_path):
    code = "import caseback as cb\ntry:\n    cb.load_edits('hf://ours/things/none')\nexcept cb.CasebackError as e:\n    print(e)"
    with a_hub() as hub:
        ran = asked(hub, code, home=tmp_path / "home")
    assert ran.stdout.startswith("'hf://ours/things/none' cannot be fetched: "), ran.stderr


@pytest.mark.parametrize(
    "address", ["ours/things", "hf://ours", "hf:///things", "hf://ours/things/../a", "hf://ours/things?rev=1", "hf://"]
)
def test_an_address_of_another_form_is_refused(address, things):
    with pytest.raises(LoadError, match="expected hf://owner/name"):
        HubAddress.of(address)
    with pytest.raises(LoadError, match="expected hf://owner/name"):
        cb.push(things[0], address)


def test_only_fitted_things_go_up(tmp_path):
    for name, text in (("a.json", json.dumps({"a": 1})), ("b.json", "{"), ("c.safetensors", "no")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(CasebackError, match=name):
            cb.push(tmp_path / name, "hf://ours/things")
    with pytest.raises(CasebackError, match="nowhere"):
        cb.push(tmp_path / "nowhere.json", "hf://ours/things")
    with pytest.raises(LoadError, match="expected a file in it"):
        cb.load_edits("hf://ours/things")


def test_a_dry_run_checks_and_sends_nothing(things):
    assert cb.push(things[0], "hf://ours/things?revision=drafts", dry_run=True).endswith(
        "edits.safetensors?revision=drafts"
    )


def test_without_a_hub_it_is_said(things):
    with pytest.raises(WriteError, match="cannot be put at 'hf://ours/things/edits.safetensors'"):
        cb.push(things[0], "hf://ours/things")
