"""Compare runs: python scripts/results.py FOLDER"""

import os
import sys

import hydra
from omegaconf import DictConfig

from rnnlab.commands import cli
from rnnlab.utils.errors import require


def take_folders() -> list[str]:
    """Take what is a folder, or no key=value and no flag, off the command line: Hydra's grammar rejects paths."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    folders = [word for word in words if "=" not in word or os.path.isdir(word)]
    for folder in folders:
        sys.argv.remove(folder)
    return folders


FOLDERS = take_folders() if __name__ == "__main__" else []
LITERAL = cli.take_literally("logs", "plot") if __name__ == "__main__" else {}


@hydra.main(version_base="1.3", config_path="../conf", config_name="results")
def main(cfg: DictConfig) -> None:
    with cli.one_message():
        given = FOLDERS + ([f"logs={LITERAL['logs']}"] if "logs" in LITERAL else [])
        require(len(given) < 2, f"{' '.join(given)}: give one folder; all runs below it are compared.")
        from rnnlab.commands.results import results

        results(cfg, {**LITERAL, "logs": FOLDERS[0]} if FOLDERS else LITERAL)


if __name__ == "__main__":
    cli.run(main)
