"""Flower's inner modules move between releases, and pickle runs what it reads: neither is imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "tavit_flwr").rglob("*.py"), *(ROOT / "simulations").rglob("*.py")])
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
CODE_RUNNING = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def trees():
    assert len(SOURCES) > 50, "no sources: the check would be empty"
    for path in SOURCES:
        yield path.relative_to(ROOT), ast.parse(path.read_text(), str(path))


def imported(tree):
    """Line and module of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if node.module == "flwr":  # `from flwr import app` imports the module flwr.app
                yield from ((node.lineno, f"flwr.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def test_only_public_modules_of_flower_are_imported():
    found = [(str(path), line, name) for path, tree in trees() for line, name in imported(tree)]
    ours = [entry for entry in found if entry[2].split(".")[0] == "flwr"]
    assert {entry[2] for entry in ours} == PUBLIC, [entry for entry in ours if entry[2] not in PUBLIC]


def test_nothing_that_runs_what_it_reads_is_imported():
    found = [
        f"{path}:{line} imports {name}"
        for path, tree in trees()
        for line, name in imported(tree)
        if name.split(".")[0] in CODE_RUNNING
    ]
    assert found == []


#: Functions that run what they read, or can: as they are written, and the arguments that tame them.
CODE_RUNNING_CALLS = {
    "eval": "", "exec": "", "compile": "", "__import__": "", "os.system": "", "os.popen": "",
    "yaml.load": "", "yaml.unsafe_load": "", "yaml.full_load": "", "torch.jit.load": "", "torch.hub.load": "",
    "hydra.utils.instantiate": "", "hydra.utils.call": "", "instantiate": "",
    "np.load": "allow_pickle=False", "numpy.load": "allow_pickle=False",
}  # fmt: skip


def test_nothing_that_runs_what_it_reads_is_called():
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in CODE_RUNNING_CALLS:
                tamed = CODE_RUNNING_CALLS[name]
                if not tamed or tamed not in [ast.unparse(keyword) for keyword in node.keywords]:
                    found.append(f"{path}:{node.lineno} calls {name}")
            if isinstance(node, ast.keyword) and ast.unparse(node) in ("allow_pickle=True", "shell=True"):
                found.append(f"{path}:{node.lineno} says {ast.unparse(node)}")
    assert found == []


#: Published checkpoints are torch's files: here they come in, tensors only, and go out.
EXCHANGE = Path("tavit_flwr/inference/official_files.py")


@pytest.mark.parametrize("function", ["load", "save"])
def test_tensors_are_not_stored_with_torch(function):
    """`torch.load` and `torch.save` are pickle; files here are safetensors and JSON."""
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == f"torch.{function}" and path != EXCHANGE:
                found.append(f"{path}:{node.lineno}")
            if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization"):
                found += [f"{path}:{node.lineno}" for alias in node.names if alias.name == function]
    assert found == []


def test_published_checkpoints_are_read_as_tensors_only():
    calls = [node for node in ast.walk(ast.parse((ROOT / EXCHANGE).read_text())) if isinstance(node, ast.Call)]
    loads = [node for node in calls if ast.unparse(node.func) == "torch.load"]
    assert loads
    for node in loads:
        assert {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}["weights_only"] == "True"
