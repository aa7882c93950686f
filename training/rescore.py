"""Give weights their rescoring: how a score looks in the light of the image's other detections.

``python training/rescore.py WEIGHTS OUT --data ../shared/data/stage1_train.zip``

Learnt from the images of the train split; validation images are not looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_deepretina.model.weights import load_model, save_weights
from napari_deepretina.training.rescore import learn_rescoring
from napari_deepretina.training.run import split_data


def main() -> None:
    """Write OUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()
    train, _ = split_data([arguments.data])
    model = learn_rescoring(load_model(arguments.weights), train)
    save_weights(model.network.state_dict(), model.info, arguments.out)
    print(arguments.out, model.info.rescoring)


if __name__ == "__main__":
    main()
