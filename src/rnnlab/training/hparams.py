"""The settings of a run: all of them for `run.json`, and those that distinguish it for TensorBoard's HParams table."""

from typing import Any

import lightning.pytorch as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rnnlab.config.repository import flatten
from rnnlab.utils.figures import tensorboard_loggers


def all_settings(cfg: DictConfig) -> dict[str, Any]:
    """Every value and every chosen group, by name."""
    choices = {group: option for group, option in HydraConfig.get().runtime.choices.items() if "/" not in group}
    return {**dict(flatten(OmegaConf.to_container(cfg, resolve=True))), **choices}


def chosen_settings(cfg: DictConfig) -> dict[str, Any]:
    """The chosen groups, the values set on the command line, and those that are compared most."""
    hydra = HydraConfig.get()
    settings = {group: hydra.runtime.choices[group] for group in ("data", "model", "cell", "optim")}
    keys = {override.lstrip("+~").split("=")[0] for override in hydra.overrides.task} - {"trial"}
    keys |= {"seed", "optim.lr", "cell.hidden_size"}
    values = flatten(OmegaConf.to_container(cfg, resolve=True))
    return settings | {key: value for key, value in values if key in keys}


def log_hparams(cfg: DictConfig, trainer: pl.Trainer, scores: dict[str, float], step: int) -> None:
    """Write the test metrics, and a row of TensorBoard's HParams table with them; they belong to `step`."""
    from torch.utils.tensorboard.summary import hparams  # only with this logger

    # The first of three summaries would declare the table's columns, and TensorBoard takes those of any one run for
    # all. Without it the columns are those of every run, those that differ first.
    chosen = {key: value for key, value in chosen_settings(cfg).items() if value is not None}
    settings = {key: value if type(value) in (int, float) else str(value) for key, value in chosen.items()}
    summaries = hparams(settings, scores)[1:]
    for board in tensorboard_loggers(trainer):
        board.log_metrics(scores, step)
        for summary in summaries:
            board.experiment.file_writer.add_summary(summary, step)
        board.finalize("success")
