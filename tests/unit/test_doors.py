"""Who may import whom, read off the source with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "fairseq_mtssl"

# room -> rooms it may import from, besides its own. errors is open to all; a single file is a room too.
BASE = {"errors", "files", "plugins", "prefetch", "renamed"}
PURE = BASE | {"frames", "schedule"}
DOORS: dict[str, set[str]] = {
    "errors": set(),
    "frames": BASE,
    "schedule": BASE,
    "files": {"errors"},
    "plugins": set(),
    "prefetch": set(),
    "registry": BASE,
    "renamed": set(),
    "kernels": BASE | {"frames"},
    "modules": PURE | {"kernels"},
    "features": BASE | {"frames", "kernels", "modules", "data", "checkpoints"},
    # evaluation: the quality of labels
    "labels": BASE | {"frames", "data", "features", "evaluation"},
    "ssl": PURE | {"modules", "registry"},
    "image_encoders": PURE | {"modules", "registry"},
    # evaluation: a phone probe standardises as all probes do
    "models": PURE | {"kernels", "modules", "ssl", "image_encoders", "registry", "features", "evaluation"},
    "data": BASE | {"frames"},
    "criterions": BASE | {"frames", "schedule", "evaluation", "ssl"},
    # report: a training judges its phases as the page of it does
    "tasks": PURE | {"kernels", "data", "labels", "image_encoders", "checkpoints", "evaluation", "report"},
    "checkpoints": BASE,
    "evaluation": BASE | {"frames", "registry"},
    "decoding": BASE | {"data"},
    # report: pages and tables of measures, with the clips and images of a manifest
    "report": PURE | {"data", "evaluation"},
    "inference": PURE | {"data", "image_encoders", "decoding", "evaluation", "features", "checkpoints"},
    "export": PURE | {"modules", "checkpoints"},
    "optim": BASE,
    "fairseq_patches": BASE | {"checkpoints", "resuming"},
    "resuming": BASE | {"checkpoints"},
    "config": set(),
    "corpora": BASE | {"frames", "data", "registry"},
}
REGISTERED = ("models", "criterions", "tasks", "optim")
KNOWS_NO_FAIRSEQ = ("errors", "frames", "schedule", "files", "evaluation", "decoding", "report", "corpora")
READS_NO_CONFIG = (
    *KNOWS_NO_FAIRSEQ,
    "kernels",
    "modules",
    "ssl",
    "image_encoders",
    "features",
    "labels",
    "data",
)
CONFIG_LIBRARIES = ("omegaconf", "hydra", "fairseq.dataclass")
# What a command imports besides this package: the standard library's parser, paths, types and streams.
CLI_LIBRARIES = ("__future__", "argparse", "collections.abc", "functools", "pathlib", "sys", "typing")
MAIN_LIBRARIES = (*CLI_LIBRARIES, "importlib", "logging", "os", "warnings")  # the console script itself
CLI_LINES = 60  # of a function
OUTSIDE = ("manifests", "examples", "tests", "hydra_plugins")  # nobody in the package imports these


def imported(path: Path, package: str) -> list[tuple[int, str]]:
    """(line, module) of every import in a file, relative ones made absolute, wherever it stands.

    package: dotted name of the file's folder. `from a import b` gives a.b, since b may be a module.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def room_of(module: str) -> str:
    """The room of a module of the package: the part after its name; "" for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def is_under(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def faults_of(path: Path, module: str) -> list[str]:
    """Every import of a file of the package that goes through a door that is shut."""
    room = room_of(module)
    package = module.rpartition(".")[0] if path.name != "__init__.py" else module
    errors = []
    for line, target in imported(path, package):
        where = f"{module}, line {line}: imports {target}"
        if is_under(target, [PACKAGE]):
            other = room_of(target)
            if other == "cli" and room == "":
                errors.append(f"{where}; nobody imports cli")
            if room not in ("cli", "") and other != room and other not in DOORS[room]:
                errors.append(f"{where}; {room} may import {', '.join(sorted(DOORS[room])) or 'nothing'}")
        elif is_under(target, ["fairseq", "fairseq_cli"]) and room in KNOWS_NO_FAIRSEQ:
            errors.append(f"{where}; {room} knows no fairseq")
        if is_under(target, CONFIG_LIBRARIES) and room in READS_NO_CONFIG:
            errors.append(f"{where}; only the registered rooms read configurations")
        if is_under(target, OUTSIDE):
            errors.append(f"{where}; nobody imports {target.split('.')[0]}")
    return errors


def logic_of(path: Path, module: str) -> list[str]:
    """Everything in a module of cli that is more than parsing options and printing.

    A module imports `CLI_LIBRARIES` and rooms of the package, and of cli only options; imports for types
    alone do not count. It holds constants, actions of argparse and functions. A function parses or prints: it
    takes the parser, the arguments or one text, or calls print, or returns text or the parser. Loops print
    what they go through, or build text or the parser. Nothing is opened, and errors are caught only of a text
    that is parsed (and in `main`, the console script, which turns errors into exit statuses).
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    stem = module.rpartition(".")[2]
    libraries = MAIN_LIBRARIES if stem == "main" else CLI_LIBRARIES
    types = {
        each.lineno
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for each in node.body
    }
    errors = []
    for line, target in imported(path, module.rpartition(".")[0]):
        sibling = is_under(target, [f"{PACKAGE}.cli"]) and not is_under(target, [f"{PACKAGE}.cli.options"])
        if line not in types and (sibling or not is_under(target, (*libraries, PACKAGE))):
            errors.append(f"{module}, line {line}: imports {target}")
    for node in tree.body:
        where = f"{module}, line {node.lineno}"
        if isinstance(node, ast.ClassDef) and "argparse.Action" not in map(ast.unparse, node.bases):
            errors.append(f"{where}: class {node.name}")
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            errors += [f"{where}: {node.name} {error}" for error in _logic_of_function(node, stem)]
    return errors


