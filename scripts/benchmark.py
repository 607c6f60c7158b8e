"""Steps per second against a plain loop: python scripts/benchmark.py experiment=tutorial/hello"""

import hydra
from omegaconf import DictConfig

from rnnlab.commands import cli


@hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")
def main(cfg: DictConfig) -> None:
    with cli.one_message():
        from rnnlab.commands.benchmark import benchmark

        benchmark(cfg)


if __name__ == "__main__":
    cli.run(main)
