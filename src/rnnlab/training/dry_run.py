"""Builds model, optimizer and callbacks without data to catch invalid combinations."""

import os
import re
import warnings
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, get_object, instantiate
from omegaconf import DictConfig
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rnnlab.config import repository, schema
from rnnlab.config.types import UNKNOWN
from rnnlab.config.validate import find_faults
from rnnlab.data.base import SequenceData
from rnnlab.nn.cells import make_cell
from rnnlab.tasks.optimizers import require_total_steps
from rnnlab.tasks.sharding import require_fsdp_optimizer
from rnnlab.utils.errors import UserError, collected, require
from rnnlab.utils.files import require_memory

BYTES = {"64": 8, "16-true": 2, "bf16-true": 2}  # of a weight, by what trainer.precision begins with; else 4


def check_run(cfg: DictConfig) -> None:
    """Check the composed config of a whole run: every setting, and how the parts fit together.

    **Raises:** `UserError` with a line for every fault: the key, its value, and what would be right.
    """
    content, lines, wrong = find_faults(cfg)
    lines += [line for line in faults(content, wrong) if line not in lines]
    if lines:
        raise UserError(*lines)


def faults(content: dict[str, Any], wrong: set[str]) -> list[str]:
    """Build all parts of a run that neither read nor start anything, and list what they require.

    **Arguments:**

    - `content`: the config of a run, plain.
    - `wrong`: keys that are wrong already: they are left out, and nothing is said of what they have to do with others.
    """
    trial = Trial(content, wrong)
    datamodule = trial.data()
    trial.model(datamodule)
    trial.optim()
    for name, node in trial.of("callbacks").items():
        if node is not None and UNKNOWN not in node.values():
            trial.ask(f"callbacks.{name}", partial(make, node))
    trial.files(datamodule)
    weights = trial.cell()
    trial.memory(weights)
    return trial.lines


def mismatch(reads: str, given: str, targets: dict[str, str]) -> str:
    """`model=char reads tokens, data=waves gives values: use model=regressor, or data=hello.`

    **Arguments:**

    - `reads`, `given`: kinds of data.
    - `targets`: the `_target_` of model and data.
    """
    chosen = {group: _chosen(group, target) for group, target in targets.items()}
    models = [name for name, target in repository.targets("model").items() if _class(target).kind == given]
    datasets = [name for name, target in repository.targets("data").items() if reads in _class(target).kinds]
    use_model = " or ".join(f"model={name}" for name in models)
    use_data = " or ".join(f"{name} with another target" if name == chosen["data"] else name for name in datasets)
    return (
        f"model={chosen['model']} reads {reads}, data={chosen['data']} gives {given}: "
        f"use {use_model}{f', or data={use_data}' if use_data else ''}."
    )


def make(node: Any, **more: Any) -> Any:
    """What Hydra makes of a plain config; it refuses targets that run programs, and takes ten times as long."""
    directives = ("_target_", "_partial_", "_recursive_", "_convert_")
    given = {name: value for name, value in node.items() if name not in directives}
    nested = "_args_" in given or "_target_" in repr(given)
    if nested or node["_target_"] not in repository.targets().values():
        return instantiate({**node, "_partial_": False}, **more, _convert_="all")
    return get_object(node["_target_"])(**given, **more)


def _class(target: str) -> Any:
    return get_class(target)


def _chosen(group: str, target: str) -> str:
    """The option of a group; of a config that Hydra has not composed for a run, one with that target."""
    if HydraConfig.initialized():
        return HydraConfig.get().runtime.choices[group]
    return next((name for name, other in repository.targets(group).items() if other == target), target)


