"""What long work needs has one home: outside ``caseback.jobs`` no bound, no hash of weights, no checkpoint, no bar."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import caseback
from caseback.jobs.budget import LIMITS

SOURCE = Path(caseback.__file__).parent
BOUNDS = re.compile(
    r"_?([A-Z_]*(AT_ONCE|BUDGETS?|_BYTES|_ENTRIES|_LOGITS|LOGITS_ON_CPU)|MAX_[A-Z_]+|LOGITS|MEMORY|KEPT_IN_MEMORY"
    r"|BLOCK|BATCH|CHUNK|WINDOW|WIDE|MOST_DENSE|ROWS|COPIES)"
)
ARGUMENTS = re.compile(
    r"max_logits|token_budget|max_batch|shard_bytes|memory|at_once|block|chunk(_size)?|copies|batch(_size)?"
)
# a name that reads like a bound
NO_BOUNDS = {"train.py:ROWS"}
# Rows of a step: they are part of what is trained, not of how much is in hand.
OF_A_TRAINING = {
    "reft.py:fit_reft",
    "mend_training.py:fit_mend",
    "learning_coefficient.py:learning_coefficient",
    "controls.py:frozen_decoder",
    "reconstruction.py:reconstruction_measures",
    "toy_models.py:superposition_phases",
    "toy_models.py:toy_superposition",
    "structural_probe.py:structural_probe",
    "attention_probe.py:attention_probe",
    "mlp_probe.py:mlp_probe",
    "attention_lens.py:fit_attention_lens",
    "draws.py:__init__",
    "future_prompt.py:fit_future_prompt",
    "tuned_lens.py:fit_tuned_lens",
    "boundless.py:boundless_das",
    "masks.py:binary_mask",
    "disentangling.py:disentangling",
    "causal_gym.py:causal_gym",
    "das_map.py:das_map",
    "distributed.py:das",
    "training_interchange.py:interchange_training",
    "edge_pruning.py:edge_pruning",
    "edge_pruning.py:subnetwork_probing",
    "align.py:align",
}
# the hash of a page's own script or style, for its content policy
HASHES_OF_PAGES = {"page.py"}
WRITERS = {"save_file", "savez", "savez_compressed", "save"}


@cache
def trees() -> dict[str, ast.Module]:
    """Every module outside ``jobs``."""
    files = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
    return {name: ast.parse(path.read_text()) for name, path in files.items() if not name.startswith("jobs/")}


def leaf(name: str) -> str:
    """A file without its folders, which may be sorted anew."""
    return name.rpartition("/")[2]


def is_number(node: ast.AST | None) -> bool:
    """A number above 0, or a sum or power of numbers, or a tuple or dict of such."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool) and node.value != 0
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    if isinstance(node, ast.Dict):
        return bool(node.values) and all(map(is_number, node.values))
    return isinstance(node, ast.Tuple) and bool(node.elts) and all(map(is_number, node.elts))


def bounds(tree: ast.Module) -> list[str]:
    """Names of module-level numbers that bound how much is in hand at once."""
    made = []
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_number(node.value):
            made += [name for name in names if BOUNDS.fullmatch(name)]
    return made


def defaults(tree: ast.Module) -> list[tuple[str, str]]:
    """Functions and arguments whose default is such a number."""
    made = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            args = node.args
            with_default = [*zip(args.args[len(args.args) - len(args.defaults) :], args.defaults, strict=True)]
            with_default += [*zip(args.kwonlyargs, args.kw_defaults, strict=True)]
            made += [(node.name, a.arg) for a, value in with_default if ARGUMENTS.fullmatch(a.arg) and is_number(value)]
    return made


def imports(tree: ast.Module) -> set[str]:
    """The packages that a module imports, and the names that it imports from them."""
    made = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            made |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            made |= {node.module.partition(".")[0]}
    return made


