"""From an aligned corpus and a checkpoint to phone probes, judged by fairseq-validate and probe-layers."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import tasks
from sklearn.metrics import accuracy_score, f1_score
from spoken_phones import make_spoken_phones
from tiny_recipes import TINY_MT4SSL
from training import compose, train, weights

from fairseq_mtssl.checkpoints import load_model, load_upstream, read_encoder
from fairseq_mtssl.cli.main import main
from fairseq_mtssl.data.audio import normalise, read_audio
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.features.layers import ModelLayers

TINY_PROBE = {
    "common.log_interval": 1,
    "dataset.max_tokens": 40_000,
    "dataset.validate_interval_updates": 30,
    "optimization.max_update": 60,
    "optimization.lr": [0.02],
    "checkpoint.save_interval_updates": 30,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_spoken_phones(tmp_path_factory.mktemp("phones"))


@pytest.fixture(scope="module")
def pretrained(mt4ssl_run: Path) -> Path:
    return mt4ssl_run / "checkpoint_last.pt"


def probe(data: Path, out: Path, checkpoint: object, recipe: str = "phoneme_probe", **more: Any) -> Path:
    settings = {**TINY_PROBE, "model.checkpoint": str(checkpoint)}
    return train(data, out, recipe, settings, **more) / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def probed(data: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probe(data, tmp_path_factory.mktemp("probe"), pretrained, model__layer="1")


def validate(
    data: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    **more: object,
) -> dict[str, float]:
    """What fairseq-validate prints, in this process, the words as a user gives them."""
    from fairseq_cli import validate as tool

    import fairseq_mtssl

    options = {"user-dir": Path(fairseq_mtssl.__file__).parent, "task": "phoneme_probe", "path": checkpoint}
    options |= {"valid-subset": "valid", "max-tokens": 30_000, "num-workers": 0} | more
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(
        sys, "argv", ["fairseq-validate", str(data), *words, "--cpu", "--log-format", "simple"]
    )
    monkeypatch.setattr(tool, "reset_logging", lambda: None)
    caplog.clear()
    with caplog.at_level("INFO"):
        tool.cli_main()
    (line,) = (each for each in caplog.messages if "subset | loss" in each or "subset' | loss" in each)
    return {name: float(value) for name, value in re.findall(r"\| (\w+) ([\d.]+)", line)}


def predictions(data: Path, checkpoint: Path, split: str) -> tuple[list[str], list[str]]:
    """Phones of the labelled frames of a split and what a probe of layer 1 tells, one frame at a time."""
    loaded = load_model(checkpoint)
    state, names = loaded.model.state_dict(), loaded.task.phones
    features = ModelLayers(_Encoder(loaded.model.frozen.speech_encoder), 1)
    lines = (data / f"{split}.phn").read_text().splitlines()
    root, *rows = (data / f"{split}.tsv").read_text().splitlines()
    wanted, told = [], []
    for row, line in zip(rows, lines, strict=True):
        wav = normalise(read_audio(Path(root) / row.split("\t")[0]))
        for frame, phone in zip(features.extract([wav])[0][:, 0], line.split(), strict=True):
            x = (torch.from_numpy(frame) - state["frozen.mean"][0]) * state["frozen.scale"][0]
            scores = state["head.weight"] @ x + state["head.bias"]
            if phone != "<pad>":
                wanted.append(phone)
                told.append(names[int(scores.argmax())])
    return wanted, told


class _Encoder(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.speech_encoder = encoder


def test_fairseq_validate_prints_what_a_slow_count_finds_without_the_probed_checkpoint(
    data: Path,
    pretrained: Path,
    probed: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hidden = pretrained.rename(pretrained.with_suffix(".away"))
    try:
        wanted, told = predictions(data, probed, "valid")
        for more in ({}, {"max-tokens": 1_000_000}, {"valid-subset": "test"}):
            if "valid-subset" in more:
                wanted, told = predictions(data, probed, "test")
            shown = validate(data, probed, monkeypatch, caplog, **more)
            assert shown["accuracy"] == pytest.approx(100 * accuracy_score(wanted, told), abs=2e-3)
            assert shown["macro_f1"] == pytest.approx(100 * f1_score(wanted, told, average="macro"), abs=2e-3)
        assert shown["accuracy"] > 70
    finally:
        hidden.rename(pretrained)


def test_the_encoder_is_that_of_the_checkpoint_and_training_leaves_it(pretrained: Path, probed: Path) -> None:
    before, after = read_encoder(pretrained).weights, weights(probed)
    names = [name for name in after if name.startswith("frozen.speech_encoder.")]
    assert len(names) == len(before)
    assert all(
        torch.equal(before[name.removeprefix("frozen.speech_encoder.")], after[name]) for name in names
    )
    model = load_model(probed).model
    assert sorted(name for name, each in model.named_parameters() if each.requires_grad) == [
        "head.bias",
        "head.weight",
    ]
    assert not any(module.training for module in model.train().frozen.modules())
    kept = model.half().frozen.speech_encoder
    assert all(each.dtype == torch.float32 for each in kept.parameters())


def test_features_that_do_not_fit_in_memory_are_computed_anew_with_the_same_outcome(
    data: Path, pretrained: Path, probed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = probe(data, tmp_path, pretrained, model__layer="1", task__cache_gb=0.0)
    assert caplog.text.count("of task.cache_gb: they are computed in every epoch") == 2
    for name, value in weights(probed).items():
        torch.testing.assert_close(weights(again)[name], value, atol=1e-4, rtol=1e-4)


def test_shuffled_labels_are_told_at_chance(data: Path, pretrained: Path, tmp_path: Path) -> None:
    shuffled = Path(shutil.copytree(data, tmp_path / "data"))
    rng = np.random.default_rng(1)
    for split in ("train", "valid"):
        lines = [line.split() for line in (data / f"{split}.phn").read_text().splitlines()]
        mixed = iter(rng.permutation([phone for line in lines for phone in line]))
        rows = [" ".join(next(mixed) for _ in line) for line in lines]
        (shuffled / f"{split}.phn").write_text("".join(f"{row}\n" for row in rows))
    (shuffled / "test.phn").unlink()
    true, chance = (
        measure(each, tmp_path / "out.json", pretrained, "--layers", "1") for each in (data, shuffled)
    )
    assert true["best"]["valid"]["accuracy"] > 70
    # 190 frames: three standard errors of a share near 0.3 are 10 points
    assert chance["best"]["valid"]["accuracy"] < chance["chance"]["valid"] + 10


def test_a_weighted_sum_learns_what_each_layer_counts_for(
    data: Path,
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = probe(data, tmp_path, pretrained, model__layer="weighted")
    model = load_model(path).model
    assert len(model.layer_weights) == 3 and sum(model.layer_weights) == pytest.approx(1)
    assert len(set(model.layer_weights)) == 3
    assert validate(data, path, monkeypatch, caplog)["accuracy"] > 70


def test_phones_are_spelled_with_ctc_and_counted_without_silences(
    data: Path,
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import editdistance

    path = probe(data, tmp_path, pretrained, "phoneme_probe_ctc", optimization__max_update=150)
    loaded = load_model(path)
    loaded.task.load_dataset("valid")
    dataset, names = loaded.task.dataset("valid"), loaded.task.phones
    edits = total = 0
    for row, line in enumerate((data / "valid.tsv").read_text().splitlines()[1:]):
        name = Path(line.split("\t")[0]).stem
        table = [each.split("\t") for each in (data / "valid.phones.tsv").read_text().splitlines()]
        said = [cells[3] for cells in table if cells[0] == name and cells[3] != "sil"]
        logits = loaded.model(clips=[dataset.caption(row)])["logits"][0]
        best = [int(each) for each in logits.argmax(-1)]
        spelled = [b for a, b in zip([0, *best], best) if b not in (a, 0)]
        edits += editdistance.eval([names[each - 1] for each in spelled], said)
        total += len(said)
    shown = validate(data, path, monkeypatch, caplog)
    assert total == 30 and shown["per"] == pytest.approx(100 * edits / total, abs=1e-3)
    assert "accuracy" not in shown and shown["per"] < 90


def test_mfccs_and_an_untrained_network_are_probed_in_the_same_way(
    data: Path,
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = probe(data, tmp_path / "mfcc", "mfcc", model__layer="1")
    assert validate(data, path, monkeypatch, caplog)["accuracy"] > 80
    untrained = probe(data, tmp_path / "random", pretrained, model__layer="1", model__random_weights=True)
    name = "encoder.layers.0.fc1.weight"
    assert not torch.equal(
        read_encoder(pretrained).weights[name], weights(untrained)[f"frozen.speech_encoder.{name}"]
    )


def test_what_does_not_fit_is_refused_all_at_once(data: Path, pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layer.*got '9', wanted 1 to 3, or weighted"):
        probe(data, tmp_path, pretrained, model__layer="9")
    with pytest.raises(ConfigError, match="head 'line'.*projection_dim 0"):
        probe(data, tmp_path, pretrained, model__head="line", model__projection_dim=0)
    faulty = Path(shutil.copytree(data, tmp_path / "data"))
    lines = (data / "train.phn").read_text().splitlines()
    lines[0], lines[1] = lines[0] + " lo lo lo", lines[1].replace("sil", "zh")
    (faulty / "train.phn").write_text("".join(f"{line}\n" for line in lines))
    for run in (lambda: probe(faulty, tmp_path, pretrained, model__layer="1"), None):
        with pytest.raises(ManifestError) as caught:
            run() if run else measure_raising(faulty, pretrained)
        assert "line 1: 35 phones for 32 frames" in str(caught.value)
        assert "line 2: 'zh' not in the phone dictionary" in str(caught.value)


def measure_raising(data: Path, checkpoint: Path) -> None:
    from fairseq_mtssl.cli.main import build_parser

    args = build_parser().parse_args(["probe-layers", "--checkpoint", str(checkpoint), "--data", str(data)])
    args.run(args)


def test_utterances_without_phones_are_dropped_and_counted(
    data: Path, pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some = Path(shutil.copytree(data, tmp_path / "data"))
    lines = (data / "train.phn").read_text().splitlines()
    (some / "train.phn").write_text("".join(f"{line}\n" for line in ["", *lines[1:]]))
    probe(some, tmp_path / "out", pretrained, model__layer="1", optimization__max_update=2)
    assert (
        "dropped 1 utterances without phones and 0 with fewer frames than phones, of 12 (a0.wav"
        in caplog.text
    )


def measure(data: Path, out: Path, checkpoint: object, *more: object) -> dict[str, Any]:
    words = [
        "probe-layers",
        "--data",
        data,
        "--json",
        out,
        "--updates",
        60,
        "--batch-frames",
        200,
        "--lr",
        0.02,
    ]
    what = ["--features", "mfcc"] if checkpoint == "mfcc" else ["--checkpoint", checkpoint]
    assert main([str(word) for word in [*words, *what, "--device", "cpu", *more]]) == 0
    return json.loads(out.read_text())


def test_every_layer_is_probed_out_of_one_pass(
    data: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plots" / "layers.png"
    every = measure(data, tmp_path / "all.json", pretrained, "--plot", picture)
    printed = capsys.readouterr().out
    assert list(every["scores"]) == ["1", "2", "3"] and set(every["frames"]) == {"valid", "test"}
    best = max(every["scores"], key=lambda layer: every["scores"][layer]["valid"]["accuracy"])
    assert every["best"] == {"layer": best, **every["scores"][best]}
    assert picture.read_bytes().startswith(b"\x89PNG") and f"wrote {picture}" in printed
    assert re.search(rf"^{best} .*\*$", printed, re.M)
    # alone, a layer gets the same frames in the same order: near ties may fall the other way
    alone = measure(data, tmp_path / "one.json", pretrained, "--layers", "2")
    for split, frames in every["frames"].items():
        assert frames == 192
        gap = alone["scores"]["2"][split]["accuracy"] - every["scores"]["2"][split]["accuracy"]
        assert abs(gap) <= 100 / frames + 1e-6
    few = measure(data, tmp_path / "few.json", pretrained, "--max-frames", 50, "--random-weights")
    assert few["train_frames"] == 50 and few["source"]["model"] == "random"


def test_mfccs_have_one_row_and_options_that_do_not_go_together_are_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = measure(data, tmp_path / "mfcc.json", "mfcc", "--plot", tmp_path / "mfcc.png")
    assert list(measured["scores"]) == ["mfcc"] and measured["best"]["test"]["accuracy"] > 80
    words = ["probe-layers", "--data", str(data), "--features", "mfcc", "--layers", "1", "--lr", "0"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "--layers goes with --checkpoint" in told and "--lr: got 0.0" in told


def test_a_probe_stopped_and_resumed_is_the_uninterrupted_one(
    data: Path, pretrained: Path, probed: Path, tmp_path: Path
) -> None:
    probe(
        data,
        tmp_path,
        pretrained,
        model__layer="1",
        optimization__max_update=30,
        lr_scheduler__total_num_update=60,
    )
    resumed = weights(probe(data, tmp_path, pretrained, model__layer="1"))
    assert [name for name, value in weights(probed).items() if not torch.equal(resumed[name], value)] == []


def test_the_layers_of_the_recipes_are_those_of_the_upstream(pretrained: Path, probed: Path) -> None:
    """The encoder in a probe gives what the checkpoint itself gives."""
    upstream = ModelLayers(load_upstream(pretrained).model, 1)
    wav = np.random.default_rng(0).standard_normal(6000).astype(np.float32)
    kept = load_model(probed).model.frozen.extract([wav])[0]
    np.testing.assert_allclose(kept, upstream.extract([wav])[0], atol=1e-6)
    assert (
        compose("phoneme_probe", **{"task.data": "d", "model.checkpoint": "c", "model.layer": 2}).model.layer
        == "2"
    )
    assert TINY_MT4SSL["model.encoder_layers"] == 3


def test_a_probe_that_contradicts_its_checkpoint_about_waveforms_is_refused(
    data: Path, pretrained: Path
) -> None:
    with pytest.raises(ConfigError, match="model.normalised: false, but .* was trained on normalised"):
        built_probe(data, pretrained, **{"model.normalised": False})
    assert built_probe(data, pretrained, **{"model.normalised": True}).cfg.normalised is True
    assert built_probe(data, pretrained).cfg.normalised is True


def test_a_probe_of_raw_waveforms_reads_raw_ones_and_keeps_that(
    data: Path, pretrained: Path, tmp_path: Path
) -> None:
    state = torch.load(pretrained, weights_only=False)
    state["cfg"]["model"]["normalize"] = False
    torch.save(state, tmp_path / "raw.pt")
    assert built_probe(data, tmp_path / "raw.pt").cfg.normalised is False
    with pytest.raises(
        ConfigError, match="model.normalised: true, but .*raw.pt was trained on raw waveforms"
    ):
        built_probe(data, tmp_path / "raw.pt", **{"model.normalised": True})


def built_probe(data: Path, checkpoint: Path, **settings: Any) -> Any:
    """The model of a probe's configuration, as a new training builds it."""
    cfg = compose(
        "phoneme_probe", **{"task.data": str(data), "model.checkpoint": str(checkpoint), **settings}
    )
    return tasks.setup_task(cfg.task).build_model(cfg.model)
