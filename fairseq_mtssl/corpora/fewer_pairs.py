"""A data folder with some of the training pairs of another one, whose audio and images it refers to.

    mtssl prepare fewer_pairs --data scenes --pairs 300 --by image --out scenes-300

The pairs are drawn at random and depend on --seed alone:

- `--by image` takes images with all their captions, so that fewer images are seen;
- `--by caption` takes as many images as possible: each gets one caption before any gets two.

With the same seed, a smaller number of pairs is a part of a larger one. The rows keep their order, and the
other splits stay complete. The roots in the manifests are relative, so that both folders can be moved
together.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

from fairseq_mtssl.corpora import data_folder
from fairseq_mtssl.corpora.base import Corpus, register_corpus
from fairseq_mtssl.data.manifest import PairManifest, PairRow, read_pair_manifest, write_pair_manifest
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.files import sha256_of

WAYS = ("image", "caption")


def choose(image_ids: list[str], count: int, by: str, seed: int) -> list[int]:
    """Choose the rows to keep.

    image_ids: of every row. by: `image` (the last image may lose captions to meet the count) or `caption`.
    Returns: the numbers of the rows, in ascending order.
    """
    rows: dict[str, list[int]] = {}
    for row, image_id in enumerate(image_ids):
        rows.setdefault(image_id, []).append(row)
    rng = random.Random(f"{seed}/fewer pairs")
    images = [data_folder.shuffled(rows[image_id], rng) for image_id in data_folder.shuffled(rows, rng)]
    if by == "caption":
        most = max(map(len, images))
        every = [captions[take] for take in range(most) for captions in images if take < len(captions)]
    else:
        every = [row for captions in images for row in captions]
    return sorted(every[:count])


def write_split(manifest: PairManifest, rows: list[int], split: str, out: Path) -> None:
    """Write these rows of a manifest, with roots relative to the new folder."""
    audio, place = manifest.audio, out.resolve()
    pairs = [
        PairRow(
            file=audio.files[row],
            samples=int(audio.sizes[row]),
            caption_id=manifest.caption_ids[row],
            image=manifest.images[row],
            image_id=manifest.image_ids[row],
            label=manifest.labels[row],
            speaker=manifest.speakers[row],
            text=manifest.texts[row],
        )
        for row in rows
    ]
    # resolved, because ".." of a link to a folder is the parent of the folder that it leads to
    audio_root, image_root = (
        os.path.relpath(root.resolve(), place) for root in (audio.root, manifest.image_root)
    )
    write_pair_manifest(out, split, pairs, audio_root=audio_root, image_root=image_root)
    print(f"{split}: {len(pairs)} captions, {len({pair.image_id for pair in pairs})} images")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the corpus."""
    parser.add_argument("--data", type=Path, required=True, help="data folder to take the pairs from")
    parser.add_argument("--out", type=Path, required=True, help="data folder to make")
    parser.add_argument("--pairs", type=int, required=True, metavar="N", help="training captions to keep")
    parser.add_argument(
        "--by", choices=WAYS, default="image", help="whether to take whole images or single captions (image)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice (0)")
    parser.add_argument("--split", default="train", help="the split to cut (train)")


def prepare(args: argparse.Namespace) -> None:
    """Write the folder. Raises: ConfigError, ManifestError naming every error."""
    if args.out.resolve() == args.data.resolve():
        raise ConfigError("--out", [f"{args.out} is --data itself; give another folder"])
    whole = read_pair_manifest(args.data, args.split)
    if not 1 <= args.pairs <= len(whole):
        raise ConfigError(
            "--pairs", [f"got {args.pairs}, wanted 1 to {len(whole)}, what {whole.audio.path} has"]
        )
    splits = sorted(path.stem for path in args.data.glob("*.pairs"))
    manifests = {split: read_pair_manifest(args.data, split) for split in splits}
    data_folder.begin(args.out)
    for split, manifest in manifests.items():
        cut = split == args.split
        rows = (
            choose(manifest.image_ids, args.pairs, args.by, args.seed) if cut else list(range(len(manifest)))
        )
        write_split(manifest, rows, split, args.out)
    files = [f"{split}.{ending}" for split in splits for ending in ("tsv", "pairs")]
    source = {name: sha256_of(args.data / name) for name in files}
    request = {
        **{"script": "fewer_pairs", "seed": args.seed, "pairs": args.pairs, "by": args.by},
        "source": source,
    }
    data_folder.finish(args.out, request, files)


register_corpus(Corpus("fewer_pairs", __doc__, add_arguments, prepare))