def _logic_of_function(function: ast.FunctionDef | ast.AsyncFunctionDef, stem: str) -> list[str]:
    parameters = [ast.unparse(each.annotation) for each in function.args.args if each.annotation is not None]
    returns = ast.unparse(function.returns) if function.returns is not None else ""
    parses_text = parameters == ["str"]
    builds = parses_text or returns in ("str", "argparse.ArgumentParser")
    errors = []
    if not builds and not _prints(function) and not any(each.startswith("argparse.") for each in parameters):
        errors.append("neither parses nor prints")
    if function.end_lineno is not None and function.end_lineno - function.lineno >= CLI_LINES:
        errors.append(f"is longer than {CLI_LINES} lines")
    for node in ast.walk(function):
        if isinstance(node, (ast.For, ast.While)) and not builds and not _prints(node):
            errors.append(f"has a loop on line {node.lineno} that does not print")
        catches = isinstance(node, ast.Try) and not parses_text and stem != "main"
        if catches or isinstance(node, (ast.With, ast.Yield, ast.YieldFrom, ast.Lambda)):
            errors.append(f"has a {type(node).__name__} on line {getattr(node, 'lineno', '?')}")
        if isinstance(node, ast.FunctionDef) and node is not function:
            errors.append(f"defines {node.name}")
    return errors


def _prints(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "print"
        for each in ast.walk(node)
    )


def modules_of_the_package() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_every_import_of_the_package_goes_through_an_open_door() -> None:
    errors = [error for module, path in modules_of_the_package().items() for error in faults_of(path, module)]
    assert not errors, "\n" + "\n".join(errors)


def test_every_room_has_its_doors_written_down() -> None:
    rooms = {room_of(module) for module in modules_of_the_package()} - {"", "cli"}
    assert rooms <= set(DOORS)


def test_models_criterions_and_tasks_never_import_one_another() -> None:
    for room in REGISTERED:
        assert not DOORS[room] & set(REGISTERED)


def test_nobody_imports_the_console_script() -> None:
    outside = [path for folder in ("manifests", "examples") for path in (ROOT / folder).rglob("*.py")]
    errors = []
    for path in outside:
        package = ".".join(path.relative_to(ROOT).parts[:-1])
        targets = imported(path, package)
        errors += [f"{path}: {target}" for _, target in targets if is_under(target, [f"{PACKAGE}.cli"])]
    assert not errors, "\n".join(errors)


def test_commands_parse_and_print_and_hold_no_logic() -> None:
    commands = {name: path for name, path in modules_of_the_package().items() if room_of(name) == "cli"}
    errors = [error for name, path in commands.items() for error in logic_of(path, name)]
    assert not errors, "\n" + "\n".join(errors)


