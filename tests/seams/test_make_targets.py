"""Waveforms to labels to numbers by the commands themselves; killed at every stage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_corpora
import training
from fairseq.data import Dictionary

from fairseq_mtssl.cli.main import main
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.errors import TargetError
from fairseq_mtssl.frames import SPECIAL_SYMBOLS
from fairseq_mtssl.labels.folder import LabelFolder

POINTS = [
    "before:plan.json",
    "after:plan.json",
    "read:4",  # amid the sample
    "before:codebook.npy",
    "after:codebook.npy",
    "after:codebook.json",
    "read:13",  # amid the labels of train
    "before:train_1_3.km",
    "after:train_2_3.km",
    "before:train.km",
    "after:train.km",
    "before:train.km.bin",
    "after:train.km.bin",
    "after:valid_0_2.km",
    "after:valid.km",
    "after:dict.km.txt",
    "before:targets.json",
    "after:targets.json",
    "clean",
]
STORED_POINTS = [
    "read:5",
    "after:train_0_3.len",
    "after:train_0_3.npy",
    "after:valid_1_2.npy",
    "after:train_1_3.km",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train: 10 tones of 0.4 to 0.5 s, valid: 6."""
    folder = tmp_path_factory.mktemp("data")
    tiny_corpora.make_pairs(folder, "train", 10)
    tiny_corpora.make_pairs(folder, "valid", 6)
    return folder


def words(data: Path, *more: str) -> list[str]:
    return ["make-targets", "--data", str(data), "--features", "mfcc", "--clusters", "8", *more]


