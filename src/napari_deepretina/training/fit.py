"""The training loop, on one page: plain PyTorch on Lightning Fabric."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from napari_deepretina.data.crops import Batch, CropStream, Decoded, collate
from napari_deepretina.data.samplers import round_of
from napari_deepretina.errors import UserError
from napari_deepretina.files import sweep_parts, write_text
from napari_deepretina.lock import sole_use
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import Network, build
from napari_deepretina.model.runs import BEST, remember
from napari_deepretina.training.asked import Asked
from napari_deepretina.training.average import Average
from napari_deepretina.training.checkpoint import load_checkpoint, save_checkpoint
from napari_deepretina.training.control import Control
from napari_deepretina.training.events import EventLog, Tell
from napari_deepretina.training.judge import Judge, describe, is_trained
from napari_deepretina.training.keep import Keeper
from napari_deepretina.training.machine import Machine, in_one_line, normalised_apart
from napari_deepretina.training.recipe import Recipe, Stage, resolved, to_toml
from napari_deepretina.training.resume import digest
from napari_deepretina.training.trainable import (
    choose_layers,
    mean_square_penalty,
    optimizer_of,
    set_modes,
)

if TYPE_CHECKING:
    from napari_deepretina.training.run import Plan


@dataclass
class State:
    """What changes while training; a checkpoint holds all of it."""

    network: Network
    average: Average[Network]
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = -1.0
    best_step: int = 0


@dataclass
class Run:
    """What stays the same while training."""

    fabric: Fabric
    recipe: Recipe
    plan: Plan
    log: EventLog
    control: Control
    judge: Judge | None
    keeper: Keeper
    diameter: float
    out: Path


@dataclass
class Meter:
    """Means of the losses and the speed since the last line of the log."""

    begun: float = field(default_factory=time.perf_counter)
    images: int = 0
    sums: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def add(self, images: int, values: dict[str, torch.Tensor]) -> None:
        """Count one step."""
        self.images += images
        for name, value in values.items():
            self.sums.setdefault(name, []).append(value.detach())

    def read(self, fabric: Fabric) -> dict[str, float]:
        """The means over steps and processes, and begin anew."""
        means = torch.stack([torch.stack(v).mean() for v in self.sums.values()])
        if fabric.world_size > 1:
            means = cast(torch.Tensor, fabric.all_reduce(means, reduce_op="mean"))
        told = dict(zip(self.sums, means.tolist(), strict=True))
        told["images_per_second"] = self.images / (time.perf_counter() - self.begun)
        self.begun, self.images, self.sums = time.perf_counter(), 0, {}
        return told


def fit(
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    machine: Machine | None = None,
    tell: Tell | None = None,
) -> Path:
    """Train, and leave weights in the run's folder.

    ``weights.safetensors`` are the best on validation, or the last where there is nothing to validate on;
    ``last.safetensors`` are those of the last checkpoint.

    Parameters
    ----------
    plan : what to do, on which data, from where.
    out : the run's folder; it is this process's alone meanwhile.
    resume : go on from ``out/checkpoints/last.ckpt``; the weights become bit for bit those of an
        uninterrupted run on the same machine.
    machine : what to train on; by default the best device there is.
    tell : shows events to a person; by default they are printed, a line each.

    Returns
    -------
    Path of the weights.

    Raises
    ------
    UserError
        If the loss stops being finite, an image cannot be read, the memory or the disk is full, or another
        process works in the folder; the last checkpoint stays.
    """
    recipe = resolved(plan.recipe, plan.train)
    fabric = (machine or Machine()).fabric(recipe.precision)
    fabric.launch()
    with (
        sole_use(out) if fabric.is_global_zero else nullcontext(),
        in_one_line(),
        EventLog(out, active=fabric.is_global_zero, tell=tell) as log,
    ):
        state, info = _begin(fabric, recipe, plan, out)
        if resume:
            _restore(state, recipe, load_checkpoint(out / "checkpoints" / "last.ckpt"))
        control = Control(out)
        judge = Judge(plan.val, info, out, log, recipe) if len(plan.val) else None
        keeper = Keeper(out, info, recipe, judged=judge is not None)
        run = Run(fabric, recipe, plan, log, control, judge, keeper, info.diameter, out)
        apart = normalised_apart(fabric, recipe)
        log.write("start", state.step, total=recipe.total_steps, train=len(plan.train), val=len(plan.val),
                  device=str(fabric.device), precision=str(fabric._precision.precision),
                  network=info.architecture.backbone, normalisation=info.normalisation,
                  weights=recipe.weights, notes="; ".join([*plan.notes, *apart]))  # fmt: skip
        try:
            _run_all(run, state, first=not resume)
        except UserError as error:
            log.write("error", state.step, message=str(error))
            raise
        finally:
            control.close()
    return out / BEST


def _run_all(run: Run, state: State, *, first: bool) -> None:
    """All stages from where the state stands; the first time, trained weights are judged before."""
    start, control, total = run.plan.start, run.control, run.recipe.total_steps
    if start and first and is_trained(*start) and not control.stop_asked:
        _judge(run, state)  # where the curves begin; nothing worse is ever kept
    while state.step < total and not control.stop_asked:
        _run_stage(run, state)
    finished = state.step >= total
    if not finished and state.step:  # asked to stop: what is there is judged as well
        _judge(run, state)
    _save(run, state)
    run.log.write("end", state.step, best=state.best, best_step=state.best_step, finished=finished)


def _begin(fabric: Fabric, recipe: Recipe, plan: Plan, out: Path) -> tuple[State, WeightsInfo]:
    """The run's folder, the network on its device, and the description of the weights to be."""
    start = plan.start
    network = start[0] if start else build(recipe.architecture, seed=recipe.seed)
    info = describe(recipe, network, start[1] if start else None, plan.train)
    if fabric.is_global_zero:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        for folder in (out, out / "checkpoints"):
            sweep_parts(folder)
        write_text(out / "recipe.toml", to_toml(recipe))
        asked = plan.asked or Asked(recipe=recipe.name)
        asked.write(out, info=info.model_dump(mode="json"), train=digest(plan.train), val=digest(plan.val))
        remember(out)
    fabric.barrier()
    # Matterport's batch-norm keeps its statistics, so there is nothing to share.
    if fabric.world_size > 1 and fabric.device.type == "cuda" and not network.architecture.is_matterport:
        convert: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm
        network = convert(network)
    fabric.to_device(network)
    choose_layers(network, recipe.stages[0].layers)
    return State(
        network, Average(network, recipe.stages[0].ema), optimizer_of(recipe.stages[0], network)
    ), info


