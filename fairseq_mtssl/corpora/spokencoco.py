"""SpokenCOCO in the Karpathy split.

    mtssl prepare spokencoco --spokencoco SpokenCOCO --karpathy dataset_coco.json \\
        --images coco --out data

The folder --spokencoco holds `SpokenCOCO_train.json`, `SpokenCOCO_val.json` and `wavs/`; the folder --images
holds `train2014/` and `val2014/`. With --regions FILE.hdf5 in place of --images, or beside it, every image
must have region features. Without --images, the manifest names no image files.

The splits are those of `dataset_coco.json`: train and restval make train (113,287 images), val makes valid
(5,000), and test makes test (5,000). If anything is missing, all that is missing is reported, and nothing is
written. With --partial, captions that lack something are left out and counted. Only the headers of the
recordings are read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fairseq_mtssl.corpora import data_folder
from fairseq_mtssl.corpora.base import Corpus, register_corpus
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, read_header
from fairseq_mtssl.data.images import RegionFeatures
from fairseq_mtssl.data.manifest import PairRow, write_pair_manifest
from fairseq_mtssl.errors import AudioError, ConfigError, ManifestError
from fairseq_mtssl.files import sha256_of

JSON_NAMES = ("SpokenCOCO_train.json", "SpokenCOCO_val.json")
KARPATHY_COUNTS = {"train": 82783, "restval": 30504, "val": 5000, "test": 5000}
SPLIT_OF = {"train": "train", "restval": "train", "val": "valid", "test": "test"}
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class SpokenCaption:
    """One caption. image: relative to the folder of COCO's images; wav: to the folder of SpokenCOCO."""

    image: str
    coco_id: int
    caption_id: str
    wav: str
    speaker: str
    text: str

    @property
    def image_id(self) -> str:
        """The stem of the image file, such as `COCO_val2014_000000325114`, which region features use too."""
        return PurePosixPath(self.image).stem


@dataclass
class Findings:
    """Errors of the corpus, and the captions that --partial leaves out: how many for which reason."""

    errors: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def drop(self, what: str, which: str) -> None:
        """Count a caption that is left out. what: the reason. which: its name, as an example."""
        self.dropped[what] += 1
        self.examples.setdefault(what, which)

    def all_errors(self) -> list[str]:
        return self.errors + [
            f"{count} captions {what}, e.g. {self.examples[what]}" for what, count in self.dropped.items()
        ]


def load_json(path: Path) -> Any:
    """Read a JSON file. Raises: ManifestError if it is absent or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(path, [f"cannot be read: {error.strerror}. Check the path."]) from error
    except ValueError as error:
        raise ManifestError(path, [f"no json: {error}. Download it again."]) from error


def read_karpathy(path: Path, findings: Findings) -> dict[int, str]:
    """Read `dataset_coco.json`; a number of images that differs from the published one is an error.

    Returns: COCO id -> our split. Raises: ManifestError if the file has another layout.
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
    """Captions of a SpokenCOCO JSON file, whose items each have a list `captions` or one `caption`.

    Raises: ManifestError naming the item that has another layout.
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
    """The captions of each split; images of a split that have no caption are errors."""
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


def missing_of_image(image_dir: Path | None, regions: list[RegionFeatures], caption: SpokenCaption) -> str:
    """What the image of a caption lacks, or ""."""
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
    """Rows of the captions whose image and recording exist; the others are counted in `findings`."""

    def probe(caption: SpokenCaption) -> tuple[int, int] | str:
        try:
            return read_header(folder / caption.wav)
        except AudioError as error:
            return str(error)

    absent: dict[str, str] = {}
    rows: list[PairRow] = []
    headers = data_folder.in_threads(probe, captions, "reading headers")
    for caption, header in zip(captions, headers, strict=True):
        if caption.image not in absent:
            absent[caption.image] = missing_of_image(image_dir, regions, caption)
        if absent[caption.image]:
            findings.drop(absent[caption.image], caption.image)
        elif isinstance(header, str):
            findings.drop("without readable recording", header)
        elif header[1] != SAMPLE_RATE_HZ:
            what = f"at {header[1]} Hz, wanted {SAMPLE_RATE_HZ} Hz: convert them"
            findings.drop(what, caption.wav)
        else:
            rows.append(
                PairRow(
                    file=caption.wav,
                    samples=header[0],
                    caption_id=caption.caption_id,
                    image=caption.image if image_dir is not None else "",
                    image_id=caption.image_id,
                    speaker=caption.speaker,
                    text=caption.text,
                )
            )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the corpus."""
    parser.add_argument("--spokencoco", type=Path, required=True, help="folder of the json files and wavs/")
    parser.add_argument("--karpathy", type=Path, required=True, help="dataset_coco.json")
    parser.add_argument("--images", type=Path, help="folder of train2014/ and val2014/")
    parser.add_argument("--regions", type=Path, nargs="+", default=[], help="HDF5 files of region features")
    parser.add_argument("--json", nargs="+", default=JSON_NAMES, help="json files in --spokencoco")
    parser.add_argument("--out", type=Path, required=True, help="data folder to make")
    parser.add_argument(
        "--partial", action="store_true", help="leave out and count captions that lack something"
    )


def prepare(args: argparse.Namespace) -> None:
    """Make the data folder. Raises: ManifestError with everything that is missing, unless --partial."""
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
    """Write the splits that have captions, and the record."""
    data_folder.begin(args.out)
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
        "karpathy_sha256": sha256_of(args.karpathy),
        "json_sha256": {name: sha256_of(args.spokencoco / name) for name in args.json},
        "partial": args.partial,
    }
    data_folder.finish(args.out, request, files)


register_corpus(Corpus("spokencoco", __doc__, add_arguments, prepare))