def make(data: Path, out: Path, *more: str) -> int:
    return main([*words(data, "--kmeans", "torch", "--shard-minutes", "0.027"), "--out", str(out), *more])


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder of targets that no test changes."""
    out = tmp_path_factory.mktemp("made") / "t"
    assert make(data, out) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_that_training_needs_is_there_and_fits(data: Path, tmp_path: Path, capsys) -> None:
    assert make(data, tmp_path / "t") == 0
    labels = ["train.km", "train.km.bin", "valid.km", "valid.km.bin"]
    names = ["codebook.json", "codebook.npy", "dict.km.txt", "targets.json", *labels]
    assert sorted(contents(tmp_path / "t")) == names
    printed = capsys.readouterr().out
    assert "train: 10 utterances" in printed and "valid: 6 utterances" in printed
    targets = LabelFolder(tmp_path / "t")
    assert (targets.rate_hz, len(targets.symbols), targets.about["source"]["features"]) == (100.0, 8, "mfcc")
    sizes = read_audio_manifest(data / "valid.tsv").sizes
    found = targets.labels("valid", sizes, conv_layers=[(1, 400, 320)])  # of an encoder at 50 Hz
    for row, size in enumerate(sizes.tolist()):
        count = (size - 400) // 320 + 1
        assert (found.frames(row, 0, count + 1) - SPECIAL_SYMBOLS).tolist() == [*found[row][::2], -3]
    assert len(Dictionary.load(str(tmp_path / "t" / "dict.km.txt"))) == 8 + 4


@pytest.mark.parametrize("points", [POINTS, STORED_POINTS], ids=["straight", "stored"])
def test_kill_9_at_any_stage_and_again_gives_the_same_bytes(
    data: Path, tmp_path: Path, run_program, root: Path, points: list[str]
) -> None:
    more = ["--store-features"] if points is STORED_POINTS else []
    command = words(data, "--kmeans", "torch", "--shard-minutes", "0.027", *more)
    script = [str(root / "tests" / "killing.py"), str(tmp_path), "never", *points, "--", *command]
    run = run_program(["python", *script], env={"PYTHONPATH": str(root)})
    assert run.returncode == 0, run.stderr
    statuses = json.loads(run.stdout.strip().splitlines()[-1])
    assert statuses == {"never": [0, 0], **{point: [-9, 0] for point in points}}
    whole = contents(tmp_path / "never")
    for point in points:
        assert contents(tmp_path / point) == whole, point


def test_stages_by_hand_with_shards_give_the_labels_of_the_one_command(
    data: Path, made: Path, tmp_path: Path
) -> None:
    features, codebook = tmp_path / "features", tmp_path / "book.npy"
    audio = ["--data", str(data), "--features", "mfcc"]
    for rank in range(3):
        assert main(["dump-features", *audio, "--shard", f"{rank}/3", "--out", str(features)]) == 0
    stored = ["--stored", str(features)]
    fit = ["--clusters", "8", "--kmeans", "torch", "--out", str(codebook)]
    assert main(["learn-kmeans", *stored, *fit]) == 0
    assert np.array_equal(np.load(codebook), np.load(made / "codebook.npy"))
    for name, how in (("from features", stored), ("from audio", audio)):
        out = tmp_path / name
        for rank in (1, 0):
            label = ["--codebook", str(codebook), "--shard", f"{rank}/2", "--out", str(out)]
            assert not (out / "targets.json").exists()
            assert main(["dump-labels", *how, *label]) == 0
        assert (out / "train.km").read_bytes() == (made / "train.km").read_bytes()
        targets = LabelFolder(out)
        assert len(targets.labels("train", read_audio_manifest(data / "train.tsv").sizes)) == 10
    more = ["--split", "valid", "--codebook", str(codebook), "--out", str(tmp_path / "from audio")]
    assert main(["dump-labels", *audio, *more]) == 0
    assert list(LabelFolder(tmp_path / "from audio").about["splits"]) == ["train", "valid"]


def test_a_missing_shard_is_refused_with_its_command(data: Path, made: Path, tmp_path: Path, capsys) -> None:
    book, out = str(made / "codebook.npy"), tmp_path / "labels"
    label = ["dump-labels", "--data", str(data), "--features", "mfcc", "--codebook", book, "--out", str(out)]
    assert main([*label, "--shard", "0/2"]) == 0
    assert "1 of 2 shards are there" in capsys.readouterr().out
    assert main([*label, "--merge", "2"]) == 2
    assert "train_1_2.km is missing. Write it with --shard 1/2." in capsys.readouterr().err
    assert main([*label, "--shard", "1/2"]) == 0
    assert (out / "train.km").read_bytes() == (made / "train.km").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--seed", "1"), "made with seed 0, now asked for 1"),
        (("--splits", "train"), "made with splits"),
        (("--fit-split", "dev"), "'dev' is not among the splits (train, valid)"),
        (("--splits", "train,dev"), "dev.tsv"),
        (("--features", "none.pt:3"), "none.pt: no such file"),
        (("--features", "none.pt"), "wanted mfcc, mfcc-cmn"),
        (("--shard-minutes", "0"), "wanted more than 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    data: Path, made: Path, tmp_path: Path, capsys, more: tuple[str, ...], message: str
) -> None:
    before = contents(made)
    assert make(data, made, *more) == 2
    assert message in capsys.readouterr().err
    assert contents(made) == before


def test_a_second_run_does_nothing_and_says_the_same(data: Path, made: Path, tmp_path: Path, capsys) -> None:
    assert make(data, made) == 0
    first = capsys.readouterr().out
    stamps = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert make(data, made) == 0
    assert capsys.readouterr().out == first
    assert stamps == {path: path.stat().st_mtime_ns for path in made.iterdir()}


def test_audio_that_is_not_as_long_as_its_manifest_says_is_refused(
    data: Path, tmp_path: Path, capsys
) -> None:
    tiny_corpora.make_pairs(tmp_path, "train", 3)
    path = tmp_path / "train.tsv"
    path.write_text(path.read_text().replace("\t7200", "\t8000"))
    assert make(tmp_path, tmp_path / "t") == 2
    assert "7200 samples, but 8000 on line 3" in capsys.readouterr().err


def test_layer_features_of_our_own_checkpoint_make_50_hz_targets(data: Path, tmp_path: Path) -> None:
    checkpoint = training.train(data, tmp_path / "run", optimization__max_update=5) / "checkpoint_last.pt"
    layer = ["--features", f"{checkpoint}:2", "--clusters", "5", "--kmeans", "torch", "--device", "cpu"]
    outs = []
    for batch in ("0", "2"):
        out = tmp_path / f"t{batch}"
        assert (
            main(["make-targets", "--data", str(data), *layer, "--batch-seconds", batch, "--out", str(out)])
            == 0
        )
        outs.append((out / "train.km").read_bytes())
    targets = LabelFolder(tmp_path / "t0")
    assert targets.rate_hz == 50 and targets.about["source"]["layer"] == 2
    sizes = read_audio_manifest(data / "train.tsv").sizes
    assert len(targets.labels("train", sizes)) == 10
    with pytest.raises(TargetError, match="line 1"):
        targets.labels("train", sizes * 2)


def test_labels_are_measured_against_the_phones_of_the_manifest(
    data: Path, made: Path, tmp_path: Path, capsys
) -> None:
    measure = ["measure-targets", "--labels", str(made), "--data", str(data)]
    assert main(measure) == 2
    assert "has none of train.phones.tsv, valid.phones.tsv" in capsys.readouterr().err
    # a low tone is one phone, a high one another; the last caption has no phones
    rows = [f"train_{i}\t0.0\t0.3\t{'lo' if i < 5 else 'hi'}\tw" for i in range(9)]
    phones = data / "train.phones.tsv"
    phones.write_text("\n".join(["caption_id\tstart_s\tend_s\tphone\tword", *rows]) + "\n")
    out = tmp_path / "quality.json"
    try:
        assert main([*measure, "--json", str(out)]) == 0
    finally:
        phones.unlink()
    found = json.loads(out.read_text())
    row = found["splits"]["train"]
    assert list(found["splits"]) == ["train"] and found["rate_hz"] == 100
    assert row["frames"] == 9 * 30 and row["unaligned_utterances"] == 1 and row["phones"] == 2
    assert 0.5 < row["pnmi"] <= 1 and row["phone_purity"] > 0.8
