"""Who may import whom, read off the source with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "fairseq_mtssl"

# room -> rooms it may import from, besides its own. errors is open to all; a single file is a room too.
BASE = {"errors", "files", "prefetch", "renamed"}
PURE = BASE | {"frames", "schedule"}
DOORS: dict[str, set[str]] = {
    "errors": set(),
    "frames": BASE,
    "schedule": BASE,
    "files": set(),
    "prefetch": set(),
    "renamed": set(),
    "kernels": BASE | {"frames"},
    "modules": PURE | {"kernels"},
    "features": PURE | {"kernels", "modules"},
    "labels": PURE | {"data", "features"},
    "ssl": PURE | {"modules"},
    "models": PURE | {"kernels", "modules", "ssl", "features"},
    "data": BASE | {"frames"},
    "criterions": BASE | {"schedule", "evaluation", "ssl"},
    # report: a training judges its phases as the page of it does
    "tasks": PURE | {"kernels", "data", "labels", "checkpoints", "evaluation", "report"},
    "checkpoints": BASE,
    "evaluation": BASE | {"frames"},
    "decoding": BASE | {"data"},
    "report": BASE | {"frames"},
    "inference": PURE | {"data", "decoding", "features", "checkpoints"},
    "export": PURE | {"modules", "checkpoints"},
    "optim": BASE,
    "fairseq_patches": BASE | {"checkpoints", "resuming"},
    "resuming": BASE | {"checkpoints"},
    "config": set(),
}
REGISTERED = ("models", "criterions", "tasks", "optim")
KNOWS_NO_FAIRSEQ = ("errors", "frames", "schedule", "files", "evaluation", "decoding", "report")
READS_NO_CONFIG = (*KNOWS_NO_FAIRSEQ, "kernels", "modules", "ssl", "features", "labels", "data")
CONFIG_LIBRARIES = ("omegaconf", "hydra", "fairseq.dataclass")
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
            if room not in ("cli", "") and other != room and other not in DOORS[room]:
                errors.append(f"{where}; {room} may import {', '.join(sorted(DOORS[room])) or 'nothing'}")
        elif is_under(target, ["fairseq", "fairseq_cli"]) and room in KNOWS_NO_FAIRSEQ:
            errors.append(f"{where}; {room} knows no fairseq")
        if is_under(target, CONFIG_LIBRARIES) and room in READS_NO_CONFIG:
            errors.append(f"{where}; only the registered rooms read configurations")
        if is_under(target, OUTSIDE):
            errors.append(f"{where}; nobody imports {target.split('.')[0]}")
    return errors


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
    ],
)
def test_a_shut_door_is_noticed(module, line, word, tmp_path) -> None:
    path = tmp_path / "file.py"
    path.write_text(line + "\n")
    (error,) = faults_of(path, module)
    assert word in error and module in error


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
