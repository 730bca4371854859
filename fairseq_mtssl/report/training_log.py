"""Reads the numbers of fairseq's JSON training log.

With `common.log_format=json`, fairseq writes JSON to three places, all of which can be read: bare to
`common.log_file`, as `[time][train_inner][INFO] - {…}` to Hydra's job log, and as
`time | INFO | train_inner | {…}` to the terminal. All other lines are skipped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from fairseq_mtssl.errors import ConfigError, TrainingLogError

# what comes before the JSON: "[time][tag][INFO] - " or "time | INFO | tag | "
TAG = re.compile(r"(?:\]\[([\w.-]+)\]\[\w+\] - |\| \w+ \| ([\w.-]+) \| )$")
LOG_NAMES = ("train.log", "hydra_train.log")


@dataclass(frozen=True)
class Record:
    """One line of the log.

    kind: `train_inner` (written every log_interval updates), `train` (the mean of an epoch), or the name of
        the validated subset, such as `valid`.
    updates: the number of updates when the line was written.
    values: the numbers of the line, their keys without `train_` or `valid_`.
    """

    kind: str
    updates: int
    values: dict[str, float]


@dataclass(frozen=True)
class TrainingLog:
    """The records of one run in the order of updates.

    broken: the number of incomplete records, which a killed run leaves behind; they are left out.
    """

    path: Path
    records: tuple[Record, ...]
    broken: int = 0

    def series(self, key: str, kind: str = "train_inner") -> tuple[list[int], list[float]]:
        """Updates and values of a key in lines of a kind, NaN where a line lacks it; empty if all lack it."""
        lines = [record for record in self.records if record.kind == kind]
        if not any(key in record.values for record in lines):
            return [], []
        return [line.updates for line in lines], [line.values.get(key, math.nan) for line in lines]

    def training_series(self, key: str) -> tuple[list[int], list[float]]:
        """`series` by log interval, or by epoch if no log interval has the key."""
        inner = self.series(key, "train_inner")
        return inner if inner[0] else self.series(key, "train")

    def keys(self, kind: str) -> list[str]:
        """Every key in lines of this kind, in order of appearance."""
        lines = [record for record in self.records if record.kind == kind]
        return list(dict.fromkeys(key for line in lines for key in line.values))

    @property
    def last_update(self) -> int:
        return self.records[-1].updates


def read_training_log(path: str | Path) -> TrainingLog:
    """Read a log file, or the log in the folder of a run.

    A record that was written twice (fairseq adds a file handler in every epoch) is taken once. Where a run
    resumed from an earlier update, its new records replace the old ones.

    path: the file, or a folder. In a folder the first of these that has JSON records is read: `train.log`,
        `hydra_train.log`, other `.log` files, `.log` files in subfolders.
    Raises: TrainingLogError if there is no such file, or no record in it.
    """
    path = Path(path)
    candidates = _log_files(path) if path.is_dir() else [path]
    for candidate in candidates:
        log = _read_file(candidate)
        if log.records:
            return log
    tried = (
        f"no JSON record in {', '.join(c.name for c in candidates)}" if candidates else "no .log file here"
    )
    raise TrainingLogError(
        path,
        tried,
        "Train with common.log_format=json and common.log_file=train.log, or give the file itself.",
    )


def read_runs(runs: Sequence[tuple[str, Path]]) -> dict[str, TrainingLog]:
    """Name -> log of several runs, each given as (name, path).

    The name "" stands for the name of the run's folder. A name that another run has is replaced by what the
    user gave: `NAME=PATH`, or the path.
    Raises: ConfigError if a run is given twice; TrainingLogError as in `read_training_log`.
    """
    logs: dict[str, TrainingLog] = {}
    for given, path in runs:
        log = read_training_log(path)
        text = f"{given}={path}" if given else str(path)
        name = given or log.path.resolve().parent.name
        name = text if name in logs else name
        if name in logs:
            raise ConfigError("runs", [f"{text!r} is given twice; give each run once, or as NAME=RUN"])
        logs[name] = log
    return logs


def phase_starts(log: TrainingLog) -> list[tuple[int, str]]:
    """First update and name of each phase, from the keys `phase` (a number) and `alpha` of our criterions.

    The first update is that of the last line of the phase before, hence exact to the log interval. The name
    is the paper's for alpha, the weight of L_AV: W2V2 at 0, VGS at 1, VGS+ between them. Empty for a log
    without `phase`.
    """
    starts: list[tuple[int, str]] = []
    last: tuple[int, float] | None = None
    updates, phases = log.training_series("phase")
    alphas = log.training_series("alpha")[1] or [math.nan] * len(updates)
    for update, phase, alpha in zip(updates, phases, alphas, strict=True):
        if math.isnan(phase):
            continue
        if last is None or phase != last[1]:
            starts.append((last[0] if last else 0, _phase_name(phase, alpha)))
        last = update, phase
    return starts


def _phase_name(phase: float, alpha: float) -> str:
    if math.isnan(alpha):
        return f"phase {phase + 1:g}"
    return {0.0: "W2V2", 1.0: "VGS"}.get(alpha, f"VGS+ (α = {alpha:g})")


def _log_files(folder: Path) -> list[Path]:
    named = [folder / name for name in LOG_NAMES]
    paths = [*named, *sorted(folder.glob("*.log")), *sorted(folder.rglob("*.log"))]
    return [path for path in dict.fromkeys(paths) if path.is_file()]


def _read_file(path: Path) -> TrainingLog:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TrainingLogError(path, f"cannot be read ({error.strerror})", "Check the path.") from error
    records: list[Record] = []
    broken = 0
    for line in text.splitlines():
        start = line.find("{")
        tag = TAG.search(line[:start]) if start > 0 else None
        if start < 0 or (start > 0 and tag is None):
            continue
        record = _record(line[start:], (tag.group(1) or tag.group(2)) if tag else "")
        if record is None:
            broken += '"epoch"' in line[start:]
        else:
            _append(records, record)
    return TrainingLog(path, tuple(records), broken)


def _append(records: list[Record], record: Record) -> None:
    """Add a record, and remove those that it replaces: of later updates, or of the same update and kind."""
    while records and records[-1].updates > record.updates:
        records.pop()
    same_update = list(takewhile(lambda other: other.updates == record.updates, reversed(records)))
    known = next((place for place, other in enumerate(same_update) if other.kind == record.kind), None)
    if known is not None:
        del records[-1 - known]
    records.append(record)


def _record(text: str, tag: str) -> Record | None:
    """The record in the JSON of a line; None if it is not a record."""
    try:
        stats = json.loads(text)
    except json.JSONDecodeError:
        return None
    if not isinstance(stats, dict) or "epoch" not in stats:
        return None
    kind, prefix = _kind(stats, tag)
    numbers = {key.removeprefix(prefix): _number(value) for key, value in stats.items()}
    values = {key: value for key, value in numbers.items() if value is not None}
    if not math.isfinite(values.get("num_updates", math.nan)):
        return None
    return Record(kind, int(values["num_updates"]), values)


def _kind(stats: dict[str, Any], tag: str) -> tuple[str, str]:
    """The kind of a line and the prefix of its keys, which lines of kind train_inner do not have."""
    if tag == "train_inner" or "num_updates" in stats:
        return "train_inner", ""
    if tag == "train" or "train_num_updates" in stats:
        return "train", "train_"
    key = next((key for key in stats if key.endswith("_num_updates")), "valid_num_updates")
    return key.removesuffix("_num_updates"), key.removesuffix("num_updates")


def _number(value: Any) -> float | None:
    """The number, which fairseq may have written as a string; None if it is not a number."""
    try:
        return None if isinstance(value, Sequence) and not isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
