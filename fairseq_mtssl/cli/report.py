"""`mtssl report`: the training curves of runs as a picture, one run as a page, or the tables of the paper."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_mtssl.cli.options import name_and_path, positive_int
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.files import prepare_output

if TYPE_CHECKING:
    from fairseq_mtssl.report.page import Section
    from fairseq_mtssl.report.run_folder import RunFolder
    from fairseq_mtssl.report.training_log import TrainingLog

HELP = "draw the losses of runs by update, or write all about one run as a page that can be heard and seen"
PAPER_HELP = (
    "write Tables I and II of Khorrami et al. (table1, table2: .md, .tex), Figures 2 and 3 (fig2, "
    "fig2_layers, fig3: .png, .svg), findings.md and paper.json with all numbers into this folder. A RUN is "
    "then a run's folder; its variant and seed are those of its .hydra/config.yaml (NAME=RUN names it "
    "otherwise), runs of one variant are seeds of it. Its measures are found in it or below it: "
    "retrieval.json of `mtssl evaluate-retrieval --json`, abx_UPDATES.json (or abx.json, at the end) of "
    "`mtssl evaluate-abx --json`"
)
PAGE_NAME = "report.html"
PAGE_OPTIONS = ("checkpoint", "data", "split", "relevance", "captions", "layers", "batch_size", "device")
CAPTIONS, BATCH_SIZE = 20, 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder or log file; NAME=RUN names its curve"
    )
    parser.add_argument("--out", metavar="PNG", help="picture to write (curves.png beside the first log)")
    parser.add_argument(
        "--phase",
        action="append",
        default=[],
        metavar="UPDATE:NAME",
        help="mark that a phase starts at an update; repeat. By default read from the log of a single run",
    )
    parser.add_argument("--paper", metavar="DIR", help=PAPER_HELP)
    page = parser.add_argument_group(
        "with --html", "one page about one RUN: curves, layers, retrieval to be heard and seen, configuration"
    )
    page.add_argument(
        "--html", nargs="?", const="", metavar="FILE", help=f"write the page (RUN/{PAGE_NAME}) instead"
    )
    page.add_argument("--checkpoint", metavar="FILE", help="of the run (its best, else its last)")
    page.add_argument("--data", metavar="DIR", help="pairs to retrieve from (those that it was trained on)")
    page.add_argument("--split", help="split to retrieve from (test, else valid)")
    page.add_argument(
        "--relevance", choices=("image", "label"), help="what makes an answer right (as in training)"
    )
    page.add_argument(
        "--captions",
        type=captions_count,
        metavar="N",
        help=f"captions to be heard ({CAPTIONS}); 0: no retrieval",
    )
    page.add_argument(
        "--layers",
        action="append",
        metavar="JSON",
        help="what evaluate-abx or probe-layers wrote; repeat. Those within RUN are found",
    )
    page.add_argument("--batch-size", type=positive_int, metavar="N", help=f"clips at once ({BATCH_SIZE})")
    page.add_argument("--device", choices=("auto", "cpu", "cuda"), help="auto: CUDA if there is any (auto)")


def run(args: argparse.Namespace) -> int:
    """Read the logs; draw them, or write the page or the tables."""
    from fairseq_mtssl.report.curves import draw_curves
    from fairseq_mtssl.report.training_log import phase_starts, read_runs

    check(args)
    if args.paper:
        return print_paper(args)
    phases = [parse_phase(text) for text in args.phase]
    logs = read_runs([name_and_path(text) for text in args.runs])
    first = next(iter(logs.values()))
    if not phases and len(logs) == 1:
        phases = phase_starts(first)
    for name, log in logs.items():
        if log.broken:
            print(f"{name}: left out {log.broken} broken lines of {log.path}", file=sys.stderr)
    if args.html is not None:
        return print_page(args, first, phases)
    out = prepare_output(args.out or first.path.parent / "curves.png")
    draw_curves(logs, out, phases)
    print(f"wrote {out}")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises: ConfigError with every option that does not go with the others."""
    errors = []
    if args.html is None:
        given = [f"--{name.replace('_', '-')}" for name in PAGE_OPTIONS if getattr(args, name) is not None]
        errors += [f"{', '.join(given)}: only with --html"] if given else []
    else:
        errors += [f"--html: {len(args.runs)} runs, wanted one RUN"] if len(args.runs) > 1 else []
        errors += ["--html and --paper write two things; give one at a time"] if args.paper else []
        errors += ["--out is of the picture; give the page's path as --html FILE"] if args.out else []
    if args.paper and (args.out or args.phase):
        errors.append("--out and --phase do not go with --paper; leave them out")
    if errors:
        raise ConfigError("report", errors)


