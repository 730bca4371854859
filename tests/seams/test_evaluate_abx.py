"""`mtssl evaluate-abx` on what the other commands wrote: a checkpoint, stored features, MFCCs, units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_corpora

from fairseq_mtssl.cli.main import main
from fairseq_mtssl.evaluation import frame_store

HEADER = "#file onset offset #phone prev-phone next-phone speaker"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tones in valid, low ones first, each cut into four items; two speakers; an item past the end."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid"):
        tiny_corpora.make_pairs(folder, split, 8)
    lines = [HEADER]
    for number in range(8):
        phone, speaker = "low" if number < 4 else "high", f"s{number % 2}"
        for onset in (0.0, 0.1, 0.2, 0.3):
            lines.append(f"valid_{number} {onset} {onset + 0.09:.2f} {phone} q n {speaker}")
    lines.append("valid_0 5.0 5.1 low q n s0")
    (folder / "valid.item").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def checkpoint(joint_run: Path) -> Path:
    return joint_run / "checkpoint_last.pt"


def evaluate(data: Path, out: Path, *more: object) -> dict[str, Any]:
    words = ["evaluate-abx", "--data", data, "--item", data / "valid.item", "--json", out, *more]
    assert main([str(word) for word in [*words, "--device", "cpu"]]) == 0
    return json.loads(out.read_text())


def test_every_layer_is_measured_out_of_one_pass_an_utterance(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = evaluate(data, tmp_path / "new" / "abx.json", "--checkpoint", checkpoint)
    assert list(measured["scores"]) == ["1", "2", "3"]
    assert measured["source"]["layers"] == [1, 2, 3]
    # two phones and speakers: each way round, and with 16 tokens a phone cut to 10 in each
    assert measured["cells"] == {"within": 4, "across": 4}
    assert (measured["items"], measured["dropped"], measured["tokens"]) == (33, 1, 32)
    printed = capsys.readouterr().out
    assert "split valid: angular, exact, within context, 50 Hz" in printed
    assert "tokens: 32 in them, of 33 items; dropped, having no frame: 1" in printed
    assert printed.count("*") == 3  # the best of each column, and what the star means
    for layer, score in measured["scores"].items():
        one = evaluate(data, tmp_path / "one.json", "--features", f"{checkpoint}:{layer}")
        assert one["scores"] == {layer: score}
    some = evaluate(data, tmp_path / "some.json", "--checkpoint", checkpoint, "--layer", "3,1")
    assert some["scores"] == {layer: measured["scores"][layer] for layer in ("3", "1")}


def test_an_untrained_network_of_the_same_sizes_is_measured(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    trained, random, again, other = (
        evaluate(data, tmp_path / "a.json", "--checkpoint", checkpoint, "--max-x-across", 0, *more)
        for more in ((), ("--random-weights",), ("--random-weights",), ("--random-weights", "--seed", 1))
    )
    assert random["source"] == {**random["source"], "model": "random", "seed": 0}
    assert list(random["scores"]) == list(trained["scores"])
    assert random == again and random["scores"] != trained["scores"] != other["scores"] != random["scores"]


def test_stored_features_score_as_computed_ones(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    for features in ("mfcc", f"{checkpoint}:2"):
        stored = tmp_path / features[-1]
        words = ["dump-features", "--data", data, "--features", features, "--split", "valid", "--out", stored]
        assert main([str(word) for word in words]) == 0
        for more in (("--slicing", "librilight"), ("--distance", "euclidean", "--context", "any")):
            computed = evaluate(data, tmp_path / "a.json", "--features", features, *more)
            assert evaluate(data, tmp_path / "b.json", "--features", stored, *more) == computed
        assert list(computed["scores"]) == ["mfcc" if features == "mfcc" else "2"]
    with pytest.raises(SystemExit):
        evaluate(data, tmp_path / "b.json", "--features", stored, "--units", stored)


def test_mfccs_tell_low_tones_from_high_ones_better_than_chance(data: Path, tmp_path: Path) -> None:
    measured = evaluate(data, tmp_path / "a.json", "--features", "mfcc", "--distance", "euclidean")
    assert measured["rate_hz"] == 100
    assert max(measured["scores"]["mfcc"].values()) < 50


def test_units_are_compared_by_0_and_1(data: Path, tmp_path: Path) -> None:
    labels = tiny_corpora.make_labels(tmp_path / "labels", data)
    measured = evaluate(data, tmp_path / "random.json", "--units", labels)
    assert measured["distance"] == "units"
    assert measured["scores"]["6"]["within"] == pytest.approx(50, abs=25)
    # one unit for the low tones, another for the high ones: no error
    rows = [line.split() for line in (labels / "valid.km").read_text().splitlines()]
    perfect = [" ".join("0" if number < 4 else "1" for _ in row) for number, row in enumerate(rows)]
    (labels / "valid.km").write_text("".join(f"{row}\n" for row in perfect))
    measured = evaluate(data, tmp_path / "perfect.json", "--units", labels)
    assert measured["scores"] == {"6": {"within": 0.0, "across": 0.0}}


def test_frames_beyond_the_memory_lie_in_a_file(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = evaluate(data, tmp_path / "a.json", "--checkpoint", checkpoint)
    monkeypatch.setattr(frame_store, "MEMORY_BYTES", 1000)
    assert isinstance(frame_store.allocate((3, 100, 4), np.float32), np.memmap)
    assert evaluate(data, tmp_path / "b.json", "--checkpoint", checkpoint) == wanted


def test_batches_and_sampling_are_chosen(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    alone = evaluate(data, tmp_path / "a.json", "--checkpoint", checkpoint, "--max-tokens-per-group", 0)
    batched = evaluate(
        data,
        tmp_path / "b.json",
        *("--checkpoint", checkpoint, "--max-tokens-per-group", 0, "--batch-seconds", 2),
    )
    assert alone["max_tokens_per_group"] is None and alone["tokens"] == 32
    assert batched["cells"] == alone["cells"]
    few = evaluate(data, tmp_path / "c.json", "--checkpoint", checkpoint, "--max-tokens-per-group", 3)
    assert few["tokens"] == 12
    # near ties may fall the other way where a batch rounds otherwise
    for layer, score in alone["scores"].items():
        assert batched["scores"][layer] == pytest.approx(score, abs=1)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--features", "mfcc", "--layer", "3"), "--layer goes with --checkpoint"),
        (("--features", "mfcc", "--random-weights"), "--random-weights goes with --checkpoint"),
        (("--units", "x", "--distance", "kl"), "--units has its own distance"),
        (("--features", "mfcc", "--max-x-across", "-1"), "--max-x-across: got -1"),
        (("--features", "mfcc", "--max-x-speakers", "-1"), "--max-x-speakers is now called --max-x-across"),
        (("--checkpoint", "x", "--layer", "0"), "wanted all, or numbers from 1"),
        (("--checkpoint", "x", "--layer", "2,2"), "each once"),
        (("--features", "nothing"), "wanted mfcc, mfcc-cmn"),
        (("--checkpoint", "nothing"), "no such file"),
        (("--features", "mfcc", "--split", "train"), "valid_7: 4 items, but"),
    ],
)
def test_what_does_not_fit_is_said(
    more: tuple[str, ...], told: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate-abx", "--data", str(data), "--item", str(data / "valid.item"), *more]
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_every_unknown_file_is_named_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "valid.item"
    path.write_text(f"{HEADER}\nnone 0 1 a q n s\nvalid_1 0 1 a q n s\nother 0 1 b q n s\nnone 0 1 b q n s\n")
    words = ["evaluate-abx", "--data", str(data), "--item", str(path), "--features", "mfcc"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "2 errors" in told and "none: 2 items, but" in told and "other: 1 items, but" in told


def test_stored_features_of_other_rows_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dump-features", "--data", data, "--features", "mfcc", "--split", "valid", "--out", tmp_path]
    assert main([str(word) for word in [*words, "--shard", "0/2"]]) == 0
    assert main([str(word) for word in [*words, "--shard", "1/2"]]) == 0
    (tmp_path / "other").mkdir()
    tiny_corpora.make_pairs(tmp_path / "other", "valid", 8, seconds=0.5)
    item = ["--item", str(data / "valid.item")]
    told = ["evaluate-abx", "--data", str(tmp_path / "other"), "--features", str(tmp_path), *item]
    assert main(told) == 2
    assert "8 utterances have other frames than the 8 rows" in capsys.readouterr().err
