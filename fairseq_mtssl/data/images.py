"""Reads image files as pixel arrays and region features from HDF5, and writes PNG files."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fairseq_mtssl.errors import ImageError

# importing fairseq sets the root logger to DEBUG, at which Pillow logs every chunk of every PNG
logging.getLogger("PIL").setLevel(logging.INFO)


def read_image(path: str | Path, size_px: int) -> np.ndarray:
    """Read an image in its displayed orientation and scale its largest centred square to size_px.

    Transparent parts become white; grey, palette and 16-bit images become RGB.
    Returns: (3, size_px, size_px) uint8, scaled bilinearly with antialiasing.
    Raises: ImageError if the file is absent, unreadable or broken.
    """
    if size_px < 1:
        raise ImageError(path, f"asked for a size of {size_px} pixels", "Give a positive image size.")
    try:
        with Image.open(path) as image:
            return square_pixels(ImageOps.exif_transpose(image), size_px)
    except FileNotFoundError as error:
        hint = "Check the path, and the image root on the first line of a .pairs file."
        raise ImageError(path, "no such image", hint) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        hint = "Save it again as PNG or JPEG."
        raise ImageError(path, f"cannot be read as an image: {error}", hint) from error


def square_pixels(image: Image.Image, size_px: int) -> np.ndarray:
    """Return the largest centred square of an image, scaled: (3, size_px, size_px) uint8, as `read_image`."""
    rgb = _to_rgb(image)
    side = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    box = (left, top, left + side, top + side)
    square = rgb.resize((size_px, size_px), Image.Resampling.BILINEAR, box=box)
    # (size, size, 3) -> (3, size, size)
    return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to RGB, transparent parts over white."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip instead of scale
        grey = np.asarray(image, dtype=np.int64).clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write an image as a PNG whose bytes depend on the pixels alone.

    pixels: (height, width, 3) or (height, width) uint8. The PNG is stored uncompressed: builds of zlib
    compress differently, and a synthetic corpus should have the same checksums on every machine.
    """
    height, width = pixels.shape[:2]
    # PNG wants a filter byte before each row; 0 stands for no filter
    rows = np.zeros((height, 1 + pixels[0].size), dtype=np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    raw = rows.tobytes()
    blocks = [raw[at : at + 65535] for at in range(0, len(raw), 65535)]
    deflated = b"\x78\x01"
    for number, block in enumerate(blocks, start=1):
        deflated += struct.pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF) + block
    deflated += struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", deflated), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(png)


class RegionFeatures:
    """Region features of images in an HDF5 file of the FaST-VGS layout.

    The file has the datasets `img_id`, `img_w`, `img_h` of shape (n,), `features` (n, K, D) and `boxes`
    (n, K, 4) in pixels. The constructor reads ids and shapes and closes the file. Each process opens the file
    again at its first use, so that data-loader workers never share a handle.
    Raises: ImageError if h5py, the file or a dataset is missing, shapes disagree or an id is repeated.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: Any = None
        self._pid = -1
        file = self._open()
        try:
            self._rows = self._read_index(file)
            # (n, K, D)
            self.num_regions = int(file["features"].shape[1])
            self.feature_dim = int(file["features"].shape[2])
        finally:
            file.close()

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the image ids in the order of the file."""
        return iter(self._rows)

    def features(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return regions (K, D) and boxes (K, 4), float32; a box is x1 y1 x2 y2 over width and height.

        Raises: ImageError for an unknown image, an image without a size or features that are not finite.
        """
        row = self._rows.get(image_id)
        if row is None:
            hint = "Extract its regions, or drop its captions."
            raise ImageError(self.path, f"no image {image_id!r} among {len(self)}", hint)
        file = self._handle()
        regions = np.asarray(file["features"][row], dtype=np.float32)
        width, height = float(file["img_w"][row]), float(file["img_h"][row])
        if width <= 0 or height <= 0:
            got = f"image {image_id!r} is {width:g} x {height:g} pixels"
            raise ImageError(self.path, got, "Extract it again.")
        scale = np.array([width, height, width, height], dtype=np.float32)
        boxes = np.divide(file["boxes"][row], scale, dtype=np.float32)
        if not (np.isfinite(regions).all() and np.isfinite(boxes).all()):
            raise ImageError(self.path, f"features of image {image_id!r} are not finite", "Extract it again.")
        return regions, boxes

    def close(self) -> None:
        """Close this process's handle; the next use opens the file again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": -1}

    def _handle(self) -> Any:
        if self._file is None or self._pid != os.getpid():  # a handle inherited through fork is not used
            self._file, self._pid = self._open(), os.getpid()
        return self._file

    def _open(self) -> Any:
        try:
            import h5py
        except ImportError as error:
            hint = "Install it: pip install 'fairseq-mtssl[regions]'."
            raise ImageError(self.path, "h5py is not installed", hint) from error
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            hint = "Check the path of the region features."
            raise ImageError(self.path, f"cannot be read as HDF5: {error}", hint) from error

    def _read_index(self, file: Any) -> dict[str, int]:
        """Return the row of each image id."""
        wanted = ("img_id", "img_w", "img_h", "features", "boxes")
        missing = [name for name in wanted if name not in file]
        if missing:
            got = f"lacks datasets {missing}, has {sorted(file)}"
            raise ImageError(self.path, got, f"It needs {list(wanted)}.")
        shapes = {name: tuple(file[name].shape) for name in wanted}
        count = shapes["img_id"][0] if shapes["img_id"] else -1
        regions = shapes["features"][1] if len(shapes["features"]) == 3 else -1
        good = all(shape[:1] == (count,) for shape in shapes.values()) and regions > 0
        if not good or shapes["boxes"][1:] != (regions, 4):
            hint = "Wanted img_id, img_w, img_h (n), features (n, K, D), boxes (n, K, 4). Extract them again."
            raise ImageError(self.path, f"shapes {shapes} do not fit together", hint)
        rows: dict[str, int] = {}
        repeated: list[str] = []
        for row, raw in enumerate(file["img_id"][:]):
            image_id = raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
            if rows.setdefault(image_id, row) != row:
                repeated.append(image_id)
        if repeated:
            got = f"{len(repeated)} repeated image ids, e.g. {repeated[:3]}"
            raise ImageError(self.path, got, "Extract them again.")
        return rows
