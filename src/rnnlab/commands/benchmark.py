"""A composed run against the same network in a plain PyTorch loop."""

import json
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig
from rich.table import Table

from rnnlab.training.callbacks.checkpoints import BestAndLast
from rnnlab.training.devices import check_devices
from rnnlab.training.dry_run import check_run
from rnnlab.training.trainer import make_parts, make_trainer, quiet
from rnnlab.utils.console import tell
from rnnlab.utils.errors import require


def benchmark(cfg: DictConfig) -> None:
    """Measure training steps per second of a run with all its callbacks and loggers, and of a plain loop, in turn.

    Both train the same network from the same weights on the same batches with the same optimizer. The run also
    validates, writes checkpoints and draws. A first pair warms up. The result is written to `benchmark.json`, too.
    """
    check_run(cfg)
    check_devices(cfg.trainer)
    quiet()
    trainer = cfg.trainer
    is_plain = trainer.devices == trainer.accumulate_grad_batches == 1 and not (trainer.overfit_batches or cfg.compile)
    require(
        is_plain and trainer.precision in ("32-true", "bf16-mixed"),
        "The plain loop has one device, trainer.precision 32-true or bf16-mixed, and no accumulate_grad_batches, "
        "overfit_batches or compile.",
    )
    folder = Path(HydraConfig.get().runtime.output_dir)
    pairs = []
    for repeat in range(cfg.repeats + 1):
        steps, seconds = _time_run(cfg, folder / str(repeat))
        pairs.append((steps / _time_plain_loop(cfg, steps), steps / seconds))
    rates = pd.DataFrame(pairs[1:], columns=["plain loop (steps/s)", "rnnlab (steps/s)"])
    rates["rnnlab / plain loop"] = rates["rnnlab (steps/s)"] / rates["plain loop (steps/s)"]
    result = rates.agg(["median", "min", "max"])
    table = Table("", *result.index, title=f"{cfg.name}: {steps} steps, {cfg.repeats} pairs")
    for name, row in result.items():
        table.add_row(str(name), *(f"{value:.4g}" for value in row))
    content = json.dumps({"steps": steps, **result.to_dict()}, indent=2)
    (folder / "benchmark.json").write_text(content + "\n", encoding="utf-8")
    tell(table)


def _time_run(cfg: DictConfig, folder: Path) -> tuple[int, float]:
    """Steps and seconds of a run."""
    pl.seed_everything(cfg.seed, verbose=False)
    datamodule, model = make_parts(cfg)
    timer = Timer()
    keeper = BestAndLast(folder / "checkpoints", cfg.monitor, cfg.mode, {}, cfg.checkpoint.every_minutes, [])
    trainer = make_trainer(cfg, folder, keeper, timer)
    trainer.fit(model, datamodule=datamodule)
    return trainer.global_step, timer.time_elapsed("train")


def _time_plain_loop(cfg: DictConfig, steps: int) -> float:
    """Seconds of a textbook loop of `steps` steps."""
    pl.seed_everything(cfg.seed, verbose=False)
    datamodule, model = make_parts(cfg)
    on_gpu = cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    model.to(device)
    optimizer = instantiate(cfg.optim.optimizer)(model.parameters())
    clip = cfg.trainer.gradient_clip_val
    start = time.perf_counter()
    for loaded in islice(_epochs(datamodule.train_dataloader()), steps):
        batch = datamodule.transfer_batch_to_device(loaded, device, 0)
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.trainer.precision == "bf16-mixed"):
            loss, _ = model.training_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _epochs(loader: Any) -> Iterator[Any]:
    for epoch in count():
        loader.sampler.set_epoch(epoch)
        yield from loader
