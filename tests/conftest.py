"""Ways to run the project as a user does."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]


class Result(subprocess.CompletedProcess):
    """A finished script; `.folder` is its run folder, `.metrics` what metrics.json holds."""

    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        return json.loads((self.folder / "metrics.json").read_text())


TEXT = Path(argparse.__file__)  # real text of a hundred thousand characters


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Encoded texts are kept for this session only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def needs(data: str) -> list[str]:
    """What a dataset cannot run without: a text for one that has to be given a path."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        missing = OmegaConf.missing_keys(compose("train", [f"data={data}"]).data)
    assert missing <= {"data.path"}
    return [f"{key}={TEXT}" for key in missing]


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """`script("train", "data=hello")` runs scripts/train.py with its run folder below `tmp_path`."""

    def call(
        name: str, *arguments: str, folder: str = "run", check: bool = True, stdin: str = "", **environment: str
    ) -> Result:
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]
        if (
            name != "generate"
            and "-m" not in arguments
            and not any(argument.startswith("hydra.run.dir") for argument in arguments)
        ):
            command.append(f"hydra.run.dir={tmp_path / folder}")
        # one thread a process: two tests run at once on two cores
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **environment}
        done = subprocess.run(
            command, cwd=tmp_path, env=env, input=stdin, capture_output=True, text=True, timeout=300, check=False
        )
        result = Result(done.args, done.returncode, done.stdout, done.stderr)
        result.folder = tmp_path / folder
        if check:
            assert result.returncode == 0, result.stderr
        return result

    return call
