"""What an example leaves: results.json, a table in the terminal and one HTML page with everything in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.stages import title
from examples.training_bar import phases_run
from fairseq_mtssl.report.health import PhaseHealth, phase_healths
from fairseq_mtssl.report.page import Section, Table, write_page
from fairseq_mtssl.report.training_log import phase_starts, read_training_log
from fairseq_mtssl.report.versions import versions as versions  # what the examples' results.json has, too

DIRECTIONS = {"speech_to_image": "s→i", "image_to_speech": "i→s"}
MEASURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "p10": "P@10", "median_rank": "median"}
"""Key in the JSON of `mtssl evaluate-retrieval` -> column; p10 is there with relevance label alone."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Indented JSON."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def retrieval_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """runs: name -> JSON of `mtssl evaluate-retrieval`, all on one split. The last row is chance."""
    keys = [key for key in MEASURES if all(key in scores["speech_to_image"] for scores in runs.values())]
    header = ["run", *(f"{way} {MEASURES[key]}" for way in DIRECTIONS.values() for key in keys)]
    rows = [[name, *_cells(scores, keys)] for name, scores in runs.items()]
    first = next(iter(runs.values()))
    return Table(header, [*rows, ["chance", *_cells(first["chance"], keys)]])


def print_table(table: Table) -> None:
    """The table in the terminal, columns aligned."""
    widths = [max(len(row[i]) for row in [table.header, *table.rows]) for i in range(len(table.header))]
    for row in [table.header, *table.rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))


def measured_on(scores: Mapping[str, Any]) -> str:
    """On what the scores were measured, in a sentence."""
    return (
        f"Split {scores['split']}: {scores['images']} images, {scores['captions']} spoken captions; "
        f"relevant is the same {scores['relevance']}. Recalls in percent."
        + (" P@10: how many of the ten best are right." if "p10" in scores["speech_to_image"] else "")
    )


def schedule_line(phases: Sequence[Mapping[str, Any]]) -> str:
    """`W2V2 800 updates, then VGS 1200 updates`."""
    return ", then ".join(f"{title(phase['name'])} {phase['updates']} updates" for phase in phases)


def run_health(folder: Path) -> list[PhaseHealth]:
    """Whether each phase of a run learned, read from the log in its folder."""
    log = read_training_log(folder)
    found = phases_run(log.path.read_text(encoding="utf-8"))
    phases = [(phase["first_update"], title(phase["name"])) for phase in found]
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
    """The page. tables: heading, text, table; pictures: heading -> PNG; configurations: run -> YAML; more:
    sections between the pictures and the commands."""
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
