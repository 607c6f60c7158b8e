"""Test metrics of a checkpoint: python scripts/evaluate.py ckpt=PATH out=predictions.csv"""

import hydra
from omegaconf import DictConfig

from rnnlab.commands import cli


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    with cli.one_message():
        from rnnlab.commands.evaluate import evaluate

        evaluate(cfg)


if __name__ == "__main__":
    cli.add_keys("data")
    cli.run(main)