def test_the_package_imports_every_registering_module() -> None:
    registering = {
        module
        for module, path in modules_of_the_package().items()
        if "@register_" in path.read_text(encoding="utf-8") and room_of(module) in REGISTERED
    }
    named = {target for _, target in imported(ROOT / PACKAGE / "__init__.py", PACKAGE)}
    assert registering and registering <= named


@pytest.mark.parametrize(
    ("module", "line", "word"),
    [
        ("fairseq_mtssl.modules.heads", "from fairseq_mtssl.data.audio import read_audio", "modules may"),
        ("fairseq_mtssl.modules.heads", "from ..data import audio", "modules may"),
        ("fairseq_mtssl.models.mt4ssl", "from fairseq_mtssl import tasks", "models may"),
        ("fairseq_mtssl.criterions.mt4ssl", "import fairseq_mtssl.models.mt4ssl", "criterions may"),
        ("fairseq_mtssl.report.curves", "def f():\n    from fairseq.data import Dictionary", "no fairseq"),
        ("fairseq_mtssl.modules.heads", "from omegaconf import II", "registered rooms"),
        ("fairseq_mtssl.modules.heads", "from fairseq.dataclass import FairseqDataclass", "registered rooms"),
        ("fairseq_mtssl.data.audio", "from fairseq_mtssl.cli import main", "data may"),
        ("fairseq_mtssl.cli.main", "from manifests import scenes", "nobody imports"),
        ("fairseq_mtssl", "from fairseq_mtssl.cli import main", "nobody imports cli"),
    ],
)
def test_a_shut_door_is_noticed(module, line, word, tmp_path) -> None:
    path = tmp_path / "file.py"
    path.write_text(line + "\n")
    (error,) = faults_of(path, module)
    assert word in error and module in error


THIN = """
from __future__ import annotations
import argparse
from typing import TYPE_CHECKING
from fairseq_mtssl.cli.options import positive_int
if TYPE_CHECKING:
    import torch
HELP = "..."
def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n", type=positive_int)
def run(args: argparse.Namespace) -> int:
    from fairseq_mtssl.evaluation import retrieval
    for line in retrieval.lines(args.n):
        print(line)
    return 0
"""
FUNCTION = "def f(args: argparse.Namespace) -> None:\n"


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ("", ""),
        ("def n(text: str) -> int:\n try:\n  return int(text)\n except ValueError:\n  return 0", ""),
        ("def format_rows(rows: list[str]) -> str:\n for row in rows:\n  row += 'x'\n return row", ""),
        ("import numpy as np", "imports numpy"),
        (f"{FUNCTION} import torch", "imports torch"),
        ("from fairseq_mtssl.cli import retrieve", "imports fairseq_mtssl.cli.retrieve"),
        ("class Row:\n pass", "class Row"),
        ("def mean(values: list[float]) -> float:\n return sum(values)", "neither parses nor prints"),
        (f"{FUNCTION} for n in args.n:\n  n += 1", "does not print"),
        (f"{FUNCTION} with open(args.n) as file:\n  file.read()", "a With"),
        (f"{FUNCTION} try:\n  args.f()\n except OSError:\n  pass", "a Try"),
        (f"{FUNCTION} def g() -> int:\n  return 1", "defines g"),
        (FUNCTION + " print()\n" * 60, "longer than"),
    ],
)
def test_logic_in_a_command_is_noticed(more, word, tmp_path) -> None:
    path = tmp_path / "file.py"
    path.write_text(THIN + more + "\n")
    errors = logic_of(path, "fairseq_mtssl.cli.file")
    assert [word in error for error in errors] == ([True] if word else [])


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (
            "fairseq_mtssl.models.joint_ssl_vgs",
            "from fairseq_mtssl.models.vgs_retrieval import VgsRetrievalModel",
        ),
        ("fairseq_mtssl.models.joint_ssl_vgs", "from .vgs_retrieval import VgsRetrievalModel"),
        ("fairseq_mtssl.modules.heads", "from fairseq.modules import LayerNorm"),
        ("fairseq_mtssl.cli.main", "from fairseq_mtssl.evaluation import retrieval"),
        ("fairseq_mtssl.data.audio", "from ..errors import AudioError"),
    ],
)
def test_an_open_door_is_open(module, line, tmp_path) -> None:
    path = tmp_path / "file.py"
    path.write_text(line + "\n")
    assert faults_of(path, module) == []
