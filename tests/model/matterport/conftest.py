import json
import zlib
from pathlib import Path

import numpy as np
import pytest

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference"


class Reference:
    """Stored outputs of the original programs, opened when they are asked for."""

    def arrays(self, name):
        return np.load(REFERENCE / f"{name}_reference.npz")

    def told(self, name):
        return json.loads((REFERENCE / f"{name}_reference.json").read_text())

    @property
    def tiny_file(self):
        return REFERENCE / "tiny_mask_rcnn.h5"

    @property
    def manifest(self):
        return json.loads((REFERENCE / "matterport_weights_manifest.json").read_text())


@pytest.fixture(scope="session")
def original():
    if not (REFERENCE / "tiny_reference.npz").is_file():
        pytest.skip("the outputs of the original are not here")
    return Reference()


def stack(file, name):
    """(H, W, N) bool, stored as packed bits."""
    shape = tuple(file[f"{name}_shape"])
    return np.unpackbits(file[f"{name}_packed"])[: np.prod(shape)].reshape(shape).astype(bool)


def made_weights(manifest, model="resnet101_inference"):
    """All weights of the full-size network by the manifest's formula."""
    values = manifest["recipe"]["values_for_full_size_resnet101"]
    gains = {n: g for names, g in values["kernel_gain"].items() for n in names.split(", ")}
    weights = {}
    for layer in manifest["models"][model]["layers"]:
        for told in layer["weights"]:
            name, shape = told["name"], told["shape"]
            owner, kind = name.split("/")
            key = (name + values["salt"].get(owner, "")).encode()
            s = 2 * np.random.default_rng(zlib.crc32(key)).random(int(np.prod(shape))).reshape(shape) - 1
            kind = kind.removesuffix(":0")
            if kind == "kernel":
                fan_in = shape[-1] if owner == "mrcnn_mask_deconv" else np.prod(shape[:-1])
                value = gains.get(owner, 1.0) * np.sqrt(6 / fan_in) * s
            elif kind == "bias":
                fixed = values["fixed_bias"].get(owner)
                value = 0.05 * s if fixed is None else np.array(fixed)
            elif kind == "gamma":
                value = (1 + 0.1 * s) * (0.2 if owner.endswith("_branch2c") else 1.0)
            elif kind == "moving_variance":
                value = 0.5 + (s + 1) / 2
            else:
                value = 0.1 * s
            weights[name] = value.astype(np.float32)
            if "recipe_crc32" in told:
                assert zlib.crc32(weights[name].tobytes()) == told["recipe_crc32"], name
    return weights
