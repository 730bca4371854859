"""Few pairs: what is trained on what, and what is judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import paper_runs
import pytest

from examples import stages
from examples.few_pairs import jobs, reporting, run
from examples.pipeline import Pipeline, Stage
from fairseq_mtssl.errors import ConfigError

LABELS = stages.labels_stage("mfcc-cmn", "mfcc-cmn", 100, Path("all"), Path("o"))
TOWER = stages.training_stage("vgs-all-seed2", "vgs_small", Path("all"), Path("o"))
SETTING = jobs.Setting(Path("all"), Path("o"))
EVERY = jobs.VARIANTS | jobs.COMPARISONS | jobs.DIAGNOSES


@pytest.mark.parametrize("name", EVERY)
def test_every_run_composes_with_the_pairs_the_speech_and_the_length_it_should_have(compose, name) -> None:
    variant = EVERY[name]
    job = jobs.Job(variant, "300", "image", 2)
    stage = jobs.training(job, SETTING, LABELS, TOWER)
    cfg = compose(stage.command[2], [word for word in stage.command if "=" in word])
    assert stage.name == f"{name}-300-image-seed2" and cfg.task.data == "o/data-300-image"
    alone = variant.schedule == "vgs"
    assert (cfg.task.ssl_data, cfg.task.ssl_on_pairs) == ((None, True) if alone else ("all", False))
    assert cfg.optimization.max_update == (1075 if variant.only_vgs else 1505)
    assert list(cfg.task.lengths) == (["430 updates", "rest"] if "_" in variant.schedule else ["rest"])
    assert list(cfg.model.frozen_parts) == list(cfg.model.init_parts) == ["image_encoder"] * variant.tower
    assert (cfg.model.init_from is not None) == variant.tower
    if variant.ssl == "mt4ssl":
        assert list(cfg.task.labels) == list(cfg.task.ssl_labels) == ["o/labels/mfcc-cmn"]
        assert cfg.task.speed_perturb == 0


def test_all_pairs_are_trained_once_whichever_way_there_are_fewer() -> None:
    found = jobs.jobs_of([jobs.VARIANTS["vgs"]], ["300", "all"], ("image", "caption"), [1, 2])
    names = [f"vgs-{where}-seed{seed}" for seed in (1, 2) for where in ("300-image", "300-caption", "all")]
    assert [job.name for job in found] == names
    assert jobs.Job(jobs.VARIANTS["vgs"], "all", "", 1).data(Path("all"), Path("o")) == Path("all")


def test_sizes_are_numbers_or_all_each_once(tmp_path: Path) -> None:
    assert jobs.sizes_of("300, all") == ["300", "all"]
    for text in ("", "0", "300,300", "some", "-3"):
        with pytest.raises(ConfigError, match="wanted numbers above 0 or all"):
            jobs.sizes_of(text)
    with pytest.raises(ConfigError, match="--diagnose"):
        run.diagnoses_of(["all"], ("image",), [1])
    with pytest.raises(ConfigError, match="--updates: got 1504, wanted a multiple of 7 such as 1505$"):
        run.main(["--updates", "1504", "--data", "none", "--out", str(tmp_path)])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trainings that were run; what they and the other stages would leave is made up."""
    executed: list[str] = []

    def execute(self: Pipeline, stage: Stage) -> None:
        if stage.is_training:
            executed.append(stage.name)
            (schedule,) = (word.split("=")[1] for word in stage.command if word.startswith("task.schedule="))
            paper_runs.write_run(stage.folder, schedule)
            shutil.rmtree(stage.folder / "evaluation")
        stage.folder.mkdir(parents=True, exist_ok=True)
        for product in stage.products:
            product.write_text(json.dumps(paper_runs.retrieval(40.0 + len(executed))))

    monkeypatch.setattr(Pipeline, "_execute", execute)
    return executed


