"""What `make demo` leaves and says, with its commands put aside and what they would leave laid there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pages
import pytest

from examples.demo import run as demo
from examples.pipeline import Pipeline, Stage

PHASE = "[t][fairseq_mtssl.tasks.phases][INFO] - phase {} of {}, {}: updates {} to {}, alpha {}, resets lr"
SSL = {"contrastive": "3.9", "contrastive_chance": "3.9", "ssl_accuracy": "0.02", "ssl_chance": "0.02"}
VGS = {"loss_vgs": "3.0", "loss_vgs_chance": "6.9"}
KEYS = ("name", "first_update", "last_update", "learned")
SCORES = {"r1": 20.0, "r5": 40.0, "r10": 60.0, "median_rank": 7.0}


def inner(updates: int, **values: str) -> str:
    return "[t][train_inner][INFO] - " + json.dumps({"epoch": 1, **values, "num_updates": str(updates)})


def log_of(stage: Stage) -> str:
    vgs = inner(40, alpha="1", phase="1", **VGS)
    if stage.name != demo.SEQUENTIAL:
        return "\n".join([PHASE.format(1, 1, "vgs", 0, 40, 1), vgs])
    ssl = inner(20, alpha="0", phase="0", **SSL)
    return "\n".join([PHASE.format(1, 2, "w2v2", 0, 24, 0), ssl, PHASE.format(2, 2, "vgs", 24, 40, 1), vgs])


def lay_products(self: Pipeline, stage: Stage, *_: Any) -> None:
    for product in stage.products:
        product.parent.mkdir(parents=True, exist_ok=True)
        ways = {"speech_to_image": SCORES, "image_to_speech": SCORES}
        about = {"images": 200, "captions": 400, "split": "test", "relevance": "image", "chance": ways}
        product.write_text(json.dumps({**about, **ways}))
    if stage.is_training:
        (stage.folder / "hydra_train.log").write_text(log_of(stage))
        (stage.folder / ".hydra").mkdir()
        (stage.folder / ".hydra" / "config.yaml").write_text("task: {}\n")


def test_the_demo_says_of_each_phase_whether_it_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Pipeline, "_execute", lay_products)
    demo.main(["--out", str(tmp_path)])
    found = json.loads((tmp_path / "results.json").read_text())
    verdicts = {
        name: [tuple(phase[key] for key in KEYS) for phase in run] for name, run in found["health"].items()
    }
    assert verdicts == {
        "(W2V2, VGS)": [("W2V2", 0, 24, False), ("VGS", 24, 40, True)],
        "VGS, equal VGS updates": [("VGS", 0, 40, True)],
        "VGS, equal total updates": [("VGS", 0, 40, True)],
    }
    assert {"retrieval", "retrieval_vgs_only", "schedule", "seconds", "commands", "versions"} <= found.keys()
    said = capsys.readouterr().out
    assert "(W2V2, VGS): W2V2, updates 0 to 24: ended at chance. Contrastive accuracy 0.02" in said
    assert "VGS, equal total updates: VGS, updates 0 to 40: learned. L_AV 3 (knowing nothing 6.9)." in said
    page = pages.PageParts((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "Did each phase learn?" in page.texts and not page.errors


def scores(speech_to_image: float, image_to_speech: float) -> dict[str, Any]:
    return {
        "captions": 400,
        "speech_to_image": {"r10": speech_to_image},
        "image_to_speech": {"r10": image_to_speech},
    }


def test_a_difference_beyond_sampling_is_told_with_its_sign_and_a_small_one_is_called_none() -> None:
    found = demo.pretraining_sentence(
        {demo.SEQUENCE: scores(90, 92), demo.EQUAL_VGS: scores(80, 82), demo.EQUAL_TOTAL: scores(92, 92)}
    )
    # twice sqrt(0.91 · 0.09 / 400 + 0.92 · 0.08 / 400) is 3.9 points
    assert "91.0 % with it, 10.0 points above VGS alone with as many VGS updates (81.0 %)" in found
    assert "not distinguishable from VGS alone with as many updates in all (92.0 %)" in found
    assert "± 3.9 points" in found


def test_a_sequence_that_is_behind_vgs_alone_is_reported_as_such() -> None:
    found = demo.pretraining_sentence(
        {demo.SEQUENCE: scores(80, 82), demo.EQUAL_VGS: scores(90, 92), demo.EQUAL_TOTAL: scores(95, 95)}
    )
    assert "10.0 points below VGS alone with as many VGS updates" in found
    assert "14.0 points below VGS alone with as many updates in all" in found
