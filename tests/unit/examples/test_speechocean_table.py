"""MT4SSL on real speech: how the table and the verdicts are made."""

from __future__ import annotations

import json

import pytest

from examples.speechocean import run, table
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.findings import CONTRADICTED, NOT_SHOWN, SHOWN


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
    assert verdicts(all_kinds([0.40, 0.43, 0.43], [0.401, 0.40, 0.40], [0.3] * 3))[:2] == [
        NOT_SHOWN,
        NOT_SHOWN,
    ]


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
