"""MT4SSL on real speech: how the speech is split, what is trained, how the table and verdicts are made."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from examples.speechocean import run, speech, table, teacher
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.report.findings import CONTRADICTED, NOT_SHOWN, SHOWN

ROOT = Path(__file__).resolve().parents[3]
RATE_HZ = 16_000
SPEAKERS, TAKES = 6, 2


def write_tones(path: Path, seconds: float, hertz: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), RATE_HZ)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of the corpus's layout: 6 speakers × 2 aligned takes of 1 s, 3 other recordings of 2 s."""
    aligned, more = tmp_path / "speechocean", tmp_path / "speechocean-more"
    texts, phones = ["utt\tspeaker\twords\tphones"], ["utt\tstart\tend\tphone\tword"]
    for number in range(SPEAKERS * TAKES):
        name = f"{number:04d}"
        write_tones(aligned / "wav" / f"{name}.flac", 1.0, 200 + 10 * number)
        texts.append(f"{name}\ts{number // TAKES}\twe call it\tW IY K")
        ends = [("SIL", 0.0, 0.2), ("W", 0.2, 0.5), ("IY", 0.5, 0.53), ("K", 0.53, 0.9), ("SIL", 0.9, 1.0)]
        phones += [f"{name}\t{start}\t{end}\t{phone}\twe" for phone, start, end in ends]
    (aligned / "text.tsv").write_text("\n".join(texts) + "\n")
    (aligned / "phones.tsv").write_text("\n".join(phones) + "\n")
    lines = ["utt\tspeaker\twords"]
    for number in range(3):
        write_tones(more / "audio" / f"m{number}.wav", 2.0, 300)
        lines.append(f"m{number}\tt{number}\tit was a bear")
    (more / "text.tsv").write_text("\n".join(lines) + "\n")
    return aligned, more


def make_data(folders: tuple[Path, Path], out: Path, minutes: float = 0.1) -> Path:
    """The first two stages of the example."""
    aligned, more = folders
    sys.path.insert(0, str(ROOT / "manifests"))
    try:
        aligned_phones = importlib.import_module("aligned_phones")
    finally:
        sys.path.remove(str(ROOT / "manifests"))
    words = ["--audio", aligned / "wav", "--alignment", aligned / "phones.tsv", "--item-span", "phone"]
    words += ["--speakers", aligned / "text.tsv", "--out", out]
    words += ["--valid-share", run.VALID_SHARE, "--test-share", run.TEST_SHARE]
    aligned_phones.main([str(word) for word in words])
    add_speech(folders, out, minutes)
    return out


def add_speech(folders: tuple[Path, Path], out: Path, minutes: float) -> None:
    words = ["--data", out, "--speech", folders[0], "--more", folders[1], "--minutes", minutes]
    speech.main([str(word) for word in words])


def names(data: Path, split: str) -> list[str]:
    return [Path(file).stem for file in read_audio_manifest(data / f"{split}.tsv").files]


