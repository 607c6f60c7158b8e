"""Test metrics of a checkpoint: python scripts/evaluate.py ckpt=PATH"""

import sys

import hydra
from omegaconf import DictConfig

from rnnlab import cli


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    with cli.one_message():
        from rnnlab.run import evaluate

        evaluate(cfg)


if __name__ == "__main__":
    # single values change those in the checkpoint, which Hydra does not know: ++ sets what is there and what is not
    sys.argv[1:] = [f"++{argument}" if argument.startswith("data.") else argument for argument in sys.argv[1:]]
    cli.run(main)
