"""ABX against a slow version, its properties, subsampling, and the cases that are dropped or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import abx_cases
import numpy as np
import pytest
import torch
from oracles import abx_oracle

from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.evaluation import abx
from fairseq_mtssl.evaluation.abx import AbxScore, best, format_table, plan_abx, score_abx, to_json
from fairseq_mtssl.evaluation.abx_cells import Subsampler
from fairseq_mtssl.evaluation.abx_items import read_items

MATERIAL = [
    ("normal", "angular"),
    ("zeros", "angular"),
    ("onehot", "angular"),
    ("normal", "euclidean"),
    ("probabilities", "kl"),
    ("units", "units"),
]


@pytest.mark.parametrize(("kind", "distance"), MATERIAL)
@pytest.mark.parametrize("context", ["within", "any"])
def test_random_sets_score_as_the_slow_version(
    kind: str, distance: str, context: str, tmp_path: Path
) -> None:
    slow: Callable = getattr(abx_oracle, distance)
    for seed in range(2):
        case = abx_cases.make_case(tmp_path / "f.item", seed, kind, tokens=14)
        within, across = abx_oracle.abx([abx_oracle.Token(*t) for t in case.tokens("exact", context)], slow)
        found = case.score(distance, "exact", context)
        assert (found.within, found.across) == (pytest.approx(within), pytest.approx(across))


def test_chunk_sizes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = abx_cases.make_case(tmp_path / "f.item", 3, "onehot", tokens=60)
    wanted = case.score(context="any")
    for limit in (1, 300, 5000):
        monkeypatch.setattr(abx, "CHUNK_DISTANCES", limit)
        monkeypatch.setattr(abx, "TRIPLES", limit)
        assert case.score(context="any") == wanted


def test_identical_tokens_score_exactly_50(tmp_path: Path) -> None:
    # every frame of every token is the same vector of 77 dimensions, whose products have rounding errors
    case = abx_cases.make_case(tmp_path / "f.item", 0, tokens=40)
    row = np.linspace(-1.1, 1.3, 77, dtype=np.float32)
    same = abx_cases.Case(case.items, [np.tile(row, (len(each), 1)) for each in case.features])
    for distance in ("angular", "euclidean"):
        assert same.score(distance, context="any") == AbxScore(50.0, 50.0)


def test_random_features_score_about_50(tmp_path: Path) -> None:
    case = abx_cases.make_case(tmp_path / "f.item", 1, tokens=400, phones=4)
    score = case.score(context="any")
    # thousands of triples of about 130 tokens a speaker: 3 points are several standard errors
    assert score.within == pytest.approx(50, abs=3) and score.across == pytest.approx(50, abs=3)


def test_the_angular_error_is_independent_of_the_scale_of_frames(tmp_path: Path) -> None:
    case = abx_cases.make_case(tmp_path / "f.item", 2, tokens=60)
    rng = np.random.default_rng(0)
    scaled = [(f * rng.uniform(0.01, 100, (len(f), 1))).astype(np.float32) for f in case.features]
    found = abx_cases.Case(case.items, scaled).score(context="any")
    assert found == case.score(context="any")
    assert found != case.score("euclidean", context="any")


def test_phones_that_are_well_separated_are_never_confused(tmp_path: Path) -> None:
    case = abx_cases.make_case(tmp_path / "f.item", 4, tokens=60)
    frames = [np.zeros((len(each), 3), dtype=np.float32) for each in case.features]
    spans = abx_cases.slice_items(case.items, 50.0, np.full(60, 240), "exact")
    for file, phone, start, end in zip(case.items.file, case.items.phone, spans.start, spans.end):
        frames[file][start:end, phone] = 1
    assert abx_cases.Case(case.items, frames).score(context="any") == AbxScore(0.0, 0.0)


def test_sampling_is_seeded_bounded_and_drops_no_group(tmp_path: Path) -> None:
    case = abx_cases.make_case(tmp_path / "f.item", 5, tokens=200, speakers=6)
    frames = np.full(2, 800)

    def plan(tokens: int | None, speakers: int | None, seed: int = 0) -> abx.AbxTask:
        return plan_abx(case.items, 50.0, frames, "exact", "any", Subsampler(tokens, speakers, seed))

    whole, sampled = plan(None, None), plan(2, 3)
    assert sampled.within.groups.size.max() == 2
    assert len(sampled.within.groups) == len(whole.within.groups)
    assert np.bincount(sampled.across.arm_a).max() == 3
    # six speakers: X comes from five others, of which three are drawn
    assert len(sampled.across) * 5 == len(whole.across) * 3
    assert np.array_equal(plan(2, 3).start, sampled.start)
    assert not np.array_equal(plan(2, 3, seed=1).within.groups.tokens, sampled.within.groups.tokens)
    assert np.array_equal(plan(1000, 1000).across.arm_x, whole.across.arm_x)


def test_only_frames_of_compared_tokens_are_kept_and_shared_frames_once(tmp_path: Path) -> None:
    lines = ["u0 0.00 0.10 a q n s", "u0 0.06 0.16 b q n s", "u1 0.0 0.06 a q n s", "u2 0 1 c r n s"]
    path = tmp_path / "f.item"
    path.write_text("\n".join([abx_cases.HEADER, *lines]) + "\n")
    plan = plan_abx(read_items(path), 50.0, np.array([100, 100, 100]), "exact", "within", abx_cases.ALL)
    assert plan.file.tolist() == [0, 1]
    assert [kept.tolist() for kept in plan.kept] == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2]]
    assert (plan.frames, plan.tokens, plan.items, plan.dropped) == (11, 3, 4, 0)
    assert plan.start.tolist() == [0, 8, 3, -1] and plan.length.tolist() == [5, 3, 5, 0]


def test_tokens_without_frames_are_dropped_and_counted(tmp_path: Path) -> None:
    case = abx_cases.make_case(tmp_path / "f.item", 6, tokens=40)
    short = [each[:100] for each in case.features]
    plan = plan_abx(case.items, 50.0, np.array([100, 100]), "exact", "any", abx_cases.ALL)
    dropped = 40 - len(abx_cases.Case(case.items, short).tokens())
    # each file has twenty items at intervals of 8 frames; those from frame 104 on have no frames
    assert plan.dropped == dropped >= 14
    assert "dropped, having no frame: " + str(dropped) in format_table({"x": AbxScore(1, 2)}, plan, "layer")


def test_no_cell_is_an_error_and_one_speaker_has_no_across(tmp_path: Path) -> None:
    path = tmp_path / "f.item"
    rows = ["u 0 0.1 a q n s", "u 0.1 0.2 a q n s", "u 0.2 0.3 b r n s"]
    path.write_text("\n".join([abx_cases.HEADER, *rows]) + "\n")
    items = read_items(path)
    with pytest.raises(ManifestError, match=r"3 of 3 items have frames, and none make a cell.*--context any"):
        plan_abx(items, 50.0, np.array([20]), "exact", "within", abx_cases.ALL)
    plan = plan_abx(items, 50.0, np.array([20]), "exact", "any", abx_cases.ALL)
    score = score_abx(plan, torch.ones(plan.frames, 3))
    assert score == AbxScore(50.0, None)
    assert "-" in format_table({"1": score}, plan, "layer").splitlines()[-1]
    assert to_json({"1": score}, plan)["best"] == {"within": "1", "across": None}


def test_broken_features_are_an_error(tmp_path: Path) -> None:
    case = abx_cases.make_case(tmp_path / "f.item", 0)
    broken = [np.full_like(each, np.nan) for each in case.features]
    with pytest.raises(ConfigError, match="frames hold NaN or infinity"):
        abx_cases.Case(case.items, broken).score()


def test_the_best_layer_of_each_column_is_marked(tmp_path: Path) -> None:
    case = abx_cases.make_case(tmp_path / "f.item", 0)
    plan = plan_abx(case.items, 50.0, np.array([64, 64]), "exact", "any", abx_cases.ALL)
    scores = {"1": AbxScore(9.0, 11.0), "2": AbxScore(8.0, 12.5), "12": AbxScore(8.0, 20.0)}
    lines = format_table(scores, plan, "layer").splitlines()
    assert lines[2].split() == ["1", "9.00", "11.00*"]
    assert lines[3].split() == ["2", "8.00*", "12.50"]  # the first of equal scores is marked
    assert lines[4].split() == ["12", "8.00", "20.00"]
    assert best([("a", None)]) is None
