"""A data folder with fewer training pairs of another one's, whose audio and images it points to.

    python manifests/fewer_pairs.py --data scenes --pairs 300 --by image --out scenes-300

Which pairs, is drawn from --seed alone:

- `--by image`: whole images with all their captions, so that fewer images are seen;
- `--by caption`: as many images as there can be, each with one caption before any has two.

A smaller number of the same seed is part of a larger one. The rows stay in their order; all other splits stay
whole. The roots in the manifests are relative, so that both folders can be moved together.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

from fairseq_mtssl.data import corpus
from fairseq_mtssl.data.manifest import PairManifest, PairRow, read_pair_manifest, write_pair_manifest
from fairseq_mtssl.errors import ConfigError

WAYS = ("image", "caption")


def choose(image_ids: list[str], count: int, by: str, seed: int) -> list[int]:
    """The rows to keep, in their order.

    image_ids: of every row. by: `image` (the last image may lose captions to meet the count) or `caption`.
    """
    rows: dict[str, list[int]] = {}
    for row, image_id in enumerate(image_ids):
        rows.setdefault(image_id, []).append(row)
    rng = random.Random(f"{seed}/fewer pairs")
    images = [corpus.shuffled(rows[image_id], rng) for image_id in corpus.shuffled(rows, rng)]
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
    # resolved, since ".." of a linked folder is that of the folder it leads to
    audio_root, image_root = (
        os.path.relpath(root.resolve(), place) for root in (audio.root, manifest.image_root)
    )
    write_pair_manifest(out, split, pairs, audio_root=audio_root, image_root=image_root)
    print(f"{split}: {len(pairs)} captions, {len({pair.image_id for pair in pairs})} images")


def main(argv: list[str] | None = None) -> None:
    """Write the folder. Raises: ConfigError, ManifestError naming every error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder to take the pairs from")
    parser.add_argument("--out", type=Path, required=True, help="data folder to make")
    parser.add_argument("--pairs", type=int, required=True, metavar="N", help="training captions to keep")
    parser.add_argument("--by", choices=WAYS, default="image", help="what there is less of (image)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (0)")
    parser.add_argument("--split", default="train", help="the split to cut (train)")
    args = parser.parse_args(argv)
    if args.out.resolve() == args.data.resolve():
        raise ConfigError("--out", [f"{args.out} is --data itself; give another folder"])
    whole = read_pair_manifest(args.data, args.split)
    if not 1 <= args.pairs <= len(whole):
        raise ConfigError(
            "--pairs", [f"got {args.pairs}, wanted 1 to {len(whole)}, what {whole.audio.path} has"]
        )
    splits = sorted(path.stem for path in args.data.glob("*.pairs"))
    manifests = {split: read_pair_manifest(args.data, split) for split in splits}
    corpus.begin(args.out)
    for split, manifest in manifests.items():
        cut = split == args.split
        rows = (
            choose(manifest.image_ids, args.pairs, args.by, args.seed) if cut else list(range(len(manifest)))
        )
        write_split(manifest, rows, split, args.out)
    files = [f"{split}.{ending}" for split in splits for ending in ("tsv", "pairs")]
    source = {f"{name}": corpus.sha256_of(args.data / name) for name in files}
    request = {
        "script": "fewer_pairs",
        "seed": args.seed,
        "pairs": args.pairs,
        "by": args.by,
        "source": source,
    }
    corpus.finish(args.out, request, files)
    print(f"made {args.out}")


if __name__ == "__main__":
    sys.exit(corpus.run_script(main))
