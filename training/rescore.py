"""Give weights their rescoring: how a score looks in the light of the image's other detections.

``python training/rescore.py WEIGHTS OUT --most 120 --data SET.zip …``

Learnt from images of the train splits, at most so many of each set (``--most``), so that no set outweighs the
others; validation images are not looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sets import all_of

from napari_deepretina.model.weights import copy_with, load_model
from napari_deepretina.training.rescore import learn_rescoring


def main() -> None:
    """Write OUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--most", type=int, help="images of each set at most; by default all")
    arguments = parser.parse_args()
    train = all_of(arguments.data, "train", most=arguments.most)
    model = learn_rescoring(load_model(arguments.weights, precision="float32"), train)
    copy_with(model.path, model.info, arguments.out)
    print(arguments.out, model.info.rescoring)


if __name__ == "__main__":
    main()
