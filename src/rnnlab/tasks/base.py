"""What every task shares: one loss for three splits, exact metrics, the optimizer."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor, nn
from torchmetrics import Metric

from rnnlab.data.batch import Batch
from rnnlab.data.spec import Kind, SequenceSpec
from rnnlab.nn.gradients import NonFiniteGradientGuard
from rnnlab.nn.rnn import SimpleRNN, map_state
from rnnlab.nn.sharding import shard
from rnnlab.tasks.metrics import MeanLoss
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require


@contextmanager
def _arguments_of(key: str) -> Iterator[None]:
    """Arguments that an optimizer or scheduler does not take are the user's mistake."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {error}") from error


def require_total_steps(total_steps: float) -> None:
    """Raise `UserError` if a schedule cannot know when the run ends."""
    require(
        0 < total_steps < float("inf"),
        "optim.scheduler has to know when the run ends: set trainer.max_epochs or trainer.max_steps.",
    )


def require_fsdp_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise `UserError` for an optimizer that shards cannot be restored with."""
    require(
        not isinstance(optimizer, torch.optim.SGD) or all(group["momentum"] > 0 for group in optimizer.param_groups),
        "optim.optimizer.momentum=0: with trainer=fsdp Lightning restores no optimizer that remembers nothing. "
        "Set a momentum, or use trainer=ddp.",
    )


class Task(pl.LightningModule):
    """A network with a loss, metrics and a way to show what it predicts.

    A subclass says which `kind` of data it reads, where the network is read out, and defines `loss` and `make_metrics`.
    Training only returns the loss: what is logged, and how often, is the callbacks' matter, so that a step costs no
    more than it must.

    **Arguments:**

    - `cell`: config of the recurrent cell, a plain dict.
    - `optim`: config of the optimizer, its scheduler and the scheduler's interval, a plain dict.
    - `spec`: the fields of the data's `SequenceSpec`, a plain dict.
    - `network`: further arguments of `SimpleRNN`.

    **Raises:** `UserError` if the data are of another kind.
    """

    kind: ClassVar[Kind]
    readout: ClassVar[Literal["last", "all"]] = "last"
    uneven = False  # whether batches of one size may hold different numbers of predictions
    loss_label: str  # for the axis of a picture, with the unit

    @classmethod
    def require_fit(cls, model: dict[str, Any], data: dict[str, Any]) -> None:
        """Require, by `require`, what the settings of a model, its `cell` among them, and its data ask of each other.

        Called with what is known before any data are read. What is left out is not asked for.
        """

    def __init__(self, cell: dict[str, Any], optim: dict[str, Any], spec: dict[str, Any], **network: Any):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.optim = optim
        self.spec = SequenceSpec(**spec)
        if self.spec.kind != self.kind:
            raise UserError(f"{type(self).__name__} reads {self.kind}, the data are {self.spec.kind}.")
        if cell.get("chrono") == "auto":
            cell = {**cell, "chrono": self.spec.seq_len}
        self.network: Any = self.make_network(cell, **network)
        self.expect_tests(self.spec.test_lengths)
        self.guard = NonFiniteGradientGuard()
        self.loaded_state: Any = None
        self.train_state: Any = None  # of the previous training batch, for stateful batches
        self.evaluation_state: Any = None  # the same in validation and test
        self.shards: list[Any] = []  # parts of the network whose weights the ranks share, with trainer=fsdp

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of every hook that it calls, 40 times a step. nn.Module would first make sure,
        # slowly, that no parameter or submodule is meant, which costs a small network a twentieth of its speed
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def expect_tests(self, lengths: tuple[int, ...]) -> None:
        """Be ready for the test parts of data with these `test_lengths`."""
        self.tests = ["test", *(f"test_{length}" for length in lengths)]
        self.metrics = nn.ModuleDict({split: nn.ModuleDict(self._metrics()) for split in ("val", *self.tests)})

    def make_network(self, cell: dict[str, Any], **network: Any) -> nn.Module:
        """What gives `(out, state)` for `(x, state)`."""
        return SimpleRNN(cell, self.spec.input_size, self.spec.output_size, self.readout, **network)

    def loss(self, out: Tensor, y: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        """The loss of predictions `out` of targets `y`, a scalar: the mean over all predictions, or their sum."""
        raise NotImplementedError

    def count(self, y: Tensor) -> int | Tensor:
        """How many predictions `loss` takes the mean of."""
        return y.numel()

    def make_metrics(self) -> dict[str, Metric]:
        """Metrics by name; each is updated with (network output, target), both flattened over batch and time."""
        raise NotImplementedError

    def derived(self, loss: float) -> dict[str, float]:
        """Figures that follow from the mean loss of a split alone."""
        return {}

    def text(self, batch: Batch) -> str | None:
        """What the network makes of a batch, for people to read; `None` if there is nothing to read."""
        return None

    def figures(self, datamodule: Any, split: str) -> dict[str, Figure]:
        """What the network makes of the validation or test part, for people to look at, by name."""
        return {}

    def table(self, scores: dict[str, float]) -> RenderableType:
        """The metrics of a part as people read them."""
        table = Table("metric", "value")
        for name, score in scores.items():
            table.add_row(name, repr(score))
        return table

    def configure_model(self) -> None:
        """With `trainer=fsdp`, leave each rank its share of every weight. Lightning calls this before fit and test."""
        if self.device_mesh is not None and not self.shards:
            self.shards = shard(self.network, self.device_mesh.device_type)

    def gather(self) -> None:
        """Let each rank hold all weights and use them by itself, until `scatter`; without shards it does anyway."""
        for part in self.shards:
            part.set_reshard_after_forward(False, recurse=False)
            part.set_reshard_after_backward(False, recurse=False)
            part.unshard()

    def scatter(self) -> None:
        """Leave each rank its share again."""
        for part in self.shards:
            part.reshard()
            part.set_reshard_after_forward(part is not self.network, recurse=False)  # whose backward pass comes next
            part.set_reshard_after_backward(True, recurse=False)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """See `SimpleRNN.forward`."""
        return self.network(x, state)

    def predict(self, batch: Batch, state: Any = None) -> tuple[Tensor, Tensor, Any]:
        """The network's output for a batch, the targets on the scale of that output, and the final state."""
        out, state = self.network(batch.x, state, batch.lengths)
        return out, batch.y, state

    def training_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of a training batch and its targets.

        Stateful batches (truncated BPTT) start from the previous batch's detached state.
        """
        out, y, state = self.predict(batch, self.train_state if batch.carry_state else None)
        if batch.carry_state is not None:
            self.train_state = map_state(state, Tensor.detach)
        return self.loss(out, y), y

    def probe_loss(self, batch: Batch) -> Tensor:
        """The loss of a batch in evaluation mode, of which `GradientFlow` takes the gradient."""
        return self.loss(*self.predict(batch)[:2])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, y = self.training_loss(batch)
        return loss * self._weight(y) if self.uneven and self.trainer.world_size > 1 else loss

    # Lightning looks at the signature in every step; one that is stored need not be worked out again
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._measure(batch, self.tests[dataloader_idx])

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.evaluate(batch)[0]

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None
    ) -> None:
        by_value = gradient_clip_algorithm == "value"
        scaled = self.trainer.precision == "16-mixed"  # by a scaler that leaves steps out by itself
        if not scaled:
            self.guard(optimizer, None if by_value else gradient_clip_val)
        if scaled:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif by_value and gradient_clip_val and self.guard.bad is not True:  # then there is a gradient
            # what Lightning calls refuses fused optimizers under bf16-mixed, too
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)

    def on_train_end(self) -> None:
        if skipped := int(self.guard.skipped):
            tell(f"{skipped} step{'s were' if skipped > 1 else ' was'} left out: no finite gradient.")

    def on_validation_start(self) -> None:
        self.gather()  # ranks may evaluate different numbers of batches

    def on_validation_end(self) -> None:
        self.scatter()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        for split in self.tests:
            self._report(split)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.train_state is not None:
            checkpoint["state"] = map_state(self.train_state, self._of_all_ranks)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded_state = checkpoint.get("state")

    def _unfuse(self, optimizer: Any) -> None:
        """Shards know no fused kernel but Adam's."""
        if self.shards:
            require_fsdp_optimizer(optimizer)
        for group in optimizer.param_groups if self.shards else ():
            if group.get("fused") and not isinstance(optimizer, torch.optim.Adam):
                group["fused"] = False

    def on_train_start(self) -> None:
        self._unfuse(self.trainer.optimizers[0])  # a checkpoint may have said otherwise
        saved, self.loaded_state = self.loaded_state, None
        # with other processes or batches the first batch says that it does not go on, and this is not used
        if saved is not None:
            self.train_state = map_state(saved, lambda ranks: ranks[self.global_rank % len(ranks)].to(self.device))

    def _of_all_ranks(self, tensor: Tensor) -> Tensor:
        """A tensor of every rank, (ranks, ...)."""
        parts = [torch.empty_like(tensor) for _ in range(self.trainer.world_size)]
        if len(parts) == 1:
            return tensor[None].clone()
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    def configure_optimizers(self) -> Any:
        make_optimizer = instantiate(self.optim["optimizer"], _convert_="all")
        with _arguments_of("optim.optimizer"):
            optimizer = make_optimizer(self.parameters())
        self._unfuse(optimizer)
        require(
            self.trainer.precision != "16-mixed"
            or not self.trainer.gradient_clip_val
            or not getattr(optimizer, "_step_supports_amp_scaling", False),
            "trainer.gradient_clip_val: with trainer.precision=16-mixed Lightning clips for no fused optimizer. Set "
            "optim.optimizer.fused=false, or trainer.precision=bf16-mixed.",
        )
        if self.optim["scheduler"] is None:
            return optimizer
        make_scheduler = instantiate(self.optim["scheduler"], _convert_="all")
        takes_length = "total_steps" in inspect.signature(make_scheduler).parameters
        with _arguments_of("optim.scheduler"):
            scheduler = make_scheduler(optimizer, **({"total_steps": self._total_steps()} if takes_length else {}))
        interval = {"interval": self.optim["interval"], "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **interval}}

    def _weight(self, y: Tensor) -> Tensor:
        """What this rank's mean counts in that over the ranks, to make it the mean over the predictions of all."""
        mine = torch.as_tensor(self.count(y), dtype=torch.float32, device=y.device)
        total = mine.clone()
        torch.distributed.all_reduce(total)
        return mine * self.trainer.world_size / total.clamp_min(1)

    def _total_steps(self) -> int:
        """How often the scheduler will move."""
        total = self.trainer.estimated_stepping_batches
        if self.optim["interval"] == "epoch":
            total = self.trainer.max_epochs or -1
        require_total_steps(total)
        return int(total)

    def _metrics(self) -> dict[str, Metric]:
        return {"loss": MeanLoss(), **self.make_metrics()}

    def _split(self, split: str) -> Any:
        return self.metrics[split].items()  # type: ignore[operator, union-attr]

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Output and targets of the next batch of a validation or test set."""
        out, y, state = self.predict(batch, self.evaluation_state if batch.carry_state else None)
        self.evaluation_state = None if batch.carry_state is None else state
        return out, y

    def _measure(self, batch: Batch, split: str) -> None:
        out, y = self.evaluate(batch)
        for name, metric in self._split(split):
            metric.update(*(self._total(out, y) if name == "loss" else self.flatten(out, y)))

    def _total(self, out: Tensor, y: Tensor) -> tuple[Tensor, int | Tensor]:
        """The sum of the losses in 32 bits or more, and their number."""
        return self.loss(out.to(torch.promote_types(out.dtype, torch.float32)), y, "sum"), self.count(y)

    def flatten(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and targets without the time dimension, if they have one."""
        return out.flatten(0, -2), y.flatten()

    def _report(self, split: str) -> None:
        scores: dict[str, float] = {}
        for name, metric in self._split(split):
            score = metric.compute()
            scores |= score if isinstance(score, dict) else {name: score.item()}
            metric.reset()
        scores |= self.derived(scores["loss"])
        # every rank holds the same figures, torchmetrics has gathered them; loggers get them from the callbacks
        part, _, which = split.partition("_")  # test_64/accuracy is test/accuracy_64
        named = {f"{part}/{name}{which and f'_{which}'}": score for name, score in scores.items()}
        self.log_dict(named, logger=False, sync_dist=True)
