"""Giving up trials that are hopeless."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
from lightning.pytorch.trainer.states import TrainerFn

from rnnlab.sweeps.search import STUDY, database
from rnnlab.utils.errors import Pruned


class Pruning(pl.Callback):
    """Tells Optuna the monitored metric after each validation, and ends a trial that others have left behind.

    **Arguments:**

    - `monitor`: the metric.
    - `storage`: URL of the study's database; `None` is `optuna.db` in `folder`.
    - `folder`: of the sweep.
    - `trial`: number of the trial that this run is; `None`: it is none.
    - `pruner`: one of Optuna's, which decides; `None` ends no trial.

    **Raises:** `Pruned`, on every rank.
    """

    state_key = "pruning"  # survives a new name of the class

    def __init__(
        self,
        monitor: str,
        storage: str | None,
        folder: str,
        trial: int | None,
        pruner: optuna.pruners.BasePruner | None,
    ):
        self.monitor = monitor
        self.storage = storage or database(Path(folder))
        self.number = trial
        self.pruner = pruner or optuna.pruners.NopPruner()
        self.validations = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.number is None or not trainer.is_global_zero:
            return
        study = optuna.load_study(study_name=STUDY, storage=self.storage, pruner=self.pruner)
        found = study.get_trials(deepcopy=False)[self.number]
        self.trial = optuna.Trial(study, found._trial_id)
        self.known = set(found.intermediate_values)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.number is None or trainer.state.fn != TrainerFn.FITTING or self.monitor not in trainer.callback_metrics:
            return
        self.validations += 1
        hopeless = False
        if trainer.is_global_zero:
            if self.validations not in self.known:  # by a run that was killed
                self.trial.report(float(trainer.callback_metrics[self.monitor]), self.validations)
            hopeless = self.trial.should_prune()
        if trainer.strategy.broadcast(hopeless):
            raise Pruned(f"given up at step {trainer.global_step}: others were better by then")

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]
