"""Put a run's best weights into the package, with the score that users will see.

``python training/ship.py RUN --data ../shared/data/stage1_train.zip --about "…" [--name NAME] [--advise …]``

RUN is a run's folder or a weights file. The header gets the name under which the file is found, what it was
trained on, the settings of post-processing that suit it, and the validation score of the very file: halved
precision, those settings, full precision arithmetic, as `segment` runs it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from napari_deepretina.evaluation import Report, match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.inference.segment import segment
from napari_deepretina.model.weights import BUNDLED, load_model, save_weights
from napari_deepretina.postprocess import PostprocessSettings
from napari_deepretina.training.run import split_data


def main() -> None:
    """Write ``src/napari_deepretina/weights/NAME.safetensors``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="where the validation images are")
    parser.add_argument("--about", required=True, help="what to say about the training data")
    parser.add_argument("--name", default="nuclei")
    parser.add_argument(
        "--advise", nargs="*", default=[], metavar="KEY=VALUE", help="settings, e.g. score=0.75 min_area=20"
    )
    arguments = parser.parse_args()
    _, val = split_data([arguments.data])
    run: Path = arguments.run
    model = load_model(run / "weights.safetensors" if run.is_dir() else run)
    given = dict(text.split("=") for text in arguments.advise)
    advice = PostprocessSettings.model_validate({**model.info.postprocess, **given})
    told = {k: v for k, v in advice.model_dump().items() if k in {*model.info.postprocess, *given}}
    model = replace(model, info=model.info.model_copy(update={"postprocess": told}))
    scores = [
        score_image(match(sample.labels, segment(sample.image, model=model).labels), sample.name)
        for sample in (val[i] for i in range(len(val)))
    ]
    report = Report(tuple(scores))
    figures = {"dsb_score": report.dsb_score, "f1": report.f1, "ap_50": report.ap["0.50"]}
    info = model.info.model_copy(
        update={
            "name": arguments.name,
            "data": arguments.about,
            "score": {k: round(v, 4) for k, v in figures.items()},
        }
    )
    path = BUNDLED / f"{arguments.name}.safetensors"
    save_weights(model.network.state_dict(), info, path)
    print(path, f"{path.stat().st_size / 1e6:.1f} MB", info.score)


if __name__ == "__main__":
    main()
