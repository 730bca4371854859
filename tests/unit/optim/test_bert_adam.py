"""BERT's Adam against hand arithmetic, and after resuming."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from fairseq_mtssl.optim.bert_adam import BertAdam, BertAdamConfig


def make(parameters: list[torch.nn.Parameter], **settings: float) -> BertAdam:
    return BertAdam(BertAdamConfig(lr=[0.1], **settings), parameters)


def by_hand(
    weight: float, gradients: list[float], rate: float, decay: float, eps: float
) -> tuple[float, float, float]:
    """Weight, mean and mean square after updates with these gradients, in plain Python."""
    mean = square = 0.0
    for gradient in gradients:
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        weight = weight - rate * (mean / (math.sqrt(square) + eps) + decay * weight)
    return weight, mean, square


def test_updates_are_those_of_the_formula_without_bias_correction() -> None:
    gradients = [0.5, -2.0, 0.25]
    one, other = torch.nn.Parameter(torch.tensor([3.0])), torch.nn.Parameter(torch.tensor([[-1.0], [2.0]]))
    optimizer = make([one, other], weight_decay=0.01, eps=1e-6)
    for gradient in gradients:
        one.grad, other.grad = torch.tensor([gradient]), torch.full((2, 1), -gradient)
        optimizer.step()
    weight, mean, square = by_hand(3.0, gradients, 0.1, 0.01, 1e-6)
    state = optimizer.optimizer.state[one]
    assert one.item() == pytest.approx(weight, rel=1e-6)
    assert (state["exp_avg"].item(), state["exp_avg_sq"].item()) == pytest.approx((mean, square), rel=1e-6)
    for start, got in zip((-1.0, 2.0), other.flatten().tolist(), strict=True):
        assert got == pytest.approx(by_hand(start, [-g for g in gradients], 0.1, 0.01, 1e-6)[0], rel=1e-6)


def test_the_first_update_is_over_three_times_the_rate() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = make([weight])
    weight.grad = torch.tensor([7.0])
    optimizer.step()
    assert weight.item() == pytest.approx(-0.1 * 0.1 / math.sqrt(0.001), rel=1e-4)  # 0.316; Adam's is 0.1


def test_a_parameter_without_a_gradient_neither_moves_nor_decays() -> None:
    still, moving = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = make([still, moving], weight_decay=0.5)
    moving.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(still, torch.ones(2)) and not optimizer.optimizer.state[still]
    assert not torch.equal(moving, torch.ones(2))


def test_a_resumed_optimizer_continues_as_if_it_had_never_stopped() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(6, 5)
    whole = torch.nn.Parameter(torch.ones(5))
    first = make([whole], weight_decay=0.1)
    for number, gradient in enumerate(gradients):
        if number == 3:
            resumed = torch.nn.Parameter(whole.detach().clone())
            second = make([resumed], weight_decay=0.1)
            second.load_state_dict(copy.deepcopy(first.state_dict()))  # as read from a file
        for weight, optimizer in ((whole, first), *([(resumed, second)] if number >= 3 else [])):
            weight.grad = gradient.clone()
            optimizer.set_lr(0.1 / (number + 1))
            optimizer.step()
    assert torch.equal(resumed, whole)
