from __future__ import annotations

import multiprocessing
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairseq_mtssl.data.images import RegionFeatures, read_image, write_png
from fairseq_mtssl.errors import ImageError

h5py = pytest.importorskip("h5py")

RED = (255, 0, 0)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_an_image_is_three_channels_of_bytes(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (20, 20), (10, 20, 30)), tmp_path / "a.png")
    pixels = read_image(path, 8)
    assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.uint8)
    assert [channel.tolist() for channel in pixels] == [[[value] * 8] * 8 for value in (10, 20, 30)]


@pytest.mark.parametrize("size", [(30, 10), (10, 30)])
def test_the_centre_is_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "white")
    corner = ((size[0] - 10) // 2, (size[1] - 10) // 2)
    image.paste(RED, (*corner, corner[0] + 10, corner[1] + 10))
    pixels = read_image(save(image, tmp_path / "a.png"), 10)
    assert (pixels == np.array(RED)[:, None, None]).all()


def test_the_right_size_is_left_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    assert np.array_equal(read_image(path, 12), pixels.transpose(2, 0, 1))


def test_shrinking_averages_instead_of_skipping(tmp_path: Path) -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = read_image(save(Image.fromarray(board), tmp_path / "a.png"), 8)
    assert np.abs(pixels.astype(int) - 127).max() <= 8  # a sample of single pixels would be 0 or 255


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    if mode == "I;16":
        image = Image.fromarray(np.full((9, 9), 65535, dtype=np.uint16))
    else:
        image = Image.new("RGB", (9, 9), "white").convert(mode)
    pixels = read_image(save(image, tmp_path / f"a.{suffix}"), 4)
    assert (pixels == 255).all()


def test_transparent_parts_show_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (read_image(save(image, tmp_path / "a.png"), 8) == 255).all()


def test_a_photo_is_turned_as_its_exif_orientation_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "white")
    image.paste(RED, (0, 0, 8, 4))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    pixels = read_image(save(image, tmp_path / "a.png", exif=exif), 8)
    assert pixels[1, 0, 0] == 255
    assert pixels[1, 7, 0] == 0


def test_a_missing_image_is_named_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: no such image.*image root"):
        read_image(tmp_path / "gone.png", 8)


def test_broken_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = save(Image.fromarray(noise), tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for name in ("text.png", "cut.jpg"):
        with pytest.raises(ImageError, match=f"{name}: cannot be read as an image"):
            read_image(tmp_path / name, 8)


def test_a_size_below_one_pixel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="0 pixels"):
        read_image(tmp_path / "a.png", 0)


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (1, 1, 3), (200, 150, 3)])
def test_a_png_holds_exactly_the_pixels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "deep" / "a.png", pixels)
    with Image.open(tmp_path / "deep" / "a.png") as image:
        image.load()
        assert image.mode == ("RGB" if len(shape) == 3 else "L")
        assert np.array_equal(np.asarray(image), pixels)


def make_regions(path: Path, **changed: Any) -> Path:
    """Three images with two regions of four numbers each."""
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "img_id": [b"zebra", b"ape", "ünder".encode()],
        "img_w": np.array([200, 100, 50]),
        "img_h": np.array([100, 100, 400]),
        "features": rng.normal(size=(3, 2, 4)).astype("f4"),
        "boxes": np.tile(np.array([20, 10, 100, 50], dtype="f4"), (3, 2, 1)),
    }
    content.update(changed)
    with h5py.File(path, "w") as file:
        for name, data in content.items():
            if data is not None:
                file.create_dataset(name, data=data)
    return path


def test_regions_come_with_boxes_as_fractions(tmp_path: Path) -> None:
    features = RegionFeatures(make_regions(tmp_path / "r.hdf5"))
    regions, boxes = features.features("zebra")
    assert (regions.shape, regions.dtype, boxes.dtype) == ((2, 4), np.float32, np.float32)
    # x is divided by the width 200, y by the height 100
    assert np.allclose(boxes, [[0.1, 0.1, 0.5, 0.5]] * 2)
    with h5py.File(tmp_path / "r.hdf5") as file:
        assert np.array_equal(regions, file["features"][0])
        assert np.array_equal(features.features("ünder")[0], file["features"][2])
    assert (features.num_regions, features.feature_dim, len(features)) == (2, 4, 3)


def test_region_ids_keep_the_order_of_the_file(tmp_path: Path) -> None:
    features = RegionFeatures(make_regions(tmp_path / "r.hdf5"))
    assert list(features) == ["zebra", "ape", "ünder"]
    assert "ape" in features
    assert "cat" not in features


def test_string_ids_are_read_as_well(tmp_path: Path) -> None:
    ids = np.array(["a", "b", "c"], dtype=h5py.string_dtype())
    assert list(RegionFeatures(make_regions(tmp_path / "r.hdf5", img_id=ids))) == ["a", "b", "c"]


def test_no_handle_is_open_before_the_first_use_nor_pickled_after_it(tmp_path: Path) -> None:
    features = RegionFeatures(make_regions(tmp_path / "r.hdf5"))
    assert features._file is None
    wanted = features.features("ape")[0]
    copy = pickle.loads(pickle.dumps(features))
    assert copy._file is None
    assert np.array_equal(copy.features("ape")[0], wanted)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_worker_opens_the_file_for_itself(tmp_path: Path) -> None:
    features = RegionFeatures(make_regions(tmp_path / "r.hdf5"))
    wanted = features.features("ape")[0]  # the parent's handle is open now

    def work(queue: Any) -> None:
        inherited = features._file
        regions = features.features("ape")[0]
        queue.put((regions, features._file is not inherited))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=work, args=(queue,))
    worker.start()
    regions, has_new_handle = queue.get(timeout=60)
    worker.join()
    assert has_new_handle
    assert np.array_equal(regions, wanted)


def test_closed_region_features_are_opened_again_when_they_are_read(tmp_path: Path) -> None:
    features = RegionFeatures(make_regions(tmp_path / "r.hdf5"))
    features.features("ape")
    features.close()
    assert features.features("ape")[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": None}, r"lacks datasets \['boxes'\]"),
        ({"img_w": np.array([1, 2])}, "do not fit together"),
        ({"boxes": np.zeros((3, 5, 4))}, "do not fit together"),
        ({"img_id": [b"a", b"b", b"a"]}, r"1 repeated image ids, e.g. \['a'\]"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        RegionFeatures(make_regions(tmp_path / "r.hdf5", **changed))


def test_regions_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    values = np.zeros((3, 2, 4), dtype="f4")
    values[1, 0, 0] = np.nan
    path = make_regions(tmp_path / "r.hdf5", features=values, img_w=np.array([0, 100, 50]))
    features = RegionFeatures(path)
    with pytest.raises(ImageError, match="no image 'cat' among 3"):
        features.features("cat")
    with pytest.raises(ImageError, match="'zebra' is 0 x 100 pixels"):
        features.features("zebra")
    with pytest.raises(ImageError, match="'ape' are not finite"):
        features.features("ape")


def test_a_file_that_is_absent_or_no_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.hdf5").write_text("no hdf5")
    for name in ("text.hdf5", "gone.hdf5"):
        with pytest.raises(ImageError, match=f"{name}: cannot be read as HDF5"):
            RegionFeatures(tmp_path / name)


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_regions(tmp_path / "r.hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImageError, match=r"fairseq-mtssl\[regions\]"):
        RegionFeatures(path)
