"""The page of a run: training curves, health, results by layer, retrieval galleries, command and versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairseq_mtssl.report.health import phase_healths
from fairseq_mtssl.report.layer_results import LayerResult
from fairseq_mtssl.report.page import Section, asset, write_page
from fairseq_mtssl.report.run_folder import RunFolder
from fairseq_mtssl.report.run_sections import health_section, layer_sections, training_section
from fairseq_mtssl.report.training_log import TrainingLog
from fairseq_mtssl.report.versions import versions


def write_run_page(
    run: RunFolder,
    log: TrainingLog,
    phases: list[tuple[int, str]],
    retrieval: Sequence[Section],
    layers: Sequence[LayerResult],
    out: str | Path,
    name: str = "",
) -> Path:
    """Write the page of a run. Returns: its path.

    phases: (first update, name) of each. retrieval: sections of scores and galleries, or `no_retrieval`.
    name: of the run; "" stands for the name of its folder.
    Raises: TrainingLogError for a log without losses, MissingExtraError without matplotlib.
    """
    name = name or run.path.resolve().name
    sections = [
        training_section(log, name, phases),
        health_section({"": phase_healths(log, phases)}),
        *layer_sections(layers),
        *retrieval,
        *_record_sections(run),
    ]
    return write_page(f"Run {name}", sections, out, _facts(run, log), asset("gallery.js"))


def no_retrieval(why: str) -> list[Section]:
    """The section in place of the galleries. why: a sentence that says why there are none."""
    return [Section("Retrieval", f"There is none on this page, and no gallery. {why}")]


def _record_sections(run: RunFolder) -> list[Section]:
    command = Section("Command", f"Not recorded: {run.path} has no .hydra folder of a training.")
    if run.command_text:
        command = Section("Command", f"It was trained, in the folder {run.cwd}, by", code=run.command_text)
    text = "All of the configuration that it ran with, defaults included, as its checkpoint has it."
    environment = list(versions().items())
    return [
        command,
        Section("Configuration", text, code=run.yaml, folded=True),
        Section("Versions", "Of the environment that wrote this page.", facts=environment),
    ]


def _facts(run: RunFolder, log: TrainingLog) -> list[tuple[str, str]]:
    """The pairs of name and text at the top of the page."""
    done = f"after {run.updates} updates and {_duration(run.seconds)}"
    return [
        ("recipe", run.recipe or ""),
        ("task", str(run.section("task").get("_name"))),
        ("trained", f"{log.last_update} updates"),
        ("checkpoint", f"{run.checkpoint.name}, {done}"),
        ("parameters", f"{run.parameters:,}"),
        ("seed", str(run.section("common").get("seed", ""))),
        ("folder", str(run.path.resolve())),
    ]


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 2 * 3600 else f"{seconds / 60:.1f} minutes"
