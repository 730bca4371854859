"""The folder of a training: its checkpoint, its configuration and the command that started it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fairseq_mtssl.errors import CheckpointError, ConfigError
from fairseq_mtssl.report.published import variant_name
from fairseq_mtssl.schedule import parse_phases, parse_schedule

CONFIG = Path(".hydra", "config.yaml")
RETRIEVAL_TASKS = ("vgs_retrieval", "joint_ssl_vgs")
CHECKPOINTS = ("checkpoint_best.pt", "checkpoint_last.pt")
PROGRAM = "fairseq-hydra-train"


@dataclass(frozen=True)
class RunFolder:
    """A finished or running training.

    cfg: the whole configuration as plain values. updates, seconds: of the training until the checkpoint was
    saved. parameters: the number of weights. command, cwd: the command that started the training and the
    folder in which it was started; None if Hydra left no record. recipe: its --config-name.
    """

    path: Path
    checkpoint: Path
    cfg: dict[str, Any]
    updates: int
    seconds: float
    parameters: int
    command: list[str] | None = None
    cwd: Path | None = None
    recipe: str | None = None

    def section(self, name: str) -> dict[str, Any]:
        """A section of the configuration, such as task."""
        return dict(self.cfg.get(name) or {})

    def why_no_retrieval(self) -> str:
        """A sentence that says why the model cannot retrieve; "" if it can."""
        task = self.section("task")
        if task.get("_name") not in RETRIEVAL_TASKS:
            return f"The task {task.get('_name')} trains no retrieval."
        if task.get("phases") is not None:
            phases = parse_phases(task["phases"])
        else:
            phases = parse_schedule(str(task["schedule"]), task["lengths"])
        if not any(max(phase.alpha) > 0 for phase in phases):
            return "The weight alpha of the retrieval loss is 0 in all of its schedule."
        return ""

    @property
    def yaml(self) -> str:
        """The configuration as text."""
        return yaml.safe_dump(self.cfg, sort_keys=False, allow_unicode=True, width=100)

    @property
    def command_text(self) -> str:
        """The command with a line for each override; "" if it is unknown."""
        if self.command is None:
            return ""
        return " \\\n    ".join(shlex.join(words) for words in _lines(self.command))


def pick_checkpoint(path: Path, checkpoint: str | None) -> Path:
    """The given checkpoint, or else the best one of the folder, or else the last one.

    Raises: CheckpointError if there is none.
    """
    if checkpoint is not None:
        return Path(checkpoint)
    for name in CHECKPOINTS:
        if (path / name).is_file():
            return path / name
    others = sorted(each.name for each in path.glob("*.pt"))
    got = f"holds neither {' nor '.join(CHECKPOINTS)}" + (f", only {', '.join(others[:5])}" if others else "")
    hint = "Give the folder that checkpoint.save_dir named, or a file with --checkpoint."
    raise CheckpointError(path, got, hint)


def data_folder(run: RunFolder, data: str | None, split: str | None) -> tuple[Path, str]:
    """The folder and the split of the pairs to retrieve from.

    data: the folder. If None, it is that of the training, relative to the current folder or to the folder in
        which the training was started.
    split: if None, it is test, or valid where there are no pairs of test.
    Raises: ConfigError if there are no such pairs.
    """
    name = data if data is not None else str(run.section("task").get("data"))
    splits = [split] if split is not None else ["test", "valid"]
    folders = [Path(name)]
    if data is None and run.cwd is not None:
        folders.append(run.cwd / name)
    for folder in folders:
        for each in splits:
            if (folder / f"{each}.pairs").is_file():
                return folder, each
    wanted = " or ".join(f"{each}.pairs" for each in splits)
    hint = "give their folder with --data, another --split, or --captions 0 for a page without retrieval"
    raise ConfigError(name, [f"holds no {wanted}, the pairs to retrieve from; {hint}"])


def hydra_record(path: Path) -> dict[str, Any]:
    """command, cwd and recipe from the .hydra folder; empty if it is absent or of another program."""
    try:
        hydra = yaml.safe_load((path / ".hydra" / "hydra.yaml").read_text(encoding="utf-8"))["hydra"]
        recipe, overrides = hydra["job"]["config_name"], list(hydra["overrides"]["task"])
        cwd, sources = hydra["runtime"]["cwd"], hydra["runtime"]["config_sources"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return {}
    words = [PROGRAM]
    for source in sources:
        if source.get("provider") == "command-line":
            words += ["--config-dir", str(source["path"])]
    words += ["--config-name", str(recipe), *map(str, overrides)]
    return {"command": words, "cwd": Path(cwd), "recipe": str(recipe)}


def variant_and_seed(folder: Path) -> tuple[str | None, str | None]:
    """The paper's name of the schedule and the seed in the configuration of a run; None for what it lacks.

    Raises: ConfigError if the configuration is not YAML.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None, None
    try:
        cfg = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(str(path), [f"cannot be read ({error}); wanted what Hydra wrote there"]) from error
    task, common = ((cfg.get(name) or {}) if isinstance(cfg, dict) else {} for name in ("task", "common"))
    schedule = task.get("schedule") if task.get("phases") is None else None
    seed = common.get("seed")
    return variant_name(str(schedule)) if schedule else None, None if seed is None else str(seed)


def _lines(command: list[str]) -> Iterator[list[str]]:
    """The words of each line: the program with its options, then one override at a time."""
    start = next((place for place, word in enumerate(command) if "=" in word), len(command))
    yield command[:start]
    yield from ([word] for word in command[start:])
