"""One network out of several that began alike: the weighted mean of their weights.

``python training/average.py OUT.safetensors FILE=0.5 FILE=0.5``

Runs that started from the same weights end in one valley; its middle is flatter than its rims (Wortsman et
al. 2022, model soups). The header is that of the first file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from napari_deepretina.errors import UserError
from napari_deepretina.model.weights import load_model, save_weights


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="+", metavar="FILE=SHARE")
    arguments = parser.parse_args()
    shares = {path: float(share) for path, _, share in (text.rpartition("=") for text in arguments.parts)}
    models = {path: load_model(path) for path in shares}
    first = next(iter(models.values()))
    if len({m.info.architecture for m in models.values()}) > 1 or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError("give networks of one architecture, with shares that add up to 1")
    states = {path: model.network.state_dict() for path, model in models.items()}
    mean = {
        name: sum((shares[p] * s[name] for p, s in states.items()), torch.zeros(()))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.network.state_dict().items()
    }
    save_weights(mean, first.info, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
