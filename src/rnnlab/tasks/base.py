"""Base class of the tasks: a network with its loss, metrics and optimizer."""

import inspect
from typing import Any, ClassVar, Literal

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
from rnnlab.nn.rnn import Readout, SimpleRNN, map_state
from rnnlab.tasks.metrics import MeanLoss
from rnnlab.tasks.optimizers import make_schedule, require_clipping
from rnnlab.tasks.sharding import ShardedModule
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError


class Task(ShardedModule):
    """A network with a loss, metrics and a way to show its predictions.

    A subclass sets `kind` and `loss_label` and defines `loss` and `make_metrics`. Callbacks write the loss to the
    loggers.

    `cell` and `optim` are configs, `spec` the fields of the data's `SequenceSpec`, all plain dicts.

    **Raises:** `UserError` if the data are of another kind.
    """

    kind: ClassVar[Kind]
    readout: Readout = "last"
    uneven = False  # whether batches of one size may hold different numbers of targets
    loss_label: str  # of the axis of the loss curve, with the unit

    def __init__(self, cell: dict[str, Any], optim: dict[str, Any], spec: dict[str, Any], **network: Any):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.optim = optim
        self.spec = SequenceSpec(**spec)
        if self.spec.kind != self.kind:
            raise UserError(f"{type(self).__name__} reads {self.kind}, the data are {self.spec.kind}.")
        if cell.get("chrono") == "auto":
            cell = {**cell, "chrono": self.spec.seq_len}
        self.network = self.make_network(cell, **network)
        self.expect_tests(self.spec.test_lengths)
        self.guard = NonFiniteGradientGuard()
        self.train_state: Any = None  # of the previous training batch, if batches are stateful
        self.evaluation_state: Any = None  # the same in validation and test

    @classmethod
    def require_fit(cls, model: dict[str, Any], data: dict[str, Any]) -> None:
        """Raise `UserError` if given settings of model (with its `cell`) and data do not fit each other."""

    def make_network(self, cell: dict[str, Any], **network: Any) -> nn.Module:
        """A network that returns `(out, state)` for `(x, state)`."""
        return SimpleRNN(cell, self.spec.input_size, self.spec.output_size, self.readout, **network)

    def loss(self, out: Tensor, y: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        """The loss of predictions `out` for targets `y`: the mean over all predictions, or their sum."""
        raise NotImplementedError

    def count(self, y: Tensor) -> int | Tensor:
        """The number of predictions that `loss` averages."""
        return y.numel()

    def make_metrics(self) -> dict[str, Metric]:
        """Metrics by name, updated with what `flatten` returns."""
        raise NotImplementedError

    def flatten(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and targets without the time dimension, if they have one."""
        return out.flatten(0, -2), y.flatten()

    def derived(self, loss: float) -> dict[str, float]:
        """Metrics computed from the mean loss of a split."""
        return {}

    def text(self, batch: Batch) -> str | None:
        """Predictions for a batch as text, if the task has any."""
        return None

    def figures(self, datamodule: Any, split: str) -> dict[str, Figure]:
        """Figures of the predictions for the validation or test set, by name."""
        return {}

    def table(self, scores: dict[str, float]) -> RenderableType:
        """The metrics of a split as a table."""
        table = Table("metric", "value")
        for name, score in scores.items():
            table.add_row(name, repr(score))
        return table

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self.network(x, state)

    def predict(self, batch: Batch, state: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Output of the network, targets on its scale, and final state."""
        out, state = self.network(batch.x, state, batch.lengths)
        return out, batch.y, state

    def training_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of a training batch, and its targets."""
        out, y, state = self.predict(batch, self.train_state if batch.carry_state else None)
        if batch.carry_state is not None:
            self.train_state = map_state(state, Tensor.detach)
        return self.loss(out, y), y

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Output and targets of the next batch of a validation or test set."""
        out, y, state = self.predict(batch, self.evaluation_state if batch.carry_state else None)
        self.evaluation_state = None if batch.carry_state is None else state
        return out, y

    def probe_loss(self, batch: Batch) -> Tensor:
        """The loss in evaluation mode, of which `GradientFlow` takes the gradient."""
        out, y, _ = self.predict(batch)
        return self.loss(out, y)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, y = self.training_loss(batch)
        return loss * self._weight(y) if self.uneven and self.trainer.world_size > 1 else loss

    # Lightning inspects the signature in every step, which is faster if it is stored
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]

    def _weight(self, y: Tensor) -> Tensor:
        """The factor that makes the mean over the ranks the mean over all predictions."""
        own = torch.as_tensor(self.count(y), dtype=torch.float32, device=y.device)
        total = own.clone()
        torch.distributed.all_reduce(total)
        return own * self.trainer.world_size / total.clamp_min(1)

    def expect_tests(self, lengths: tuple[int, ...]) -> None:
        """Prepare metrics for data with further test sets of these `test_lengths`."""
        self.test_suffixes = ["", *(f"_{length}" for length in lengths)]  # test/accuracy, test/accuracy_64
        sets = ["val", *(f"test{suffix}" for suffix in self.test_suffixes)]
        self.metrics: Any = nn.ModuleDict(
            {name: nn.ModuleDict({"loss": MeanLoss(), **self.make_metrics()}) for name in sets}
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.update_metrics(batch, self.metrics["val"])

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.update_metrics(batch, self.metrics[f"test{self.test_suffixes[dataloader_idx]}"])

    def update_metrics(self, batch: Batch, metrics: Any) -> None:
        out, y = self.evaluate(batch)
        self.update_loss(metrics["loss"], out, y)
        for name, metric in metrics.items():
            if name != "loss":
                metric.update(*self.flatten(out, y))

    def update_loss(self, metric: MeanLoss, out: Tensor, y: Tensor) -> None:
        """Add the losses of a batch, summed in 32 bits or more."""
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        metric.update(self.loss(out, y, "sum"), self.count(y))

    def on_validation_epoch_end(self) -> None:
        self._report("val", "")

    def on_test_epoch_end(self) -> None:
        for suffix in self.test_suffixes:
            self._report("test", suffix)

    def _report(self, split: str, suffix: str) -> None:
        scores: dict[str, float] = {}
        for name, metric in self.metrics[f"{split}{suffix}"].items():
            score = metric.compute()
            scores |= score if isinstance(score, dict) else {name: score.item()}
            metric.reset()
        scores |= self.derived(scores["loss"])
        # torchmetrics has reduced them over the ranks; callbacks write them to the loggers
        self.log_dict(
            {f"{split}/{name}{suffix}": score for name, score in scores.items()}, logger=False, sync_dist=True
        )

    def configure_optimizers(self) -> Any:
        optimizer = instantiate(self.optim["optimizer"], _convert_="all")(self.parameters())
        self.adapt_optimizer(optimizer)
        require_clipping(optimizer, self.trainer)
        if self.optim["scheduler"] is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": make_schedule(self.optim, optimizer, self.trainer)}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None
    ) -> None:
        if self.trainer.precision == "16-mixed":  # whose scaler skips steps itself
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        by_value = gradient_clip_algorithm == "value"
        self.guard(optimizer, None if by_value else gradient_clip_val)
        if by_value and gradient_clip_val and self.guard.bad is not True:
            # Lightning's own clipping refuses fused optimizers with bf16-mixed
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)

    def on_train_start(self) -> None:
        self.adapt_optimizer(self.trainer.optimizers[0])  # again: a checkpoint may have restored other settings
        self.train_state = map_state(self.train_state, lambda tensor: tensor.to(self.device))

    def on_train_end(self) -> None:
        if skipped := int(self.guard.skipped):
            tell(f"{skipped} step{'s were' if skipped > 1 else ' was'} skipped: the gradient was not finite.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.train_state is not None:
            checkpoint["state"] = map_state(self.train_state, self._of_all_ranks)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # with another number of ranks the first batch does not continue the last one, and this is not used
        saved = checkpoint.get("state")
        self.train_state = map_state(saved, lambda ranks: ranks[self.global_rank % len(ranks)])

    def _of_all_ranks(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, (ranks, ...)."""
        tensors = [tensor.clone() for _ in range(self.trainer.world_size)]
        if len(tensors) > 1:
            torch.distributed.all_gather(tensors, tensor.contiguous())
        return torch.stack(tensors)
