"""A composed run against the same network in a plain PyTorch loop."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table

from rnnlab import checkpoint, run
from rnnlab.check import check
from rnnlab.console import tell
from rnnlab.devices import check_devices


def benchmark(cfg: DictConfig) -> None:
    """Measure training steps per second of a run with all its callbacks and loggers, and of a plain loop, in turn.

    Both train the same network from the same weights on the same batches with the same optimizer. The clock runs from
    the first step to the end of training: validation, checkpoints, pictures and the bar count for the run, the plain
    loop has none. A first pair warms up and is not counted. The table is left in `benchmark.json`, too.
    """
    check(cfg)
    check_devices(cfg.trainer)
    run.quiet()
    folder = Path(HydraConfig.get().runtime.output_dir)
    plain, full = [], []
    for repeat in range(cfg.repeats + 1):
        steps, seconds = _run(cfg, folder / str(repeat))
        full.append(steps / seconds)
        plain.append(steps / _plain(cfg, steps))
    rows = {
        "plain loop (steps/s)": plain[1:],
        "rnnlab (steps/s)": full[1:],
        "rnnlab / plain loop": [ours / theirs for ours, theirs in zip(full[1:], plain[1:], strict=True)],
    }
    figures = {name: {"median": statistics.median(row), "min": min(row), "max": max(row)} for name, row in rows.items()}
    (folder / "benchmark.json").write_text(json.dumps({"steps": steps, **figures}, indent=2) + "\n", encoding="utf-8")
    table = Table("", "median", "min", "max", title=f"{cfg.name}: {steps} steps, {cfg.repeats} pairs")
    for name, figure in figures.items():
        table.add_row(name, *(f"{value:.4g}" for value in figure.values()))
    tell(table)


class _Clock(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = _now()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = _now() - self.start


def _run(cfg: DictConfig, folder: Path) -> tuple[int, float]:
    pl.seed_everything(cfg.seed, verbose=False)
    datamodule, model = run.make_parts(cfg)
    clock = _Clock()
    keeper = checkpoint.BestAndLast(folder / "checkpoints", cfg.monitor, cfg.mode, {})
    trainer = run.make_trainer(cfg, folder, keeper, clock)
    trainer.fit(model, datamodule=datamodule)
    return trainer.global_step, clock.seconds


def _plain(cfg: DictConfig, steps: int) -> float:
    pl.seed_everything(cfg.seed, verbose=False)
    datamodule, model = run.make_parts(cfg)
    device = "cuda" if cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    network = model.network.to(device)
    optimizer = instantiate(cfg.optim.optimizer)(network.parameters())
    loader: Any = datamodule.train_dataloader()
    start = _now()
    step = 0
    while step < steps:
        for x, y in loader:
            out, _ = network(x.to(device))
            loss = model.loss(out, y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return _now() - start


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
