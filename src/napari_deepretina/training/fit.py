"""The training loop, on one page: plain PyTorch on Lightning Fabric."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from napari_deepretina import __version__
from napari_deepretina.data.crops import Batch, CropStream, collate
from napari_deepretina.data.sample import Dataset
from napari_deepretina.errors import UserError
from napari_deepretina.inference.device import fast_cpu_bfloat16
from napari_deepretina.model.network import MaskRCNN, build
from napari_deepretina.model.weights import WeightsInfo, save_weights
from napari_deepretina.training.average import Average
from napari_deepretina.training.checkpoint import load_checkpoint, save_checkpoint
from napari_deepretina.training.events import EventLog
from napari_deepretina.training.recipe import Recipe, Stage, to_toml
from napari_deepretina.training.validate import validate


@dataclass
class State:
    """What changes while training; a checkpoint holds all of it."""

    network: MaskRCNN
    average: Average[MaskRCNN]
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = -1.0


def fit(
    recipe: Recipe,
    train: Dataset,
    val: Dataset,
    out: Path,
    *,
    start: tuple[MaskRCNN, WeightsInfo] | None = None,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    quiet: bool = False,
    data_name: str = "",
) -> Path:
    """Train, and leave the best weights on validation in ``out/weights.safetensors``.

    Parameters
    ----------
    recipe : what to do.
    train, val : data to learn from and data to judge by; the two share no image.
    out : the run's folder.
    start : network to start from, with its description; by default random weights of the recipe's
        architecture.
    resume : go on from ``out/checkpoints/last.ckpt``; the weights become bit for bit those of an
        uninterrupted run on the same machine.
    accelerator, devices : as Fabric understands them.

    Returns
    -------
    Path of the weights.

    Raises
    ------
    UserError
        If the loss stops being finite; the last checkpoint stays.
    """
    fabric = Fabric(accelerator=accelerator, devices=devices, precision=_precision(recipe, accelerator))
    fabric.launch()
    network = start[0] if start else build(recipe.architecture, seed=recipe.seed)
    info = _describe(recipe, network, start, train, data_name)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    (out / "recipe.toml").write_text(to_toml(recipe), "utf-8")
    stop = StopRequest(out)
    fabric.to_device(network)
    state = State(network, Average(network, recipe.stages[0].ema), _optimizer(recipe.stages[0], network))
    if resume:
        _restore(state, recipe, load_checkpoint(out / "checkpoints" / "last.ckpt"))
    with EventLog(out, quiet=quiet or not fabric.is_global_zero) as log:
        log.write(
            "start",
            state.step,
            total=recipe.total_steps,
            train=len(train),
            val=len(val),
            device=str(fabric.device),
            precision=str(fabric._precision.precision),
        )
        try:
            while state.step < recipe.total_steps and not stop.asked:
                _run_stage(fabric, recipe, state, train, val, out, log, stop, info)
        except UserError as error:
            log.write("error", state.step, message=str(error))
            raise
        if fabric.is_global_zero:
            if state.step < recipe.total_steps:  # asked to stop: what is there is judged as well
                with fabric.autocast():
                    _judge(state, val, out, log, info)
            _save(state, out)
        log.write("end", state.step, best=state.best, finished=state.step >= recipe.total_steps)
    return out / "weights.safetensors"


def _run_stage(
    fabric: Fabric,
    recipe: Recipe,
    state: State,
    train: Dataset,
    val: Dataset,
    out: Path,
    log: EventLog,
    stop: StopRequest,
    info: WeightsInfo,
) -> None:
    """Train from the state's step to the end of its stage, or until asked to stop."""
    index, begun = recipe.locate(state.step)
    stage = recipe.stages[index]
    if begun == 0 and index > 0:
        state.optimizer = _optimizer(stage, state.network)
    state.average.decay = stage.ema
    state.network.regions.regions_per_image = stage.regions_per_image
    state.network.regions.positive_fraction = stage.positive_fraction
    model, optimizer = fabric.setup(state.network, state.optimizer)
    clock, seen = time.perf_counter(), 0
    sums: dict[str, list[torch.Tensor]] = {}
    for within, batch in enumerate(_batches(fabric, recipe, index, begun, train), start=begun):
        torch.manual_seed(hash((recipe.seed, state.step, fabric.global_rank)))
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate_at(within)
        model.train()
        losses = model(batch.images, batch.targets)
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss became {loss.item()} at step {state.step}; lower the learning rate "
                f"(now {stage.learning_rate:g}). The last checkpoint is kept."
            )
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        norm = fabric.clip_gradients(model, optimizer, max_norm=stage.clip_norm)
        optimizer.step()
        state.average.update(state.network)
        state.step += 1
        seen += len(batch.images) * fabric.world_size
        for name, value in {**losses, "loss": loss, "gradient_norm": norm}.items():
            sums.setdefault(name, []).append(value.detach())
        if state.step % recipe.log_every == 0:
            means = {name: torch.stack(v).mean().item() for name, v in sums.items()}
            rate = seen / (time.perf_counter() - clock)
            log.write(
                "train",
                state.step,
                stage=stage.name,
                **means,
                learning_rate=stage.learning_rate_at(within),
                images_per_second=rate,
            )
            clock, seen, sums = time.perf_counter(), 0, {}
        last = state.step == recipe.total_steps
        if fabric.is_global_zero and (state.step % recipe.validate_every == 0 or last):
            with fabric.autocast():
                _judge(state, val, out, log, info)
            clock, seen = time.perf_counter(), 0
        if fabric.is_global_zero and state.step % recipe.checkpoint_every == 0:
            _save(state, out)
        if stop.asked:
            break


