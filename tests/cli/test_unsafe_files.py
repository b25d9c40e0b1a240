"""Pickles and a model's own code: no command opens them unless its option says so, and then it does."""

import json

import pytest
import torch
from safetensors.torch import load_file

from bad_inputs.commands import tiny_folder
from caseback import cli

OWN_CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path / "model")


def ran(folder, capsys, *options):
    with pytest.raises(SystemExit) as ended:
        cli.main(["dla", "Mary went to the", "--model", str(folder), *options, "--json"])
    return ended.value.code, capsys.readouterr()


def test_pickled_weights_are_read_where_the_option_says_so(folder, capsys):
    wanted = json.loads(ran(folder, capsys)[1].out)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    code, output = ran(folder, capsys)
    assert code == 2 and "--allow-pickle" in output.err
    code, output = ran(folder, capsys, "--allow-pickle")
    assert code == 0 and json.loads(output.out) == wanted


def test_a_models_own_code_runs_where_the_option_says_so(folder, capsys, tmp_path):
    mark = tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": own}))
    (folder / "own.py").write_text(OWN_CODE.format(mark=str(mark)))
    code, output = ran(folder, capsys)
    assert code == 2 and "--trust-remote-code" in output.err and not mark.exists()
    ran(folder, capsys, "--trust-remote-code")
    assert mark.exists()