def keepers(tree: ast.Module) -> list[str]:
    """Classes that are called like checkpoints or stores and write files themselves."""
    made = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and re.search(r"(Checkpoint|Store|Kept|Saver)$", node.name):
            called = {n.func for n in ast.walk(node) if isinstance(n, ast.Call)}
            names = {
                f.id if isinstance(f, ast.Name) else f.attr for f in called if isinstance(f, ast.Name | ast.Attribute)
            }
            if names & {*WRITERS, "whole_file", "write_bytes", "write_text"}:
                made.append(node.name)
    return made


def test_the_finders_find():
    """What the tests below look for is seen where it is."""
    bad = (
        "import tqdm\nfrom hashlib import sha256\n_WIDE: int = 1 << 22\nTOKEN_BUDGETS = {'cpu': 2048, 'other': 2**14}\n"
    )
    bad += "LOGITS_ON_CPU, LOGITS = 2**22, 2**26\ndef f(x, *, max_logits: int = 2**24, n=3): pass\n"
    bad += "class SweepStore:\n    def keep(self):\n        np.savez('a')\n"
    tree = ast.parse(bad)
    assert bounds(tree) == ["_WIDE", "TOKEN_BUDGETS", "LOGITS_ON_CPU", "LOGITS"]
    assert defaults(tree) == [("f", "max_logits")]
    assert imports(tree) == {"tqdm", "hashlib"} and keepers(tree) == ["SweepStore"]


def test_no_module_has_a_bound_of_its_own():
    found = {f"{leaf(name)}:{bound}" for name, tree in trees().items() for bound in bounds(tree)}
    assert found == NO_BOUNDS & found, sorted(found - NO_BOUNDS)


def test_no_argument_has_a_bound_of_its_own_as_default():
    found = {f"{leaf(name)}:{function}" for name, tree in trees().items() for function, _ in defaults(tree)}
    assert found <= OF_A_TRAINING, sorted(found - OF_A_TRAINING)


def test_nothing_else_hashes():
    assert {leaf(name) for name, tree in trees().items() if "hashlib" in imports(tree)} <= HASHES_OF_PAGES


def test_nothing_else_makes_progress_bars():
    assert [name for name, tree in trees().items() if "tqdm" in imports(tree)] == []


def test_there_is_no_second_checkpoint():
    assert {name: found for name, tree in trees().items() if (found := keepers(tree))} == {}


def test_every_limit_is_read_somewhere():
    called = {
        node.args[0].value
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", None) == "limit" or getattr(node.func, "attr", None) == "limit")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    # the share of a device that all may take is read by the table itself
    assert called | {"memory_percent"} == set(LIMITS) and "memory_percent" not in called


@pytest.mark.parametrize("module", ["jobs"])
def test_jobs_import_no_model(module):
    for path in (SOURCE / module).rglob("*.py"):
        names = {n.module or "" for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
        assert not [
            n for n in names if n.startswith("caseback.") and not n.startswith(("caseback.jobs", "caseback.errors"))
        ]


def test_paths_are_looked_at_by_functions_that_no_name_breaks():
    """``Path.is_dir`` and its like raise for a name that is too long; ``os.path`` says no."""
    calls = [
        f"{name}:{node.lineno}"
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"is_dir", "is_file", "exists", "is_symlink", "mkdir"}
        and ast.unparse(node.func.value) != "os.path"
    ]
    assert calls == []


def test_json_of_files_is_parsed_in_one_place():
    """What Python's reader gives up on is an error of its own there; metadata that we wrote and checked are no file."""
    own = {"saved_edits.py", "saved_subspaces.py", "saved_lenses.py", "artifact.py", "store.py", "judged.py"}
    own |= {"saved_directions.py", "saved_erasers.py", "saved_probes.py", "saved_reft.py", "saved_dictionaries.py"}
    own |= {"in_words.py", "attributions.py", "organisms.py"}
    calls = {
        leaf(name)
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.loads", "json.load", "json.JSONDecoder")
    }
    assert calls <= own
