"""Retrieval and ABX results and the training log of a run, read from its folder.

The results may lie anywhere below the folder: `retrieval.json` is what `mtssl evaluate-retrieval --json`
wrote for the last checkpoint, `abx_UPDATES.json` what `mtssl evaluate-abx --json` wrote for the checkpoint
after that number of updates, and `abx.json` the same for the last checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.training_log import TrainingLog, read_training_log

ABX_NAME = re.compile(r"abx(?:_(\d+))?\.json")
WAYS = {"s2i": "speech_to_image", "i2s": "image_to_speech"}
KINDS = ("within", "across")


@dataclass(frozen=True)
class Retrieval:
    """Recalls of one run.

    recalls, chance: in percent, with the keys `s2i_r1`, `s2i_r10`, `i2s_r1` and `i2s_r10`.
    images, captions: the numbers of candidates.
    """

    recalls: Mapping[str, float]
    chance: Mapping[str, float]
    images: int
    captions: int


@dataclass(frozen=True)
class Abx:
    """ABX errors of one checkpoint.

    updates: of the checkpoint. tokens: the number of tokens that were compared.
    errors: `within` and `across` -> layer -> percent, without the layers that have no error.
    """

    updates: int
    tokens: int
    errors: Mapping[str, Mapping[str, float]]

    def best(self, kind: str) -> tuple[str, float] | None:
        """The layer with the lowest error (the first one on ties) and its error; None without any layer."""
        errors = self.errors[kind]
        return min(errors.items(), key=lambda entry: entry[1]) if errors else None


@dataclass(frozen=True)
class MeasuredRun:
    """One training. variant: the paper's name of its schedule. abx: in the order of updates."""

    variant: str
    seed: str
    folder: Path
    log: TrainingLog
    retrieval: Retrieval | None
    abx: tuple[Abx, ...]

    @property
    def final_abx(self) -> Abx | None:
        """ABX of the last checkpoint that was measured."""
        return self.abx[-1] if self.abx else None


Runs = Mapping[str, Sequence[MeasuredRun]]
"""variant -> its runs, one for each seed"""


def read_run(folder: Path, variant: str, seed: str) -> MeasuredRun:
    """Read the folder of a run.

    Raises: ConfigError if it is not a folder or a file in it is malformed; TrainingLogError without a log.
    """
    if not folder.is_dir():
        got = "is a file" if folder.exists() else "is not there"
        raise ConfigError(str(folder), [f"{got}; wanted the folder of a run (its checkpoint.save_dir)"])
    log = read_training_log(folder)
    paths = sorted(folder.rglob("retrieval.json"))
    if len(paths) > 1:
        raise ConfigError(
            str(folder), [f"two retrieval.json, {paths[0]} and {paths[1]}; keep that of the last checkpoint"]
        )
    retrieval = _read(paths[0], _retrieval, "evaluate-retrieval") if paths else None
    abx: dict[int, tuple[Path, Abx]] = {}
    for path in sorted(folder.rglob("abx*.json")):
        name = ABX_NAME.fullmatch(path.name)
        if name is None:
            continue
        updates = int(name[1]) if name[1] else log.last_update
        if updates in abx:
            raise ConfigError(
                str(folder), [f"{abx[updates][0]} and {path} are both of update {updates}; keep one"]
            )
        abx[updates] = path, _read(path, partial(_abx, updates), "evaluate-abx")
    return MeasuredRun(
        variant, seed, folder, log, retrieval, tuple(abx[updates][1] for updates in sorted(abx))
    )


def by_variant(runs: list[MeasuredRun]) -> dict[str, list[MeasuredRun]]:
    """Runs of each variant in the order of their seeds. Raises: ConfigError if a seed is given twice."""
    groups: dict[str, list[MeasuredRun]] = {}
    errors = []
    for run in runs:
        same = groups.setdefault(run.variant, [])
        twin = next((other for other in same if other.seed == run.seed), None)
        if twin is not None:
            errors.append(
                f"{twin.folder} and {run.folder} are both {run.variant} with seed {run.seed}; "
                "give one of them, or name one as NAME=RUN"
            )
        same.append(run)
    if errors:
        raise ConfigError("runs", errors)
    return {variant: sorted(same, key=_seed_order) for variant, same in groups.items()}


def _seed_order(run: MeasuredRun) -> tuple[bool, int]:
    """Numbers in increasing order, then other names in the order in which they were given."""
    return (False, int(run.seed)) if run.seed.isdecimal() else (True, 0)


def _read(path: Path, take: Callable[[dict[str, Any]], Any], command: str) -> Any:
    hint = f"measure it again with: mtssl {command} … --json {path}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), [f"cannot be read as JSON ({error}); {hint}"]) from error
    try:
        return take(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        got = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(str(path), [f"{got}; wanted what mtssl {command} --json writes; {hint}"]) from error


def _retrieval(content: dict[str, Any]) -> Retrieval:
    def recalls(rows: Mapping[str, Any]) -> dict[str, float]:
        return {f"{way}_{k}": float(rows[name][k]) for way, name in WAYS.items() for k in ("r1", "r10")}

    return Retrieval(
        recalls(content), recalls(content["chance"]), int(content["images"]), int(content["captions"])
    )


def _abx(updates: int, content: dict[str, Any]) -> Abx:
    scores = content["scores"]
    errors = {
        kind: {str(layer): float(row[kind]) for layer, row in scores.items() if row[kind] is not None}
        for kind in KINDS
    }
    return Abx(updates, int(content["tokens"]), errors)
