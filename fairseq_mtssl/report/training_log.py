"""fairseq's JSON training log as numbers.

Read are the lines that `common.log_format=json` writes, in any of the three places it writes them to: the
bare `common.log_file`, Hydra's `[time][train_inner][INFO] - {…}` job log, and the
`time | INFO | train_inner | {…}` of the terminal. Every other line is passed over.
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

# Where a line says its tag: "[time][tag][INFO] - {" or "time | INFO | tag | {"
TAG = re.compile(r"(?:\]\[([\w.-]+)\]\[\w+\] - |\| \w+ \| ([\w.-]+) \| )$")
LOG_NAMES = ("train.log", "hydra_train.log")


@dataclass(frozen=True)
class Record:
    """One line.

    kind: train_inner (every log_interval updates), train (an epoch's mean), or the name of the subset that
        was validated: valid, test, ….
    updates: updates done when it was written. values: the numbers of the line, without `train_` or `valid_`.
    """

    kind: str
    updates: int
    values: dict[str, float]


@dataclass(frozen=True)
class TrainingLog:
    """The records of one run in the order of their updates.

    broken: lines that begin like a record and are none (a run killed while writing); they are left out.
    """

    path: Path
    records: tuple[Record, ...]
    broken: int = 0

    def series(self, key: str, kind: str = "train_inner") -> tuple[list[int], list[float]]:
        """Updates and values of one key; NaN where a line of that kind lacks it. Empty if no line has it."""
        lines = [record for record in self.records if record.kind == kind]
        if not any(key in record.values for record in lines):
            return [], []
        return [line.updates for line in lines], [line.values.get(key, math.nan) for line in lines]

    def training_series(self, key: str) -> tuple[list[int], list[float]]:
        """The finest training series there is: every log interval, or else every epoch."""
        inner = self.series(key, "train_inner")
        return inner if inner[0] else self.series(key, "train")

    def keys(self, kind: str) -> list[str]:
        """Every key that lines of this kind carry, in order of appearance."""
        return list(
            dict.fromkeys(key for record in self.records if record.kind == kind for key in record.values)
        )

    @property
    def last_update(self) -> int:
        return self.records[-1].updates


def read_training_log(path: str | Path) -> TrainingLog:
    """Read one log file, or find it in a run folder.

    path: the file, or a folder that holds `train.log`, `hydra_train.log` or another `.log` (searched in that
        order, then below it) with JSON records.
    A record that is written twice (fairseq adds a file handler every epoch) is taken once. Where a resumed
    run goes back to an earlier update, what it wrote anew replaces what was there.
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

    A run whose name is "" is called after its folder; a name that is taken is followed by the path.
    Raises: ConfigError if a run is given twice, TrainingLogError as `read_training_log`.
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
    """First update and name of each phase, from the `phase` (a number) and `alpha` that our criterions log.

    Exact to the log interval: a phase is taken to start at the last logged update of the one before it. The
    name is the paper's for the weight of L_AV: W2V2 at 0, VGS at 1, VGS+ in between. Empty for a log without
    `phase`.
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
    found = [*named, *sorted(folder.glob("*.log")), *sorted(folder.rglob("*.log"))]
    return [path for path in dict.fromkeys(found) if path.is_file()]


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
    """Add a record; going back in updates first removes what a resumed run is about to write anew."""
    while records and records[-1].updates > record.updates:
        records.pop()
    same_update = list(takewhile(lambda other: other.updates == record.updates, reversed(records)))
    known = next((place for place, other in enumerate(same_update) if other.kind == record.kind), None)
    if known is not None:
        del records[-1 - known]
    records.append(record)


def _record(text: str, tag: str) -> Record | None:
    """The record in a line's JSON; None when it is none."""
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
    """Kind and key prefix. Only train_inner lines carry `update`, the epoch as a fraction, and no prefix."""
    if tag == "train_inner" or "num_updates" in stats:
        return "train_inner", ""
    if tag == "train" or "train_num_updates" in stats:
        return "train", "train_"
    key = next((key for key in stats if key.endswith("_num_updates")), "valid_num_updates")
    return key.removesuffix("_num_updates"), key.removesuffix("num_updates")


def _number(value: Any) -> float | None:
    """fairseq writes most numbers as strings; None for what is no number."""
    try:
        return None if isinstance(value, Sequence) and not isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
