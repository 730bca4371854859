"""SpokenCOCO in the Karpathy split: from the json files to a data folder.

    python manifests/spokencoco.py --spokencoco SpokenCOCO --karpathy dataset_coco.json \\
        --images coco --out data

--spokencoco holds `SpokenCOCO_train.json`, `SpokenCOCO_val.json` and `wavs/`; --images holds `train2014/`
and `val2014/`. With --regions FILE.hdf5 instead of --images (or beside it) every image must have region
features; without --images the manifest then names no image files.

Splits are those of `dataset_coco.json`: train and restval make train (113,287 images), val makes valid
(5,000), test test (5,000). Whatever is missing is refused, all of it at once; --partial takes what is
there, and counts and names the rest. Only the headers of the recordings are read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from fairseq_mtssl.data import corpus
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, read_header
from fairseq_mtssl.data.images import RegionFeatures
from fairseq_mtssl.data.manifest import PairRow, write_pair_manifest
from fairseq_mtssl.errors import AudioError, ConfigError, ManifestError

JSON_NAMES = ("SpokenCOCO_train.json", "SpokenCOCO_val.json")
KARPATHY_COUNTS = {"train": 82783, "restval": 30504, "val": 5000, "test": 5000}
SPLIT_OF = {"train": "train", "restval": "train", "val": "valid", "test": "test"}
SPLITS = ("train", "valid", "test")
RAW = argparse.RawDescriptionHelpFormatter


@dataclass(frozen=True)
class SpokenCaption:
    """One caption: image relative to the COCO image root, wav to the SpokenCOCO folder."""

    image: str
    coco_id: int
    caption_id: str
    wav: str
    speaker: str
    text: str

    @property
    def image_id(self) -> str:
        """`COCO_val2014_000000325114`, the file stem: the key of region features too."""
        return PurePosixPath(self.image).stem


@dataclass
class Findings:
    """What is wrong with the corpus: refused, or with --partial left out and counted."""

    errors: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def drop(self, what: str, which: str) -> None:
        """Note that `which` is left out because of `what`."""
        self.dropped[what] += 1
        self.examples.setdefault(what, which)

    def all_errors(self) -> list[str]:
        return self.errors + [
            f"{count} captions {what}, e.g. {self.examples[what]}" for what, count in self.dropped.items()
        ]


def load_json(path: Path) -> Any:
    """A json file. Raises: ManifestError if it is absent or no json."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(path, [f"cannot be read: {error.strerror}. Check the path."]) from error
    except ValueError as error:
        raise ManifestError(path, [f"no json: {error}. Download it again."]) from error


def read_karpathy(path: Path, findings: Findings) -> dict[int, str]:
    """COCO id -> our split. A count that differs from the published one is a error.

    Raises: ManifestError if the file is not of the layout.
    """
    images = load_json(path)
    images = images.get("images") if isinstance(images, dict) else None
    splits: dict[int, str] = {}
    counts: Counter[str] = Counter()
    for number, image in enumerate(images if isinstance(images, list) else []):
        try:
            splits[int(image["cocoid"])] = SPLIT_OF[image["split"]]
        except (KeyError, TypeError, ValueError) as error:
            wanted = f"wanted cocoid and a split of {list(SPLIT_OF)}; is it dataset_coco.json?"
            raise ManifestError(path, [f"image {number}: {error!r}; {wanted}"]) from error
        counts[image["split"]] += 1
    if not splits:
        raise ManifestError(path, ['no images: wanted {"images": [{"cocoid": …, "split": …}, …]}'])
    findings.errors += [
        f"{path.name}: {counts[split]} images of split {split}, wanted {wanted}"
        for split, wanted in KARPATHY_COUNTS.items()
        if counts[split] != wanted
    ]
    return splits


