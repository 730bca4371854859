"""The few-pairs example from end to end at its smallest; self-supervision on other clips than the pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_corpora
import tiny_recipes
import torch
import training

from examples.few_pairs import run
from fairseq_mtssl.errors import ConfigError

pytest.importorskip("matplotlib")


def weights(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    found = training.weights(folder / "checkpoint_last.pt")
    return {name: value for name, value in found.items() if name.startswith(prefix)}


def test_runs_on_few_and_all_pairs_end_in_a_table_a_curve_and_findings(
    commands: list[str], tmp_path: Path
) -> None:
    data, out, kept = tmp_path / "data", tmp_path / "out", tmp_path / "kept"
    for split, count in (("train", 16), ("valid", 6), ("test", 6)):
        tiny_corpora.make_pairs(data, split, count)
    words = ["--data", data, "--out", out, "--updates", 7, "--pairs", "4,all", "--seeds", 1, "--at-once", 1]
    words += ["--only", "w2v2_vgs", "--diagnose", "--record", kept]
    run.main([*map(str, words), *tiny_recipes.tiny_words()])

    names = {"w2v2_vgs-4-image-seed1", "w2v2_vgs-all-seed1", "vgs-all-seed1"}
    names |= {f"{name}-tower-4-image-seed1" for name in ("w2v2_vgs", "vgs", "vgs-short")}
    assert {path.stem for path in kept.glob("*.json")} == names
    updates = {name: json.loads((kept / f"{name}.json").read_text())["updates"] for name in names}
    assert {name for name, count in updates.items() if count != 7} == {"vgs-short-tower-4-image-seed1"}
    assert updates["vgs-short-tower-4-image-seed1"] == 5
    tower = weights(out / "vgs-all-seed1", "image_")
    for name in ("vgs-tower", "w2v2_vgs-tower"):
        frozen = weights(out / f"{name}-4-image-seed1", "image_")
        assert tower and all(torch.equal(frozen[key], value) for key, value in tower.items()), name
    log = (out / "w2v2_vgs-4-image-seed1" / "hydra_train.log").read_text()
    assert "train: 4 captions of 4 images" in log and "w2v2: updates 0 to 2, alpha 0" in log

    first = {name: (out / name).read_text() for name in ("tables.md", "findings.json")}
    assert (out / "curve.png").is_file() and "data:image/png" in (out / "index.html").read_text()
    assert "(W2V2, VGS), image tower of all pairs |" in first["tables.md"]
    done = len(commands)
    elsewhere = [*words[:3], tmp_path / "elsewhere" / "out", *words[4:]]
    run.main([*map(str, elsewhere), *tiny_recipes.tiny_words()])
    assert len(commands) == done  # recorded runs are not trained again
    assert (tmp_path / "elsewhere" / "out" / "tables.md").read_text() == first["tables.md"]

    again = tmp_path / "again"
    run.main(["--from-results", str(kept), "--out", str(again)])
    assert len(commands) == done  # nothing is trained
    assert {name: (again / name).read_text() for name in first} == first


def test_self_supervision_can_be_of_the_other_clips_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsModel

    corpus, speech = tiny_corpora.make_corpus(tmp_path / "corpus"), tmp_path / "speech"
    tiny_corpora.make_pairs(speech, "train", 12, seed=3, seconds=0.45)
    labels = tiny_corpora.make_labels(tmp_path / "labels", corpus)
    (labels / "train.km").unlink()  # labels of the captions are not wanted where these are not in the loss
    others = tiny_corpora.make_labels(tmp_path / "others", speech)
    seen: list[tuple[int, Any]] = []
    self_supervise = JointSslVgsModel._self_supervise

    def watch(self: Any, source: Any, lengths: Any, extracted: Any, ids: Any, *more: Any) -> Any:
        if self.training:
            seen.append((len(ids), min(ids.tolist())))
        return self_supervise(self, source, lengths, extracted, ids, *more)

    monkeypatch.setattr(JointSslVgsModel, "_self_supervise", watch)
    settings = {
        "model__ssl": "mt4ssl",
        "model__average_top_k_layers": 2,
        "task__schedule": "w2v2_vgs",
        "task__lengths": ["1 updates", "rest"],
        "task__speed_perturb": 0.0,
        "task__labels": [str(labels)],
        "task__ssl_labels": [str(others)],
        "task__ssl_data": str(speech),
        "dataset__batch_size": 5,
        "dataset__batch_size_valid": 6,
        "optimization__max_update": 2,
        "checkpoint__save_interval_updates": 0,
    }
    with pytest.raises(ConfigError, match="ssl_on_pairs.*ssl_ratio 0.5"):
        training.train(corpus, tmp_path / "no", task__ssl_on_pairs=False, task__ssl_ratio=0.5, **settings)
    training.train(corpus, tmp_path / "out", task__ssl_on_pairs=False, **settings)
    # one batch of five pairs, whose ids are below ten: the five clips of the loss are all others
    assert seen == [(5, seen[0][1])] and seen[0][1] >= 10
