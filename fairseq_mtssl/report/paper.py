"""Tables I and II, Figures 2 and 3 and the findings of Khorrami et al., from the folders of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.files import write_json, write_output
from fairseq_mtssl.report import paper_figures, paper_tables
from fairseq_mtssl.report.evaluations import MeasuredRun, by_variant, read_run
from fairseq_mtssl.report.findings import Finding, abx_scores, judge, retrieval_scores
from fairseq_mtssl.report.page import Table
from fairseq_mtssl.report.run_folder import CONFIG, variant_and_seed


@dataclass(frozen=True)
class Paper:
    """The results of runs.

    runs: variant -> its runs. tables, notes: the tables `retrieval` and `abx` and the note above each.
    """

    runs: dict[str, list[MeasuredRun]]
    tables: dict[str, Table]
    notes: dict[str, str]
    findings: list[Finding]

    @property
    def text(self) -> str:
        """Tables and findings for the terminal."""
        tables = [paper_tables.to_markdown(self.tables[name], self.notes[name]) for name in self.tables]
        return "\n".join([*tables, *(f"{f.verdict.upper()}: {f.claim}. {f.numbers}." for f in self.findings)])

    def missing(self) -> list[str]:
        """A line for each run that lacks a measure."""
        lines = []
        for run in (run for seeds in self.runs.values() for run in seeds):
            names = [name for name in ("retrieval", "abx") if not getattr(run, name)]
            if names:
                lines.append(f"{run.folder}: no {' and no '.join(names)} measured")
        return lines

    def write(self, out: Path) -> list[Path]:
        """Write tables, figures, findings and paper.json into a folder. Returns: the files.

        Raises: ConfigError for a file that cannot be written, MissingExtraError without matplotlib.
        """
        written = []
        for stem, (name, table) in zip(("table1", "table2"), self.tables.items(), strict=True):
            written += [out / f"{stem}.md", out / f"{stem}.tex"]
            write_output(written[-2], paper_tables.to_markdown(table, self.notes[name]))
            write_output(written[-1], paper_tables.to_latex(table, self.notes[name], f"tab:{name}"))
        written += paper_figures.draw_abx(self.runs, out / "fig2")
        written += paper_figures.draw_abx_by_layer_and_update(self.runs, out / "fig2_layers")
        written += paper_figures.draw_losses(self.runs, out / "fig3")
        written += [out / "findings.md", out / "paper.json"]
        table = paper_tables.findings_table(self.findings)
        write_output(written[-2], paper_tables.to_markdown(table, numbers=False))
        write_json(written[-1], self.to_json())
        return written

    def to_json(self) -> dict[str, Any]:
        """The results by variant and seed, the tables and the findings."""
        return {
            "runs": {
                variant: {
                    run.seed: {
                        "folder": str(run.folder),
                        "retrieval": None if run.retrieval is None else asdict(run.retrieval),
                        "abx": [asdict(abx) for abx in run.abx],
                    }
                    for run in seeds
                }
                for variant, seeds in self.runs.items()
            },
            "tables": {
                name: {"note": self.notes[name], **asdict(table)} for name, table in self.tables.items()
            },
            "findings": [asdict(finding) for finding in self.findings],
        }


def read_paper(runs: Sequence[tuple[str, Path]]) -> Paper:
    """The results of runs, each given as (name, folder).

    The name "" stands for the variant in the run's configuration. The seed of a run is that of its
    configuration, or else its number among the runs.
    Raises: ConfigError if a run has neither a name nor a configuration; MtsslError for an unusable folder.
    """
    named = by_variant([_open_run(name, path, number) for number, (name, path) in enumerate(runs, start=1)])
    tables = {"retrieval": paper_tables.retrieval_table(named), "abx": paper_tables.abx_table(named)}
    findings = judge(retrieval_scores(named), abx_scores(named))
    return Paper(named, tables, paper_tables.notes(named), findings)


def _open_run(name: str, path: Path, number: int) -> MeasuredRun:
    variant, seed = variant_and_seed(path)
    if not name and variant is None:
        wanted = f"wanted {CONFIG} in it with one of the paper's schedules; name it: NAME={path}"
        raise ConfigError(str(path), [f"which variant this is cannot be told; {wanted}"])
    return read_run(path, name or str(variant), seed or f"run {number}")
