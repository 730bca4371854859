"""MT4SSL on real speech: the whole course, its long commands replaced by what they would leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.speechocean import run, speech, table, teacher
from fairseq_mtssl.corpora.base import prepare
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.findings import SHOWN


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
            if "speech.py" in words[0]:
                speech.main(words[1:])
            else:
                assert words[0].endswith("manifests/aligned_phones.py")
                prepare("aligned_phones", words[1:])
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


def test_the_trials_of_the_teacher_are_made_and_their_table_is_made_again_of_records(
    folders, tmp_path, pretended
) -> None:
    words = ["--speech", str(folders[0]), "--more", str(folders[1]), "--out", str(tmp_path / "o")]
    teacher.main([*words, "--only", "K 1;both, weight 0.3", "--record", str(tmp_path / "kept")])
    kept = json.loads((tmp_path / "kept" / "trial-K-1.json").read_text())
    assert kept["settings"][-2] == "model.average_top_k_layers=1"
    assert kept["pnmi_valid"] == {"1": 0.35, "2": 0.36}
    assert "| K 1 | 0.350 | **0.360** |" in (tmp_path / "o" / "teacher.md").read_text()
    again = tmp_path / "again"
    teacher.main(["--from-results", str(tmp_path / "kept"), "--out", str(again)])
    assert (again / "teacher.md").read_text() == (tmp_path / "o" / "teacher.md").read_text()
    for name, trial in teacher.TRIALS.items():
        changes = {word.split("=")[0].rpartition("_")[0] for word in trial.settings}
        assert trial.kind in run.TARGETS and len(changes) <= 4, name
    with pytest.raises(ConfigError, match="got K 9, wanted some of teacher; "):
        teacher.parse([*words, "--only", "K 9"])


def test_the_part_of_the_targets_that_is_predicted() -> None:
    # √4 · mean squared error 0.1 = 0.2 of a variance of 0.4
    assert teacher.explained({"loss_on": 0.2, "target_var": 0.4}, 4) == pytest.approx(0.75)
    assert teacher.explained({"loss_off": 1.0}, 4) is None
