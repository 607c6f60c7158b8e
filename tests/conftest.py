"""Ways to run the project as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


class Result(subprocess.CompletedProcess):
    """A finished script; `.folder` is its run folder, `.metrics` what metrics.json holds."""

    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        return json.loads((self.folder / "metrics.json").read_text())


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """`script("train", "data=hello")` runs scripts/train.py with its run folder below `tmp_path`."""

    def call(name: str, *arguments: str, folder: str = "run", check: bool = True, **environment: str) -> Result:
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]
        if "-m" not in arguments and not any(argument.startswith("hydra.run.dir") for argument in arguments):
            command.append(f"hydra.run.dir={tmp_path / folder}")
        # one thread a process: two tests run at once on two cores
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **environment}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
        result = Result(done.args, done.returncode, done.stdout, done.stderr)
        result.folder = tmp_path / folder
        if check:
            assert result.returncode == 0, result.stderr
        return result

    return call
