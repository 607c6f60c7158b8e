"""Ends trials of a search that are worse than others."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
from lightning.pytorch.trainer.states import TrainerFn
from optuna.pruners import BasePruner, NopPruner

from rnnlab.sweeps.search import STUDY, database
from rnnlab.utils.errors import Pruned


class Pruning(pl.Callback):
    """Reports the monitored metric to Optuna after each validation, and ends a trial that is worse than others.

    **Raises:** `Pruned`, on every rank.
    """

    state_key = "pruning"  # does not depend on the name of the class

    def __init__(self, monitor: str, storage: str | None, folder: str, trial: int | None, pruner: BasePruner | None):
        self.monitor = monitor
        self.storage = storage or database(Path(folder))
        self.number = trial
        self.pruner = pruner or NopPruner()
        self.validations = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.number is None or not trainer.is_global_zero:
            return
        storage = optuna.storages.get_storage(self.storage)
        study = optuna.load_study(study_name=STUDY, storage=storage, pruner=self.pruner)
        study_id = storage.get_study_id_from_name(STUDY)
        self.trial = optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, self.number))
        self.reported = set(study.get_trials(deepcopy=False)[self.number].intermediate_values)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.number is None or trainer.state.fn != TrainerFn.FITTING or self.monitor not in trainer.callback_metrics:
            return
        self.validations += 1
        prune = False
        if trainer.is_global_zero:
            if self.validations not in self.reported:  # before the run was killed
                self.trial.report(float(trainer.callback_metrics[self.monitor]), self.validations)
            prune = self.trial.should_prune()
        if trainer.strategy.broadcast(prune):
            raise Pruned(f"given up at step {trainer.global_step}: others were better by then")

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]
