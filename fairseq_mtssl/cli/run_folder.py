"""What a training left in its folder: its checkpoint, configuration, command and where it ran."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fairseq_mtssl.errors import CheckpointError, ConfigError

CHECKPOINTS = ("checkpoint_best.pt", "checkpoint_last.pt")
PROGRAM = "fairseq-hydra-train"


@dataclass(frozen=True)
class RunFolder:
    """A finished or running training.

    cfg: the whole configuration, plain. updates: done when the checkpoint was saved; seconds: trained until
    then; parameters: numbers in its weights. command: that trained it, with the folder it was given in (cwd);
    None where Hydra left no record. recipe: its --config-name.
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
        """A part of the configuration, such as task."""
        return dict(self.cfg.get(name) or {})

    @property
    def yaml(self) -> str:
        """The configuration as text."""
        return yaml.safe_dump(self.cfg, sort_keys=False, allow_unicode=True, width=100)

    @property
    def command_text(self) -> str:
        """The command, an override a line; "" where it is not known."""
        if self.command is None:
            return ""
        return " \\\n    ".join(shlex.join(words) for words in _lines(self.command))


def read_run_folder(path: Path, checkpoint: str | None = None) -> RunFolder:
    """Read what is there. checkpoint: another than the folder's best or last.

    Raises: CheckpointError if there is none, or it cannot be read.
    """
    from omegaconf import OmegaConf

    from fairseq_mtssl import checkpoints

    chosen = pick_checkpoint(path, checkpoint)
    state = checkpoints.read_state(chosen)
    if state["cfg"] is None:
        raise CheckpointError(chosen, "holds no configuration", "Give one that a training has saved.")
    cfg = _plain(OmegaConf.to_container(state["cfg"], resolve=True, enum_to_str=True))
    history = state.get("optimizer_history") or [{}]
    return RunFolder(
        path=path,
        checkpoint=chosen,
        cfg=cfg,
        updates=int(history[-1].get("num_updates", 0)),
        seconds=float((state.get("extra_state") or {}).get("previous_training_time", 0.0)),
        parameters=sum(weight.numel() for weight in state["model"].values()),
        **_hydra_record(path),
    )


def pick_checkpoint(path: Path, checkpoint: str | None) -> Path:
    """The one asked for, else the folder's best, else its last. Raises: CheckpointError if there is none."""
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
    """The pairs to retrieve from: in the folder asked for or trained on, the split asked for, test or valid.

    A relative folder is looked for from here and from where the training was started.
    Raises: ConfigError where the pairs are not.
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


def _hydra_record(path: Path) -> dict[str, Any]:
    """command, cwd and recipe out of the .hydra folder; nothing where that is absent or of another kind."""
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


def _lines(command: list[str]) -> Iterator[list[str]]:
    """The program with its options, then an override each."""
    start = next((place for place, word in enumerate(command) if "=" in word), len(command))
    yield command[:start]
    yield from ([word] for word in command[start:])


def _plain(value: Any) -> Any:
    """Nested dicts and lists of what YAML knows; anything else as its text."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
