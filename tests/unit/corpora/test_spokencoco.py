from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_mtssl.corpora import spokencoco
from fairseq_mtssl.corpora.base import prepare
from fairseq_mtssl.data.audio import write_wav
from fairseq_mtssl.data.manifest import read_pair_manifest
from fairseq_mtssl.errors import ConfigError, ManifestError

h5py = pytest.importorskip("h5py")

# COCO id -> (folder, Karpathy split, spoken captions)
IMAGES = {
    11: ("train2014", "train", 2),
    12: ("train2014", "train", 1),
    21: ("val2014", "restval", 3),
    31: ("val2014", "val", 1),
    41: ("val2014", "test", 2),
}
COUNTS = {"train": 2, "restval": 1, "val": 1, "test": 1}


def name_of(coco_id: int) -> str:
    return f"{IMAGES[coco_id][0]}/COCO_{IMAGES[coco_id][0]}_{coco_id:012d}.jpg"


def captions_of(coco_id: int) -> list[dict[str, str]]:
    return [
        {
            "text": f" caption {n}\nof {coco_id} ",
            "speaker": f"m{n}",
            "uttid": f"m{n}-HIT_{coco_id}_{n}",
            "wav": f"wavs/odd/m{n}-HIT_{coco_id}_{n}.wav",
        }
        for n in range(IMAGES[coco_id][2])
    ]


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spokencoco, "KARPATHY_COUNTS", COUNTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny SpokenCOCO, COCO and Karpathy file in the published layouts."""
    items = {11: "train", 12: "train", 21: "val", 31: "val", 41: "train"}  # not the Karpathy split
    for part in ("train", "val"):
        data = [
            {"image": name_of(coco_id), "captions": captions_of(coco_id)}
            for coco_id in IMAGES
            if items[coco_id] == part
        ]
        write_json(tmp_path / "SpokenCOCO" / f"SpokenCOCO_{part}.json", {"data": data})
    images = [
        {"filepath": place, "filename": f"COCO_{place}_{coco_id:012d}.jpg", "cocoid": coco_id, "split": split}
        for coco_id, (place, split, _) in IMAGES.items()
    ]
    write_json(tmp_path / "dataset_coco.json", {"dataset": "coco", "images": images})
    for coco_id in IMAGES:
        image = tmp_path / "coco" / name_of(coco_id)
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"jpeg")
        for number, caption in enumerate(captions_of(coco_id)):
            write_wav(tmp_path / "SpokenCOCO" / caption["wav"], np.zeros(coco_id * 100 + number))
    return tmp_path


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def run(folder: Path, *options: str, images: bool = True) -> Path:
    options += ("--images", str(folder / "coco")) if images else ()
    prepare(
        "spokencoco",
        [
            *("--spokencoco", str(folder / "SpokenCOCO")),
            *("--karpathy", str(folder / "dataset_coco.json")),
            *("--out", str(folder / "out"), *options),
        ],
    )
    return folder / "out"


def test_the_karpathy_split_is_made_with_restval_in_train(small_counts: None, folder: Path) -> None:
    out = run(folder)
    train, valid, test = (read_pair_manifest(out, split) for split in ("train", "valid", "test"))
    assert train.unique_image_ids == [
        "COCO_train2014_000000000011",
        "COCO_train2014_000000000012",
        "COCO_val2014_000000000021",
    ]
    assert [len(manifest) for manifest in (train, valid, test)] == [6, 1, 2]
    assert test.caption_ids == ["m0-HIT_41_0", "m1-HIT_41_1"]
    assert test.speakers == ["m0", "m1"]
    assert test.texts == ["caption 0 of 41", "caption 1 of 41"]
    assert test.audio.sizes.tolist() == [4100, 4101]
    assert test.audio.audio_path(1) == str(folder / "SpokenCOCO" / "wavs" / "odd" / "m1-HIT_41_1.wav")
    assert test.image_path(test.image_ids[0]) == folder / "coco" / name_of(41)


def test_the_unrolled_layout_gives_the_same(small_counts: None, folder: Path) -> None:
    rolled = [(run(folder) / f"train{suffix}").read_text() for suffix in (".tsv", ".pairs")]
    for part in ("train", "val"):
        path = folder / "SpokenCOCO" / f"SpokenCOCO_{part}.json"
        items = json.loads(path.read_text())["data"]
        unrolled = [
            {"image": item["image"], "caption": caption} for item in items for caption in item["captions"]
        ]
        write_json(path, {"data": unrolled})
    out = run(folder)
    assert rolled == [(out / f"train{suffix}").read_text() for suffix in (".tsv", ".pairs")]


def test_the_published_counts_are_the_default(folder: Path) -> None:
    assert spokencoco.KARPATHY_COUNTS == {"train": 82783, "restval": 30504, "val": 5000, "test": 5000}
    with pytest.raises(ManifestError, match="2 images of split train, wanted 82783") as caught:
        run(folder)
    assert len(caught.value.errors) == 5  # four counts and the hint
    assert not (folder / "out").exists()


def test_images_without_a_spoken_caption_are_refused(small_counts: None, folder: Path) -> None:
    write_json(folder / "SpokenCOCO" / "SpokenCOCO_val.json", {"data": []})
    with pytest.raises(ManifestError) as caught:
        run(folder)
    assert "train: 1 of 3 images have no spoken caption, e.g. COCO id 21" in caught.value.errors[0]
    assert "valid: 1 of 1 images have no spoken caption" in caught.value.errors[1]


def test_whatever_is_missing_is_reported_at_once(small_counts: None, folder: Path) -> None:
    (folder / "coco" / name_of(11)).unlink()
    (folder / "SpokenCOCO" / captions_of(41)[1]["wav"]).unlink()
    (folder / "SpokenCOCO" / captions_of(31)[0]["wav"]).write_bytes(b"no audio")
    write_wav(folder / "SpokenCOCO" / captions_of(12)[0]["wav"], np.zeros(100), 48000)
    with pytest.raises(ManifestError) as caught:
        run(folder)
    text = "\n".join(caught.value.errors)
    assert "2 captions without image file" in text
    assert "2 captions without readable recording" in text
    assert "1 captions at 48000 Hz, wanted 16000 Hz" in text


def test_partial_takes_what_is_there_and_says_what_is_not(
    small_counts: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "SpokenCOCO" / captions_of(41)[1]["wav"]).unlink()
    (folder / "SpokenCOCO" / captions_of(31)[0]["wav"]).unlink()
    out = run(folder, "--partial")
    assert len(read_pair_manifest(out, "test")) == 1
    assert not (out / "valid.pairs").exists()
    printed = capsys.readouterr()
    assert "partial: 2 captions without readable recording" in printed.err
    assert "valid: 0 captions" in printed.out


def test_a_corpus_without_any_caption_left_is_refused_even_when_partial(
    small_counts: None, folder: Path
) -> None:
    with pytest.raises(ManifestError, match="no caption is left"):
        run(folder, "--partial", "--images", str(folder / "nowhere"), images=False)


def make_regions(path: Path, coco_ids: list[int]) -> Path:
    with h5py.File(path, "w") as file:
        names = [Path(name_of(coco_id)).stem.encode() for coco_id in coco_ids]
        file.create_dataset("img_id", data=names)
        for name in ("img_w", "img_h"):
            file.create_dataset(name, data=np.full(len(names), 10))
        file.create_dataset("features", data=np.zeros((len(names), 2, 4), dtype="f4"))
        file.create_dataset("boxes", data=np.zeros((len(names), 2, 4), dtype="f4"))
    return path


def test_region_features_can_take_the_place_of_image_files(small_counts: None, folder: Path) -> None:
    train = make_regions(folder / "train.hdf5", [11, 12])
    val = make_regions(folder / "val.hdf5", [21, 31, 41])
    out = run(folder, "--regions", str(train), str(val), images=False)
    manifest = read_pair_manifest(out, "test")
    assert manifest.images == ["", ""]
    assert manifest.unique_image_ids == ["COCO_val2014_000000000041"]


def test_images_without_region_features_are_refused(small_counts: None, folder: Path) -> None:
    regions = make_regions(folder / "r.hdf5", [11, 12, 21, 31])
    with pytest.raises(ManifestError, match="2 captions without region features, e.g. val2014"):
        run(folder, "--regions", str(regions), images=False)


def test_images_or_regions_must_be_given(small_counts: None, folder: Path) -> None:
    with pytest.raises(ConfigError, match="--images, --regions or both"):
        run(folder, images=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "wanted"),
        ({"data": [{"image": "COCO_1.jpg"}]}, "item 0: KeyError"),
        (
            {"data": [{"image": "cat.jpg", "captions": [{"uttid": "a", "wav": "a.wav"}]}]},
            "item 0: ValueError",
        ),
        ({"data": [{"image": "COCO_1.jpg", "captions": [{"wav": "a.wav"}]}]}, "item 0: KeyError"),
    ],
)
def test_json_of_another_layout_is_refused_by_its_item(
    small_counts: None, folder: Path, content: Any, message: str
) -> None:
    write_json(folder / "SpokenCOCO" / "SpokenCOCO_train.json", content)
    with pytest.raises(ManifestError, match=message):
        run(folder)


def test_a_karpathy_file_of_another_layout_is_refused(small_counts: None, folder: Path) -> None:
    for content in ({}, {"images": []}, {"images": [{"filename": "x.jpg", "split": "train"}]}):
        write_json(folder / "dataset_coco.json", content)
        with pytest.raises(ManifestError, match=r"dataset_coco\.json"):
            run(folder)


def test_a_truncated_json_is_refused(small_counts: None, folder: Path) -> None:
    (folder / "dataset_coco.json").write_text('{"images": [')
    with pytest.raises(ManifestError, match="no json"):
        run(folder)


def test_a_repeated_utterance_id_is_refused(small_counts: None, folder: Path) -> None:
    path = folder / "SpokenCOCO" / "SpokenCOCO_val.json"
    data = json.loads(path.read_text())["data"]
    write_json(path, {"data": data + data[:1]})
    with pytest.raises(ManifestError, match=r"caption id 'm0-HIT_21_0' is already"):
        run(folder)
