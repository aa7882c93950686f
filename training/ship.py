"""Put a run's best weights into the package, with the scores that users will see.

``python training/ship.py RUN --data SET.zip … [--name NAME] [--advise KEY=VALUE …]``

RUN is a run's folder or a weights file. The header gets the name under which the file is found, the sets it
was trained on as their licences ask them to be named, the settings of post-processing that suit it, and the
validation scores of the very file: halved precision, those settings, full precision arithmetic, as `segment`
runs it. Its ``dsb_score`` is the mean over the sets, each counting alike. A specialist is scored by itself:
give the sets that it is for.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean

from sets import attribution_of, part_of

from napari_deepretina.data import Dataset
from napari_deepretina.evaluation import Report, match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.inference.segment import segment
from napari_deepretina.model.weights import BUNDLED, LoadedModel, copy_with, load_model
from napari_deepretina.postprocess import PostprocessSettings


def report_of(model: LoadedModel, data: Dataset) -> Report:
    """Scores of a network on annotated images, segmented as a user's are."""
    samples = (data[i] for i in range(len(data)))
    return Report(
        tuple(score_image(match(s.labels, segment(s.image, model=model).labels), s.name) for s in samples)
    )


def main() -> None:
    """Write ``src/napari_deepretina/weights/NAME.safetensors``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, nargs="+", help="the sets, each with its split")
    parser.add_argument("--name", default="nuclei")
    parser.add_argument(
        "--advise", nargs="*", default=[], metavar="KEY=VALUE", help="settings, e.g. score=0.75 min_area=20"
    )
    arguments = parser.parse_args()
    run: Path = arguments.run
    model = load_model(run / "weights.safetensors" if run.is_dir() else run, precision="float32")
    given = dict(text.split("=") for text in arguments.advise)
    advice = PostprocessSettings.model_validate({**model.info.postprocess, **given})
    told = {k: v for k, v in advice.model_dump().items() if k in {*model.info.postprocess, *given}}
    model = replace(model, info=model.info.model_copy(update={"postprocess": told}))
    reports = {Path(p).stem: report_of(model, part_of(p, "val")) for p in arguments.data}
    every = list(reports.values())
    figures = {
        "dsb_score": mean(r.dsb_score for r in every),
        "f1": mean(r.f1 for r in every),
        "ap_50": mean(r.ap["0.50"] for r in every),
        **{name: r.dsb_score for name, r in reports.items()},
    }
    sets = {
        "data": ", ".join(f"{Path(p).stem} ({len(part_of(p, 'train'))})" for p in arguments.data),
        "attribution": attribution_of(arguments.data),
    }
    info = model.info.model_copy(
        update={
            "name": arguments.name,
            **({} if model.info.specialist else sets),  # which says itself what it was trained on
            "score": {k: round(v, 4) for k, v in figures.items()},
        }
    )
    path = BUNDLED / f"{arguments.name}.safetensors"
    copy_with(model.path, info, path)
    print(path, f"{path.stat().st_size / 1e6:.1f} MB", info.score)


if __name__ == "__main__":
    main()
