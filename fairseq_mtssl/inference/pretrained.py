"""A trained model for Python: frames of a layer, embeddings of speech and of images, in a line each.

model = fairseq_mtssl.load_model("checkpoint_best.pt")
frames = model.extract_features("speech.wav", layer=6)
speech = model.embed_speech(["speech.wav"])
images = model.embed_images(["picture.png"])
scores = speech @ images.T
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fairseq_mtssl import checkpoints
from fairseq_mtssl.data.audio import normalise, read_audio
from fairseq_mtssl.data.images import square_pixels
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.features.layers import ModelLayers
from fairseq_mtssl.frames import SAMPLE_RATE_HZ
from fairseq_mtssl.inference.devices import pick_device
from fairseq_mtssl.inference.embeddings import encode, encode_clips, file_reader

Speech = str | Path | np.ndarray | Tensor
Picture = str | Path | np.ndarray | Image.Image


class Pretrained:
    """A model in evaluation mode, given speech as it was in training.

    Speech is the path of an audio file, which is resampled where needed, or a waveform of shape (S,) at
    16 kHz; a picture is the path of an image file, a Pillow image, or pixels (height, width, 3) uint8.

    model, task: fairseq's; task is None for models of fairseq's own. is_normalised: whether the model was
    trained on waveforms of zero mean and unit variance. device: where the model is.
    """

    def __init__(self, model: Any, task: Any, is_normalised: bool, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.task = task
        self.is_normalised = is_normalised
        self.device = device
        self._layers: dict[int, ModelLayers] = {}

    @property
    def num_layers(self) -> int:
        """Transformer layers of the speech encoder."""
        encoder = getattr(self.model, "speech_encoder", None)
        return len((self.model if encoder is None else encoder).encoder.layers)

    def frame_rate_hz(self) -> float:
        """Frames a second of `extract_features`."""
        return SAMPLE_RATE_HZ / self._layer(1).hop_samples

    def extract_features(self, speech: Speech, layer: int | None = None) -> Tensor:
        """(T, D) float32: the output of a transformer layer for each frame, without any masking.

        layer: counted from 1; None: the last. The same numbers as `mtssl dump-features` stores.
        Raises: AudioError for a file that cannot be read, ConfigError for a layer that there is not, or for a
        waveform of another shape.
        """
        extractor = self._layer(self.num_layers if layer is None else layer)
        # (T, 1, D) -> (T, D)
        return torch.from_numpy(extractor.extract([read_speech(speech)])[0][:, 0])

    def embed_speech(self, speech: Sequence[Speech], batch_size: int = 32) -> Tensor:
        """(N, D) float32: the embeddings of spoken captions, to be multiplied with those of images.

        The same numbers as `mtssl retrieve` compares. Raises: AudioError; ConfigError for a model without
        grounding.
        """
        reader = self._reader()

        def load(clips: Sequence[Speech]) -> dict[str, Tensor]:
            return reader.collate_speech([reader.prepare_speech(read_speech(clip)) for clip in clips])

        encode_batch = partial(encode_clips, self.model)
        return encode(list(speech), load, encode_batch, batch_size, self.device, "captions")

    def embed_images(self, images: Sequence[Picture], batch_size: int = 32) -> Tensor:
        """(N, D) float32: the embeddings of images. Raises: ImageError; ConfigError as `embed_speech`, or for
        a model whose images are region features."""
        reader = self._reader()

        def load(pictures: Sequence[Picture]) -> Any:
            return reader.collate_images([self._pixels(picture, reader) for picture in pictures])

        return encode(list(images), load, self.model.encode_image, batch_size, self.device, "images")

    def _layer(self, layer: int) -> ModelLayers:
        if layer not in self._layers:
            prepare = normalise if self.is_normalised else np.asarray
            self._layers[layer] = ModelLayers(self.model, layer, prepare=prepare, device=self.device)
        return self._layers[layer]

    def _reader(self) -> Any:
        if not hasattr(self.model, "encode_speech"):
            what = type(self.model).__name__
            raise ConfigError(
                "model", [f"a {what} has no embeddings of captions; take a vgs_ or joint_ model"]
            )
        return file_reader(self.task)

    @staticmethod
    def _pixels(picture: Picture, reader: Any) -> Tensor:
        if isinstance(picture, (str, Path)):
            return reader.read_image_file(str(picture))
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
        return torch.from_numpy(square_pixels(image, reader.images.size_px))


def read_speech(speech: Speech) -> np.ndarray:
    """(S,) float32 at 16 kHz. Raises: AudioError, or ConfigError for an array of another shape."""
    if isinstance(speech, (str, Path)):
        return read_audio(speech, resample=True)
    wav = np.asarray(speech, dtype=np.float32)
    if wav.ndim != 1 or not wav.size:
        got = f"got an array of shape {wav.shape}, wanted (samples,) at {SAMPLE_RATE_HZ} Hz"
        raise ConfigError("waveform", [f"{got}; give one channel of one recording"])
    return wav


def load_model(checkpoint: str | Path, device: str = "auto") -> Pretrained:
    """A checkpoint of this package, or of fairseq's wav2vec2, hubert or data2vec_audio.

    device: a torch device; auto: CUDA if there is any. No file of the training but the checkpoint is needed.
    Raises: CheckpointError if it is none of them, ConfigError for CUDA where there is none.
    """
    chosen = pick_device(device)
    upstream = checkpoints.load_upstream(checkpoint)
    return Pretrained(upstream.model, upstream.task, upstream.normalised, chosen)
