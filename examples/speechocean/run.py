"""Tests MT4SSL's claim on real speech: both kinds of targets against labels alone and the teacher alone.

    make speechocean SPEECH=DIR MORE=DIR    or
    python examples/speechocean/run.py --speech DIR --more DIR --out runs/speechocean

A first model is trained on cluster labels of MFCC-CMN, and the second iteration on cluster labels of its best
layer, with every kind of targets and every seed. The layers of each model are measured by PNMI and ABX, and
each model is fine-tuned with CTC on ten minutes. The output folder gets table.md, results.json and a folder
for each run. --record DIR writes a small JSON file of each finished run, from which --from-results DIR makes
the table without training. A second call does only what is not done yet.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import results, stages
from examples.pipeline import Pipeline, Stage, run_example
from examples.speechocean import table
from examples.training_bar import last_validation
from examples.variants import seeds_of, words_of
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.errors import ConfigError

HERE = Path(__file__).resolve().parent
RECIPE, CTC_RECIPE = "mt4ssl_fbank_small", "ctc_small"
CLUSTERS = 100
BASELINES = ("mfcc", "mfcc-cmn", "log-mel")
MEASURED = ("valid", "test")
VALID_SHARE, TEST_SHARE = 0.167, 0.333  # of 30 speakers: 5 and 10
ABX_OPTIONS = ("--context", "any")  # 10 speakers share too few triphones
FIRST_SEED = 11  # of the first iteration, which is not among those reported
SETTINGS = {
    "dataset.train_subset": "pretrain",
    "dataset.valid_subset": "valid",
    "dataset.max_tokens": "960000",  # a minute
    "optimization.update_freq": "[1]",
    "task.max_duration_s": "6.0",
}
SLOW = ("model.ema_decay=0.999", "model.ema_end_decay=0.9999")
MASKED = ("criterion.unmasked_weight=0",)
# of each kind of targets; chosen on the valid speakers with seed 11, see README.md
TARGETS: dict[str, tuple[str, ...]] = {
    "first": (*SLOW, *MASKED),
    "both": (*SLOW, *MASKED),
    "labels": (*MASKED, "model.online=false"),
    "teacher": SLOW,
}
CTC_SETTINGS = {
    "dataset.train_subset": "train_10m",
    "dataset.valid_subset": "valid",
    "model.mask_length": "3",
}
HEALTH = ("acc_off", "loss_off", "acc_on", "loss_on", "target_var", "prediction_var")


def main(argv: list[str] | None = None) -> None:
    """Run every stage that is not done yet. Raises: MtsslError."""
    args = parse(argv)
    if args.from_results:
        args.out.mkdir(parents=True, exist_ok=True)
        report([each for folder in args.from_results for each in table.read_records(folder)], args.out)
        return
    pipeline = Pipeline(args.out, args.fresh)
    prepare(pipeline, args)
    experiment = Experiment(pipeline, args)
    labels = experiment.labels("mfcc-cmn", "mfcc-cmn", ("pretrain", "valid"), "pretrain")
    pipeline.run(labels)
    first = experiment.training("first", FIRST_SEED, labels)
    teachers = [experiment.training("teacher", seed, None) for seed in args.seeds]
    pipeline.run(first, *teachers, at_once=args.at_once)
    experiment.measure([*baselines(first, args.seeds), trained("first", FIRST_SEED, first)])
    best = experiment.records[f"first-seed{FIRST_SEED}"].layer("pnmi")
    features = f"{first.products[0]}:{best}"
    labels = experiment.labels("second", features, ("pretrain", "valid"), "pretrain", needs=(first.name,))
    pipeline.run(labels)
    runs = {
        (kind, seed): experiment.training(kind, seed, labels)
        for seed in args.seeds
        for kind in ("both", "labels")
    }
    pipeline.run(*runs.values(), at_once=args.at_once)
    runs |= {("teacher", seed): run for seed, run in zip(args.seeds, teachers, strict=True)}
    experiment.measure([trained(kind, seed, run) for (kind, seed), run in runs.items()])
    report(list(experiment.records.values()), args.out, pipeline)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Raises: ConfigError."""
    parser = stages.example_parser(__doc__, "runs/speechocean", "for every pre-training")
    parser.add_argument("--speech", type=Path, help="folder of speechocean: wav, text.tsv, phones.tsv")
    parser.add_argument("--more", type=Path, help="folder of speechocean-more: audio, text.tsv")
    parser.add_argument("--passes", type=float, default=30.0, help="of a pre-training over the speech (30)")
    parser.add_argument(
        "--ctc-updates", type=int, default=1000, metavar="N", help="updates of a fine-tuning (1000)"
    )
    stages.add_run_options(parser, "1,2,3", "make the table")
    args = parser.parse_intermixed_args(argv)
    errors = []
    try:
        args.seeds = seeds_of(args.seeds)
    except ConfigError as error:
        errors.append(str(error))
    if not args.from_results and (args.speech is None or args.more is None):
        errors.append("give --speech and --more, or --from-results")
    if not args.passes > 0 or args.ctc_updates < 1:
        errors.append(f"--passes {args.passes}, --ctc-updates {args.ctc_updates}: wanted more than 0")
    if errors:
        raise ConfigError("speechocean", errors)
    return args


