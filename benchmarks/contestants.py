"""One contestant of `peers_speed.py`, in its own environment: does what it is told, line by line.

Nothing here imports the package unless it is the contestant.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Work = Callable[[Any], Any]


def ours(weights: str, precision: str, threads: int) -> dict[str, Work]:
    """The whole way from pixels to labels; folders as the command line does them."""
    import tempfile

    import torch

    from napari_deepretina.inference.batch import segment_files
    from napari_deepretina.inference.results import Places
    from napari_deepretina.inference.segment import segment
    from napari_deepretina.inference.settings import SegmentSettings
    from napari_deepretina.inference.sources import find_sources
    from napari_deepretina.inference.steps import drain
    from napari_deepretina.model.weights import load_model

    torch.set_num_threads(threads)
    model = load_model(weights, precision=precision)

    def folder(path: str) -> int:
        with tempfile.TemporaryDirectory() as out:
            sources = find_sources([path])
            settings = SegmentSettings(weights=weights, precision=precision, device="cpu")
            return len(drain(segment_files(sources, Places(Path(out) / "out"), settings)).done)

    return {"image": lambda image: segment(image, model=model).count, "folder": folder}


def torchvision(precision: str, threads: int) -> dict[str, Work]:
    """The stock network with random weights, which draws 100 objects as it comes; masks are left 28 × 28."""
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.set_num_threads(threads)
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, box_score_thresh=0.0).eval()

    @torch.inference_mode()
    def image(pixels: Any) -> int:
        tensor = torch.from_numpy(pixels / 255).float().expand(3, -1, -1)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return len(network([tensor])[0]["boxes"])

    return {"image": image, "folder": lambda path: one_by_one(path, image)}


def stardist(threads: int) -> dict[str, Work]:
    """The network as in 2D_versatile_fluo with random weights; its NMS on the true distances, apart."""
    import tensorflow as tf
    from stardist import edt_prob, star_dist
    from stardist.models import Config2D, StarDist2D

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=1)
    model = StarDist2D(config, name=None, basedir=None)
    known: dict[bytes, tuple[Any, Any]] = {}

    def network(pixels: Any) -> int:
        return len(model.predict(pixels.astype(np.float32) / 255)[0])

    def after(labels: Any) -> int:
        key = labels.tobytes()
        if key not in known:  # the answer of a perfect network
            known[key] = edt_prob(labels)[::2, ::2], star_dist(labels, 32)[::2, ::2]
            return -1
        found, _ = model._instances_from_prediction(
            labels.shape, *known[key], prob_thresh=0.5, nms_thresh=0.4
        )
        return int(found.max())

    return {"image": network, "after": after, "folder": lambda path: one_by_one(path, network)}


def cellpose(threads: int) -> dict[str, Work]:
    """Cellpose's network with random weights, in bfloat16 as it comes; its dynamics on true flows, apart."""
    import torch
    from cellpose import dynamics
    from cellpose.core import run_net
    from cellpose.vit import CPSAM

    torch.set_num_threads(threads)
    model = CPSAM(dtype=torch.bfloat16).to(torch.bfloat16).eval()
    known: dict[bytes, Any] = {}

    def network(pixels: Any) -> int:
        grey = pixels.astype(np.float32) / 255
        return len(run_net(model, np.stack([grey] * 3, -1)[None], bsize=256)[0])

    def after(labels: Any) -> int:
        key = labels.tobytes()
        if key not in known:  # the answer of a perfect network: cell or not, then the flows
            known[key] = dynamics.labels_to_flows([labels])[0]
            return -1
        flows = known[key]
        masks = dynamics.compute_masks(flows[2:4] * 5.0, np.where(flows[1] > 0.5, 5.0, -5.0), niter=200)
        return int((masks[0] if isinstance(masks, tuple) else masks).max())

    return {"image": network, "after": after, "folder": lambda path: one_by_one(path, network)}


def one_by_one(path: str, work: Work) -> int:
    """Every image of a folder, read and worked on."""
    from imageio.v3 import imread

    files = sorted(Path(path).glob("*.png"))
    for file in files:
        pixels = np.asarray(imread(file))
        work(pixels if pixels.ndim == 2 else pixels[..., :3].mean(-1).astype(np.uint8))
    return len(files)


def peak_megabytes() -> float:
    """Of this process since it began, libraries and all."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    """Read orders from standard input, answer on what was standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like elsewhere
    warnings.simplefilter("ignore")
    name, *options = sys.argv[1:-1]
    works = {"ours": ours, "torchvision": torchvision, "stardist": stardist, "cellpose": cellpose}[name](
        *options, threads=int(sys.argv[-1])
    )
    for line in sys.stdin:
        kind, what = line.rstrip("\n").split(" ", 1)
        given = what if kind == "folder" else np.load(what)
        begun = time.perf_counter()
        count = works[kind](given) if kind in works else None
        told = {"seconds": time.perf_counter() - begun, "count": count, "peak": peak_megabytes()}
        print(json.dumps(told if count is not None else None), file=answers, flush=True)


if __name__ == "__main__":
    main()
