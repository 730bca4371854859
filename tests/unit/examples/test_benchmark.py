"""The benchmark: what it pairs and leaves out, that both sides compute the same. Never how fast it is."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiler import Traced
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from examples.benchmark import (
    figures,
    inputs,
    joint,
    machine,
    offline,
    parity,
    parts,
    run,
    scores,
    sides,
    turns,
    updates,
)
from examples.benchmark.parts import SIZES
from examples.benchmark.report import markdown
from examples.benchmark.stopwatch import PARTS, Stopwatch

TINY, CPU = SIZES["tiny"], torch.device("cpu")


def records_of(variant: str, *seconds: float, others: tuple[float | None, ...] = (0.0,) * 3) -> list[Any]:
    """A sample a round."""
    return [
        {"variant": variant, "round": number, "seconds": each, "others": busy, "peak_mb": 100.0 + number}
        for number, (each, busy) in enumerate(zip(seconds, others))
    ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "weights.pt"
    sides.save(sides.build("peer", TINY, CPU), path)
    return path


# -- pairs and medians


def test_a_speedup_is_the_median_of_ratios_within_a_round() -> None:
    # in the third round the machine slowed down: both sides; ours could not be measured any more
    records = records_of("peer", 10.0, 12.0, 42.0) + records_of("ours", 5.0, 4.0, 20.0)
    records += [{**records[2], "round": 3}]
    found = figures.pairs(records, "peer", "ours")
    assert [(pair["round"], pair["ratio"]) for pair in found] == [(0, 2.0), (1, 3.0), (2, 2.1)]
    assert figures.speedup(found) == {"median": 2.1, "pairs": 3, "quiet": 3}
    assert figures.summary(records, "ours")["peak_mb"] == 102.0


def test_pairs_in_which_others_were_busy_are_left_out_unless_none_remains() -> None:
    noisy = machine.BUSY_CORES + 0.01
    records = records_of("peer", 10.0, 9.0, 8.0, others=(noisy, machine.BUSY_CORES, None))
    records += records_of("ours", 1.0, 3.0, 2.0)
    assert figures.speedup(figures.pairs(records, "peer", "ours")) == {"median": 3.5, "pairs": 3, "quiet": 2}
    assert figures.summary(records, "peer")["seconds"] == 8.5
    loud = records_of("peer", 10.0, others=(noisy,)) + records_of("ours", 5.0)
    assert figures.speedup(figures.pairs(loud, "peer", "ours")) == {"median": 2.0, "pairs": 1, "quiet": 0}
    assert figures.summary(loud, "peer")["quiet"] == 0
    assert figures.speedup([]) is None and figures.summary(records, "nobody") is None


def test_rounds_alternate_and_a_variant_that_cannot_be_measured_is_named_once() -> None:
    asked = []

    class Recorded(turns.Turns):
        def take(self) -> dict[str, Any]:
            asked.append(self.job.worker)
            result = {"seconds": 1.0, "others": None, "peak_mb": 100.0, "audio_s": 30.0}
            return {"not_measured": "no library"} if self.job.worker == "b" else result

        def close(self) -> None:
            asked.append("closed")

    part = parts.Part("p", "P", {"a": parts.Job("a"), "b": parts.Job("b")}, {"r": ("a", "b")})
    found = turns.measure(part, 2, Recorded, {})
    assert asked == ["a", "b", "a", "closed", "closed"]
    assert found["not_measured"] == {"b": {"not_measured": "no library"}}
    part = parts.Part("p", "P", {"a": parts.Job("a"), "c": parts.Job("c")}, {"r": ("a", "c")})
    asked.clear()
    found = turns.measure(part, 3, Recorded, {})
    assert asked == ["a", "c", "c", "a", "a", "c", "closed", "closed"]
    digest = figures.digest(part, found)
    asked.clear()
    assert turns.measure(part, 3, Recorded, {}, together=False)["records"]
    assert asked == ["a", "a", "a", "closed", "c", "c", "c", "closed"]
    assert digest["speedup"]["r"]["median"] == 1.0 and digest["memory"] == {"r": 1.0}
    assert digest["variants"]["a"]["rate"] == 30.0


def test_both_sides_get_the_same_environment_and_no_other_row_gets_it() -> None:
    options = parts.Options("base", 3, ("fp32", "bf16"), "cpu", Path("f"))
    first, second = parts.training(options)
    assert not any(job.environment for job in first.variants.values())
    assert all(job.environment == parts.SAME_ALLOCATOR for job in second.variants.values())
    assert {**first.ratios, **second.ratios} == {
        "mt4ssl_fp32": ("peer fp32", "ours fp32"),
        "mt4ssl_bf16": ("peer fp32", "ours bf16"),
        "mt4ssl_fp32_same_allocator": ("peer fp32", "ours fp32"),
        "mt4ssl_bf16_same_allocator": ("peer fp32", "ours bf16"),
    }


def test_a_gpu_gets_bf16_of_both_sides_compilation_and_batches_from_files() -> None:
    options = parts.Options(
        "base", 3, ("fp32", "bf16"), "cuda", Path("f"), peer_bf16=True, compiled=True, workers=4
    )
    (part,) = parts.training(options)  # glibc's settings are none of a GPU's
    assert part.ratios["mt4ssl_bf16_both"] == ("peer bf16", "ours bf16")
    assert part.variants["ours bf16 compiled"].arguments["compiled"]
    assert all(job.arguments["workers"] == 4 for job in part.variants.values())


# -- the machine


def test_what_others_took_is_all_that_was_busy_but_this_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 999 50 1 2 7 0 0\ncpu0 1 1 1\n")
    assert machine.busy_seconds(stat) == 1.6  # idle and waiting for disks left out
    assert machine.busy_seconds(tmp_path / "none") is None
    busy, own, clock = iter([10.0, 14.0]), iter([1.0, 4.0]), iter([0.0, 2.0])
    monkeypatch.setattr(machine, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(machine, "own_seconds", lambda: next(own))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    with machine.Timing() as timing:
        pass
    assert timing.sample() == {"seconds": 2.0, "others": 0.5}


class Counting(TorchDispatchMode):
    """Adds up what torch itself counts of the products that are run."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def test_the_arithmetic_of_an_update_is_what_torch_counts_on_fairseqs_modules() -> None:
    ungrouped = {"conv_pos_groups": 1}  # torch forgets the groups in a backward pass
    side = sides.build("peer", TINY, CPU, **ungrouped)
    sample = inputs.batch((2, 1.01), TINY, 1)  # 50 frames: even, so that fairseq adds none
    # of its attention kernels, torch counts the products of this one alone
    with sdpa_kernel(SDPBackend.MATH), Counting() as counted:
        updates.one_update(side, sample, 0, "fp32")
    source, mask = sample["net_input"]["source"], sample["net_input"]["mask"]
    expected = figures.update_operations(
        sides.model_config(TINY, **ungrouped), TINY.classes, 2, source.size(1), int(mask.sum())
    )
    assert mask.size(1) == 50 and counted.total == pytest.approx(expected, rel=1e-9)


