"""`mtssl retrieve`: the images of a folder for a spoken query, or the recordings for an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fairseq_mtssl.cli.options import add_model_arguments, positive_int
from fairseq_mtssl.files import prepare_output, write_json

HELP = "answer a spoken query with the best images of a folder, or an image with the best recordings"
IMAGES = (".png", ".jpg", ".jpeg")
RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")
MOST_NAMED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_model_arguments(parser)
    candidates = parser.add_mutually_exclusive_group(required=True)
    candidates.add_argument(
        "--images", metavar="DIR", help=f"rank the images below DIR ({', '.join(IMAGES)})"
    )
    candidates.add_argument(
        "--captions", metavar="DIR", help=f"rank the recordings below DIR ({', '.join(RECORDINGS)})"
    )
    parser.add_argument(
        "--query", required=True, metavar="FILE", help="a recording for --images, an image for --captions"
    )
    parser.add_argument("--top", type=positive_int, default=5, metavar="K", help="answers (5)")
    parser.add_argument("--json", metavar="FILE", help="also write the answer here")


def run(args: argparse.Namespace) -> int:
    """Encode the folder and the query, rank, print."""
    from fairseq_mtssl.inference.devices import pick_device
    from fairseq_mtssl.inference.retrieval import rank_folder

    if args.json:
        prepare_output(args.json)
    folder, suffixes = (args.images, IMAGES) if args.images else (args.captions, RECORDINGS)
    answer = rank_folder(
        args.checkpoint,
        args.query,
        folder,
        suffixes,
        images=args.images is not None,
        top=args.top,
        batch_size=args.batch_size,
        device=pick_device(args.device),
    )
    if args.json:
        write_json(args.json, answer)
    print(format_answer(answer, Path(folder)))
    if args.json:
        print(f"wrote {args.json}")
    return 0


def format_answer(answer: dict[str, Any], folder: Path) -> str:
    """The ranked list, paths relative to the folder, and every skipped file (the first 20 by name)."""
    what = "images" if answer["direction"] == "speech_to_image" else "recordings"
    results, skipped = answer["results"], answer["skipped"]
    lines = [f"{answer['query']}: the {len(results)} best of {answer['candidates']} {what} in {folder}"]
    lines += [
        f"{result['rank']:>4}  {result['score']:>10.4f}  {Path(result['path']).relative_to(folder)}"
        for result in results
    ]
    if skipped:
        lines.append(f"skipped {len(skipped)} of {answer['candidates'] + len(skipped)} {what}:")
        lines += [f"  {entry['reason']}" for entry in skipped[:MOST_NAMED]]
        if len(skipped) > MOST_NAMED:
            lines.append(f"  … and {len(skipped) - MOST_NAMED} more; --json lists all")
    return "\n".join(lines)