def _judge(state: State, val: Dataset, out: Path, log: EventLog, info: WeightsInfo) -> None:
    """Score the averaged weights on the validation images; keep them if they are the best."""
    begun = time.perf_counter()
    report, settings = validate(state.average.network, info, val)
    score = report.dsb_score
    log.write(
        "validation",
        state.step,
        dsb_score=score,
        f1=report.f1,
        ap_50=report.ap["0.50"],
        ap_75=report.ap["0.75"],
        score_threshold=settings.score,
        seconds=time.perf_counter() - begun,
    )
    if score > state.best:
        state.best = score
        best = info.model_copy(
            update={
                "score": {"dsb_score": score, "f1": report.f1, "ap_50": report.ap["0.50"]},
                "steps": state.step,
                "postprocess": {"score": settings.score},
            }
        )
        save_weights(state.average.network.state_dict(), best, out / "weights.safetensors")


def _batches(fabric: Fabric, recipe: Recipe, index: int, begun: int, train: Dataset) -> Iterator[Batch]:
    """Batches of one stage from its step `begun` on; every rank takes its share of each."""
    stage = recipe.stages[index]
    if stage.batch_size % fabric.world_size:
        raise UserError(f"batch_size {stage.batch_size} cannot be shared by {fabric.world_size} devices")
    stream = CropStream(
        train,
        size=stage.crop,
        short_side=recipe.architecture.short_side,
        augmentation=stage.augmentation,
        seed=recipe.seed * 1009 + index,
        length=stage.steps * stage.batch_size,
    )
    share = stage.batch_size // fabric.world_size
    numbers = [
        list(
            range(
                step * stage.batch_size + fabric.global_rank * share,
                step * stage.batch_size + (fabric.global_rank + 1) * share,
            )
        )
        for step in range(begun, stage.steps)
    ]
    loader = DataLoader(
        stream,
        batch_sampler=numbers,
        collate_fn=collate,
        num_workers=recipe.workers,
        persistent_workers=recipe.workers > 0,
        prefetch_factor=4 if recipe.workers else None,
    )
    for batch in loader:
        yield Batch(batch.images.to(fabric.device), [t.to(fabric.device) for t in batch.targets])


def _optimizer(stage: Stage, network: torch.nn.Module) -> torch.optim.Optimizer:
    """Weight decay is for matrices and kernels, not for biases and norms."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": stage.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=stage.learning_rate, momentum=stage.momentum)
    return torch.optim.AdamW(groups, lr=stage.learning_rate)


def _save(state: State, out: Path) -> None:
    save_checkpoint(
        {
            "network": state.network.state_dict(),
            "average": state.average.network.state_dict(),
            "updates": state.average.updates,
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "best": state.best,
        },
        out / "checkpoints" / "last.ckpt",
    )


def _restore(state: State, recipe: Recipe, saved: dict[str, Any]) -> None:
    state.step, state.best = saved["step"], saved["best"]
    state.network.load_state_dict(saved["network"])
    state.average.network.load_state_dict(saved["average"])
    state.average.updates = saved["updates"]
    index, _ = recipe.locate(max(0, state.step - 1))
    state.optimizer = _optimizer(recipe.stages[index], state.network)
    state.optimizer.load_state_dict(saved["optimizer"])


def _precision(recipe: Recipe, accelerator: str) -> Any:
    if recipe.precision != "auto":
        return recipe.precision
    on_cpu = accelerator == "cpu" or not torch.cuda.is_available()
    fast = fast_cpu_bfloat16() if on_cpu else torch.cuda.is_bf16_supported()
    return "bf16-mixed" if fast else "32-true"


def _describe(
    recipe: Recipe,
    network: MaskRCNN,
    start: tuple[MaskRCNN, WeightsInfo] | None,
    train: Dataset,
    data_name: str,
) -> WeightsInfo:
    """The header of the weights to be; some hundred training images tell the usual diameter."""
    short_side = network.architecture.short_side
    known = start[1].diameter if start else None
    return WeightsInfo(
        name=recipe.name,
        architecture=network.architecture,
        diameter=known or typical_diameter(train, short_side),
        data=data_name,
        recipe=recipe.name,
        version=__version__,
    )


def typical_diameter(dataset: Dataset, short_side: int, *, most: int = 100) -> float:
    """Median diameter of the nuclei, as discs of their area, in pixels of the network's input."""
    chosen: Sequence[int] = range(0, len(dataset), max(1, len(dataset) // most))
    diameters = []
    for labels in (dataset[i].labels for i in itertools.islice(chosen, most)):
        areas = np.bincount(labels.ravel())[1:]
        zoom = max(1.0, short_side / min(labels.shape))
        diameters.append(2 * np.sqrt(areas[areas > 0] / np.pi) * zoom)
    joined = np.concatenate(diameters) if diameters else np.zeros(0)
    return float(np.round(np.median(joined), 1)) if len(joined) else 32.0


class StopRequest:
    """Whether someone asked the run to end: SIGINT, SIGTERM, or a file ``stop`` in its folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "stop"
        self._file.unlink(missing_ok=True)
        self._signalled = False
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                signal.signal(number, self._on_signal)
            except ValueError:  # not the main thread: the file still works
                break

    def _on_signal(self, *_: object) -> None:
        self._signalled = True

    @property
    def asked(self) -> bool:
        """True once asked; stays so."""
        self._signalled = self._signalled or self._file.exists()
        return self._signalled