def prepare(pipeline: Pipeline, args: argparse.Namespace) -> None:
    """Make the data folder: manifests, phones, ABX items, wav files and letters."""
    data = args.out / "data"
    script = stages.from_here(stages.ROOT / "manifests" / "aligned_phones.py")
    command = ["python", script, "--audio", str(args.speech / "wav"), "--out", str(data)]
    command += ["--item-span", "phone"]
    command += ["--alignment", str(args.speech / "phones.tsv"), "--speakers", str(args.speech / "text.tsv")]
    command += ["--valid-share", str(VALID_SHARE), "--test-share", str(TEST_SHARE)]
    pipeline.run(Stage("data", command, data, [data / "train.tsv", data / "test.item"]))
    command = ["python", stages.from_here(HERE / "speech.py"), "--data", str(data)]
    command += ["--speech", str(args.speech), "--more", str(args.more)]
    products = [data / "pretrain.tsv", data / "train_10m.tsv", data / "test.abx.item"]
    pipeline.run(Stage("speech", command, data / "audio", products, needs=("data",)))
    # the dictionary is made from all texts, because ten minutes may lack a letter
    options = ["--text", str(data / "transcripts.tsv")]
    options += ["--splits", "pretrain,train_10m,valid,test", "--train", "pretrain"]
    products = [data / "dict.ltr.txt", data / "train_10m.ltr"]
    pipeline.run(stages.text_stage(data, args.out, products, options, "speech"))


@dataclass(frozen=True)
class Subject:
    """A model, or features without a model, that is measured.

    kind: of table.KINDS. run: the training of the model's checkpoint. layers: layer -> `--features` of
    make-targets. source: the options of evaluate-abx that choose what it measures. options: of both commands;
    they give the network random weights.
    """

    kind: str
    seed: int
    run: Stage | None
    layers: Mapping[str, str]
    source: Sequence[str]
    options: Sequence[str] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}-seed{self.seed}"