class Trial:
    """Builds parts of a run for nothing and notes what they say. Arguments as for `faults`."""

    def __init__(self, content: dict[str, Any], wrong: set[str]):
        self.content = content
        self.wrong = wrong
        self.lines: list[str] = []

    def of(self, key: str) -> dict[str, Any]:
        """What stands at a key and is not wrong."""
        node: Any = self.content
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict) or key in self.wrong:
            return {}
        right = {name: value for name, value in node.items() if not self._is_wrong(f"{key}.{name}")}
        return {name: value for name, value in right.items() if value is not UNKNOWN}

    def _is_wrong(self, key: str) -> bool:
        return any(other == key or other.startswith(f"{key}.") for other in self.wrong)

    def can_build(self, key: str) -> bool:
        """Whether nothing is wrong with a part but values, which can be left out."""
        return "_target_" in self.of(key)

    def ask(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` returns; `None` if it cannot. What it requires is noted, and why it cannot."""
        said: list[str] = []
        made = None
        with collected(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what training will say again
            try:
                made = make()
            except NotImplementedError:  # an own cell need not know weights without memory
                pass
            except Exception as error:
                cause: BaseException = error
                while cause.__cause__ is not None:
                    cause = cause.__cause__
                if isinstance(cause, UserError):
                    said += cause.args
                elif not said and not self._is_wrong(key):
                    said.append(f"{key}: {cause} ({type(cause).__name__})")
        for line in said:
            if line not in self.lines and not any(
                re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)", line) for key in self.wrong
            ):
                self.lines.append(line)
        return made

    def data(self) -> SequenceData | None:
        """The data, unread."""
        if not self.can_build("data"):
            return None
        settings = self.of("data")
        taken, _ = schema.of(get_class(settings["_target_"]))
        stand_ins = {name: "?" for name, argument in taken.items() if argument.needed}
        return self.ask("data", lambda: make({**stand_ins, **settings}))

    def model(self, datamodule: SequenceData | None) -> None:
        """What the task requires of its cell and the data."""
        settings = self.of("model")
        if "_target_" not in settings:
            return
        task = _class(settings["_target_"])
        settings["cell"] = self.of("cell")
        self.ask("model", lambda: task.require_fit(settings, self.of("data")))
        if datamodule is not None and task.kind not in datamodule.kinds:
            targets = {group: self.content[group]["_target_"] for group in ("model", "data")}
            self.lines.append(mismatch(task.kind, datamodule.kinds[0], targets))

    def optim(self) -> None:
        """A step of an optimizer of small weights, and of its schedule."""
        if not self.can_build("optim.optimizer"):
            return
        weights = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
        settings = self.of("optim.optimizer")
        optimizer = self.ask("optim.optimizer", lambda: make(settings, params=weights))
        if optimizer is None:
            return
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        self.ask("optim.optimizer", lambda: optimizer.step(lambda: torch.zeros(())))
        trainer = self.of("trainer")
        if "ModelParallel" in str(self.of("trainer.strategy").get("_target_")):
            self.ask("optim.optimizer", lambda: require_fsdp_optimizer(optimizer))
        if not self.can_build("optim.scheduler"):
            return
        schedule = self.of("optim.scheduler")
        length = {"total_steps": 100} if "total_steps" in schema.of(get_object(schedule["_target_"]))[0] else {}
        scheduler = self.ask("optim.scheduler", lambda: make(schedule, optimizer=optimizer, **length))
        measured = [0.0] if isinstance(scheduler, ReduceLROnPlateau) else []
        self.ask("optim.scheduler", lambda: scheduler and scheduler.step(*measured))
        by_epoch = self.of("optim").get("interval") == "epoch"
        endless = trainer.get("max_epochs") == -1 and (by_epoch or trainer.get("max_steps", -1) == -1)
        if length:
            self.ask("optim.scheduler", lambda: require_total_steps(inf if endless else 1))

    def files(self, datamodule: SequenceData | None) -> None:
        """The files that are to be read."""
        paths = {key: self.content.get(key) for key in ("ckpt", "init_from") if key not in self.wrong}
        more = dict.fromkeys(paths, " Checkpoints are in a run's checkpoints/ folder.")
        if "path" in self.of("data"):
            paths["data.path"] = getattr(datamodule, "path", None)
        for key, path in paths.items():
            exists = os.path.exists if key == "data.path" else os.path.isfile
            there = path is None or path == "last" or exists(str(path))
            self.ask(key, partial(require, there, f"{key}={path}: there is no such file.{more.get(key, '')}"))

    def cell(self) -> int:
        """How many weights the cell has, none of which is given memory."""
        settings = self.of("cell")
        if "_target_" not in settings:
            return 0
        layers, dropout = settings.get("num_layers", 1), settings.get("dropout", 0)
        self.ask("cell", lambda: require(
            not dropout or layers > 1,
            f"cell.dropout={dropout} is between layers: set cell.num_layers=2 or more, or cell.dropout=0.",
        ))  # fmt: skip
        inputs = self.of("model").get("embedding") or self.of("data").get("input_size") or 1
        if settings.get("chrono") == "auto":  # those of the data
            settings["chrono"] = 2
        with torch.device("meta"):
            made = self.ask("cell", lambda: make_cell({"hidden_size": 1, **settings}, inputs))
        return sum(weight.numel() for weight in made.parameters()) if made is not None else 0

    def memory(self, weights: int) -> None:
        """Ask for the memory that training needs at the least, as far as the config tells."""
        model, data, cell = map(self.of, ("model", "data", "cell"))
        precision = str(self.of("trainer").get("precision"))
        each = next((size for begin, size in BYTES.items() if precision.startswith(begin)), 4)
        width = (cell.get("proj_size") or cell.get("hidden_size", 1)) * (1 + bool(cell.get("bidirectional")))
        outputs = data.get("output_size") or data.get("symbols") or data.get("horizon", 1)
        context = data.get("context", 1)
        weights += width * outputs + (context * outputs if model.get("head") == "direct" else 0)
        optimizer = self.of("optim.optimizer")
        copies = 4 if "betas" in optimizer else 3 if optimizer.get("momentum") else 2
        self._ask_for(
            copies * each * weights,
            f"{weights:,} weights with gradients and what the optimizer keeps",
            "cell.hidden_size", "cell.num_layers", "model.embedding", "data.input_size", "data.output_size",
            "data.symbols", "data.context", "data.horizon",
        )  # fmt: skip
        steps = data.get("seq_len") or max(1, context // (model.get("patch") or 12), len(str(data.get("text", ""))) - 1)
        states = data.get("batch_size", 1) * steps * cell.get("num_layers", 1) * width
        self._ask_for(
            states * (2 if "16" in precision else each),
            f"{states:,} hidden states of a batch",
            "data.batch_size", "data.seq_len", "data.context", "cell.hidden_size", "cell.num_layers",
        )  # fmt: skip
        if "output_size" in data and data.get("target") != "values":
            self._ask_for(16 * outputs**2, "the counts of which class is taken for which", "data.output_size")

    def _ask_for(self, size: int, what: str, *keys: str) -> None:
        given = {key: self.of(key.partition(".")[0]).get(key.partition(".")[2]) for key in keys}
        named = " ".join(f"{key}={value}" for key, value in given.items() if value not in (None, 1))
        self.ask("memory", lambda: require_memory(size, f"{named}: {what}"))
