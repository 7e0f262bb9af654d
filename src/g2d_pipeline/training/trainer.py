"""The training loop: for epoch, for batch: forward, loss, backward, modulate, step.

Skipped are the backward pass of suppressed encoders, the forward pass of frozen ones (`FeatureCache`) and of
teachers with stored outputs (`teachers.py`). A checkpoint holds the state of all `PARTS`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from g2d_pipeline.config import RunOptions
from g2d_pipeline.errors import enumerated
from g2d_pipeline.features.windows import announce, windows_of
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.models import MultimodalModel, Output, depends_on_batch, sharding
from g2d_pipeline.models.multimodal import CHUNK, estimate_norm_stats, pick_device
from g2d_pipeline.progress import track_epochs
from g2d_pipeline.training import capacity, optimisation, precision
from g2d_pipeline.training.data import Rows, batches_of, epoch_rows, gather
from g2d_pipeline.training.distributed import Group, check_peer, has_batch_norm, running_statistics
from g2d_pipeline.training.history import DivergenceError, History
from g2d_pipeline.training.loader import FeatureCache, Loader, attach_data_access
from g2d_pipeline.training.logs import open_logs
from g2d_pipeline.training.resume import Checkpointer, LoopState, Run, run_identity
from g2d_pipeline.training.scoring import EarlyStopping, Evaluator, ModelSelector
from g2d_pipeline.training.smp import build_schedule
from g2d_pipeline.training.streams import TorchGenerators, seeded
from g2d_pipeline.training.teachers import TeacherOutputs, online_teachers

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

NORM_STATS_SAMPLES = 16 * CHUNK  # at most, to initialise running statistics of batch norm from
# Attributes of a Trainer whose states are in its checkpoints.
PARTS = ("loop", "model", "method", "optimizer", "learning_rate", "scaler", "average", "schedule", "cache",
         "history", "selector", "early_stopping", "random")  # fmt: skip


@dataclass(frozen=True)
class FitResult:
    """The model with the selected weights (on the CPU), the history (a row an epoch), the selected epoch.

    `selected_phase`: its phase and the last phase, from 1; `selection_epochs`: first and last epoch that it
    was selected from; `precision`: of the encoders."""

    model: MultimodalModel
    history: pd.DataFrame
    selected_epoch: int
    selected_phase: tuple[int, int]
    selection_epochs: tuple[int, int]
    precision: str


class Trainer:
    """One training run: `fit` is the loop, `__init__` builds its parts (schedule, cache, selector, …)."""

    def __init__(self, run: Run, options: RunOptions) -> None:
        model, data, method, training, smp, teachers, seed, description = run
        if (smp is not None or method.needs_teachers) and set(teachers) != set(data.modalities):
            raise ValueError(f"SMP and distillation need a teacher for each of {list(data.modalities)}")
        if options.folder is not None:
            options.folder.mkdir(parents=True, exist_ok=True)
        self.model, self.data, self.method = model, data, method
        self.seed, self.options, self.description = seed, options, description
        self.device, self.group, self.random = pick_device(options.device), Group(), TorchGenerators()
        self.target = data.task.encode(torch.as_tensor(data.target))
        precision.check_machine(training, self.device)
        self.group.broadcast_model(model.to(self.device))
        self.sharded = self.group.world > 1 and options.compute.strategy == "fsdp"
        precision.prepare(model, training, self.sharded)
        identity = run_identity(run, windows := windows_of(data.arrays))
        if self.group.is_first:
            training = capacity.resolve_precision(training, model, data, self.device, options.folder)
        training = training.model_copy(update={"precision": self.group.agree(training.precision)})
        self.training, self.dtype = training, precision.autocast_dtype(training.precision)
        self.buffers = running_statistics(model)
        # Each process needs a sample, batch norm needs two.
        self.min_batch = max(2, self.group.world * (2 if has_batch_norm(model) else 1))
        self.state = self._start_method(teachers)
        epochs = self.state.epochs
        self.learning_rate = optimisation.LearningRate(training.lr_schedule, self.optimizer, epochs)
        self.scaler = precision.gradient_scaler(training.precision, self.device)
        self.average = optimisation.Average(model, training.ema)
        views = {m: teachers[m] for m in data.modalities} if teachers else {}
        online = online_teachers(data, views, training.teacher_view)
        self.online = [teacher for m in online if (teacher := views[m].model) is not None]
        for teacher in self.online:
            precision.prepare(teacher, training.model_copy(update={"checkpoint_activations": False}))
        self.schedule = build_schedule(smp, data, views, epochs, known=not online)
        if self.group.world > 1:
            self.schedule.gather = lambda x: self.group.gather(x.T, len(self.batch)).T.contiguous()
        cacheable = self.schedule.cacheable(model, data)
        self.cache = FeatureCache(model, data, self.device, cacheable, options.folder, self.dtype)
        self.loader = Loader(
            data, self.target, views, online, self.cache, self.device, seed=seed, workers=options.workers,
            group=self.group, windows=windows,
        )  # fmt: skip
        self.evaluator = Evaluator(data, method, self.target, self.device, views, self.group)
        self.selector = ModelSelector(data.task, training)
        self.early_stopping = EarlyStopping(data.task, training)
        fitting = self.group.min(capacity.fitting_batch_size(model, data, training, self.device))
        self.loop = LoopState(batch_size=fitting, devices=self.group.world)
        numbers = fitting * self.group.world * sum(math.prod(data.shape(m)) for m in data.modalities)
        self.history = History(model, description, numbers)
        self.batches: list[Rows] = []  # of this epoch
        parts = {name: getattr(self, name) for name in PARTS}
        self.checkpointer = Checkpointer(options, parts, identity, description, self.group)

    def _start_method(self, teachers: Mapping[str, TeacherOutputs]) -> State:
        """The method's state, with the optimizer over the method's parameter groups."""
        epochs = self.method.epochs(self.training.epochs)
        state = State(self.model, None, self.data.task, epochs, teachers=teachers)  # type: ignore[arg-type]
        attach_data_access(state, self.data, self.target, self.training, self.device)
        with seeded(self.seed, "method"):
            self.method.on_fit_start(state)
        for module in self.method.modules().values():
            module.to(self.device)
        self.unsharded = sharding.without_weights(self.model) if self.sharded else self.model
        for encoder in self.model.encoders.values() if self.sharded else ():
            sharding.shard(encoder, precision.blocks(encoder), self.device)
        self.shards = sharding.Shards(self.method.parameter_groups(self.model))
        settings, groups = self.training.optimizer, self.shards.groups
        self.optimizer = optimisation.build_optimizer(settings, groups, self.device)
        self.shards.attach(self.optimizer)
        state.optimizer = self.optimizer
        optimisation.scale_lr(self.optimizer, self.training.scale_lr, self.group.world)
        state.devices, state.sum, state.agree = self.group.world, self.group.sum, self.group.agree
        state.forward, state.backward, state.step = self.forward, self.backward, self.step
        state.mark_updated = lambda modalities: self.cache.mark_updated(modalities)
        return state

    # ---------------------------------------------------------------------------------------------- the loop
    def fit(self) -> FitResult:
        """Train to the end, from the newest checkpoint on where there is one."""
        with self._run_context():
            while self.loop.epoch <= self.state.epochs:
                self._train_epoch()
                self._end_epoch()
        return self._result()

    def _train_epoch(self) -> None:
        """The remaining batches of an epoch."""
        loop, state, schedule, method = self.loop, self.state, self.schedule, self.method
        batches = self._start_epoch()
        needs_teachers = method.needs_teachers or schedule.needs_batch_confidence
        for batch in self.loader.epoch(batches, loop.epoch, loop.batch, needs_teachers):
            self._start_batch(batch)
            state.active = schedule.activate(batch, self.model)  # the modalities whose encoders learn
            state.kappa = schedule.kappa
            batch = self.loader.unfreeze(batch, state.active)
            terms = method.train_batch(batch, state)  # self.forward, method.loss, self.backward
            loop.batch += 1
            is_step = loop.batch % self.training.accumulation == 0 or loop.batch == len(batches)
            if is_step:
                self.step()
            self.history.add(batch, terms, state, is_step)
            self.bar.advance(len(state.whole(batch)), self.history.loss_terms)
            if is_step:
                self.checkpointer.end_step()

    def forward(self, batch: Batch) -> Output:
        """The model's output; suppressed encoders run without gradient, frozen ones are looked up."""
        suppressed = self.schedule.suppressed(self.state.active)
        with self.group.local_rng():
            output: Output = self.model(
                batch.inputs, suppressed, self.schedule.norm, batch.features, self.dtype, self.state.kappa
            )
        return output

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Accumulate the gradients of a scalar loss."""
        batches, share = self.training.accumulation, self.state.share
        loss = loss / batches if batches > 1 else loss
        scaled: Tensor = self.scaler.scale(loss * share if share < 1 else loss)
        scaled.backward(retain_graph=retain_graph)

    def step(self) -> None:
        """All-reduce, modulate, clip, optimizer step, zero_grad."""
        self.group.sum_gradients(self.shards.whole, self.buffers, self.state.share)
        self.schedule.before_step(self.model)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        self.method.after_backward(self.state)
        updated = self.history.record_gradients()
        if (limit := self.training.clip_norm) is not None:
            sharding.clip_gradients(self.shards.parameters, limit)
        self.shards.hand_over()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.cache.mark_updated(updated)
        # None, not zeros: the optimizer skips suppressed encoders, momentum and decay included.
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.model)

    # --------------------------------------------------------------------------------- around epoch and batch
    def _start_epoch(self) -> list[Rows]:
        """The rows of the epoch's batches; schedule and method prepare an epoch that is not a resumed one."""
        loop, train = self.loop, self.data.rows["train"]
        self.state.epoch = loop.epoch
        self.model.train()
        is_new = loop.batch == loop.before == 0
        if is_new:
            self.schedule.start_epoch(loop.epoch)
            self.method.on_epoch_start(self.state)
            optimisation.scale_group_lrs(self.optimizer)
            chosen = self.method.rows(train, self.state)
            loop.rows = None if chosen is train else chosen
        chosen = train if loop.rows is None else loop.rows
        rows = epoch_rows(chosen, self.seed, loop.epoch, self.loader.windows)
        self.batches = self._split_into_batches(rows[loop.before :])
        if is_new:
            self.cache.start_epoch(self.schedule.frozen(self.batches))
        self.bar.start(loop.epoch, self.schedule.describe(), loop.batch)
        return self.batches

    def _split_into_batches(self, rows: Rows) -> list[Rows]:
        """Global batches: the processes share each of them."""
        return list(batches_of(rows, self.loop.batch_size * self.group.world, self.min_batch))

    @property
    def batch(self) -> Rows:
        """Store rows of the current global batch."""
        return self.batches[self.loop.batch] if self.loop.batch < len(self.batches) else np.arange(0)

    def _start_batch(self, batch: Batch) -> None:
        """Tell the method which part of the global batch this process has."""
        loop, state, rows = self.loop, self.state, self.batch
        state.index, state.place = torch.from_numpy(rows), self.group.part(len(rows))
        state.share = len(batch.index) / len(rows)
        self.group.start_batch(self.seed, loop.epoch, loop.batch)

    def _end_epoch(self) -> None:
        """Validate, select, set the learning rate, stop early, checkpoint."""
        loop, state, schedule = self.loop, self.state, self.schedule
        epoch = loop.epoch
        self.history.check()
        self.method.on_epoch_end(state)
        optimisation.restore_group_lrs(self.optimizer)
        model = self.average.module
        cache = self.cache if model is self.model else None  # it holds features of the model itself
        validations = {split: self.evaluator.score(model, split, cache) for split in self.training.scored}
        val = validations["val"]
        scores = {split: validation.scores for split, validation in validations.items()}
        self.history.end_epoch(epoch, schedule.phase, self.optimizer.param_groups[0]["lr"], scores)
        self.log(self.history.epochs)
        phase, last = self._phase()
        self.selector.update(epoch, phase, scores, model, self.method)
        self.early_stopping.update(val.scores, counts=phase == last)
        self.learning_rate.step(val.scores["loss"])
        self.method.on_validation(val, state)
        self.bar.end({"val": next(iter(val.scores.values()))})
        loop.epoch, loop.batch, loop.before, loop.rows = epoch + 1, 0, 0, None
        where = self.description, epoch, state.epochs
        if stopping := self.early_stopping.reached:
            reason = f"no better validation score for {self.early_stopping.epochs} epochs"
            logger.info("%s: stopped after epoch %d of %d: %s", *where, reason)
        if state.stop:
            logger.info("%s: the method ended training after epoch %d of %d", *where)
        if stopping or state.stop:
            loop.epoch = state.epochs + 1
        self.checkpointer.end_epoch(ended=loop.epoch > state.epochs)

    def _phase(self) -> tuple[int, int]:
        """The phase of this epoch (of schedule and method together) and the last phase of the run."""
        epoch, last = (self.method.phase(e, self.state) for e in (self.state.epoch, self.state.epochs))
        return self.schedule.phase + epoch - 1, self.schedule.final_phase + last - 1

    def _initialise_norm_stats(self) -> None:
        """Running statistics of encoders that may be suppressed before they have learnt from a batch."""
        rows = epoch_rows(self.data.rows["train"], self.seed, 0, self.loader.windows)[:NORM_STATS_SAMPLES]
        parts = np.array_split(rows, math.ceil(len(rows) / CHUNK))
        for m in self.schedule.rest_untrained:
            batches = (gather(self.data, some, self.device, [m])[m] for some in parts)
            estimate_norm_stats(self.model.encoders[m], batches, self.dtype)
        if self.average.module is not self.model:
            self.average.module.load_state_dict(self.model.state_dict())

    # ----------------------------------------------------------------------------------- around the whole run
    @contextmanager
    def _run_context(self) -> Iterator[None]:
        """Seeds, precision, error messages, checkpoints, logs and progress bar of a run."""
        precision.keep_freed_memory()
        attempt = capacity.attempt_of(self.model, self.data, self.training, self.device)
        with (
            seeded(self.seed, "dropout"),
            precision.tf32_mode(self.training.precision, self.device),
            capacity.explain_out_of_memory(attempt, lambda: self.loop.batch_size, self.device, self.training),
            self._explained_errors(),
            self.checkpointer.resumed(),
            open_logs(self.options.log, self.options.folder) as self.log,
        ):
            self._adapt_to_devices()
            announce(self.loader.windows, self.description, self.group.agree)
            if self.sharded:
                self.selector.weights = sharding.shard_weights(self.selector.weights, self.model)
            self.state.batch_size = self.loop.batch_size * self.group.world
            steps = len(self._split_into_batches(self.data.rows["train"]))
            done = (self.loop.epoch - 1) * steps + self.loop.batch
            if not done:
                self._initialise_norm_stats()
            self.group.remember(self.buffers)
            epochs, progress = self.state.epochs, self.options.progress
            with track_epochs(self.description, epochs, steps, progress, done) as self.bar:
                yield

    @contextmanager
    def _explained_errors(self) -> Iterator[None]:
        """Add remedies to a DivergenceError, the likeliest first; epoch, batch and sample ids to others."""
        try:
            yield
        except DivergenceError as error:
            suppressed = [self.model.encoders[m] for m in self.schedule.suppressed(self.state.active)]
            outgrown = self.schedule.norm == "frozen" and any(map(depends_on_batch, suppressed))
            by_batch = (
                "suppressed_norm=batch (a suppressed encoder goes by statistics that it has outgrown), "
            )
            raise DivergenceError(
                f"{error}\nThe last good checkpoint: {self.checkpointer.last or 'none was kept'}.\n"
                f"Remedies, the likeliest first: {by_batch if outgrown else ''}a smaller learning rate "
                "(--params lr=…), a warm-up (lr_schedule.warmup=5), clip_norm=1, smaller alpha and beta, or "
                "a look at the features for extreme values."
            ) from None
        except Exception as error:
            check_peer(error)
            own = self.batch[self.group.part(len(self.batch))]
            samples = enumerated(self.data.sample_ids[own])
            error.add_note(f"epoch {self.loop.epoch}, batch {self.loop.batch + 1}, samples {samples}")
            raise

    def _adapt_to_devices(self) -> None:
        """Continue at the same sample after a checkpoint of another number of devices; log the batch size."""
        loop, world = self.loop, self.group.world
        if loop.devices != world:
            rows = self.data.rows["train"] if loop.rows is None else loop.rows
            done = list(batches_of(rows[loop.before :], loop.batch_size * loop.devices))[: loop.batch]
            loop.before, loop.batch = loop.before + sum(map(len, done)), 0
            optimisation.scale_lr(self.optimizer, self.training.scale_lr, world, before=loop.devices)
            note = "%s: goes on on %d devices from a checkpoint of %d: batches are of another size"
            logger.info(note, self.description, world, loop.devices)
            loop.devices = world
        if world > 1:
            samples, rate = loop.batch_size * self.training.accumulation, self.optimizer.param_groups[0]["lr"]
            note = "%s: %d devices × %d samples = %d a step, learning rate %g (scale_lr=%s)"
            logger.info(note, self.description, world, samples, world * samples, rate, self.training.scale_lr)

    def _result(self) -> FitResult:
        """The selected weights in a plain model on the CPU: no shards, no compiled encoders."""
        self.selector.restore(self.model, self.method, last=self.average.module)
        if self.sharded:
            self.unsharded.load_state_dict(sharding.gathered(self.model.state_dict()), assign=True)
        self.schedule.release(self.unsharded)
        for model in (self.unsharded, *self.online):
            precision.unprepare(model)
        import pandas as pd

        chosen, history = self.selector, pd.DataFrame(self.history.epochs)
        phase, epochs = (chosen.phase, self._phase()[1]), (chosen.first, len(history))
        if phase[1] > 1:
            chosen_from = (chosen.epoch, *epochs, *phase)
            logger.info("%s: epoch %d selected of %d to %d, phase %d of %d", self.description, *chosen_from)
        model = self.unsharded.cpu().eval()
        return FitResult(model, history, chosen.epoch, phase, epochs, self.training.precision)