# -- both sides


def test_both_sides_compute_the_same_losses_gradients_and_features(tmp_path: Path) -> None:
    found = parity.check("tiny", "cpu", str(tmp_path / "weights.pt"))
    assert found["same"], found
    # float32 sums of another order
    assert found["differences"]["loss"] < 1e-6 and found["differences"]["gradient"] < 1e-5
    # three updates: optimizers and teachers have moved alike
    first, _, third = found["losses"]["ours"]
    assert first - third > 100 * abs(third - found["losses"]["peer"][2])
    # 8 bits of mantissa
    assert 0 < found["differences"]["features_bf16"] < 0.05


def test_a_side_that_computes_something_else_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides.Ours, "finish", lambda self, update: None)  # a teacher that stands still
    still = parity.check("tiny", "cpu", str(tmp_path / "weights.pt"))
    monkeypatch.setattr(
        sides.Ours, "loss", lambda self, sample: (self.model.speech_encoder.mask_emb.sum(), 1)
    )
    other = parity.check("tiny", "cpu", str(tmp_path / "weights.pt"))
    assert still["differences"]["loss"] < 1e-6 and not other["same"]


@pytest.mark.parametrize("side", sides.SIDES)
def test_the_parts_of_an_update_add_up_to_it(
    side: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = sides.build(side, TINY, CPU, weights)
    clock = Stopwatch(own, CPU)
    sample = inputs.batch(TINY.batch, TINY, 1)
    ticks = itertools.count()
    monkeypatch.setattr(Stopwatch, "now", lambda self: float(next(ticks)))  # a second a look at the clock
    for _ in range(2):
        first = next(ticks)
        updates.one_update(own, sample, 0, "fp32", clock)
        seconds = clock.lap()
        assert tuple(seconds) == PARTS and all(each >= 1 for each in seconds.values())
        assert sum(seconds.values()) == next(ticks) - first - 2
    clock.close()
    updates.one_update(own, sample, 1, "fp32")
    assert not any(clock.lap().values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("side", sides.SIDES)
def test_an_update_is_measured_in_either_precision(side: str, precision: str, weights: Path) -> None:
    taken = updates.measure("tiny", side, precision, "cpu", str(weights))
    first, second = next(taken), next(taken)
    assert first["seconds"] != second["seconds"] and first["loss"] == second["loss"]
    assert second["audio_s"] == 2.0 and second["peak_mb"] > 50
    assert first["loss"] == pytest.approx(5.3, abs=0.4)


def test_batches_come_from_files_with_the_time_that_is_waited_for_them(weights: Path) -> None:
    with contextlib.closing(updates.measure("tiny", "ours", "fp32", "cpu", str(weights), workers=1)) as taken:
        sample = next(taken)
    assert 0 <= sample["wait_s"] <= sample["seconds"] and sample["others"] is None


def test_a_compiled_update_is_measured_with_the_same_loss(traced: Traced, weights: Path) -> None:
    found, plain = (
        next(updates.measure("tiny", "ours", "fp32", "cpu", str(weights), compiled=on))
        for on in (True, False)
    )
    assert traced.graphs() == 2  # student and teacher; the warm-up has made both
    assert found["loss"] == pytest.approx(plain["loss"], rel=0.05)  # dropout draws otherwise


def test_the_joint_model_without_ssl_computes_what_the_smaller_model_does() -> None:
    both, vgs = (next(joint.measure("tiny", model, "cpu")) for model in ("joint", "vgs"))
    assert both["loss"] == pytest.approx(vgs["loss"], rel=1e-6) and both["dead_gradients"] == 0


# -- what is not training


@pytest.mark.parametrize("side", sides.SIDES)
def test_features_are_dumped_whole(side: str, weights: Path) -> None:
    found = next(offline.dump("tiny", side, "fp32", "cpu", str(weights)))
    assert found["frames"] == sum(inputs.frames_of(round(s * 16_000), TINY) for s in TINY.dump_s)


def test_torchaudios_mfccs_are_ours() -> None:
    found = next(turns.begin(parts.Job("offline:mfcc_parity")))
    if "not_measured" in found:
        pytest.skip(found["not_measured"])
    assert found["mfcc"] < 1e-4  # float32 against float32 logarithms


def test_kmeans_tells_the_inertia_of_all_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.npy")
    assert offline.write_rows("tiny", "mfcc", path) == {"frames": 600, "dim": 39}
    found = next(offline.kmeans("tiny", "ours", "mfcc", path))
    assert found["inertia"] > 0 and found["clusters"] == 8
    rows = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0]])
    assert offline.inertia(rows, np.array([[1.0, 0.0], [10.0, 1.0]], dtype=np.float32)) == pytest.approx(1.0)