def test_speakers_are_split_half_to_train_a_sixth_to_valid_a_third_to_test(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    speakers = json.loads((data / "corpus.json").read_text())["speakers"]
    assert {split: len(some) for split, some in speakers.items()} == {"train": 3, "valid": 1, "test": 2}
    assert len({name for some in speakers.values() for name in some}) == SPEAKERS
    again = make_data(folders, tmp_path / "again")
    assert json.loads((again / "corpus.json").read_text())["speakers"] == speakers


def test_pretraining_has_the_train_speakers_and_all_of_the_other_speech(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    assert names(data, "pretrain") == [*names(data, "train"), "m0", "m1", "m2"]
    manifest = read_audio_manifest(data / "pretrain.tsv")
    for row, size in enumerate(manifest.sizes.tolist()):
        info = soundfile.info(manifest.audio_path(row))
        assert (info.format, info.samplerate, info.frames) == ("WAV", RATE_HZ, size)
    text = (data / "transcripts.tsv").read_text().splitlines()
    assert text[0] == "utt\twords" and "m1\tit was a bear" in text


def test_labelled_speech_is_a_fixed_draw_within_its_minutes(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    chosen, sizes = names(data, "train_10m"), read_audio_manifest(data / "train_10m.tsv").sizes
    assert 4 * RATE_HZ < sizes.sum() <= 6 * RATE_HZ  # 0.1 min; the longest clip is 2 s
    assert set(chosen) < set(names(data, "pretrain"))
    add_speech(folders, data, 0.1)
    assert names(data, "train_10m") == chosen
    assert speech.draw({"a": 5, "b": 5}, 10) == {"a": 5, "b": 5} and speech.draw({"a": 5}, 4) == {}


def test_items_too_short_for_a_frame_at_25_hz_are_left_out(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    every = [line.split()[3] for line in (data / "test.item").read_text().splitlines()[1:]]
    kept = [line.split()[3] for line in (data / "test.abx.item").read_text().splitlines()[1:]]
    assert every == ["IY"] * 4 and kept == []  # 30 ms, the only phone between two others
    (data / "test.item").write_text("#h\nx 0.1 0.14 IY a b s\nx 0.1 0.1399 IY a b s\n")
    assert speech.keep_items(data, "test") == (1, 2)


def test_recordings_without_words_or_with_the_name_of_another_are_named(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    write_tones(folders[1] / "audio" / "stray.wav", 1.0, 100)
    write_tones(folders[1] / "audio" / f"{names(data, 'train')[0]}.wav", 1.0, 100)
    with pytest.raises(ManifestError) as caught:
        add_speech(folders, data, 0.1)
    assert "stray.wav: text.tsv has no words" in str(caught.value)
    assert "a recording of this name came before" in str(caught.value)
    with pytest.raises(ManifestError, match="holds no .opus, .flac, .wav"):
        speech.find_recordings(folders[0])


# -- trainings


def test_passes_are_counted_in_cropped_seconds() -> None:
    # 2 passes over 4 s + 6 s (cropped from 9 s): 20 s in batches of 8 s
    assert run.updates_of(2, np.array([4.0, 9.0]), 6.0, 8.0) == 3
    assert run.updates_of(0.01, np.array([1.0]), 6.0, 60.0) == 1


@pytest.mark.parametrize("kind", sorted(run.TARGETS))
def test_a_pretraining_is_one_command_with_the_targets_of_its_kind(kind, folders, tmp_path, compose) -> None:
    data = make_data(folders, tmp_path / "o" / "data")
    words = ["--speech", "s", "--more", "m", "--out", str(data.parent), "--passes", "8"]
    args = run.parse([*words, "dataset.max_tokens=320000"])
    experiment = run.Experiment(run.Pipeline(args.out), args)
    labels = experiment.labels("l", "mfcc-cmn", ("pretrain", "valid"), "pretrain")
    stage = experiment.training(kind, 3, None if kind == "teacher" else labels)
    settings = [word for word in stage.command if "=" in word]
    cfg = compose(run.RECIPE, settings)
    # 8 passes over 6 × 1 s and 3 × 2 s in batches of 20 s, the last word on the batch being the user's
    assert (cfg.optimization.max_update, cfg.common.seed, cfg.dataset.max_tokens) == (5, 3, 320000)
    assert (cfg.dataset.train_subset, cfg.dataset.valid_subset) == ("pretrain", "valid")
    assert cfg.model.online == (kind != "labels")
    assert list(cfg.task.labels) == ([] if kind == "teacher" else [str(labels.folder)])
    assert stage.products == [data.parent / f"{kind}-seed3" / "checkpoint_last.pt"]
    assert [word for word in settings if run.is_setting(word, args.out)][0] == "dataset.train_subset=pretrain"


def test_an_untrained_network_is_measured_with_random_weights_and_tuned_from_scratch(tmp_path) -> None:
    from fairseq_mtssl.cli.main import build_parser

    first = run.Stage("first-seed11", [], tmp_path / "first", [tmp_path / "first" / "checkpoint_last.pt"])
    (first.folder / ".hydra").mkdir(parents=True)
    (first.folder / ".hydra" / "config.yaml").write_text("model:\n  encoder_layers: 2\n")
    args = run.parse(["--speech", "s", "--more", "m", "--out", str(tmp_path / "o")])
    experiment = run.Experiment(run.Pipeline(args.out), args)
    subjects = {subject.name: subject for subject in run.baselines(first, [4])}
    assert set(subjects) == {"mfcc-seed0", "mfcc-cmn-seed0", "log-mel-seed0", "untrained-seed4"}
    made = experiment.measuring(subjects["untrained-seed4"])
    assert set(made) == {f"{what} {n}" for what in ("labels", "pnmi") for n in "12"} | {
        "abx valid",
        "abx test",
        "ctc",
        "transcribe",
    }
    parsed = build_parser().parse_args(made["labels 2"].command[1:])
    assert (parsed.random_weights, parsed.seed, parsed.fit_split) == (True, 4, "train")
    assert "model.no_pretrained_weights=true" in made["ctc"].command
    assert build_parser().parse_args(made["abx test"].command[1:]).random_weights
    bare = experiment.measuring(subjects["mfcc-seed0"])
    assert set(bare) == {"labels -", "pnmi -", "abx valid", "abx test"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give --speech and --more, or --from-results"),
        (["--speech", "a", "--more", "b", "--seeds", "1,1"], "wanted whole numbers, each once"),
        (["--speech", "a", "--seeds", "1,01"], "--seeds: got '1,01', .*; give --speech and --more"),
        (["--speech", "a", "--more", "b", "--passes", "0"], "wanted more than 0"),
    ],
)
def test_wrong_options_are_refused(words, told) -> None:
    with pytest.raises(ConfigError, match=told):
        run.parse(words)


# -- the table


def record(kind: str, seed: int, pnmi: float, abx: float = 20.0, cer: float | None = 50.0) -> table.Record:
    """One with two layers: the second is best on valid, the first on test."""

    def measured(valid: float, test: float) -> dict[str, dict[str, float]]:
        return {
            "pnmi": {"valid": valid, "test": test},
            "abx_within": {"valid": 1 - valid, "test": abx - 2},
            "abx_across": {"valid": 1 - valid, "test": abx + 2},
        }

    layers = {"1": measured(0.1, 0.9), "2": measured(0.2, pnmi)}
    ctc = {} if cer is None else {"cer": cer, "wer": 90.0, "words": 1000, "characters": 5000}
    return table.Record(kind, seed, layers, {"valid": 900, "test": 2000}, ctc)


def all_kinds(both, labels, teacher, **others) -> list[table.Record]:
    """Three seeds of each kind; each argument: PNMI by seed."""
    kinds = {"both": both, "labels": labels, "teacher": teacher}
    made = [
        record(kind, seed, pnmi, **others)
        for kind, values in kinds.items()
        for seed, pnmi in enumerate(values, start=1)
    ]
    return [*made, record("mfcc-cmn", 0, 0.35, cer=None)]


def verdicts(records: list[table.Record]) -> list[str]:
    return [finding.verdict for finding in table.judge(records)]


def test_the_layer_is_chosen_on_valid_and_measured_on_test() -> None:
    one = record("both", 1, 0.4)
    assert one.layer("pnmi") == one.layer("abx_within") == "2"
    assert one.score("pnmi") == 0.4
    assert table.abx_error(one) == 20.0


def test_the_claim_is_shown_by_one_sign_in_every_seed_above_the_spread() -> None:
    records = all_kinds([0.42, 0.43, 0.44], [0.40, 0.405, 0.41], [0.30, 0.31, 0.29])
    claim, over_labels, over_teacher, *gains = table.judge(records)
    assert (claim.verdict, over_labels.verdict, over_teacher.verdict) == (SHOWN, SHOWN, SHOWN)
    # differences 0.02, 0.025, 0.03: mean 0.025, standard deviation 0.005
    told = "PNMI better by +0.025 (spread 0.005, twice the sampling error 0.000): counts"
    assert told in over_labels.numbers
    # 0.07 to 0.09, 0.05 to 0.06, −0.06 to −0.04 above 0.35
    assert [gain.verdict for gain in gains] == [SHOWN, SHOWN, CONTRADICTED]


def test_a_difference_within_the_spread_shows_nothing() -> None:
    # differences 0.001, 0.02, 0.03: one sign, mean 0.017, standard deviation 0.0147: counts
    assert verdicts(all_kinds([0.40, 0.42, 0.43], [0.399, 0.40, 0.40], [0.3] * 3))[1] == SHOWN
    # differences 0.001, 0.02, 0.05: mean 0.0237, standard deviation 0.0247
    assert verdicts(all_kinds([0.40, 0.42, 0.45], [0.399, 0.40, 0.40], [0.3] * 3))[1] == NOT_SHOWN
    # one seed of the other sign
    assert verdicts(all_kinds([0.40, 0.43, 0.43], [0.401, 0.40, 0.40], [0.3] * 3))[:2] == [NOT_SHOWN,
    NOT_SHOWN]


def test_worse_than_one_of_them_contradicts_the_claim() -> None:
    records = all_kinds([0.38, 0.38, 0.385], [0.40, 0.40, 0.40], [0.30, 0.30, 0.30])
    assert verdicts(records)[:3] == [CONTRADICTED, CONTRADICTED, SHOWN]


def test_measures_that_disagree_show_nothing() -> None:
    records = [record("both", seed, 0.45, cer=60.0) for seed in (1, 2, 3)]
    records += [record("labels", seed, 0.40, cer=50.0) for seed in (1, 2, 3)]
    finding = table.better(table.by_kind(records), "both", "labels")
    # CER: twice sqrt(0.6·0.4/5000 + 0.5·0.5/5000) = 1.98 points
    assert "CER better by -10.0 (spread 0.0, twice the sampling error 2.0): counts" in finding.numbers
    assert finding.verdict == NOT_SHOWN


def test_an_abx_difference_must_exceed_twice_the_sampling_error() -> None:
    # twice sqrt(0.2·0.8/2000 + 0.22·0.78/2000) = 2.6 points
    for other, verdict in ((22.0, NOT_SHOWN), (24.0, SHOWN)):
        records = [record("both", seed, 0.4, abx=20.0, cer=None) for seed in (1, 2)]
        records += [record("labels", seed, 0.4, abx=other, cer=None) for seed in (1, 2)]
        assert table.better(table.by_kind(records), "both", "labels").verdict == verdict


def test_one_seed_shows_nothing() -> None:
    records = [record(kind, 1, pnmi) for kind, pnmi in (("both", 0.5), ("labels", 0.3), ("teacher", 0.2))]
    assert set(verdicts(records)) == {NOT_SHOWN}
    assert "1 seeds have both" in table.judge(records)[1].numbers


def test_records_give_the_same_table_again_without_training(tmp_path, capsys) -> None:
    records = all_kinds([0.42, 0.43, 0.44], [0.40, 0.405, 0.41], [0.30, 0.31, 0.29])
    for each in reversed(records):
        table.write_record(tmp_path / "kept", each)
    assert max(path.stat().st_size for path in (tmp_path / "kept").iterdir()) < 4000
    assert table.read_records(tmp_path / "kept") == records
    run.main(["--from-results", str(tmp_path / "kept"), "--out", str(tmp_path / "o")])
    text = (tmp_path / "o" / "table.md").read_text()
    assert text == table.markdown(records) and text in capsys.readouterr().out
    assert "| MT4SSL: labels and teacher | 1, 2, 3 | 0.430 ± 0.010 | 18.0 ± 0.0 | 22.0 ± 0.0 |" in text
    content = json.loads((tmp_path / "o" / "results.json").read_text())
    assert content["kinds"]["labels"]["pnmi"]["values"] == [0.40, 0.405, 0.41]
    assert content["findings"][0]["verdict"] == SHOWN


def test_folders_without_records_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="holds no"):
        table.read_records(tmp_path)
    (tmp_path / "both-seed1.json").write_text('{"kind": "both"}')
    with pytest.raises(ConfigError, match="is no record of a run"):
        table.read_records(tmp_path)


def test_scores_are_put_together_by_layer() -> None:
    pnmi = {"1": {"splits": {"valid": {"pnmi": 0.12345678}, "test": {"pnmi": 0.2}}}}
    abx = {
        split: {"scores": {"1": {"within": 10.0, "across": 20.0}}, "tokens": tokens}
        for split, tokens in (("valid", 5), ("test", 7))
    }
    layers, counts = table.scores_by_layer(pnmi, abx)
    assert counts == {"valid": 5, "test": 7}
    assert layers["1"]["pnmi"] == {"valid": 0.123457, "test": 0.2}
    assert layers["1"]["abx_across"] == {"valid": 20.0, "test": 20.0}
    # what has no layers has one row, by its own name
    assert table.scores_by_layer({"-": pnmi["1"]}, abx)[0]["-"]["abx_within"]["test"] == 10.0


# -- the whole course, its long commands replaced by what they would leave


class Pretended:
    """In place of a stage: scripts and prepare-text are run, the products of other commands are made up.

    Every command is read by its own parser, or composed, first. done: the names of stages that were run.
    """

    def __init__(self, compose) -> None:
        self.compose = compose
        self.done: list[str] = []

    def __call__(self, stage, environment=None, position=0) -> None:
        from fairseq_mtssl.cli import prepare_text
        from fairseq_mtssl.cli.main import build_parser

        self.done.append(stage.name)
        program, *words = stage.command
        if program == "fairseq-hydra-train":
            self.train(stage, self.compose(words[1], [word for word in words if "=" in word]))
        elif program == "python":
            sys.path.insert(0, str(ROOT / "manifests"))
            try:
                module = speech if "speech.py" in words[0] else importlib.import_module("aligned_phones")
            finally:
                sys.path.remove(str(ROOT / "manifests"))
            module.main(words[1:])
        else:
            args = build_parser().parse_args(words)
            stage.folder.mkdir(parents=True, exist_ok=True)
            if words[0] == "prepare-text":
                prepare_text.run(args)
            else:
                content = json.dumps(self.numbers(words[0], " ".join(words)))
                stage.products[0].write_text(content)

    @staticmethod
    def train(stage, cfg) -> None:
        (stage.folder / ".hydra").mkdir(parents=True)
        (stage.folder / ".hydra" / "config.yaml").write_text(
            "model:\n  encoder_layers: 2\n  encoder_embed_dim: 4\n"
        )
        (stage.folder / "hydra_train.log").write_text('[t][valid][INFO] - {"valid_loss_on": "2.5"}\n')
        stage.products[0].touch()
        if stage.name.endswith("-ctc"):
            assert (Path(cfg.task.data) / f"{cfg.dataset.train_subset}.ltr").is_file()
            assert Path(cfg.model.pretrained).is_file()

    @staticmethod
    def numbers(command: str, line: str) -> dict[str, object]:
        base = {"both": 0.43, "labels": 0.40, "teacher": 0.3}
        pnmi = next((value for kind, value in base.items() if f"{kind}-seed" in line), 0.35)
        pnmi += 0.01 * ("-2 --" in line)  # labels of the second layer
        if command == "measure-targets":
            return {"splits": {split: {"pnmi": pnmi} for split in run.MEASURED}}
        if command == "evaluate-abx":
            names = ["1", "2"] if "--checkpoint" in line else ["mfcc"]
            return {"scores": {name: {"within": 10.0, "across": 20.0} for name in names}, "tokens": 900}
        if command == "transcribe":
            return {"cer": 60.0, "wer": 99.0, "words": 500, "characters": 2000, "hypotheses": []}
        assert command == "make-targets"
        return {}


@pytest.fixture
def pretended(monkeypatch, compose) -> Pretended:
    fake = Pretended(compose)
    monkeypatch.setattr(run.Pipeline, "_execute", lambda self, *given: fake(*given))
    return fake


def test_the_whole_course_goes_from_two_folders_to_a_verdict(folders, tmp_path, pretended) -> None:
    out, kept = tmp_path / "o", tmp_path / "kept"
    words = ["--speech", str(folders[0]), "--more", str(folders[1]), "--out", str(out), "--seeds", "1,2"]
    run.main([*words, "--record", str(kept), "--at-once", "1"])
    names = [f"{kind}-seed{seed}" for kind in ("both", "labels", "teacher", "untrained") for seed in (1, 2)]
    names += ["first-seed11", "mfcc-seed0", "mfcc-cmn-seed0", "log-mel-seed0"]
    assert {path.stem for path in kept.iterdir()} == set(names)
    content = json.loads((out / "results.json").read_text())
    assert content["kinds"]["both"]["pnmi"]["values"] == [0.44, 0.44]
    assert content["kinds"]["both"]["layers"]["pnmi"] == ["2", "2"]
    assert content["findings"][0]["verdict"] == SHOWN
    # the second iteration's labels are of the layer that was best on valid speakers
    [second] = [line for line in content["commands"] if "--out " + str(out / "labels" / "second") in line]
    assert f"{out / 'first-seed11' / 'checkpoint_last.pt'}:2 " in second
    assert table.read_records(kept)[0].health == {"loss_on": 2.5}

    done = len(pretended.done)
    run.main([*words, "--record", str(kept), "--at-once", "1"])
    assert len(pretended.done) == done, "finished stages are not run again"


def test_the_trials_of_the_teacher_differ_in_one_setting_each(folders, tmp_path, pretended) -> None:
    words = ["--speech", str(folders[0]), "--more", str(folders[1]), "--out", str(tmp_path / "o")]
    teacher.main([*words, "--only", "K 1;both, weight 0.3", "--record", str(tmp_path / "kept")])
    kept = json.loads((tmp_path / "kept" / "trial-K-1.json").read_text())
    assert kept["settings"][-2] == "model.average_top_k_layers=1"
    assert kept["pnmi_valid"] == {"1": 0.35, "2": 0.36}
    assert "| K 1 | 0.350 | **0.360** |" in (tmp_path / "o" / "teacher.md").read_text()
    for trial, (kind, settings) in teacher.TRIALS.items():
        assert kind in run.TARGETS and len(settings) <= 2, trial
    with pytest.raises(ConfigError, match="got K 9, wanted some of teacher; "):
        teacher.parse([*words, "--only", "K 9"])


def test_the_part_of_the_targets_that_is_predicted() -> None:
    # √4 · mean squared error 0.1 = 0.2 of a variance of 0.4
    assert teacher.explained({"loss_on": 0.2, "target_var": 0.4}, 4) == pytest.approx(0.75)
    assert teacher.explained({"loss_off": 1.0}, 4) is None