def print_page(args: argparse.Namespace, log: TrainingLog, phases: list[tuple[int, str]]) -> int:
    """Write the page of a run, say how large it is."""
    from fairseq_mtssl.inference.trainings import training_of
    from fairseq_mtssl.report import run_folder
    from fairseq_mtssl.report.canvas import new_figure
    from fairseq_mtssl.report.layer_results import find_layer_results
    from fairseq_mtssl.report.run_page import write_run_page

    new_figure(1.0, 1.0)  # if matplotlib is absent, this is said before the encoding
    name, path = name_and_path(args.runs[0])
    folder = path if path.is_dir() else path.parent
    out = prepare_output(args.html or folder / PAGE_NAME)
    chosen = run_folder.pick_checkpoint(folder, args.checkpoint)
    about = run_folder.RunFolder(folder, chosen, *training_of(chosen), **run_folder.hydra_record(folder))
    layers = find_layer_results(folder, args.layers or [])
    write_run_page(about, log, phases, retrieval_sections(args, about), layers, out, name)
    size = out.stat().st_size
    print(f"wrote {out} ({size / 2**20:.1f} MB)" if size >= 2**20 else f"wrote {out} ({size / 2**10:.0f} KB)")
    return 0


def retrieval_sections(args: argparse.Namespace, about: RunFolder) -> list[Section]:
    """Scores and galleries of the run's checkpoint, or why there are none; warns of images without a file."""
    from fairseq_mtssl.frames import SAMPLE_RATE_HZ
    from fairseq_mtssl.inference.devices import pick_device
    from fairseq_mtssl.inference.retrieval import evaluate_split
    from fairseq_mtssl.report.retrieval_queries import build_gallery
    from fairseq_mtssl.report.run_folder import data_folder
    from fairseq_mtssl.report.run_page import no_retrieval
    from fairseq_mtssl.report.run_sections import gallery_sections, scores_section

    count = CAPTIONS if args.captions is None else args.captions
    why = about.why_no_retrieval() if count else "It was not asked for."
    if why:
        return no_retrieval(why)
    task = about.section("task")
    data, split = data_folder(about, args.data, args.split)
    relevance, batch_size = args.relevance or str(task["relevance"]), args.batch_size or BATCH_SIZE
    device = pick_device(args.device or "auto")
    encoded, scores = evaluate_split(about.checkpoint, data, split, relevance, batch_size, device)
    max_samples = round(float(task["eval_max_duration_s"]) * SAMPLE_RATE_HZ)
    gallery = build_gallery(encoded.manifest, encoded.speech, encoded.image, relevance, count, max_samples)
    if gallery.absent:
        first = next(iter(gallery.absent.values()))
        print(f"no picture for {len(gallery.absent)} images, first: {first}", file=sys.stderr)
    found = gallery_sections(gallery.captions, gallery.images, len(gallery.absent))
    return [scores_section(scores.to_json()), *found]


def print_paper(args: argparse.Namespace) -> int:
    """Write tables, figures and findings; print the tables and findings, and what was not measured."""
    from fairseq_mtssl.report.paper import read_paper

    out = prepare_output(Path(args.paper) / "paper.json").parent
    paper = read_paper([name_and_path(text) for text in args.runs])
    for line in paper.missing():
        print(line, file=sys.stderr)
    written = paper.write(out)
    print(paper.text)
    print(f"\nwrote {', '.join(path.name for path in written)} to {out}")
    return 0


def parse_phase(text: str) -> tuple[int, str]:
    """`400:VGS` -> (400, "VGS"). Raises: ConfigError."""
    update, _, name = text.partition(":")
    if not update.isdecimal() or not name:
        raise ConfigError("--phase", [f"got {text!r}, wanted UPDATE:NAME such as 400:VGS"])
    return int(update), name


def captions_count(text: str) -> int:
    """An argparse type: a whole number from 0."""
    return 0 if text == "0" else positive_int(text)