class Experiment:
    """The commands of the experiment, and the records of finished subjects.

    records: name -> record; also written to the folder of --record as soon as they are complete.
    """

    def __init__(self, pipeline: Pipeline, args: argparse.Namespace) -> None:
        self.pipeline = pipeline
        self.args = args
        self.out: Path = args.out
        self.data = args.out / "data"
        self.records: dict[str, table.Record] = {}

    # -- commands

    def labels(
        self,
        name: str,
        features: str,
        splits: Sequence[str],
        fit_split: str,
        needs: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> Stage:
        """Labels of some splits in out/labels/name. options: further options of `mtssl make-targets`."""
        words = ["--fit-split", fit_split, "--splits", ",".join(splits), *options]
        needs = ("speech", *needs)
        return stages.labels_stage(name, features, CLUSTERS, self.data, self.out, words, needs)

    def training(
        self, kind: str, seed: int, labels: Stage | None, name: str = "", more: Sequence[str] = ()
    ) -> Stage:
        """One pre-training. kind: of TARGETS. more: settings after those of its kind."""
        text = "" if labels is None else stages.hydra_value(str(labels.folder))
        settings = words_of(SETTINGS)
        settings += [f"task.labels=[{text}]", f"common.seed={seed}", *TARGETS[kind], *more]
        settings += self.args.overrides
        settings.append(f"optimization.max_update={self.updates(settings)}")
        needs = ("speech", *([] if labels is None else [labels.name]))
        name, last = name or f"{kind}-seed{seed}", "checkpoint_last.pt"
        return stages.training_stage(name, RECIPE, self.data, self.out, settings, needs, last)

    def updates(self, settings: Sequence[str]) -> int:
        """The updates of --passes, with the batch and the crop of the settings (the last of each key)."""
        chosen = dict(setting.split("=", 1) for setting in settings)
        batch_s = float(chosen["dataset.max_tokens"]) / SAMPLE_RATE_HZ
        batch_s *= int(chosen["optimization.update_freq"].strip("[]"))
        sizes_s = read_audio_manifest(self.data / "pretrain.tsv").sizes / SAMPLE_RATE_HZ
        return updates_of(self.args.passes, sizes_s, float(chosen["task.max_duration_s"]), batch_s)

    def product(self, name: str) -> Path:
        """The JSON file of an evaluation."""
        return self.out / "evaluation" / name / "numbers.json"

    def quality(self, name: str, layer: str, labels: Stage, splits: Sequence[str]) -> Stage:
        """PNMI of the labels of a layer of what is called name."""
        product = self.product(f"{name}-pnmi-{layer}")
        return stages.quality_stage(f"pnmi {name} {layer}", labels, self.data, ",".join(splits), product)

    def measuring(self, subject: Subject) -> dict[str, Stage]:
        """Name -> command, of those that measure a subject."""
        made: dict[str, Stage] = {}
        needs = [] if subject.run is None else [subject.run.name]
        for layer, features in subject.layers.items():
            name = f"measured-{subject.name}-{layer}"
            labels = self.labels(name, features, ("train", *MEASURED), "train", needs, subject.options)
            made[f"labels {layer}"] = labels
            made[f"pnmi {layer}"] = self.quality(subject.name, layer, labels, MEASURED)
        for split in MEASURED:
            command = ["mtssl", "evaluate-abx", *subject.source, *subject.options, "--data", str(self.data)]
            command += ["--item", str(self.data / f"{split}.abx.item"), "--split", split, *ABX_OPTIONS]
            product = self.product(f"{subject.name}-abx-{split}")
            name = f"abx {subject.name} {split}"
            made[f"abx {split}"] = stages.json_stage(name, command, product, ["speech", *needs])
        return {**made, **self.finetuning(subject)}

    def finetuning(self, subject: Subject) -> dict[str, Stage]:
        """CTC on ten minutes, then transcripts of test by the checkpoint that is best on valid."""
        if subject.run is None:
            return {}
        checkpoint = stages.hydra_value(str(subject.run.products[0]))
        settings = [*words_of(CTC_SETTINGS), f"model.pretrained={checkpoint}", f"common.seed={subject.seed}"]
        settings += ["model.no_pretrained_weights=true"] if subject.options else []
        settings.append(f"optimization.max_update={self.args.ctc_updates}")
        name, needs = f"{subject.name}-ctc", ("text", subject.run.name)
        tuned = stages.training_stage(name, CTC_RECIPE, self.data, self.out, settings, needs)
        transcripts = stages.transcripts_stage(
            f"transcribe {subject.name}", tuned, self.data, self.product(name)
        )
        return {"ctc": tuned, "transcribe": transcripts}

    # -- what is measured

    def measure(self, subjects: Sequence[Subject]) -> None:
        """Measure and fine-tune subjects, and write their records."""
        made = {subject.name: self.measuring(subject) for subject in subjects}
        commands = [stage for some in made.values() for stage in some.values()]
        self.pipeline.run(*commands, at_once=self.args.at_once)
        for subject in subjects:
            self._record(subject, made[subject.name])

    def _record(self, subject: Subject, made: Mapping[str, Stage]) -> None:
        found = {key: results.read_json(stage.products[0]) for key, stage in made.items() if is_json(stage)}
        pnmi = {layer: found[f"pnmi {layer}"] for layer in subject.layers}
        layers, tokens = table.scores_by_layer(pnmi, {split: found[f"abx {split}"] for split in MEASURED})
        run = None if subject.options else subject.run  # an untrained network has not been trained
        ran = [stage for stage in (run, made.get("ctc")) if stage is not None]
        record = table.Record(
            kind=subject.kind,
            seed=subject.seed,
            layers=layers,
            counts=tokens,
            ctc=table.error_rates(found.get("transcribe")),
            health={} if run is None else health_of(run.folder),
            settings=[] if run is None else [word for word in run.command if is_setting(word, self.out)],
            seconds={stage.name: self.pipeline.seconds[stage.name] for stage in ran},
        )
        self.records[record.name] = record
        if self.args.record is not None:
            table.write_record(self.args.record, record)


def baselines(first: Stage, seeds: Sequence[int]) -> list[Subject]:
    """MFCCs, filterbanks, and an untrained network with each seed, which CTC trains from scratch."""
    found = [Subject(name, 0, None, {"-": name}, ("--features", name)) for name in BASELINES]
    for seed in seeds:
        random = ("--random-weights", "--seed", str(seed))
        found.append(replace(trained("untrained", seed, first), options=random))
    return found


def trained(kind: str, seed: int, run: Stage) -> Subject:
    """All layers of a trained model."""
    count, checkpoint = setting(run, "model.encoder_layers"), str(run.products[0])
    layers = {str(layer): f"{checkpoint}:{layer}" for layer in range(1, count + 1)}
    return Subject(kind, seed, run, layers, ("--checkpoint", checkpoint))


def setting(run: Stage, key: str) -> int:
    """A whole number of a training's composed configuration."""
    return int(OmegaConf.select(OmegaConf.load(run.folder / ".hydra" / "config.yaml"), key))


def is_json(stage: Stage) -> bool:
    """Whether the product of a stage is the JSON of an evaluation."""
    return stage.products[0].name == "numbers.json"


def is_setting(word: str, out: Path) -> bool:
    """Whether a word of a training's command is a setting without a path in the output folder."""
    return "=" in word and str(out) not in word


def updates_of(passes: float, sizes_s: np.ndarray, crop_s: float, batch_s: float) -> int:
    """The updates of some passes over clips, cut to crop_s, with batch_s of audio in an update."""
    return max(1, math.ceil(passes * float(np.minimum(sizes_s, crop_s).sum()) / batch_s))


def health_of(folder: Path) -> dict[str, float]:
    """Accuracies, losses and variances in the last validation of a training."""
    found = last_validation((folder / "hydra_train.log").read_text(encoding="utf-8"))
    return {name: found[name] for name in HEALTH if name in found}


def report(records: Sequence[table.Record], out: Path, pipeline: Pipeline | None = None) -> None:
    """Write table.md and results.json, and print the table."""
    content = table.summarise(records)
    if pipeline is not None:
        content |= results.how_made(pipeline)
    results.write_json(out / "results.json", content)
    text = table.markdown(records)
    (out / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{out / 'results.json'}, {out / 'table.md'}")


if __name__ == "__main__":
    sys.exit(run_example(main))