def _run_stage(run: Run, state: State) -> None:
    """Train from the state's step to the end of its stage, or until asked to stop."""
    index, begun = run.recipe.locate(state.step)
    stage = run.recipe.stages[index]
    choose_layers(state.network, stage.layers)
    if begun == 0 and index > 0:
        state.optimizer = optimizer_of(stage, state.network)
    state.average.decay = stage.ema
    state.network.set_sampling(stage.regions_per_image, stage.positive_fraction, stage.masks_per_image)
    model, optimizer = run.fabric.setup(state.network, state.optimizer)
    meter = Meter()
    architecture = state.network.architecture
    for within, batch in enumerate(_batches(run, architecture, index, begun), start=begun):
        if run.control.pause_asked:
            run.log.write("pause", state.step)
            run.control.wait()
            run.log.write("go_on", state.step)
        torch.manual_seed(hash((run.recipe.seed, state.step, run.fabric.global_rank)))
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate_at(within)
        set_modes(state.network, stage)
        values = _step(run, state, stage, model, optimizer, batch)
        state.average.update(state.network)
        state.step += 1
        meter.add(len(batch.images) * run.fabric.world_size, values)
        if state.step % run.recipe.log_every == 0:
            rate = stage.learning_rate_at(within)
            run.log.write(
                "train", state.step, stage=stage.name, **meter.read(run.fabric), learning_rate=rate,
                batch_size=stage.batch_size,
            )  # fmt: skip
        asked = run.control.take_save() if run.fabric.is_global_zero else False
        done = state.step == run.recipe.total_steps
        if asked or done or run.recipe.is_due(run.recipe.validate_every, state.step):
            _judge(run, state)
            meter = Meter()
        if asked or run.recipe.is_due(run.recipe.checkpoint_every, state.step):
            _save(run, state)
        if run.fabric.is_global_zero:
            run.keeper.epoch(state.average.network, state.step)
        if _any_rank(run.fabric, run.control.stop_asked):
            break


