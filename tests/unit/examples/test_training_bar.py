"""What a training prints, as one progress bar and as the phases it went through."""

from __future__ import annotations

from examples.training_bar import TrainingBar, last_validation, phases_run

LOG = """\
[2026-11-20 11:49:18,749][fairseq.trainer][INFO] - begin training epoch 1
[2026-11-20 11:44:50,169][fairseq_mtssl.tasks.phases][INFO] - phase 1 of 3, w2v2: updates 0 to 24, alpha 0, resets optimizer, lr
[2026-11-20 11:49:18,749][train_inner][INFO] - {"epoch": 1, "update": 0.5, "loss_ssl": "5.2", "num_updates": "10"}
[2026-11-20 11:49:25,877][valid][INFO] - {"epoch": 1, "valid_s2i_r1": "0.5", "valid_s2i_r10": "5", "valid_num_updates": "20"}
[2026-11-20 11:49:30,877][fairseq_mtssl.tasks.phases][INFO] - phase 2 of 3, ramp: updates 24 to 60, alpha 0.25 to 1, resets nothing
[2026-11-20 11:49:30,877][fairseq_mtssl.tasks.phases][INFO] - phase 2 of 3, ramp: updates 24 to 60, alpha 0.25 to 1, resets nothing
[2026-11-20 11:49:33,749][train][INFO] - {"epoch": 2, "train_loss_vgs": "3.1", "train_num_updates": "30"}
[2026-11-20 11:49:40,877][fairseq_mtssl.tasks.phases][INFO] - phase 3 of 3, my own: updates 60 to 90, alpha 1, resets lr
"""  # noqa: E501


def bar_over(tmp_path, log: str, max_update: int = 90) -> TrainingBar:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(f"optimization:\n  max_update: {max_update}\n")
    bar = TrainingBar("run", tmp_path)
    for line in log.splitlines(keepends=True):
        bar.read(line)
    return bar


def test_phases_are_read_in_order_once_each_with_their_ramps() -> None:
    assert phases_run(LOG) == [
        {"name": "w2v2", "alpha": 0.0, "first_update": 0, "updates": 24},
        {"name": "ramp", "alpha": [0.25, 1.0], "first_update": 24, "updates": 36},
        {"name": "my own", "alpha": 1.0, "first_update": 60, "updates": 30},
    ]


def test_the_tasks_own_phase_line_is_understood(caplog) -> None:
    """The line as `tasks/phases.py` writes it today, not as it is copied above."""
    from types import SimpleNamespace

    from fairseq_mtssl.schedule import Schedule, parse_phases
    from fairseq_mtssl.tasks.phases import begin_update

    phases = parse_phases(
        [{"alpha": 0, "length": 5, "name": "ssl"}, {"alpha": [0, 0.75], "length": "rest", "reset": []}]
    )
    schedule = Schedule.resolve(phases, 20, 10)
    inner = SimpleNamespace(state={}, param_groups=[{}])
    optimizer = SimpleNamespace(set_lr=lambda lr: None, optimizer=inner)
    with caplog.at_level("INFO", logger="fairseq_mtssl.tasks.phases"):
        for update in (0, 5):
            begin_update(optimizer, schedule, schedule.at(update), 0.1)
    assert phases_run(caplog.text) == [
        {"name": "ssl", "alpha": 0.0, "first_update": 0, "updates": 5},
        {"name": "phase2", "alpha": [0.0, 0.75], "first_update": 5, "updates": 15},
    ]


def test_the_bar_says_whether_a_phase_learned(tmp_path, capsys) -> None:
    line = "phase 1 of 2, w2v2: ended at chance. Contrastive accuracy 0.02 (chance 0.02)."
    bar_over(tmp_path, f"[t][fairseq_mtssl.tasks.health_watch][INFO] - {line}\n")
    assert f"run: {line}" in capsys.readouterr().err
    assert phases_run(line) == []


def test_the_bar_counts_updates_and_shows_losses_phases_and_validation(tmp_path, capsys) -> None:
    bar = bar_over(tmp_path, LOG)
    assert bar._bar is not None and (bar._bar.n, bar._bar.total) == (30, 90)
    bar.read('[t][train_inner][INFO] - {"loss_vgs": "2.5", "num_updates": "31"}\n')
    assert "L_AV=2.5" in bar._bar.postfix
    bar.__exit__(None, None, None)
    said = capsys.readouterr().err
    assert "phase 2 of 3, ramp" in said and "validation: s2i_r1 0.5, s2i_r10 5" in said


def test_a_resumed_training_starts_the_bar_where_it_was(tmp_path) -> None:
    line = "[t][fairseq.trainer][INFO] - Loaded checkpoint runs/x/checkpoint_last.pt (epoch 3 @ 40 updates)\n"
    bar = bar_over(tmp_path, line)
    assert bar._bar is not None and bar._bar.n == 40
    bar.__exit__(None, None, None)


def test_a_training_without_a_limit_of_updates_has_a_bar_without_an_end(tmp_path) -> None:
    bar = bar_over(tmp_path, LOG, max_update=0)
    assert bar._bar is not None and bar._bar.total is None
    bar.__exit__(None, None, None)


def test_broken_lines_are_passed_over(tmp_path) -> None:
    bar = bar_over(tmp_path, '[t][train_inner][INFO] - {"num_upd}\nnoise\n')
    assert bar._bar is None


def test_the_last_validation_is_read_without_its_prefix() -> None:
    later = '[now][valid][INFO] - {"epoch": 9, "valid_acc_off": "31.5", "valid_x": null}'
    assert last_validation(LOG)["s2i_r10"] == 5
    assert last_validation(LOG + later) == {"epoch": 9, "acc_off": 31.5}
    assert last_validation("") == {}
