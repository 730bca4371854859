"""The sections of the page of a run: training, health, results by layer, retrieval and its galleries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fairseq_mtssl.report.curves import curves_figure
from fairseq_mtssl.report.health import PhaseHealth
from fairseq_mtssl.report.inline import inline_svg
from fairseq_mtssl.report.layer_results import LayerResult, in_series
from fairseq_mtssl.report.page import Section, Table, render
from fairseq_mtssl.report.retrieval_gallery import Query, gallery_markup
from fairseq_mtssl.report.training_log import TrainingLog

NOT_MEASURED = {"wps", "wpb", "bsz", "ups", "wall", "num_updates", "epoch", "alpha", "phase"}
NOT_MEASURED |= {"ntokens", "nsentences", "train_wall", "captions", "images"}
LEARNED = {True: "yes", False: "no", None: ""}
HINT = Markup('<p class="hint">Click a caption or its pictures for more; names, scores and ranks appear.</p>')
WAYS = {"speech_to_image": "speech → image", "image_to_speech": "image → speech"}


def training_section(log: TrainingLog, name: str, phases: Sequence[tuple[int, str]]) -> Section:
    """The training curves and, hidden until a click, the numbers of every validation.

    Raises: TrainingLogError for a log without losses.
    """
    label = "Losses and validation by update; the numbers of the validations follow"
    drawing = inline_svg(curves_figure({name: log}, phases), "curves", label)
    keys = [key for key in log.keys("valid") if key not in NOT_MEASURED and not key.startswith("best_")]
    rows = [
        [str(record.updates), *(_number(record.values.get(key)) for key in keys)]
        for record in log.records
        if record.kind == "valid"
    ]
    starts = ", then ".join(f"{phase} from update {update}" for update, phase in phases)
    markup = render("training", drawing=drawing, validations=Table(["update", *keys], rows))
    return Section("Training", f"Phases: {starts}." if starts else "", markup=markup)


def health_section(runs: Mapping[str, Sequence[PhaseHealth]]) -> Section:
    """A sentence and a table of measures for each phase.

    runs: name -> phases; a single run may have the name "".
    """
    text = (
        "Judged by the last quarter of a phase's updates, against what is known without learning anything. "
        "A phase that ended at chance says nothing about its place in a schedule."
    )
    return Section("Did each phase learn?", text, markup=render("health", runs=runs, table_of=_measures))


def layer_sections(layers: Sequence[LayerResult]) -> list[Section]:
    """A section for each series of results, or one section that says that there are none."""
    sections = []
    for place, series in enumerate(in_series(layers)):
        last = series[-1]
        figure = last.figure()
        label = f"{last.title}, by layer; the numbers follow"
        drawing = inline_svg(figure, f"layers{place}", label) if figure is not None else ""
        checkpoints = Table(["file", "best"], [[each.path.name, each.best()] for each in series])
        markup = render("layers", drawing=drawing, measures=last.table(), checkpoints=checkpoints)
        sections.append(Section(last.title, f"{last.about} Best: {last.best()}.", markup=markup))
    nothing = "Nothing was measured by layer: there is no JSON of evaluate-abx or probe-layers in the folder."
    return sections or [Section("Layers", nothing)]


def scores_section(scores: Mapping[str, Any]) -> Section:
    """Both directions with chance. scores: the JSON of `mtssl evaluate-retrieval`."""
    measured = scores["speech_to_image"]
    # r1, r5, r10; with relevance label also p1, p5, p10, of which p1 is r1
    names = {key: f"{key[0].upper()}@{key[1:]} %" for key in measured if key != "median_rank"}
    names = {key: name for key, name in names.items() if key != "p1"} | {"median_rank": "median rank"}
    rows = []
    for way, name in WAYS.items():
        for label, row in ((name, scores[way]), (f"{name}, chance", scores["chance"][way])):
            rows.append([label, *(f"{row[key]:.1f}" for key in names)])
    right = "any image of its label" if scores["relevance"] == "label" else "the image it was spoken about"
    text = (
        f"Split {scores['split']}: {scores['images']} images, {scores['captions']} spoken captions. "
        f"Right for a caption is {right}."
    )
    if "p10" in names:
        text += " R@k: one of the k best is right; P@k: the share of them that is right."
    return Section("Retrieval", text, Table(["", *names.values()], rows))


def gallery_sections(captions: Sequence[Query], images: Sequence[Query], absent: int = 0) -> list[Section]:
    """The galleries of both directions. absent: the number of images that cannot be shown."""
    first, other = captions[0], images[0]
    texts = [
        f"{len(captions)} captions at equal distances through the split, whatever they score, each with its "
        f"{len(first.answers)} best of {first.candidates} images. A hit has a right one among them.",
        f"The images of {len(images)} of these captions, each with its {len(other.answers)} best of "
        f"{other.candidates} captions.",
    ]
    if absent:
        texts[0] += f" {absent} images have no file that can be shown: their ids stand in their places."
    return [
        Section("Captions find images", texts[0], markup=HINT + gallery_markup(captions, "captions")),
        Section("Images find captions", texts[1], markup=gallery_markup(images, "images")),
    ]


def _measures(phase: PhaseHealth) -> Table:
    rows = [
        [
            measure.name,
            measure.shown(),
            measure.beside(),
            LEARNED[measure.learned] if measure.reference is not None else "",
        ]
        for measure in phase.measures
    ]
    return Table(["measure", "value", "beside", "better"], rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
