"""Train, validate and test: python scripts/train.py model=char data=hello"""

import hydra
from omegaconf import DictConfig

from rnnlab.commands import cli


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    with cli.one_message():
        from rnnlab.commands.train import train

        return train(cfg)


if __name__ == "__main__":
    cli.run(main)
