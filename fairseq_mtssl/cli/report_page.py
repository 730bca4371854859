"""`mtssl report RUN --html`: everything about one run in one page that can be opened anywhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.cli.options import pick_device, positive_int, prepare_output
from fairseq_mtssl.errors import ConfigError

if TYPE_CHECKING:
    from fairseq_mtssl.cli.run_folder import RunFolder
    from fairseq_mtssl.report.page import Section
    from fairseq_mtssl.report.training_log import TrainingLog

PAGE_NAME = "report.html"
OPTIONS = ("checkpoint", "data", "split", "relevance", "captions", "layers", "batch_size", "device")
CAPTIONS, BATCH_SIZE = 20, 32
RETRIEVAL_TASKS = ("vgs_retrieval", "joint_ssl_vgs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--html and what goes with it."""
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
        "--captions", type=_captions, metavar="N", help=f"captions to be heard ({CAPTIONS}); 0: no retrieval"
    )
    page.add_argument(
        "--layers",
        action="append",
        metavar="JSON",
        help="what evaluate-abx or probe-layers wrote; repeat. Those within RUN are found",
    )
    page.add_argument("--batch-size", type=positive_int, metavar="N", help=f"clips at once ({BATCH_SIZE})")
    page.add_argument("--device", choices=("auto", "cpu", "cuda"), help="auto: CUDA if there is any (auto)")


def check(args: argparse.Namespace) -> None:
    """Raises: ConfigError with every option that does not go with the others."""
    if args.html is None:
        given = [f"--{name.replace('_', '-')}" for name in OPTIONS if getattr(args, name) is not None]
        errors = [f"{', '.join(given)}: only with --html"] if given else []
    else:
        errors = [f"--html: {len(args.runs)} runs, wanted one RUN"] if len(args.runs) > 1 else []
        if args.paper:
            errors.append("--html and --paper write two things; give one at a time")
        if args.out:
            errors.append("--out is of the picture; give the page's path as --html FILE")
    if errors:
        raise ConfigError("report", errors)


def run(
    args: argparse.Namespace, name: str, path: Path, log: TrainingLog, phases: list[tuple[int, str]]
) -> int:
    """Write the page. name: of the run; path: its folder, or its log file.

    Raises: MtsslError of whatever is missing or does not fit.
    """
    from fairseq_mtssl.cli.run_folder import read_run_folder
    from fairseq_mtssl.report.canvas import new_figure
    from fairseq_mtssl.report.health import phase_healths
    from fairseq_mtssl.report.layer_results import find_layer_results, read_layer_result
    from fairseq_mtssl.report.page import asset, write_page
    from fairseq_mtssl.report.run_sections import health_section, layer_sections, training_section

    new_figure(1.0, 1.0)  # told now, rather than after the encoding, if matplotlib is absent
    folder = path if path.is_dir() else path.parent
    name = name or folder.resolve().name
    out = prepare_output(args.html or folder / PAGE_NAME)
    about = read_run_folder(folder, args.checkpoint)
    layers = find_layer_results(folder)
    known = {result.path.resolve() for result in layers}
    layers += [read_layer_result(each) for each in args.layers or [] if Path(each).resolve() not in known]
    sections = [
        training_section(log, name, phases),
        health_section({"": phase_healths(log, phases)}),
        *layer_sections(layers),
        *_retrieval_sections(args, about),
        *_record_sections(about),
    ]
    write_page(f"Run {name}", sections, out, _facts(about, log), asset("gallery.js"))
    size = out.stat().st_size
    print(f"wrote {out} ({size / 2**20:.1f} MB)" if size >= 2**20 else f"wrote {out} ({size / 2**10:.0f} KB)")
    return 0


def why_no_retrieval(about: RunFolder) -> str:
    """Why the run can retrieve nothing, in a sentence; "" if it can."""
    from fairseq_mtssl.tasks.vgs_retrieval import read_phases

    task = about.section("task")
    if task.get("_name") not in RETRIEVAL_TASKS:
        return f"The task {task.get('_name')} trains no retrieval."
    cfg: Any = SimpleNamespace(**task)
    if not any(max(phase.alpha) > 0 for phase in read_phases(cfg)):
        return "The weight alpha of the retrieval loss is 0 in all of its schedule."
    return ""


def _retrieval_sections(args: argparse.Namespace, about: RunFolder) -> list[Section]:
    from fairseq_mtssl.cli.evaluate_retrieval import evaluate
    from fairseq_mtssl.cli.retrieval_queries import build_gallery
    from fairseq_mtssl.cli.run_folder import data_folder
    from fairseq_mtssl.frames import SAMPLE_RATE_HZ
    from fairseq_mtssl.report.page import Section
    from fairseq_mtssl.report.run_sections import gallery_sections, scores_section

    count = CAPTIONS if args.captions is None else args.captions
    why = "It was not asked for." if count == 0 else why_no_retrieval(about)
    if why:
        return [Section("Retrieval", f"There is none on this page, and no gallery. {why}")]
    task = about.section("task")
    data, split = data_folder(about, args.data, args.split)
    relevance, device = args.relevance or str(task["relevance"]), pick_device(args.device or "auto")
    encoded, result = evaluate(
        about.checkpoint, data, split, relevance, args.batch_size or BATCH_SIZE, device
    )
    max_samples = round(float(task["eval_max_duration_s"]) * SAMPLE_RATE_HZ)
    gallery = build_gallery(encoded, relevance, count, max_samples)
    if gallery.absent:
        first = next(iter(gallery.absent.values()))
        print(f"no picture for {len(gallery.absent)} images, first: {first}", file=sys.stderr)
    return [
        scores_section(result.to_json()),
        *gallery_sections(gallery.captions, gallery.images, len(gallery.absent)),
    ]


def _record_sections(about: RunFolder) -> list[Section]:
    from fairseq_mtssl.report.page import Section
    from fairseq_mtssl.report.versions import versions

    command = Section("Command", f"Not recorded: {about.path} has no .hydra folder of a training.")
    if about.command_text:
        command = Section(
            "Command", f"It was trained, in the folder {about.cwd}, by", code=about.command_text
        )
    text = "All of the configuration that it ran with, defaults included, as its checkpoint has it."
    return [
        command,
        Section("Configuration", text, code=about.yaml, folded=True),
        Section("Versions", "Of the environment that wrote this page.", facts=list(versions().items())),
    ]


def _facts(about: RunFolder, log: TrainingLog) -> list[tuple[str, str]]:
    """What a reader asks first."""
    done = f"after {about.updates} updates and {_duration(about.seconds)}"
    return [
        ("recipe", about.recipe or ""),
        ("task", str(about.section("task").get("_name"))),
        ("trained", f"{log.last_update} updates"),
        ("checkpoint", f"{about.checkpoint.name}, {done}"),
        ("parameters", f"{about.parameters:,}"),
        ("seed", str(about.section("common").get("seed", ""))),
        ("folder", str(about.path.resolve())),
    ]


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 2 * 3600 else f"{seconds / 60:.1f} minutes"


def _captions(text: str) -> int:
    return 0 if text == "0" else positive_int(text)