def test_recorded_runs_are_not_trained_again_unless_a_diagnosis_needs_their_checkpoint(
    trained: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_text("audio\nx.wav\t16000\n")
    kept = tmp_path / "kept"

    def train(where: str, *more: str) -> tuple[list[str], str]:
        """The trainings of a call, and its table."""
        trained.clear()
        words = ["--data", tmp_path / "data", "--out", tmp_path / where / "out", "--record", kept]
        words += ["--pairs", "4,all", "--seeds", "1,2", "--only", "w2v2_vgs", "--diagnose", "--at-once", 1]
        run.main([*map(str, words), *more])
        return trained.copy(), (tmp_path / where / "out" / "tables.md").read_text()

    every, table = train("first")
    runs = ("w2v2_vgs-4-image", "w2v2_vgs-all", "vgs-all", *(f"{name}-4-image" for name in jobs.DIAGNOSES))
    assert sorted(every) == sorted(f"{name}-seed{seed}" for name in runs for seed in (1, 2))
    assert train("second") == ([], table)
    assert not (tmp_path / "second" / "out" / "data-4-image").exists()  # which pairs, nobody asks

    lacking = kept / "vgs-tower-4-image-seed2.json"
    lacking.unlink()
    names, _ = train("third")
    assert names == ["vgs-all-seed2", "vgs-tower-4-image-seed2"]
    found = {path.name: json.loads(path.read_text()) for path in kept.iterdir()}
    measured = json.loads((tmp_path / "third" / "out" / "results.json").read_text())["commands"]
    assert sorted(measured) == sorted(record["command"] for record in found.values())
    lacking.unlink()
    assert train("third")[0] == []  # both checkpoints are at hand
    (kept / "w2v2_vgs-all-seed1.json").unlink()
    assert train("fourth")[0] == ["w2v2_vgs-all-seed1"]

    assert sorted(train("fourth", "--fresh")[0]) == sorted(every)
    assert sorted(train("fifth", "model.dropout=0.2")[0]) == sorted(every)  # other commands


def record(title: str, pairs: str, seed: int, r10: float, by: str = "image") -> dict[str, Any]:
    """A run whose two directions lie one point above and below r10."""
    chance = {"r1": 0.5, "r10": 5.0}
    return {
        "name": f"{title}-{pairs}-{seed}",
        "title": title,
        "pairs": pairs,
        "by": "" if pairs == "all" else by,
        "seed": seed,
        "pairs_in_all": 3000,
        "command": "c",
        "retrieval": {
            "captions": 400,
            "speech_to_image": {"r1": r10 / 2, "r10": r10 + 1},
            "image_to_speech": {"r1": r10 / 2, "r10": r10 - 1},
            "chance": {"speech_to_image": chance, "image_to_speech": chance},
        },
    }


SHORT = "VGS, equal VGS updates"


@pytest.mark.parametrize(
    ("first", "alone", "verdict"),
    [
        # twice the error of 60 and 40 % of 400 is 2·100·sqrt(2·0.24/400) = 6.93
        ([60, 61, 59], [40, 40, 40], "shown"),
        ([40, 40, 40], [60, 61, 59], "contradicted"),
        ([46, 46, 46], [40, 40, 40], "not shown"),  # 6 is less than twice the error
        ([60, 61, 39], [40, 40, 40], "not shown"),  # not of one sign
        ([95, 60, 50], [40, 40, 40], "shown"),  # mean 28.3, spread 23.6
        ([95, 45, 42], [40, 40, 40], "not shown"),  # mean 20.7, spread 29.8
    ],
)
def test_verdicts_follow_the_rules_of_the_findings(first, alone, verdict) -> None:
    found = [record("(W2V2, VGS)", "300", seed, value) for seed, value in enumerate(first)]
    found += [record(SHORT, "300", seed, value) for seed, value in enumerate(alone)]
    (finding,) = reporting.judge(reporting.scores_of(found, "r10"), 400)
    assert finding.verdict == verdict
    assert finding.claim.startswith("300 pairs (fewer images")
    assert finding.claim.endswith(f"(W2V2, VGS) retrieves better than {SHORT}")


def test_only_seeds_of_both_are_compared_and_each_number_of_pairs_by_itself() -> None:
    found = [record("(W2V2, VGS)", pairs, seed, 70) for pairs in ("300", "all") for seed in (1, 2)]
    found += [record(SHORT, "300", 2, 40), record(SHORT, "all", 1, 80), record(SHORT, "all", 2, 80)]
    judged = reporting.judge(reporting.scores_of(found, "r10"), 400)
    few, every = sorted(judged, key=lambda finding: finding.claim)
    assert few.verdict == "shown" and "70.0 against 40.0: difference +30.0, " in few.numbers
    assert every.verdict == "contradicted" and "2 seeds" in every.numbers


def test_the_table_has_both_recalls_by_number_of_pairs_and_ends_with_chance(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = [record("(W2V2, VGS)", "300", seed, value) for seed, value in ((1, 50), (2, 54))]
    found += [record(SHORT, "all", 1, 80)]
    table = reporting.table_of(found, "image")
    assert table.header == ["run", "300 pairs, R@1", "300 pairs, R@10", "all pairs, R@1", "all pairs, R@10"]
    assert table.rows == [
        ["(W2V2, VGS)", "26.0 ± 1.4", "52.0 ± 2.8", "–", "–"],
        [SHORT, "–", "–", "40.0", "80.0"],
        ["chance", "0.5", "5.0", "0.5", "5.0"],
    ]
    reporting.report(found, {"total": 1.0}, tmp_path)
    assert {"curve.png", "findings.json", "results.json", "tables.md", "index.html"} == {
        path.name for path in tmp_path.iterdir()
    }
    with pytest.raises(ConfigError, match="bad lacks pairs, by, retrieval"):
        reporting.report([{"name": "bad"}], {}, tmp_path)