def _step(
    run: Run, state: State, stage: Stage, model: Any, optimizer: Any, batch: Batch
) -> dict[str, torch.Tensor]:
    """One optimiser step; the losses, their sum and the gradient's norm."""
    optimizer.zero_grad(set_to_none=True)
    values: dict[str, torch.Tensor] = {}
    parts = batch.parts(stage.accumulate)
    for number, part in enumerate(parts, start=1):
        with run.fabric.no_backward_sync(model, enabled=number < len(parts)):
            losses = {k: v / len(parts) for k, v in model(part.images, part.targets).items()}
            loss = sum(losses.values(), start=torch.zeros((), device=part.images.device))
            if stage.decay == "mean-square" and number == 1:
                loss = loss + mean_square_penalty(state.network, stage.weight_decay)
            _refuse_infinite("loss", loss, state, stage)
            run.fabric.backward(loss)
        for name, value in {**losses, "loss": loss}.items():
            values[name] = values.get(name, torch.zeros_like(value)) + value.detach()
    norm = run.fabric.clip_gradients(model, optimizer, max_norm=stage.clip_norm, error_if_nonfinite=False)
    values["gradient_norm"] = cast(torch.Tensor, norm)
    if run.recipe.precision != "16-mixed":  # there, the scaler passes over such a step
        _refuse_infinite("gradient", values["gradient_norm"], state, stage)
    optimizer.step()
    return values


def _refuse_infinite(what: str, value: torch.Tensor, state: State, stage: Stage) -> None:
    if not torch.isfinite(value):
        raise UserError(
            f"the {what} became {value.item()} at step {state.step}; lower the learning rate "
            f"(now {stage.learning_rate:g}). The last checkpoint is kept."
        )


def _judge(run: Run, state: State) -> None:
    if run.judge is not None and run.fabric.is_global_zero:
        network = state.average.network
        with run.fabric.autocast():
            verdict = run.judge(network, state.step)
        better = verdict.score > state.best
        if better:
            state.best, state.best_step = verdict.score, state.step
        run.keeper.judged(network, state.step, verdict, best=better)
    run.fabric.barrier()


def _batches(run: Run, architecture: Architecture, index: int, begun: int) -> Iterator[Batch]:
    """Batches of one stage from its step `begun` on; every rank takes its share of each."""
    stage, fabric, recipe = run.recipe.stages[index], run.fabric, run.recipe
    if stage.batch_size % (fabric.world_size * stage.accumulate):
        raise UserError(
            f"batch_size {stage.batch_size} cannot be shared by {fabric.world_size} devices"
            + (f" in {stage.accumulate} parts" if stage.accumulate > 1 else "")
        )
    share = recipe.cache_gb / max(1, recipe.workers)
    images = Decoded(run.plan.train, architecture, diameter=run.diameter, cache_gb=share)
    stream = CropStream(
        images,
        size=stage.crop,
        augmentation=stage.augmentation,
        seed=recipe.seed * 1009 + index,
        length=stage.steps * stage.batch_size,
        positions=round_of(run.plan.train, stage.sampler),
        hook=run.plan.hook,
    )
    share = stage.batch_size // fabric.world_size
    first = fabric.global_rank * share
    numbers = [
        list(range(step * stage.batch_size + first, step * stage.batch_size + first + share))
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
        if isinstance(batch, UserError):  # a worker could not make it: told here, without its traceback
            raise batch
        yield batch.to(fabric.device)


def _any_rank(fabric: Fabric, flag: bool) -> bool:
    """Whether any process says so: all of them must stop at the same step."""
    if fabric.world_size == 1:
        return flag
    told = fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum")
    return bool(told.item() > 0)


def _save(run: Run, state: State) -> None:
    if run.fabric.is_global_zero:
        save_checkpoint(
            {
                "network": state.network.state_dict(),
                "average": state.average.network.state_dict(),
                "updates": state.average.updates,
                "optimizer": state.optimizer.state_dict(),
                "step": state.step,
                "best": state.best,
                "best_step": state.best_step,
            },
            run.out / "checkpoints" / "last.ckpt",
        )
        run.keeper.checkpoint(state.average.network, state.step)
    run.fabric.barrier()


def _restore(state: State, recipe: Recipe, saved: dict[str, Any]) -> None:
    state.step, state.best = saved["step"], saved["best"]
    state.best_step = saved.get("best_step", 0)
    within = max(0, min(state.step, recipe.total_steps) - 1)
    stage = recipe.stages[recipe.locate(within)[0]]
    try:
        state.network.load_state_dict(saved["network"])
        state.average.network.load_state_dict(saved["average"])
        state.average.updates = saved["updates"]
        choose_layers(state.network, stage.layers)
        state.optimizer = optimizer_of(stage, state.network)
        state.optimizer.load_state_dict(saved["optimizer"])
    except Exception:
        # torch raises all sorts of types where a part does not fit.
        raise UserError(
            "the checkpoint is of another network or optimiser than the recipe's: resume with the recipe "
            "that the run was started with"
        ) from None
