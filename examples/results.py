"""The output of an example: results.json, tables in the terminal and an HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from examples.pipeline import Pipeline
from examples.stages import title
from examples.training_bar import phases_run
from fairseq_mtssl.report.health import PhaseHealth, phase_healths
from fairseq_mtssl.report.page import Section, Table, write_page
from fairseq_mtssl.report.training_log import phase_starts, read_training_log
from fairseq_mtssl.report.versions import versions

DIRECTIONS = {"speech_to_image": "s→i", "image_to_speech": "i→s"}
MEASURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "p10": "P@10", "median_rank": "median"}
"""Key in the JSON of `mtssl evaluate-retrieval` -> column; p10 exists only with --relevance label."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with indentation."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def how_made(pipeline: Pipeline) -> dict[str, Any]:
    """The entries of results.json that say how the results were made: times, commands, versions."""
    return {
        "seconds": pipeline.total_seconds(),
        "commands": pipeline.commands,
        "versions": versions(),
    }


def mean_recall(scores: Mapping[str, Any], measure: str) -> float:
    """The mean over both directions of a measure in the JSON of `mtssl evaluate-retrieval`."""
    return mean(float(scores[way][measure]) for way in DIRECTIONS)


def retrieval_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each run, and chance. runs: name -> JSON of `mtssl evaluate-retrieval` on the same split."""
    keys = [key for key in MEASURES if all(key in scores["speech_to_image"] for scores in runs.values())]
    header = ["run", *(f"{way} {MEASURES[key]}" for way in DIRECTIONS.values() for key in keys)]
    rows = [[name, *_cells(scores, keys)] for name, scores in runs.items()]
    first = next(iter(runs.values()))
    return Table(header, [*rows, ["chance", *_cells(first["chance"], keys)]])


def print_table(table: Table) -> None:
    """Print a table with aligned columns."""
    widths = [max(len(row[i]) for row in [table.header, *table.rows]) for i in range(len(table.header))]
    for row in [table.header, *table.rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))


def measured_on(scores: Mapping[str, Any]) -> str:
    """A sentence that says on which data scores were measured, and how."""
    return (
        f"Split {scores['split']}: {scores['images']} images, {scores['captions']} spoken captions; "
        f"relevant is the same {scores['relevance']}. Recalls in percent."
        + (" P@10: how many of the ten best are right." if "p10" in scores["speech_to_image"] else "")
    )


def schedule_line(phases: Sequence[Mapping[str, Any]]) -> str:
    """Text such as `W2V2 800 updates, then VGS 1200 updates`."""
    return ", then ".join(f"{title(phase['name'])} {phase['updates']} updates" for phase in phases)


def run_health(folder: Path) -> list[PhaseHealth]:
    """Whether each phase of a run learned, by the log in its folder."""
    log = read_training_log(folder)
    phases = [(phase["first_update"], title(phase["name"])) for phase in phases_run(log.path)]
    return phase_healths(log, phases or phase_starts(log))


def write_report(
    heading: str,
    results: Mapping[str, Any],
    tables: Sequence[tuple[str, str, Table]],
    pictures: Mapping[str, Path],
    configurations: Mapping[str, Path],
    out: Path,
    more: Sequence[Section] = (),
) -> Path:
    """Write the page of an example. Returns: its path.

    tables: heading, text and table of each section. pictures: heading -> PNG. more: sections between the
    pictures and the commands. configurations: run -> YAML.
    """
    seconds = results["seconds"]
    sections = [Section(name, text, table) for name, text, table in tables]
    sections += [Section(name, picture=path) for name, path in pictures.items()]
    sections += more
    sections.append(Section("Commands", "Each can be typed by itself.", code="\n".join(results["commands"])))
    rows = [[name, f"{value:.0f}"] for name, value in seconds.items()]
    sections.append(Section("Time", table=Table(["stage", "seconds"], rows)))
    sections += [
        Section(f"Configuration of {name}", code=path.read_text(encoding="utf-8"), folded=True)
        for name, path in configurations.items()
    ]
    sections.append(
        Section("Versions", table=Table(["", "version"], [[*row] for row in results["versions"].items()]))
    )
    return write_page(heading, sections, out)


def _cells(scores: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [f"{scores[way][key]:.1f}" for way in DIRECTIONS for key in keys]
