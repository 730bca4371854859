"""A progress bar for a whole training, and what the log of a training says, from the output of fairseq."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import OmegaConf
from tqdm import tqdm

RECORD = re.compile(r"\[(train_inner|train|valid)\]\[INFO\] - (\{.*\})\s*$")
PHASE = re.compile(
    r"phase (?P<number>\d+) of (?P<count>\d+), (?P<name>.+?): updates (?P<start>\d+) to (?P<end>\d+), "
    r"alpha (?P<alpha>[\d.]+(?: to [\d.]+)?)"
)
JUDGED = re.compile(r"\[fairseq_mtssl\.tasks\.health_watch\]\[INFO\] - (.*\S)")
RESUMED = re.compile(r"Loaded checkpoint .* @ (\d+) updates")
BEGUN = "begin training epoch"
SHOWN = {"loss_vgs": "L_AV", "loss_ssl": "L_AUD", "loss_off": "L_off", "loss_on": "L_on"}
VALIDATED = ("s2i_r1", "s2i_r10", "i2s_r1", "i2s_r10", "acc_off", "acc_on", "wer")
SECONDS_BETWEEN_LINES = 15.0  # in a file, the bar is a new line each time


class TrainingBar:
    """Shows updates, the remaining time and losses; phases, their health and validations are lines above it.

    name: shown before the bar. folder: `checkpoint.save_dir`, whose composed configuration has the number of
    updates.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def read(self, line: str) -> None:
        """Take in one line of fairseq's output (`common.log_format=json`)."""
        phase = PHASE.search(line)
        if phase:
            self._say(phase[0])
        judged = JUDGED.search(line)
        if judged:
            self._say(judged[1])
        if BEGUN in line:
            self._open()
        resumed = RESUMED.search(line)
        if resumed:
            self._say(f"goes on from update {resumed[1]}")
            self._open().update(int(resumed[1]) - self._open().n)
        record = RECORD.search(line)
        if record:
            self._take(record[1], record[2])

    def _take(self, kind: str, text: str) -> None:
        try:
            stats = json.loads(text)
        except json.JSONDecodeError:
            return
        if kind == "valid":
            found = {key: stats.get(f"valid_{key}") for key in VALIDATED}
            words = [f"{key} {value}" for key, value in found.items() if value is not None]
            if words:
                self._say(f"update {stats.get('valid_num_updates')}, validation: {', '.join(words)}")
            return
        updates = stats.get("num_updates" if kind == "train_inner" else "train_num_updates")
        if updates is None:
            return
        bar = self._open()
        bar.set_postfix(
            {shown: stats[key] for key, shown in SHOWN.items() if stats.get(key) is not None}, refresh=False
        )
        bar.update(int(updates) - bar.n)

    def _open(self) -> tqdm[Any]:
        if self._bar is None:
            is_terminal = sys.stderr.isatty()
            self._bar = tqdm(
                total=_max_update(self.folder),
                desc=f"  {self.name}",
                unit="update",
                mininterval=0.1 if is_terminal else SECONDS_BETWEEN_LINES,
                dynamic_ncols=is_terminal,
            )
        return self._bar

    def _say(self, text: str) -> None:
        tqdm.write(f"  {self.name}: {text}", file=sys.stderr)


def _max_update(folder: Path) -> int | None:
    """The run's number of updates; None if it has no such limit, and then no remaining time is shown."""
    path = folder / ".hydra" / "config.yaml"
    limit = OmegaConf.load(path).optimization.max_update if path.is_file() else 0
    return int(limit) or None


def phases_run(log: str | Path) -> list[dict[str, Any]]:
    """The phases in a training's log, in order: name, alpha, first update, updates. log: text or file."""
    text = log.read_text(encoding="utf-8") if isinstance(log, Path) else log
    found: dict[int, dict[str, Any]] = {}
    for match in PHASE.finditer(text):
        start, end = int(match["start"]), int(match["end"])
        ends = [float(number) for number in match["alpha"].split(" to ")]
        found[int(match["number"])] = {
            "name": match["name"],
            "alpha": ends[0] if len(ends) == 1 else ends,
            "first_update": start,
            "updates": end - start,
        }
    return [found[number] for number in sorted(found)]


def last_validation(log: str) -> dict[str, float]:
    """The numbers of the last validation in the log of a training, their keys without `valid_`."""
    found: dict[str, float] = {}
    for line in log.splitlines():
        record = RECORD.search(line)
        if record is None or record[1] != "valid":
            continue
        stats = json.loads(record[2])
        found = {
            key.removeprefix("valid_"): float(value) for key, value in stats.items() if _is_number(value)
        }
    return found


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