def read_captions(path: Path) -> Iterator[SpokenCaption]:
    """Captions of a SpokenCOCO json: one item an image with `captions`, or one item a `caption`.

    Raises: ManifestError naming the item that is not of the layout.
    """
    data = load_json(path)
    items = data.get("data") if isinstance(data, dict) else None
    if not isinstance(items, list):
        raise ManifestError(path, ['wanted {"data": [{"image": …, "captions": […]}, …]}'])
    for number, item in enumerate(items):
        try:
            captions = item["captions"] if "captions" in item else [item["caption"]]
            for caption in captions:
                yield SpokenCaption(
                    image=item["image"],
                    coco_id=int(PurePosixPath(item["image"]).stem.rpartition("_")[2]),
                    caption_id=caption["uttid"],
                    wav=caption["wav"],
                    speaker=caption.get("speaker", ""),
                    text=" ".join(caption.get("text", "").split()),
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            wanted = "an image …_<id>.jpg and captions with uttid and wav"
            raise ManifestError(path, [f"item {number}: {error!r}; wanted {wanted}"]) from error


def sort_captions(
    captions: Iterable[SpokenCaption], splits: dict[int, str], findings: Findings
) -> dict[str, list[SpokenCaption]]:
    """Captions by split; images that a split lacks are errors."""
    sorted_captions: dict[str, list[SpokenCaption]] = {split: [] for split in SPLITS}
    heard: set[int] = set()
    for caption in captions:
        split = splits.get(caption.coco_id)
        if split is None:
            findings.drop("of images that the Karpathy file lacks", caption.image)
        else:
            sorted_captions[split].append(caption)
            heard.add(caption.coco_id)
    for split in SPLITS:
        silent = [coco_id for coco_id, of in splits.items() if of == split and coco_id not in heard]
        if silent:
            total = sum(of == split for of in splits.values())
            findings.errors.append(
                f"{split}: {len(silent)} of {total} images have no spoken caption, e.g. COCO id {silent[0]}"
            )
    return sorted_captions


def image_is_there(image_dir: Path | None, regions: list[RegionFeatures], caption: SpokenCaption) -> str:
    """What is missing of a caption's image; "" if nothing."""
    if image_dir is not None and not (image_dir / caption.image).is_file():
        return f"without image file under {image_dir}"
    if regions and not any(caption.image_id in features for features in regions):
        return "without region features"
    return ""


def make_rows(
    captions: list[SpokenCaption],
    folder: Path,
    image_dir: Path | None,
    regions: list[RegionFeatures],
    findings: Findings,
) -> list[PairRow]:
    """Rows of the captions whose image and recording are there; the others are noted."""

    def probe(caption: SpokenCaption) -> tuple[int, int] | str:
        try:
            return read_header(folder / caption.wav)
        except AudioError as error:
            return str(error)

    absent: dict[str, str] = {}
    rows: list[PairRow] = []
    with ThreadPoolExecutor(min(16, 4 * corpus.usable_cores())) as pool:
        headers = pool.map(probe, captions)
        quiet = len(captions) < 2000
        bar = tqdm(headers, "reading headers", len(captions), unit="wav", mininterval=1, disable=quiet)
        for caption, header in zip(captions, bar, strict=True):
            if caption.image not in absent:
                absent[caption.image] = image_is_there(image_dir, regions, caption)
            if absent[caption.image]:
                findings.drop(absent[caption.image], caption.image)
            elif isinstance(header, str):
                findings.drop("without readable recording", header)
            elif header[1] != SAMPLE_RATE_HZ:
                what = f"at {header[1]} Hz, wanted {SAMPLE_RATE_HZ} Hz: convert them"
                findings.drop(what, caption.wav)
            else:
                image = caption.image if image_dir is not None else ""
                rows.append(
                    PairRow(
                        file=caption.wav,
                        samples=header[0],
                        caption_id=caption.caption_id,
                        image=image,
                        image_id=caption.image_id,
                        speaker=caption.speaker,
                        text=caption.text,
                    )
                )
    return rows


def main(argv: list[str] | None = None) -> None:
    """Make the data folder. Raises: ManifestError with everything that is missing, unless --partial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("--spokencoco", type=Path, required=True, help="folder of the json files and wavs/")
    parser.add_argument("--karpathy", type=Path, required=True, help="dataset_coco.json")
    parser.add_argument("--images", type=Path, help="folder of train2014/ and val2014/")
    parser.add_argument("--regions", type=Path, nargs="+", default=[], help="HDF5 files of region features")
    parser.add_argument("--json", nargs="+", default=JSON_NAMES, help="json files in --spokencoco")
    parser.add_argument("--out", type=Path, required=True, help="data folder to make")
    parser.add_argument("--partial", action="store_true", help="take what is there, count the rest")
    args = parser.parse_args(argv)
    if args.images is None and not args.regions:
        raise ConfigError("spokencoco", ["give --images, --regions or both"])
    findings = Findings()
    splits = read_karpathy(args.karpathy, findings)
    regions = [RegionFeatures(path) for path in args.regions]
    captions = (caption for name in args.json for caption in read_captions(args.spokencoco / name))
    by_split = sort_captions(captions, splits, findings)
    rows = {
        split: make_rows(by_split[split], args.spokencoco, args.images, regions, findings) for split in SPLITS
    }
    errors = findings.all_errors()
    if not any(rows.values()):
        raise ManifestError(args.spokencoco, [*errors, "no caption is left. Check the folders."])
    if errors and not args.partial:
        hint = "Complete the corpus, or take what is there: --partial."
        raise ManifestError(args.spokencoco, [*errors, hint])
    for error in errors:
        print(f"partial: {error}", file=sys.stderr)
    write(args, rows)


def write(args: argparse.Namespace, rows: dict[str, list[PairRow]]) -> None:
    """Write the splits that have captions, and the record of what they were made from."""
    corpus.begin(args.out)
    files: list[str] = []
    image_root = (args.images or args.out).absolute()
    for split in SPLITS:
        if rows[split]:
            audio_root = args.spokencoco.absolute()
            write_pair_manifest(args.out, split, rows[split], audio_root=audio_root, image_root=image_root)
            files += [f"{split}.tsv", f"{split}.pairs"]
        print(f"{split}: {len(rows[split])} captions, {len({row.image_id for row in rows[split]})} images")
    request = {
        "script": "spokencoco",
        "karpathy_sha256": corpus.sha256_of(args.karpathy),
        "json_sha256": {name: corpus.sha256_of(args.spokencoco / name) for name in args.json},
        "partial": args.partial,
    }
    corpus.finish(args.out, request, files)
    print(f"made {args.out}")


if __name__ == "__main__":
    sys.exit(corpus.run_script(main))
