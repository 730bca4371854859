"""The parts of a run's page: training, measures by layer, retrieval and its galleries."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from fairseq_mtssl.report.curves import curves_figure
from fairseq_mtssl.report.health import PhaseHealth
from fairseq_mtssl.report.inline import inline_svg
from fairseq_mtssl.report.layer_results import LayerResult, in_series
from fairseq_mtssl.report.page import Section, Table, folded, table_markup
from fairseq_mtssl.report.retrieval_gallery import Query, gallery_markup
from fairseq_mtssl.report.training_log import TrainingLog

NOT_MEASURED = {"wps", "wpb", "bsz", "ups", "wall", "num_updates", "epoch", "alpha", "phase"}
NOT_MEASURED |= {"ntokens", "nsentences", "train_wall", "captions", "images"}
LEARNED = {True: "yes", False: "no", None: ""}
WAYS = {"speech_to_image": "speech → image", "image_to_speech": "image → speech"}


def training_section(log: TrainingLog, name: str, phases: Sequence[tuple[int, str]]) -> Section:
    """Curves and, folded, every validation in numbers. Raises: TrainingLogError for a log without losses."""
    label = "Losses and validation by update; the numbers of the validations follow"
    markup = _plot(inline_svg(curves_figure({name: log}, phases), "curves", label))
    keys = [key for key in log.keys("valid") if key not in NOT_MEASURED and not key.startswith("best_")]
    if keys:
        rows = [
            [str(record.updates), *(_number(record.values.get(key)) for key in keys)]
            for record in log.records
            if record.kind == "valid"
        ]
        markup += folded("Validation in numbers", table_markup(Table(["update", *keys], rows)))
    starts = ", then ".join(f"{phase} from update {update}" for update, phase in phases)
    return Section("Training", f"Phases: {starts}." if starts else "", markup=markup)


def health_section(runs: Mapping[str, Sequence[PhaseHealth]]) -> Section:
    """A sentence a phase, and its measures in a table. runs: name -> phases; a run alone needs no name."""
    parts = []
    for run, phases in runs.items():
        for phase in phases:
            name = f"{run}, {phase.name}" if run else phase.name
            sentence = f"{name}, updates {phase.first_update} to {phase.last_update}: {phase.text}"
            rows = [
                [
                    measure.name,
                    measure.shown(),
                    measure.beside(),
                    LEARNED[measure.learned] if measure.reference is not None else "",
                ]
                for measure in phase.measures
            ]
            parts.append(f"<p>{html.escape(sentence)}</p>")
            if rows:
                parts.append(table_markup(Table(["measure", "value", "beside", "better"], rows)))
    text = (
        "Judged by the last quarter of a phase's updates, against what is known without learning anything. "
        "A phase that ended at chance says nothing about its place in a schedule."
    )
    return Section("Did each phase learn?", text, markup="\n".join(parts))


def layer_sections(layers: Sequence[LayerResult]) -> list[Section]:
    """One a measure, or one that says that there is none."""
    sections = []
    for place, series in enumerate(in_series(layers)):
        last = series[-1]
        figure, table = last.figure(), table_markup(last.table())
        if figure is None:
            markup = table
        else:
            drawn = inline_svg(figure, f"layers{place}", f"{last.title}, by layer; the numbers follow")
            markup = _plot(drawn, small=True) + folded("In numbers", table)
        if len(series) > 1:
            rows = [[each.path.name, each.best()] for each in series]
            markup += folded(
                "The best layers of every checkpoint", table_markup(Table(["file", "best"], rows))
            )
        sections.append(Section(last.title, f"{last.about} Best: {last.best()}.", markup=markup))
    nothing = "Nothing was measured by layer: there is no JSON of evaluate-abx or probe-layers in the folder."
    return sections or [Section("Layers", nothing)]


def scores_section(scores: Mapping[str, Any]) -> Section:
    """Both directions with chance. scores: what `mtssl evaluate-retrieval` writes as JSON."""
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
    """Both galleries. absent: images without a file that can be shown."""
    first, other = captions[0], images[0]
    texts = [
        f"{len(captions)} captions at equal distances through the split, whatever they score, each with its "
        f"{len(first.answers)} best of {first.candidates} images. A hit has a right one among them.",
        f"The images of {len(images)} of these captions, each with its {len(other.answers)} best of "
        f"{other.candidates} captions.",
    ]
    if absent:
        texts[0] += f" {absent} images have no file that can be shown: their ids stand in their places."
    hint = '<p class="hint">Click a caption or its pictures for more; names, scores and ranks appear.</p>'
    return [
        Section("Captions find images", texts[0], markup=hint + gallery_markup(captions, "captions")),
        Section("Images find captions", texts[1], markup=gallery_markup(images, "images")),
    ]


def _plot(drawing: str, small: bool = False) -> str:
    """A drawing that scrolls sideways, by keys too, where the window is narrower than it."""
    return f'<div class="plot{" small" * small}" tabindex="0">{drawing}</div>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
