"""Forecast with a checkpoint: python scripts/forecast.py ckpt=PATH out=forecast.csv plot=forecast.png"""

import hydra
from omegaconf import DictConfig

from rnnlab.commands import cli

LITERAL = cli.take_literally("ckpt", "data.path", "out", "plot") if __name__ == "__main__" else {}


@hydra.main(version_base="1.3", config_path="../conf", config_name="forecast")
def main(cfg: DictConfig) -> None:
    with cli.one_message():
        from rnnlab.commands.forecast import forecast

        forecast(cfg, LITERAL)


if __name__ == "__main__":
    cli.add_keys("data")
    cli.run(main)
