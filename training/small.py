"""The start of ``nuclei-small``: a slimmer network with the backbone of other weights, the rest at random.

``python training/small.py RECIPE.toml START.safetensors [--backbone nuclei]``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import build
from napari_deepretina.model.weights import load_model, save_weights
from napari_deepretina.training.recipe import load_recipe


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("start", type=Path)
    parser.add_argument("--backbone", default="nuclei", help="weights that it is taken from")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    known = load_model(arguments.backbone)
    network = build(recipe.architecture, seed=recipe.seed)
    state = network.state_dict()
    body = {k: v for k, v in known.network.state_dict().items() if k in state and v.shape == state[k].shape}
    network.load_state_dict({**state, **body})
    diameter = known.info.diameter * recipe.architecture.scale / known.info.architecture.scale
    told = {"diameter": diameter, "data": known.info.data}
    info = WeightsInfo(name="start", architecture=recipe.architecture, **told)
    save_weights(network.state_dict(), info, arguments.start, half=False)
    print(f"{len(body)} of {len(state)} tensors taken from {known.path}")


if __name__ == "__main__":
    main()
