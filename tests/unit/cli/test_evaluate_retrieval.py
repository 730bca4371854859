"""`mtssl evaluate-retrieval` from manifest to table, JSON and gallery, with a perfect model."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import pytest
import torch

from fairseq_mtssl import checkpoints
from fairseq_mtssl.cli.main import main

VALUES = (0.1, 0.9, 0.4, 0.6, 0.2, 0.75)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(fakes.write_corpus(tmp_path / "corpus", VALUES))


def evaluate(checkpoint: str, data: str, *more: str) -> int:
    return main(["evaluate-retrieval", "--checkpoint", checkpoint, "--data", data, "--device", "cpu", *more])


def test_table_and_json_of_a_perfect_model(
    checkpoint: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "results.json"
    assert evaluate(checkpoint, data, "--json", str(out)) == 0
    results = json.loads(out.read_text())
    perfect = {"r1": 100.0, "r5": 100.0, "r10": 100.0, "median_rank": 1.0}
    assert results == {
        "images": 6,
        "captions": 12,
        "split": "test",
        "relevance": "image",
        "speech_to_image": perfect,
        "image_to_speech": perfect,
        "chance": {
            # one image of six; two captions of twelve: R@5 = 1 - (10·9·8·7·6)/(12·11·10·9·8) = 1 - 42/132
            "speech_to_image": {"r1": 16.666667, "r5": 83.333333, "r10": 100.0, "median_rank": 3.5},
            "image_to_speech": {"r1": 16.666667, "r5": 68.181818, "r10": 98.484848, "median_rank": 4.333333},
        },
    }
    printed = capsys.readouterr().out
    assert "split test: M = 6 images, N = 12 captions" in printed
    assert f"wrote {out}" in printed


def test_relevance_label_takes_any_image_of_the_label(checkpoint: str, data: str, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert evaluate(checkpoint, data, "--relevance", "label", "--json", str(out)) == 0
    results = json.loads(out.read_text())
    assert results["relevance"] == "label"
    # three images of six share each label
    assert results["chance"]["speech_to_image"]["r1"] == 50.0


def test_every_split_is_read_as_in_evaluation(
    checkpoint: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def load(path: str, data: str | None = None, overrides: dict | None = None) -> checkpoints.LoadedModel:
        seen.update(overrides or {})
        return fakes.fake_load_model(path, data)

    monkeypatch.setattr(checkpoints, "load_model", load)
    assert evaluate(checkpoint, data) == 0
    assert seen == {"task": {"train_subset": ""}}


def test_gallery_is_drawn(checkpoint: str, data: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "g.png"
    assert evaluate(checkpoint, data, "--gallery", str(out), "--gallery-rows", "3") == 0
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--split", "nowhere"), "nowhere.tsv is missing"),
        (("--json", "."), "is a folder"),
    ],
)
def test_faults_are_one_message_and_exit_2(
    checkpoint: str, data: str, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(checkpoint, data, *more) == 2
    assert message in capsys.readouterr().err


def test_an_absent_checkpoint_is_named(
    data: str, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("no.pt", data) == 2
    assert "no.pt: no such file" in capsys.readouterr().err


def test_label_relevance_without_labels_is_refused(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(fakes.write_corpus(tmp_path / "bare", VALUES, labels=False))
    assert evaluate(checkpoint, data, "--relevance", "label") == 2
    assert "no caption has a label" in capsys.readouterr().err


def test_nan_embeddings_end_in_a_clear_error(
    checkpoint: str, data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        fakes.FakeModel, "encode_image", lambda self, images: torch.full((len(images), 2), torch.nan)
    )
    assert evaluate(checkpoint, data) == 2
    assert "image embeddings: 6 of 6 rows hold NaN or infinity" in capsys.readouterr().err
