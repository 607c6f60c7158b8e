"""Generate text with a checkpoint: python scripts/generate.py ckpt=PATH prompt="ROMEO:" """

import hydra
from omegaconf import DictConfig

from rnnlab.commands import cli

LITERAL = cli.take_literally("ckpt", "prompt", "out", "score") if __name__ == "__main__" else {}


@hydra.main(version_base="1.3", config_path="../conf", config_name="generate")
def main(cfg: DictConfig) -> None:
    with cli.one_message():
        from rnnlab.commands.generate import generate

        generate(cfg, LITERAL)


if __name__ == "__main__":
    cli.run(main)
