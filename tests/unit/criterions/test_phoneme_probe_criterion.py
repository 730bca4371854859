from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from torch import Tensor

from fairseq_mtssl.criterions.phoneme_probe import PhonemeProbeCriterion, decode
from fairseq_mtssl.frames import UNLABELLED


class Told(torch.nn.Module):
    """A model that returns the logits it is given."""

    def __init__(self, is_ctc: bool) -> None:
        super().__init__()
        self.is_ctc = is_ctc
        self.eval()

    def forward(self, logits: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return {"logits": logits, "lengths": lengths}


def spoken(rows: list[list[int]], classes: int) -> tuple[Tensor, Tensor]:
    """Logits in which these classes are certain, padded with frames of class 1."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = [row + [1] * (int(lengths.max()) - len(row)) for row in rows]
    return 20.0 * torch.nn.functional.one_hot(torch.tensor(padded), classes).float(), lengths


def measure(samples: list[dict[str, Any]], is_ctc: bool) -> dict[str, float]:
    """Return the values logged for batches that are reduced together."""
    criterion = PhonemeProbeCriterion(SimpleNamespace(target_dictionary=None))
    logs = [criterion(Told(is_ctc), sample)[2] for sample in samples]
    with metrics.aggregate(new_root=True) as found:
        criterion.reduce_metrics(logs)
        return dict(found.get_smoothed_values())


def batch(rows: list[list[int]], targets: list[list[int]], classes: int) -> dict[str, Any]:
    logits, lengths = spoken(rows, classes)
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(each) for each in targets], batch_first=True, padding_value=UNLABELLED
    )
    return {
        "net_input": {"logits": logits, "lengths": lengths},
        "target": padded,
        "target_lengths": torch.tensor([len(each) for each in targets]),
        "ntokens": int((padded != UNLABELLED).sum()),
        "nsentences": len(rows),
    }


def test_greedy_decoding_joins_runs_and_drops_blanks_and_padding() -> None:
    logits, lengths = spoken([[0, 1, 1, 0, 1, 2], [0, 0], [3, 3, 0]], 4)
    assert decode(logits, lengths) == [[0, 0, 1], [], [2]]


def test_the_phone_error_rate_is_all_edits_over_all_phones_by_hand() -> None:
    # class = phone + 1; predictions: 0 1 2 for 0 1 2; 0 0 for 0 (one insertion); 2 for 1 2 (one deletion)
    first = batch([[1, 2, 0, 3], [1, 0, 1]], [[0, 1, 2], [0]], 4)
    second = batch([[3, 3, 3]], [[1, 2]], 4)
    # 2 edits of 6 phones, although the rates of the batches are 1 of 4 and 1 of 2
    assert measure([first, second], is_ctc=True)["per"] == pytest.approx(100 * 2 / 6, abs=1e-3)


def test_frames_without_a_phone_are_not_counted() -> None:
    plain = batch([[0, 1, 2, 2]], [[0, 1, 2, 0]], 3)
    padded = batch([[0, 2, 1, 2, 2]], [[0, UNLABELLED, 1, 2, 0]], 3)
    wanted = measure([plain], is_ctc=False)
    assert wanted["accuracy"] == pytest.approx(75)
    # the F1 of phone 0 is 2/3, of phone 1 it is 1, of phone 2 it is 2/3
    assert wanted["macro_f1"] == pytest.approx(100 * (2 / 3 + 1 + 2 / 3) / 3, abs=1e-3)
    assert measure([padded], is_ctc=False) == wanted


def test_macro_f1_is_that_of_the_subset_not_the_mean_of_its_batches() -> None:
    batches = [batch([[0, 0]], [[0, 0]], 3), batch([[1, 0, 0]], [[1, 1, 1]], 3)]
    # over all: phone 0 has 2 right, 4 predicted, 2 labelled; phone 1 has 1 right, 1 predicted, 3 labelled
    assert measure(batches, is_ctc=False)["macro_f1"] == pytest.approx(100 * (4 / 6 + 2 / 4) / 2, abs=1e-3)
