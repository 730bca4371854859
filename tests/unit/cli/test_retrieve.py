"""`mtssl retrieve`: a spoken query against a folder of images, and the reverse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import write_square, write_tone

from fairseq_mtssl.cli.main import main

VALUES = {"a": 0.1, "b": 0.9, "c": 0.5}


def retrieve(checkpoint: str, *more: str) -> int:
    return main(["retrieve", "--checkpoint", checkpoint, "--device", "cpu", *more])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, value in VALUES.items():
        write_square(tmp_path / "images" / f"set_{name}" / f"{name}.png", value)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    return tmp_path / "images"


def test_a_spoken_query_gets_the_images_best_first(
    checkpoint: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query, out = write_tone(tmp_path / "q.wav", 0.85), tmp_path / "answer.json"
    assert retrieve(checkpoint, "--images", str(images), "--query", str(query), "--json", str(out)) == 0
    answer = json.loads(out.read_text())
    assert [Path(result["path"]).stem for result in answer["results"]] == ["b", "c", "a"]
    assert [result["rank"] for result in answer["results"]] == [1, 2, 3]
    scores = [result["score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert (answer["direction"], answer["candidates"], answer["skipped"]) == ("speech_to_image", 3, [])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{query}: the 3 best of 3 images in {images}"
    assert printed[1].split()[::2] == ["1", str(Path("set_b/b.png"))]


def test_top_limits_the_answers(
    checkpoint: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    query = write_tone(tmp_path / "q.wav", 0.1)
    assert retrieve(checkpoint, "--images", str(images), "--query", str(query), "--top", "1") == 0
    printed = capsys.readouterr().out
    assert "the 1 best of 3" in printed
    assert "a.png" in printed and "c.png" not in printed


def test_an_image_gets_the_recordings_best_first(checkpoint: str, tmp_path: Path) -> None:
    for name, value in VALUES.items():
        write_tone(tmp_path / "spoken" / f"{name}.wav", value)
    query, out = write_square(tmp_path / "q.png", 0.2), tmp_path / "answer.json"
    captions = str(tmp_path / "spoken")
    assert retrieve(checkpoint, "--captions", captions, "--query", str(query), "--json", str(out)) == 0
    answer = json.loads(out.read_text())
    assert [Path(result["path"]).stem for result in answer["results"]] == ["a", "c", "b"]
    assert answer["direction"] == "image_to_speech"


def test_unreadable_candidates_are_counted_and_named(
    checkpoint: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.JPG").write_bytes(b"no image")
    query, out = write_tone(tmp_path / "q.wav", 0.5), tmp_path / "a.json"
    assert retrieve(checkpoint, "--images", str(images), "--query", str(query), "--json", str(out)) == 0
    printed = capsys.readouterr().out
    assert "skipped 1 of 4 images:" in printed
    assert "broken.JPG" in printed
    assert [Path(entry["path"]).name for entry in json.loads(out.read_text())["skipped"]] == ["broken.JPG"]


def test_many_unreadable_candidates_are_listed_in_the_json(
    checkpoint: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(25):
        (images / f"broken{i}.png").write_bytes(b"")
    query = write_tone(tmp_path / "q.wav", 0.5)
    assert retrieve(checkpoint, "--images", str(images), "--query", str(query)) == 0
    assert "… and 5 more" in capsys.readouterr().out


def test_the_query_must_be_usable(
    checkpoint: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrieve(checkpoint, "--images", str(images), "--query", "none.wav") == 2
    assert "none.wav: no such file" in capsys.readouterr().err
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    assert retrieve(checkpoint, "--images", str(images), "--query", str(tmp_path / "bad.wav")) == 2
    assert "bad.wav" in capsys.readouterr().err
    short = write_tone(tmp_path / "short.wav", 0.5, seconds=0.01)
    assert retrieve(checkpoint, "--images", str(images), "--query", str(short)) == 2
    assert "160 samples" in capsys.readouterr().err


def test_a_folder_without_candidates_is_refused(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = str(write_tone(tmp_path / "q.wav", 0.5))
    (tmp_path / "empty").mkdir()
    assert retrieve(checkpoint, "--images", str(tmp_path / "empty"), "--query", query) == 2
    assert "holds no file that ends in .png, .jpg, .jpeg" in capsys.readouterr().err
    assert retrieve(checkpoint, "--images", str(tmp_path / "none"), "--query", query) == 2
    assert "is no folder" in capsys.readouterr().err
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    assert retrieve(checkpoint, "--images", str(tmp_path / "empty"), "--query", query) == 2
    assert "none of 1 files can be used, first:" in capsys.readouterr().err
