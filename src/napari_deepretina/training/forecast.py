"""What a run would do, take and need: a plan to read before starting."""

from __future__ import annotations

import resource
import time

import torch

from napari_deepretina.data.crops import CropStream, Decoded, collate
from napari_deepretina.data.sample import Dataset
from napari_deepretina.data.samplers import round_of
from napari_deepretina.errors import UserError
from napari_deepretina.model.header import normalisation_of
from napari_deepretina.model.network import Network, build
from napari_deepretina.training.recipe import Recipe, Stage
from napari_deepretina.training.trainable import choose_layers, optimizer_of, set_modes

_MEASURED = 2


def forecast(
    recipe: Recipe, train: Dataset, val: Dataset, network: Network | None, device: torch.device
) -> str:
    """Stages, steps, images, and time and memory as measured on a few steps of each crop size.

    Changes `network`, which is trained on these steps.
    """
    network = (network or build(recipe.architecture, seed=recipe.seed)).to(device)
    lines = [
        f"recipe {recipe.name}: {network.architecture.backbone}, from {recipe.weights} weights, images as "
        f"{normalisation_of(network.architecture)}",
        f"classes: {', '.join(network.architecture.classes)}",
        f"images: {len(train)} to train on, {len(val)} to validate on; device {device}",
    ]
    total = 0.0
    speeds: dict[tuple[object, ...], float] = {}
    for stage in recipe.stages:
        positions = round_of(train, stage.sampler)
        stage = stage.resolved(len(positions))
        key = (stage.batch_size, stage.crop, stage.layers, stage.accumulate, stage.regions_per_image)
        if key not in speeds:
            speeds[key] = _seconds_a_step(stage, recipe, network, train, device)
        seconds = speeds[key] * stage.steps
        total += seconds
        rounds = stage.steps * stage.batch_size / len(positions)
        lines.append(
            f"  {stage.name}: {stage.steps} steps of {stage.batch_size} crops of {stage.crop}² "
            f"({rounds:.1f} rounds of {len(positions)}), {stage.optimizer} at {stage.learning_rate:g}, "
            f"layers {stage.layers}, about {_duration(seconds)}"
        )
    lines.append(
        f"in all {_duration(total)} and validation; memory {_gigabytes(device):.1f} GB at the peak so far"
    )
    return "\n".join(lines)


def _seconds_a_step(
    stage: Stage, recipe: Recipe, network: Network, train: Dataset, device: torch.device
) -> float:
    stream = CropStream(
        Decoded(train, network.architecture),
        size=stage.crop,
        augmentation=stage.augmentation,
        seed=recipe.seed,
        length=stage.batch_size,
    )
    batch = collate([stream[k] for k in range(stage.batch_size)])
    if isinstance(batch, UserError):
        raise batch
    batch = batch.to(device)
    choose_layers(network, stage.layers)
    optimizer = optimizer_of(stage, network)
    network.set_sampling(stage.regions_per_image, stage.positive_fraction, stage.masks_per_image)
    begun = 0.0
    for number in range(1 + _MEASURED):  # the first one warms up
        begun = time.perf_counter() if number == 1 else begun
        set_modes(network, stage)
        optimizer.zero_grad(set_to_none=True)
        for part in batch.parts(stage.accumulate):
            sum(network(part.images, part.targets).values(), torch.zeros((), device=device)).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - begun) / _MEASURED


def _gigabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"
