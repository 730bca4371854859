"""Recorded results: a small JSON file for each run, from which tables and figures are made without training.

A record holds what `mtssl report` reads in the folder of a run (results of evaluations, the two losses by
update, schedule and seed) and information for its readers: command, commit, duration, last measures of each
phase. Folders are relative to the current folder or to the output folder.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.pipeline import Pipeline, Stage
from examples.results import read_json
from examples.stages import ROOT
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.evaluations import ABX_NAME
from fairseq_mtssl.report.training_log import TrainingLog, read_training_log

RECORDS_FOLDER = "records"  # in the output folder
CURVES = ("loss_vgs", "loss_ssl", "alpha", "phase")
POINTS = 60  # of a curve, at most
ABX_KEYS = ("slicing", "context", "tokens", "scores")
NO_MEASURE = ("wps", "ups", "wpb", "bsz", "left_min", "wall", "train_wall", "update", "epoch", "num_updates")

FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\],]+/)+")  # an absolute path without its last name

Record = dict[str, Any]


def make_record(run: Stage, title: str, schedule: str, seed: int, pipeline: Pipeline, **facts: Any) -> Record:
    """The record of a run that has been trained and evaluated.

    title: the name of its row in tables; runs with the same title differ in seed. facts: further entries.
    The commit is null if an earlier call of the example trained the run.
    Raises: TrainingLogError, ConfigError if the folder is not that of a run.
    """
    log = read_training_log(run.folder)
    retrieval = sorted(run.folder.rglob("retrieval.json"))
    found = {path: ABX_NAME.fullmatch(path.name) for path in sorted(run.folder.rglob("abx_*.json"))}
    abx = {
        name[1]: {key: value for key, value in read_json(path).items() if key in ABX_KEYS}
        for path, name in found.items()
        if name is not None
    }
    return {
        "name": run.name,
        "title": title,
        "schedule": schedule,
        "seed": seed,
        **facts,
        "updates": log.last_update,
        "seconds": pipeline.seconds.get(run.name),
        "commit": commit() if run.name in pipeline.redone else None,
        "command": portable(run.line, pipeline.out),
        "retrieval": read_json(retrieval[0]) if retrieval else None,
        "abx": dict(sorted(abx.items(), key=lambda entry: int(entry[0]))),
        "phases": last_of_each_phase(log),
        "curves": thin_curves(log),
    }


def portable(line: str, out: Path) -> str:
    """A command without absolute paths.

    Paths become relative to the current folder or to the output folder; of others the last name is left.
    """
    text = line.replace(str(out), out.name) if out.is_absolute() else line
    return FOLDERS.sub("", text.replace(f"{Path.cwd()}/", ""))


def commit() -> str | None:
    """The commit of the checkout, with `-dirty` if tracked files differ from it; None without git."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def last_of_each_phase(log: TrainingLog) -> list[dict[str, float]]:
    """The measures in the last training line of each phase, and of the last validation in the last phase."""
    lines = [record for record in log.records if record.kind == "train_inner"]
    last = {line.values.get("phase", 0.0): line for line in lines}
    phases = [{"updates": line.updates, **_measures(line.values)} for line in last.values()]
    valid = next((line for line in reversed(log.records) if line.kind == "valid"), None)
    if phases and valid is not None:
        phases[-1] |= {f"valid_{key}": value for key, value in _measures(valid.values).items()}
    return phases


def thin_curves(log: TrainingLog) -> dict[str, list[float | None]]:
    """The updates and the values of each curve, null where a line lacks it, thinned evenly to POINTS."""
    lines = [record for record in log.records if record.kind == "train_inner"]
    step = math.ceil(len(lines) / POINTS) or 1
    # counted from the end, so that the last line is kept
    kept = lines[::-1][::step][::-1]
    curves: dict[str, list[float | None]] = {"num_updates": [line.updates for line in kept]}
    for key in CURVES:
        values = [line.values.get(key) for line in kept]
        if any(value is not None for value in values):
            curves[key] = values
    return curves


