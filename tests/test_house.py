"""The rules of the house: who may import whom, what an import costs, and that the project's own papers agree."""

import ast
import graphlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lib import recipes

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("files", "device", "ops", "recipes", "nets", "robustness", "training", "theory", "experiments", "__main__")
HEAVY = ("foolbox", "lightning", "matplotlib", "numba", "pandas", "sklearn", "torchvision", "triton")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "lib").rglob("*.py"))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def imports(path: Path) -> Iterator[str]:
    """The modules of lib that a file imports anywhere in it, functions and type checks included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else str(node.module) for name in inner]
        else:
            continue
        yield from (name for name in names if name in FILES)


def room(module: str) -> int:
    return ROOMS.index(module.split(".")[1])


@pytest.mark.parametrize("module", [module for module in FILES if module != "lib"])
def test_a_file_imports_only_from_rooms_above_or_its_own(module: str) -> None:
    below = [other for other in imports(FILES[module]) if other == "lib" or room(other) > room(module)]
    assert not below, f"{module} imports {below}"


def test_no_file_imports_itself_through_others() -> None:
    graph = {module: set(imports(path)) for module, path in FILES.items() if module != "lib"}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", FILES)
def test_a_file_of_the_library_can_be_read_in_one_sitting(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= 350


def test_the_layers_and_certificates_load_fast_and_nothing_heavy() -> None:
    program = f"""
import sys, time
import torch
torch.library, torch.nn.functional
before, begin = set(sys.modules), time.perf_counter()
from lib import LInfDist, LInfDistNet, LInfDistNetMLP, MeanShift, certify, linf_dist_bounds, load, lp_dist, save
seconds = time.perf_counter() - begin
print(seconds, *[name for name in {HEAVY} if name in set(sys.modules) - before])
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, *heavy = run.stdout.split()
    assert not heavy
    assert float(seconds) < 3


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_that_wait_soon_sleep_unless_the_environment_says_otherwise(given: dict[str, str], spins: str) -> None:
    # without what a make above passes down: the suite runs under one, which would name its directories
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    plain = {name: value for name, value in os.environ.items() if name not in unset}
    program = "import os, sys, lib; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=plain | given, capture_output=True, text=True)
    assert run.stdout.split() == [spins, "False"]
    # make, whose programs may import torch first, says the same
    make, rule = ["make", "-f", "Makefile", "-f", "-", "spins"], "spins:\n\t@echo $${GOMP_SPINCOUNT-None}\n"
    made = subprocess.run(make, cwd=ROOT, env=plain | given, input=rule, capture_output=True, text=True)
    assert made.stdout.split() == [spins]


@pytest.mark.parametrize(
    "words",
    [["--help"], ["table", "1"], ["run", "--budgett", "quick"], ["run", "digits/linf-dist-nt"]],
    ids=lambda words: words[0],
)
def test_the_command_line_loads_the_training_stack_for_a_run_alone(words: list[str]) -> None:
    program = f"""
import sys
from lib.__main__ import main
try:
    main({words})
except SystemExit:
    pass
print("loaded:", *[name for name in ("foolbox", "lightning", "torch", "torchvision") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "loaded:"


def test_every_public_name_resolves() -> None:
    import lib

    assert all(getattr(lib, name).__module__.startswith("lib.") for name in lib.__all__)


def test_type_checkers_find_every_public_name_where_it_is_resolved() -> None:
    import lib

    conditions = [node for node in ast.parse(FILES["lib"].read_text()).body if isinstance(node, ast.If)]
    (block,) = [node for node in conditions if ast.unparse(node.test) == "TYPE_CHECKING"]
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "only `as` hands a name on"
            found[alias.name] = node.module
    assert found == lib._HOME


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_tracked_tree_stays_small() -> None:
    assert sum(path.lstat().st_size for path in tracked()) < 12 * 2**20


def versions() -> dict[str, str]:
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    return [
        Requirement(text) for text in [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    ]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_a_range_is_bounded_above_and_holds_the_pinned_version(requirement: Requirement) -> None:
    assert any(part.operator == "<" for part in requirement.specifier)
    assert versions()[canonicalize_name(requirement.name)] in requirement.specifier


# these come with the package on the right, of exactly the version that it needs
ARRIVE_WITH = {"llvmlite": "numba", "triton": "torch"}


def test_everything_imported_is_a_declared_dependency() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in requirements()}
    owners = importlib.metadata.packages_distributions()
    for path in (path for folder in ("lib", "bench", "tests") for path in (ROOT / folder).rglob("*.py")):
        roots = {name.partition(".")[0] for name in re.findall(r"^ *(?:from|import) ([\w.]+)", path.read_text(), re.M)}
        for root in roots & owners.keys() - sys.stdlib_module_names:
            names = {canonicalize_name(ARRIVE_WITH.get(root, owner)) for owner in owners[root]}
            assert names & {*declared, PROJECT["name"]}, f"{path.name} imports {root}"


def test_constraints_name_versions_only() -> None:
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in versions().values())


def test_conda_users_get_the_same_environment() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, wheels = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert SpecifierSet(python.removeprefix("python ")) == SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    extras = ",".join(PROJECT["optional-dependencies"])
    assert wheels == {"pip": ["--constraint constraints.txt", f"--editable .[{extras}]"]}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "book/index.md"])
def test_what_a_page_tells_people_to_type_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, flags=re.MULTILINE)) <= set(targets)
    paths = re.findall(r"(?:book|lib|recipes|results|tests)/[\w./-]*\w/?", text) + re.findall(
        r"\]\((?!http)([^)#]+)\)", text
    )
    assert [path for path in paths if not (ROOT / path).exists() and "_build" not in path] == []


def test_the_readmes_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layers, own = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(layers, names)
    assert 0.55 < names["certified"].double().mean() < names["correct"].double().mean()
    assert torch.equal(names["fast"](names["x"]), names["net"](names["x"]))
    exec(own, names)
    assert 0.55 < names["certified"].double().mean() < names["correct"].double().mean()
    assert (tmp_path / "runs/mine/last.ckpt").exists()


def test_the_readmes_recipe_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    assert recipes.load(tmp_path / "mine.toml", "paper").width == 128
