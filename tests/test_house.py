"""The structure: what may import what, and what the documentation names."""

import ast
import re
import sys
from contextlib import chdir
from graphlib import TopologicalSorter

import pytest
import torch

from tests.helpers import CPU, ROOT, call
from utils import sampling_utils
from utils.common.processes import pick_device
from utils.score_utils import BatchScores

PURE = ("score_utils", "fast_score_utils", "sampling_utils", "criterion_utils", "metric_utils")
SOURCES = [path.relative_to(ROOT) for folder in ("utils", "models") for path in sorted((ROOT / folder).rglob("*.py"))]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def imported(source):
    """Return the modules that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: imports are absolute"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(module):
    """Return the room of a module: its folder, or `equations` or `method` for those at the top of utils."""
    _, name, *rest = module.split(".")
    return name if rest else "equations" if name in PURE else "method"


@pytest.mark.parametrize("name", PURE)
def test_equations_import_only_mathematics_and_each_other(name):
    ours = {f"utils.{other}" for other in PURE}
    for module in imported(f"utils/{name}.py"):
        package = module.split(".")[0]
        allowed = package in {"torch", "numpy", "scipy", "models"} or package in sys.stdlib_module_names
        assert allowed or module in ours or module.rpartition(".")[0] in ours, module


def test_models_do_not_import_utils():
    for source in SOURCES:
        if source.parts[0] == "models":
            assert not [module for module in imported(source) if module.startswith("utils")], source


def test_imports_between_modules_and_between_rooms_have_no_cycle():
    modules = {".".join(source.with_suffix("").parts): imported(source) for source in SOURCES}
    arrows = {name: {other for other in modules if other in names} - {name} for name, names in modules.items()}
    list(TopologicalSorter(arrows).static_order())  # raises CycleError
    rooms = {}
    for name, others in arrows.items():
        if name.startswith("utils."):
            near = {room(other) for other in others if other.startswith("utils.")}
            rooms.setdefault(room(name), set()).update(near - {room(name)})
    list(TopologicalSorter(rooms).static_order())
    assert not rooms["equations"] and not rooms["common"]


def test_every_file_has_a_docstring():
    for source in SOURCES:
        text = (ROOT / source).read_text()
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, source
        if source.name == "__init__.py":
            assert len(text.splitlines()) == 1, f"{source}: holds one line, its docstring"


def test_the_readme_and_its_lines_are_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    for document in DOCUMENTS:
        for number, line in enumerate(document.read_text().splitlines(), start=1):
            assert len(line) <= 160, f"{document.name}, line {number}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_in_the_documentation_exist(document):
    text = document.read_text()
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert link.startswith("https://") or (document.parent / link).exists(), link
    for path in re.findall(r"`((?:utils|models|tests|benchmarks|preprocessing|postprocessing)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path


def test_tests_named_in_the_documentation_exist():
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    defined = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 20 and set(named) <= defined


def test_child_processes_of_tests_see_no_gpu():
    assert call("-c", "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))") == "''\n"
    assert pick_device() == CPU


def test_the_documented_computation_of_golden_values_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "golden.md").read_text(), re.DOTALL)
    with chdir(ROOT):
        exec(compile(block, "docs/golden.md", "exec"), {})


def test_the_documented_strategy_works():
    text = (ROOT / "docs" / "where.md").read_text()
    (function,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def " in block)
    names = vars(sampling_utils) | {"torch": torch}
    exec(function, names)
    cross = torch.tensor([[0.5, 0.1, 0.4, 0.2], [0.3, 0.5, 0.2, 0.9], [0.9, 0.1, 0.5, 0.2], [0.0, 0.3, 0.6, 0.5]])
    audio, text = names["middle_ns"](BatchScores(cross, None, None), ~torch.eye(4, dtype=torch.bool), None)
    assert text.int().argmax(dim=1).tolist() == [3, 0, 3, 1]  # the middle of each row's three, S_ii left out
    assert audio.int().argmax(dim=1).tolist() == [1, 0, 0, 0]  # and of each column's; ties: the first
