"""The fairseq dataset of pairs of a spoken caption and an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fairseq_mtssl.data.clip_labels import RowLabels, collate_labels
from fairseq_mtssl.data.clips import ClipDataset, ClipOptions, long_enough
from fairseq_mtssl.data.images import RegionFeatures, read_image
from fairseq_mtssl.data.manifest import PairManifest
from fairseq_mtssl.errors import ConfigError, ManifestError

CACHE_BYTES = 1 << 29
RELEVANCE = ("image", "label")

Image = Any  # (3, H, W) uint8, or {"regions": (K, F), "boxes": (K, 4)}


class ImageStore:
    """The images of a manifest, as pixels or as region features.

    size_px: side of the square to which pixel images are scaled. regions: region features; None: pixels.
    Pixel images are cached in memory if all of them fit in 512 MB.
    Raises: ManifestError naming every image that has no file, or no region features.
    """

    def __init__(self, manifest: PairManifest, size_px: int, regions: RegionFeatures | None) -> None:
        self.manifest = manifest
        self.size_px = size_px
        self.regions = regions
        ids = manifest.unique_image_ids
        if regions is not None:
            lacking = [
                f"image id {i!r} has no region features in {regions.path}" for i in ids if i not in regions
            ]
        else:
            lacking = [
                f"image id {i!r} names no file; give model.image_encoder=regions and task.region_features"
                for i in ids
                if not manifest.images[manifest.first_rows[i]]
            ]
        if lacking:
            raise ManifestError(manifest.audio.path, lacking)
        self._cache: dict[str, Image] | None = {} if len(ids) * size_px**2 * 3 < CACHE_BYTES else None

    def read_file(self, path: str) -> Image:
        """Read one image from any file.

        Raises: ConfigError with region features, which this package cannot compute.
        """
        if self.regions is not None:
            raise ConfigError(
                str(path), ["this model takes region features, not image files; use a raw-image encoder"]
            )
        return torch.from_numpy(read_image(path, self.size_px))

    def __getitem__(self, image_id: str) -> Image:
        if self.regions is not None:
            regions, boxes = self.regions.features(image_id)
            return {"regions": torch.from_numpy(regions), "boxes": torch.from_numpy(boxes)}
        if self._cache is not None and image_id in self._cache:
            return self._cache[image_id]
        image = self.read_file(str(self.manifest.image_path(image_id)))
        if self._cache is not None:
            self._cache[image_id] = image
        return image

    @staticmethod
    def collate(images: Sequence[Image]) -> Any:
        """Stack images for ``model.encode_image``: (M, 3, H, W) uint8, or a dict of stacked features."""
        if isinstance(images[0], dict):
            return {key: torch.stack([image[key] for image in images]) for key in images[0]}
        return torch.stack(list(images))


def longer_pairs(manifest: PairManifest, min_samples: int) -> PairManifest:
    """Return the pairs whose caption has at least min_samples samples; the number dropped is logged."""
    rows = long_enough(manifest.audio, min_samples)
    if len(rows) == len(manifest):
        return manifest
    return PairManifest(
        audio=manifest.audio.take(rows),
        image_root=manifest.image_root,
        **{
            name: [getattr(manifest, name)[row] for row in rows]
            for name in ("images", "image_ids", "caption_ids", "labels", "speakers", "texts")
        },
    )


class PairDataset(ClipDataset):
    """Pairs of a spoken caption and its image, one pair per row.

    options, labels: of the captions, see ClipDataset.
    relevance: which images are not negatives of a caption: with ``image`` its own image, with ``label`` every
        image of its label.
    re_pairing: in training, each caption takes an image drawn from all images of its label.
    extra: a speech-only dataset; extra_ratio clips of it are added per caption, for the SSL loss.
    extra_alone: computes the SSL loss on those clips only, not on the captions.
    requirements: called with the epoch, it returns whether images and whether extra clips
        are used in it; None reads both in every epoch.
    """

    def __init__(
        self,
        manifest: PairManifest,
        images: ImageStore,
        options: ClipOptions,
        labels: RowLabels | None = None,
        *,
        relevance: str = "image",
        re_pairing: bool = False,
        extra: ClipDataset | None = None,
        extra_ratio: float = 1.0,
        extra_alone: bool = False,
        requirements: Callable[[int], tuple[bool, bool]] | None = None,
    ) -> None:
        super().__init__(manifest.audio, options, labels)
        self.manifest = manifest
        self.images = images
        self.extra = extra
        self.extra_ratio = extra_ratio
        self.extra_alone = extra_alone
        self.requirements = requirements
        self.image_rows = {image_id: row for row, image_id in enumerate(manifest.unique_image_ids)}
        image_labels = [manifest.image_label(image_id) for image_id in manifest.unique_image_ids]
        missing = image_labels.count("")
        if missing and (relevance == "label" or (re_pairing and self.training)):
            got = f"{missing} of {len(image_labels)} images have no label"
            raise ManifestError(manifest.audio.path, [f"{got}; task.relevance=label needs one for each"])
        self.relevance = relevance
        if relevance == "label":
            numbers = {label: number for number, label in enumerate(dict.fromkeys(image_labels))}
            self.groups = np.array([numbers[label] for label in image_labels])
        else:
            self.groups = np.arange(len(image_labels))
        self._same_label: dict[str, list[str]] | None = None
        if re_pairing and self.training:
            self._same_label = {}
            for image_id, label in zip(manifest.unique_image_ids, image_labels, strict=True):
                self._same_label.setdefault(label, []).append(image_id)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        if self.extra is not None:
            self.extra.set_epoch(epoch)

    def image(self, image_id: str) -> Image:
        """Return one image before collation."""
        return self.images[image_id]

    def read_image_file(self, path: str) -> Image:
        """Read one image from any file."""
        return self.images.read_file(path)

    def collate_images(self, images: Sequence[Image]) -> Any:
        """Stack images for ``model.encode_image``."""
        return ImageStore.collate(images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        images_needed, extra_needed = self.requirements(self.epoch) if self.requirements else (True, True)
        image_id = self.manifest.image_ids[index]
        if self._same_label is not None:
            candidates = self._same_label[self.manifest.labels[index]]
            image_id = candidates[self.rng(index, purpose=2).integers(len(candidates))]
        sample: dict[str, Any] = {"id": index, "image_id": image_id}
        sample["clip"] = self._or_skip(lambda: self.caption(index))
        self.labelled(sample)
        sample["image"] = self._or_skip(lambda: self.images[image_id]) if images_needed else None
        if images_needed and sample["image"] is None:
            sample["clip"] = None
        if self.extra is not None and extra_needed:
            sample["extra"] = list(self.extra.draw(index, self.extra_ratio))
        return sample

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch that holds each distinct image once, or {} if every file failed.

        net_input: source (B, S), lengths (B,), images (U, …) or None, image_index (B,) into the images.
        image_row: (U,) rows in manifest.unique_image_ids.
        image_group: (B,) ints, equal where images are relevant to each other's captions.
        extra: {"source", "lengths", "id", "alone"} and, if the speech-only dataset has them, "labels"; absent
            without extra clips.
        """
        samples = [sample for sample in samples if sample["clip"] is not None]
        batch = super().collater(samples)
        if not batch:
            return {}
        self.add_images(
            batch, [sample["image_id"] for sample in samples], [sample["image"] for sample in samples]
        )
        extra = [clip for sample in samples for clip in sample.get("extra", ())]
        if self.extra is not None and extra:
            # ids beyond this dataset's rows, so that no clip draws the same mask as a caption
            ids = torch.arange(len(extra)) + len(self) * (1 + samples[0]["id"])
            speech = self.extra.collate_speech([clip["clip"] for clip in extra])
            batch["extra"] = {**speech, "id": ids, "alone": self.extra_alone}
            if "labels" in extra[0]:
                batch["extra"]["labels"] = collate_labels([clip["labels"] for clip in extra])
        return batch

    def add_images(
        self, batch: dict[str, Any], image_ids: Sequence[str], images: Sequence[Image | None]
    ) -> None:
        """Put the distinct images into a batch; if any of ``images`` is None, none is put in."""
        position = {image_id: number for number, image_id in enumerate(dict.fromkeys(image_ids))}
        rows = [self.image_rows[image_id] for image_id in position]
        index = torch.tensor([position[image_id] for image_id in image_ids])
        by_id = dict(zip(image_ids, images, strict=True))
        present = all(image is not None for image in images)
        batch["image_row"] = torch.tensor(rows)
        batch["image_group"] = torch.from_numpy(self.groups[rows])[index]
        batch["net_input"]["images"] = self.collate_images([by_id[i] for i in position]) if present else None
        batch["net_input"]["image_index"] = index

    def load_images(self, batch: dict[str, Any]) -> None:
        """Read the images of a batch that was collated without them."""
        ids = self.manifest.unique_image_ids
        rows = batch["image_row"].tolist()
        images = self.collate_images([self.images[ids[row]] for row in rows])
        device = batch["net_input"]["source"].device
        batch["net_input"]["images"] = (
            {key: value.to(device) for key, value in images.items()}
            if isinstance(images, dict)
            else images.to(device)
        )
