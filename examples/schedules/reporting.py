"""The output of the schedules example: results.json, findings.json, tables in Markdown and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples import results
from examples.pipeline import Pipeline, Stage
from examples.records import Record, seconds_of
from examples.variants import BRANCH_NOTE
from fairseq_mtssl.report.findings import Finding
from fairseq_mtssl.report.page import Table
from fairseq_mtssl.report.paper_tables import NOTHING, THEIRS, findings_table, to_markdown

HEADING = "Nine schedules of self-supervision and visual grounding"
RULES = "The rules are those of fairseq_mtssl/report/findings.py, fixed before any run."
PICTURES = {
    "Fig. 2: ABX error by layer and by update": "fig2.png",
    "Fig. 2 in full: by layer at each checkpoint": "fig2_layers.png",
    "Fig. 3: losses": "fig3.png",
}


def about_runs(pipeline: Pipeline, length: str, seeds: Sequence[int]) -> dict[str, Any]:
    """How the results of trained runs were made: length, seeds, times, commands, versions."""
    return {"length": length, "seeds": list(seeds), **results.how_made(pipeline)}


def about_records(found: Sequence[Record]) -> dict[str, Any]:
    """How the results of recorded runs were made."""
    return {
        "length": ", ".join(dict.fromkeys(str(record.get("length")) for record in found)),
        "seeds": sorted({record["seed"] for record in found}),
        "seconds": seconds_of(found),
        "commands": [record["command"] for record in found if record.get("command")],
        "versions": results.versions(),
    }


def report(
    papers: Mapping[str, Stage], about: Mapping[str, Any], runs: Mapping[str, Path], out: Path
) -> None:
    """Write all files and print the findings.

    papers: `mtssl report --paper` of the nine variants as "paper" and, if there are others, of all as
    "branches". about: as in `about_runs`. runs: name -> folder, whose configurations go into the page.
    """
    read = {name: results.read_json(paper.folder / "paper.json") for name, paper in papers.items()}
    numbers = read.get("paper") or read["branches"]
    content: dict[str, Any] = {**numbers, **about}
    tables = [*_tables(numbers, "Table I: retrieval", "Table II: ABX")]
    if "branches" in read:
        content["branches"] = {name: read["branches"][name] for name in ("runs", "tables")}
        titles = ("Retrieval with the other SSL branches", "ABX with the other SSL branches")
        tables += [
            (name, f"{text} {BRANCH_NOTE}", table) for name, text, table in _tables(read["branches"], *titles)
        ]
    results.write_json(out / "results.json", content)
    results.write_json(out / "findings.json", findings_of(numbers, about))
    findings = findings_table([Finding(**each) for each in numbers["findings"]])
    (out / "tables.md").write_text(_markdown(read, findings), encoding="utf-8")
    folder = next(iter(papers.values())).folder
    pictures = {name: folder / file for name, file in PICTURES.items() if (folder / file).is_file()}
    configurations = {name: path / ".hydra" / "config.yaml" for name, path in runs.items()}
    every = [*tables, ("Findings", RULES, findings)]
    page = results.write_report(HEADING, content, every, pictures, configurations, out / "index.html")
    print()
    for finding in numbers["findings"]:
        print(f"{finding['verdict']}: {finding['claim']}")
    print(f"\n{out / 'results.json'}, findings.json, tables.md, {folder}; all in one page: {page}")


def findings_of(numbers: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of findings.json: the verdicts, and the numbers of each seed that they rest on."""
    r10: dict[str, dict[str, float]] = {}
    abx: dict[str, dict[str, float]] = {}
    for variant, seeds in numbers["runs"].items():
        for seed, run in seeds.items():
            if run["retrieval"]:
                recalls = run["retrieval"]["recalls"]
                r10.setdefault(variant, {})[seed] = round((recalls["s2i_r10"] + recalls["i2s_r10"]) / 2, 3)
            lowest = [
                min(kind.values())
                for kind in (run["abx"][-1]["errors"].values() if run["abx"] else ())
                if kind
            ]
            if len(lowest) == 2:
                abx.setdefault(variant, {})[seed] = round(sum(lowest) / 2, 3)
    return {
        "rules": RULES,
        "length": about["length"],
        "findings": numbers["findings"],
        "r10_mean_of_both_directions": r10,
        "abx_mean_of_within_and_across": abx,
    }


def compact(numbers: Mapping[str, Any]) -> Table:
    """The tables of a paper.json in one, without the paper's numbers."""
    tables = numbers["tables"]
    header, rows = _ours(tables["retrieval"])
    more, others = _ours(tables["abx"])
    errors = {row[0]: row[2:] for row in others}
    return Table(
        [*header, *(f"ABX {name}" for name in more[2:])],
        [[*row, *errors.get(row[0], [NOTHING] * 2)] for row in rows],
    )


def _ours(table: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    kept = [place for place, name in enumerate(table["header"]) if name != THEIRS]
    return [table["header"][place] for place in kept], [
        [row[place] for place in kept] for row in table["rows"]
    ]


def _tables(numbers: Mapping[str, Any], *titles: str) -> list[tuple[str, str, Table]]:
    found = [numbers["tables"][name] for name in ("retrieval", "abx")]
    return [
        (title, each["note"], Table(each["header"], each["rows"]))
        for title, each in zip(titles, found, strict=True)
    ]


def _markdown(read: Mapping[str, Mapping[str, Any]], findings: Table) -> str:
    parts = [
        to_markdown(compact(numbers), BRANCH_NOTE if name == "branches" else "")
        for name, numbers in read.items()
    ]
    return "\n".join([*parts, to_markdown(findings, numbers=False)])
