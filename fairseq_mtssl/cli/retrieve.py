"""`mtssl retrieve`: the images of a folder for a spoken query, or the recordings for an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fairseq_mtssl.cli.options import (
    add_model_arguments,
    pick_device,
    positive_int,
    prepare_output,
    write_json,
)
from fairseq_mtssl.errors import ConfigError

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
    if args.json:
        prepare_output(args.json)
    folder, suffixes = (args.images, IMAGES) if args.images else (args.captions, RECORDINGS)
    paths = find_files(Path(folder), suffixes)
    answer = retrieve(args, paths)
    if args.json:
        write_json(args.json, answer)
    print(format_answer(answer, Path(folder)))
    if args.json:
        print(f"wrote {args.json}")
    return 0


def find_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files below a folder by suffix, in any case, sorted. Raises: ConfigError if there is none."""
    if not folder.is_dir():
        raise ConfigError(str(folder), ["is no folder; give the one that holds the candidates"])
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not paths:
        raise ConfigError(
            str(folder), [f"holds no file that ends in {', '.join(suffixes)}; give another folder"]
        )
    return paths


def retrieve(args: argparse.Namespace, paths: list[Path]) -> dict[str, Any]:
    """The answer as `--json` writes it: query, direction, candidates, results (best first), skipped.

    Raises: MtsslError for a query or checkpoint that cannot be used, or when no candidate can be.
    """
    from fairseq_mtssl import checkpoints
    from fairseq_mtssl.evaluation.ranking import top_candidates
    from fairseq_mtssl.inference import embeddings

    loaded = checkpoints.load_model(args.checkpoint)
    device = pick_device(args.device)
    model, reader = loaded.model.to(device), embeddings.file_reader(loaded.task)
    encode_query, encode_folder = embeddings.encode_speech_files, embeddings.encode_image_files
    if args.captions:
        encode_query, encode_folder = encode_folder, encode_query
    query = encode_query(model, reader, [_existing(args.query)], 1, device)
    if query.skipped:
        raise ConfigError("--query", [query.skipped[0][1]])
    found = encode_folder(model, reader, paths, args.batch_size, device)
    if not found.paths:
        first = found.skipped[0][1]
        raise ConfigError(
            str(args.images or args.captions), [f"none of {len(paths)} files can be used, first: {first}"]
        )
    order, scores = top_candidates(query.embeddings, found.embeddings, args.top)
    ranked = zip(order[0].tolist(), scores[0].tolist(), strict=True)
    return {
        "query": str(args.query),
        "direction": "speech_to_image" if args.images else "image_to_speech",
        "candidates": len(found.paths),
        "results": [
            {"rank": rank, "path": str(found.paths[i]), "score": score}
            for rank, (i, score) in enumerate(ranked, 1)
        ],
        "skipped": [{"path": str(path), "reason": reason} for path, reason in found.skipped],
    }


def format_answer(answer: dict[str, Any], folder: Path) -> str:
    """The ranked list, paths relative to the folder, and every skipped file (the first 20 by name)."""
    what = "images" if answer["direction"] == "speech_to_image" else "recordings"
    results, skipped = answer["results"], answer["skipped"]
    lines = [f"{answer['query']}: the {len(results)} best of {answer['candidates']} {what} in {folder}"]
    for result in results:
        lines.append(
            f"{result['rank']:>4}  {result['score']:>10.4f}  {Path(result['path']).relative_to(folder)}"
        )
    if skipped:
        lines.append(f"skipped {len(skipped)} of {answer['candidates'] + len(skipped)} {what}:")
        lines += [f"  {entry['reason']}" for entry in skipped[:MOST_NAMED]]
        if len(skipped) > MOST_NAMED:
            lines.append(f"  … and {len(skipped) - MOST_NAMED} more; --json lists all")
    return "\n".join(lines)


def _existing(query: str) -> Path:
    path = Path(query)
    if not path.is_file():
        raise ConfigError("--query", [f"{query}: no such file; give a recording or an image"])
    return path
