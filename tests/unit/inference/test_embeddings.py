"""Encoding a split and loose files: order, batches, each image once, skips by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fakes import FakeModel, FakeTask, write_corpus, write_square, write_tone

from fairseq_mtssl.errors import AudioError, ConfigError
from fairseq_mtssl.inference import embeddings as encoding
from fairseq_mtssl.prefetch import read_ahead

CPU = torch.device("cpu")
VALUES = (0.1, 0.9, 0.4, 0.6, 0.2)


@pytest.fixture
def task(tmp_path: Path) -> FakeTask:
    task = FakeTask(str(write_corpus(tmp_path / "corpus", VALUES)))
    task.load_dataset("test")
    return task


def encode_files(paths: list[Path], batch_size: int, images: bool) -> encoding.EncodedFiles:
    reader = encoding.file_reader(FakeTask())
    return encoding.encode_files(FakeModel(), reader, paths, batch_size, CPU, images=images)


def angles(embeddings: torch.Tensor) -> torch.Tensor:
    return torch.atan2(embeddings[:, 1], embeddings[:, 0]) / (torch.pi / 2)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_rows_come_back_in_manifest_order_whatever_the_batches(task: FakeTask, batch_size: int) -> None:
    encoded = encoding.encode_split(FakeModel(), task.dataset("test"), batch_size, CPU)
    # a tone of 0.1 s counts its zero crossings to one in about 10: 0.01 of the value; 8-bit grey: 0.002
    torch.testing.assert_close(angles(encoded.speech), torch.tensor(VALUES * 2), atol=0.02, rtol=0)
    torch.testing.assert_close(angles(encoded.image), torch.tensor(VALUES), atol=0.003, rtol=0)
    assert encoded.speech.dtype == torch.float32
    assert not encoded.speech.requires_grad


def test_captions_go_in_longest_first_and_every_image_once(task: FakeTask) -> None:
    model = FakeModel()
    encoding.encode_split(model, task.dataset("test"), 4, CPU)
    speech = [lengths for kind, lengths in model.batches if kind == "speech"]
    flat = [length for batch in speech for length in batch]
    assert [len(batch) for batch in speech] == [4, 4, 2]
    assert flat == sorted(flat, reverse=True)
    assert [count for kind, count in model.batches if kind == "image"] == [4, 1]


def test_an_unreadable_caption_of_a_split_is_an_error(task: FakeTask, tmp_path: Path) -> None:
    (tmp_path / "corpus/audio/test_1_0.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"test_1_0\.wav"):
        encoding.encode_split(FakeModel(), task.dataset("test"), 4, CPU)


def test_loose_images_keep_their_order_and_unreadable_ones_are_named(tmp_path: Path) -> None:
    paths = [write_square(tmp_path / f"{i}.png", value, 8 + i) for i, value in enumerate(VALUES)]
    paths.insert(2, tmp_path / "broken.png")
    paths[2].write_bytes(b"\x89PNG nothing")
    found = encode_files(paths, 2, images=True)
    torch.testing.assert_close(angles(found.embeddings), torch.tensor(VALUES), atol=0.003, rtol=0)
    assert found.paths == [path for path in paths if path.stem != "broken"]
    assert [path for path, _ in found.skipped] == [paths[2]]
    assert "broken.png" in found.skipped[0][1]


def test_a_clip_the_model_refuses_is_skipped_without_its_batch(tmp_path: Path) -> None:
    paths = [write_tone(tmp_path / f"{i}.wav", value) for i, value in enumerate(VALUES)]
    paths.append(write_tone(tmp_path / "short.wav", 0.5, seconds=0.01))
    found = encode_files(paths, 32, images=False)
    torch.testing.assert_close(angles(found.embeddings), torch.tensor(VALUES), atol=0.02, rtol=0)
    assert [path.name for path, _ in found.skipped] == ["short.wav"]
    assert "short.wav: a clip of 160 samples" in found.skipped[0][1]


def test_nothing_usable_gives_no_rows_and_every_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    found = encode_files([tmp_path / "a.png"], 2, images=True)
    assert found.paths == []
    assert len(found.skipped) == 1


def test_a_model_of_region_features_cannot_read_image_files() -> None:
    with pytest.raises(ConfigError, match="region features"):
        encoding.file_reader(FakeTask(image_encoder="regions"))


def test_one_batch_is_read_ahead_and_no_more() -> None:
    events: list[str] = []

    def load(batch: int) -> int:
        events.append(f"read {batch}")
        return batch

    def numbers() -> Iterator[int]:
        yield from range(4)

    for batch in read_ahead(load, numbers(), ahead=1):
        events.append(f"use {batch}")
    for batch in range(4):
        assert events.index(f"read {batch}") < events.index(f"use {batch}")
    for batch in range(2):
        assert events.index(f"use {batch}") < events.index(f"read {batch + 2}")


def test_an_error_while_reading_ahead_reaches_the_caller() -> None:
    def load(batch: int) -> int:
        if batch == 2:
            raise AudioError("a.wav", "broken", "Replace it.")
        return batch

    seen = []
    with pytest.raises(AudioError, match="broken"):
        for batch in read_ahead(load, range(4), ahead=1):
            seen.append(batch)
    assert seen == [0, 1]
