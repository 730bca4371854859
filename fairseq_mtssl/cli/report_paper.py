"""`mtssl report RUN … --paper DIR`: Tables I and II, Figures 2 and 3 and the findings, from run folders."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.cli.options import name_and_path, prepare_output, write_json, write_output
from fairseq_mtssl.errors import ConfigError

if TYPE_CHECKING:
    from fairseq_mtssl.report.evaluations import MeasuredRun

HELP = (
    "write Tables I and II of Khorrami et al. (table1, table2: .md, .tex), Figures 2 and 3 (fig2, "
    "fig2_layers, fig3: .png, .svg), findings.md and paper.json with all numbers into this folder. A RUN is "
    "then a run's folder; its variant and seed are those of its .hydra/config.yaml (NAME=RUN names it "
    "otherwise), runs of one variant are seeds of it. Its measures are found in it or below it: "
    "retrieval.json of `mtssl evaluate-retrieval --json`, abx_UPDATES.json (or abx.json, at the end) of "
    "`mtssl evaluate-abx --json`"
)
CONFIG = Path(".hydra", "config.yaml")


def run(args: argparse.Namespace) -> int:
    """Read the runs, write everything, print the tables and findings. Raises: MtsslError."""
    from fairseq_mtssl.report import evaluations, findings, paper_figures, paper_tables

    if args.out or args.phase:
        raise ConfigError("report", ["--out and --phase do not go with --paper; leave them out"])
    out = prepare_output(Path(args.paper) / "paper.json").parent
    runs = evaluations.by_variant([open_run(text, place) for place, text in enumerate(args.runs, start=1)])
    for seeds in runs.values():
        for each in seeds:
            lacking = [name for name in ("retrieval", "abx") if not getattr(each, name)]
            if lacking:
                print(f"{each.folder}: no {' and no '.join(lacking)} measured", file=sys.stderr)
    tables = {"retrieval": paper_tables.retrieval_table(runs), "abx": paper_tables.abx_table(runs)}
    notes = paper_tables.notes(runs)
    written = []
    for stem, (name, table) in zip(("table1", "table2"), tables.items(), strict=True):
        written += [out / f"{stem}.md", out / f"{stem}.tex"]
        write_output(written[-2], paper_tables.to_markdown(table, notes[name]))
        write_output(written[-1], paper_tables.to_latex(table, notes[name], f"tab:{name}"))
    written += paper_figures.draw_abx(runs, out / "fig2")
    written += paper_figures.draw_abx_by_layer_and_update(runs, out / "fig2_layers")
    written += paper_figures.draw_losses(runs, out / "fig3")
    found = findings.judge(findings.retrieval_scores(runs), findings.abx_scores(runs))
    written.append(out / "findings.md")
    write_output(written[-1], paper_tables.to_markdown(paper_tables.findings_table(found), numbers=False))
    written.append(out / "paper.json")
    write_json(written[-1], to_json(runs, tables, notes, found))
    for name, table in tables.items():
        print(f"{paper_tables.to_markdown(table, notes[name])}")
    for finding in found:
        print(f"{finding.verdict.upper()}: {finding.claim}. {finding.numbers}.")
    print(f"\nwrote {', '.join(path.name for path in written)} to {out}")
    return 0


def open_run(text: str, place: int) -> MeasuredRun:
    """`RUN` or `NAME=RUN`. place: of the run on the command line, its seed where no configuration tells it.

    Raises: ConfigError where a run has no name; MtsslError of what is in it.
    """
    from fairseq_mtssl.report.evaluations import read_run

    name, path = name_and_path(text)
    schedule, seed = configured(path)
    if not name and schedule is None:
        wanted = f"wanted {CONFIG} in it with one of the paper's schedules; name it: NAME={path}"
        raise ConfigError(str(path), [f"which variant this is cannot be told; {wanted}"])
    return read_run(path, name or str(schedule), seed or f"run {place}")


def configured(folder: Path) -> tuple[str | None, str | None]:
    """The paper's name of a run's schedule, and its seed, as its configuration has them; None: not there."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from fairseq_mtssl.report.published import variant_name

    path = folder / CONFIG
    if not path.is_file():
        return None, None
    try:
        cfg: Any = OmegaConf.load(path)
        schedule, phases = OmegaConf.select(cfg, "task.schedule"), OmegaConf.select(cfg, "task.phases")
        seed = OmegaConf.select(cfg, "common.seed")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(str(path), [f"cannot be read ({error}); wanted what Hydra wrote there"]) from error
    known = schedule if phases is None else None
    return variant_name(str(known)) if known else None, None if seed is None else str(seed)


def to_json(runs: dict[str, list[MeasuredRun]], tables: Any, notes: Any, found: Any) -> dict[str, Any]:
    """All numbers: by variant and seed, the tables' cells, the findings."""
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
            for variant, seeds in runs.items()
        },
        "tables": {name: {"note": notes[name], **asdict(table)} for name, table in tables.items()},
        "findings": [asdict(finding) for finding in found],
    }