def write_record(record: Record, folder: Path) -> Path:
    """Write folder/NAME.json with a line for each entry. Returns: its path.

    A file of the same command is kept if the new record lacks the commit.
    """
    path = folder / f"{record['name']}.json"
    if record["commit"] is None and path.is_file() and read_json(path).get("command") == record["command"]:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    entries = (
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items()
    )
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")
    return path


def keep_record(record: Record, out: Path, kept: Path | None) -> None:
    """Write a record to out/records and, if --record names a folder, to that one."""
    for folder in (out / RECORDS_FOLDER, kept):
        if folder is not None:
            write_record(record, folder)


def stand_ins(runs: Iterable[Stage], pipeline: Pipeline, kept: Path | None) -> dict[str, Record]:
    """Name -> record of the runs that need not be trained, because `kept` has a record of the same command.

    Runs whose first product exists are left out. kept: the folder of --record; without one, or if the
    pipeline runs every stage again, nothing is returned.
    """
    if kept is None or pipeline.fresh:
        return {}
    absent = [run for run in runs if not run.products[0].is_file()]
    return already_recorded({run.name: portable(run.line, pipeline.out) for run in absent}, kept)


def already_recorded(commands: Mapping[str, str], folder: Path) -> dict[str, Record]:
    """Name -> record of the runs of which a folder has a record with the same command.

    commands: name of each run -> its command, as `portable` writes it.
    """
    found = {}
    for name, command in commands.items():
        path = folder / f"{name}.json"
        record = read_json(path) if path.is_file() else {}
        if record.get("command") == command:
            print(f"— {name}: recorded in {path}", flush=True)
            found[name] = record
    return found


def seconds_of(found: Iterable[Record]) -> dict[str, float]:
    """Name -> seconds of training."""
    return {record["name"]: float(record.get("seconds") or 0.0) for record in found}


def read_records(folders: Iterable[Path]) -> list[Record]:
    """The records in some folders, in the order of their file names.

    Raises: ConfigError with all errors: folders without records, other files, runs that are given twice.
    """
    found: list[Record] = []
    errors = []
    for folder in folders:
        paths = sorted(folder.glob("*.json"))
        if not paths:
            errors.append(f"{folder} holds no record (*.json); give a folder that --record has written")
        for path in paths:
            try:
                record = read_json(path)
                missing = [
                    key for key in ("name", "title", "schedule", "seed", "curves") if key not in record
                ]
                if missing:
                    errors.append(f"{path} lacks {', '.join(missing)}; wanted what --record writes")
                found.append(record)
            except (OSError, ValueError, TypeError) as error:
                errors.append(f"{path} cannot be read as JSON ({error}); wanted what --record writes")
    names = [record.get("name") for record in found]
    errors += [f"{name} is there twice; keep one" for name in dict.fromkeys(names) if names.count(name) > 1]
    if errors:
        raise ConfigError("--from-results", errors)
    return found


def restore_run(record: Mapping[str, Any], folder: Path) -> None:
    """Write the files that `mtssl report` reads in the folder of a run: configuration, log, evaluations."""
    for name in (".hydra", "evaluation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # JSON is YAML
    config = {"task": {"schedule": record["schedule"], "phases": None}, "common": {"seed": record["seed"]}}
    (folder / ".hydra" / "config.yaml").write_text(json.dumps(config) + "\n", encoding="utf-8")
    (folder / "train.log").write_text("\n".join(_log_lines(record["curves"])) + "\n", encoding="utf-8")
    measures = {f"abx_{updates}": content for updates, content in record.get("abx", {}).items()}
    if record.get("retrieval") is not None:
        measures["retrieval"] = record["retrieval"]
    for name, content in measures.items():
        (folder / "evaluation" / f"{name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def _log_lines(curves: Mapping[str, Sequence[float | None]]) -> Iterable[str]:
    for row in zip(*curves.values(), strict=True):
        values = {key: value for key, value in zip(curves, row, strict=True) if value is not None}
        yield json.dumps({"epoch": 1, "update": values["num_updates"], **values})


def _measures(values: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if key not in NO_MEASURE}