def test_abx_and_retrieval_count_what_they_time() -> None:
    assert (
        next(scores.abx("tiny", "cpu"))["cells"] == 3 * 4 * 3 * 2
    )  # A by phone and speaker, B, speakers of X
    found = next(scores.retrieval("tiny"))
    assert (found["captions"], found["images"]) == (60, 20) and found["r10"] > 50


# -- from end to end


def test_the_tiny_size_runs_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--size", "tiny", "--rounds", "2", "--device", "cpu", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert set(found["parts"]) >= {*parts.NAMES, "mt4ssl_same_allocator", "kmeans_layer"}
    wanted = {f"mt4ssl_{each}{tail}" for each in ("fp32", "bf16") for tail in ("", "_same_allocator")}
    wanted |= {"feature_dump_fp32", "feature_dump_bf16", "kmeans", "kmeans_layer"}
    assert wanted <= set(found["speedup"]) <= {*wanted, "mfcc"}
    assert all(value > 0 for value in found["speedup"].values())
    assert found["other_ratios"].keys() == {"joint_dead_branch"}
    assert len(found["parts"]["mt4ssl"]["pairs"]["mt4ssl_fp32"]) == 2
    assert found["limit"]["operations"] > 0 and set(found["limit"]["gemm"]) == {"fp32", "bf16"}
    shares = found["parts"]["mt4ssl"]["variants"]["ours fp32"]["parts"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert set(found["machine"]) >= {"cpu", "cores", "flags", "threads", "versions"}
    table = path.with_suffix(".md").read_text()
    assert table == markdown(found) and "the same mathematics" in table
    assert "| ours bf16 |" in table and table in capsys.readouterr().out


def test_a_measurement_runs_in_a_process_of_its_own_that_waits_for_its_turns(weights: Path) -> None:
    asked = {"size": "tiny", "side": "ours", "precision": "fp32", "device": "cpu", "weights": str(weights)}
    with contextlib.closing(turns.Turns(parts.Job("offline:dump", asked, {"OMP_NUM_THREADS": "1"}))) as taken:
        first, second = taken.take(), taken.take()
        process = taken._process
    assert first["frames"] == second["frames"] and first["peak_mb"] <= second["peak_mb"]
    assert process is not None and process.returncode == 0


def test_a_process_that_fails_is_told_and_the_benchmark_goes_on() -> None:
    job = parts.Job("machine:gemm", {"side": "wide", "device": "cpu"})
    with contextlib.closing(turns.Turns(job)) as taken:
        assert taken.take() == {"not_measured": "its process ended with status 1", "failed": True}


def test_what_can_be_had_of_the_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       25000 kB\nMemAvailable:       2000 kB\n")
    assert machine.available_bytes(path) == 2_048_000
    assert machine.available_bytes(tmp_path / "none") == machine.memory_bytes()


def test_variants_take_turns_where_memory_holds_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    part, _ = parts.training(parts.Options("base", 3, ("fp32", "bf16"), "cpu", Path("f")))
    for device, gigabytes, together in (("cpu", 17, True), ("cpu", 16, False), ("cuda", 900, False)):
        monkeypatch.setattr(machine, "available_bytes", lambda gigabytes=gigabytes: gigabytes * 10**9)
        options = parts.Options("base", 3, ("fp32", "bf16"), device, Path("f"))
        assert run.all_fit(options, part) is together


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.parse(["--only", "mt4ssl,vgs"])
    assert "got vgs, wanted some of" in capsys.readouterr().err
    assert run.parse(["--only", "abx, mt4ssl"]).only == ("mt4ssl", "abx")
