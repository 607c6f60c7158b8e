"""A table of many runs: python scripts/results.py logs=logs/sweeps/train/TIME rows=data columns=cell"""

import hydra
from omegaconf import DictConfig

from rnnlab import cli


@hydra.main(version_base="1.3", config_path="../conf", config_name="results")
def main(cfg: DictConfig) -> None:
    with cli.one_message():
        from rnnlab.results import results

        results(cfg)


if __name__ == "__main__":
    cli.run(main)
