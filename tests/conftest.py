"""Ways to run the project as a user does."""

import argparse
import json
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]


class Result(subprocess.CompletedProcess):
    """A finished script; `.folder` is its run folder, `.metrics` and `.last` what metrics.json and last.ckpt hold."""

    folder: Path

    @property
    def last(self) -> dict[str, Any]:
        import torch

        return torch.load(self.folder / "checkpoints" / "last.ckpt", weights_only=True)

    @property
    def metrics(self) -> dict[str, float]:
        return json.loads((self.folder / "metrics.json").read_text())


SERIES = ROOT / "tests" / "series.csv"  # two shops, 120 months
LABELLED = ROOT / "tests" / "labelled.csv"  # 14 sequences of 3 to 6 steps, up or down
TEXT = Path(argparse.__file__)  # real text of a hundred thousand characters


# one thread a process: two tests run at once on two cores
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}

# A script's seconds are nearly all imports, so scripts are forked off a process that has them behind it
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    [
        "conftest",
        "rnnlab.commands.train",
        "rnnlab.commands.generate",
        "rnnlab.data.text",
        "torch.utils.tensorboard",
        "torch._dynamo",
    ]
)


def environment(**given: str) -> dict[str, str]:
    """The environment of a script: a PYTHONPATH of its own comes before this checkout, which it does not replace."""
    python_path = _joined(given.get("PYTHONPATH"), os.environ["PYTHONPATH"])
    return {**os.environ, **ENVIRONMENT, **given, "PYTHONPATH": python_path}


def _joined(*paths: str | None) -> str:
    return os.pathsep.join(filter(None, paths))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Encoded texts are kept for this session only, and scripts import this checkout."""
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the server, too
        patch.setenv("PYTHONPATH", _joined(str(ROOT / "src"), os.environ.get("PYTHONPATH")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def options(group: str) -> list[str]:
    folder = ROOT / "conf" / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def composed(*overrides: str) -> Any:
    """The config of a run."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(overrides))


def wait_until(condition: Callable[[], Any], within: float = 180) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def needs(data: str) -> list[str]:
    """What a dataset cannot run without: a path, to labels, to a table with a column to be forecast, else to a text."""
    missing = OmegaConf.missing_keys(composed(f"data={data}").data)
    given = {"data.path": LABELLED if data == "labelled" else TEXT}
    if "data.target" in missing:
        given = {"data.path": SERIES, "data.target": "sales", "data.series_id": "shop"}
    return [f"{key}={value}" for key, value in given.items()] if missing else []


def cells() -> list[Any]:
    """Every config in conf/cell, with memories of nine steps where those of the data are asked for."""
    found = []
    for name in options("cell"):
        config: Any = OmegaConf.to_container(composed("name=any", f"cell={name}").cell)
        if config.get("chrono") == "auto":
            config["chrono"] = 9
        found.append(pytest.param(config, id=name))
    return found


@pytest.fixture
def script(tmp_path: Path) -> Any:
    return runner(tmp_path)


def runner(tmp_path: Path) -> Callable[..., Result]:
    """`runner(tmp_path)("train", "data=hello")` runs scripts/train.py with its run folder below `tmp_path`."""

    def call(
        name: str,
        *arguments: str,
        folder: str = "run",
        check: bool = True,
        stdin: str = "",
        killer: Callable | None = None,
        **given: str,
    ) -> Result:
        command = [str(ROOT / "scripts" / f"{name}.py"), *arguments]
        if (
            name != "generate"
            and "-m" not in arguments
            and not any(argument.startswith("hydra.run.dir") for argument in arguments)
        ):
            command.append(f"hydra.run.dir={tmp_path / folder}")
        anew = any(key.startswith("PYTHON") for key in given)  # what only a new interpreter heeds
        place = (command, stdin, tmp_path, environment(**given))
        result = new_interpreter(*place) if anew else forked(*place, killer)
        result.folder = tmp_path / folder
        if check:
            assert result.returncode == 0, result.stderr
        return result

    return call


def new_interpreter(command: list[str], stdin: str, folder: Path, environment: dict[str, str]) -> Result:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, input=stdin, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    return Result(done.args, done.returncode, done.stdout, done.stderr)


def forked(
    command: list[str], stdin: str, folder: Path, environment: dict[str, str], killer: Callable | None = None
) -> Result:
    with tempfile.TemporaryDirectory() as aside:
        streams = [Path(aside) / name for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin)
        process = server.Process(target=_script, args=(command, streams, folder, environment))
        process.start()
        if killer is not None:
            killer(process)
        process.join(300)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, 300)
        return Result(command, process.exitcode, *(stream.read_text() for stream in streams[1:]))


def _script(command: list[str], streams: list[Path], folder: Path, environment: dict[str, str]) -> None:
    """In the new process: become `python command < stdin > stdout 2> stderr`."""
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin = os.fdopen(0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):  # imported before Hydra, they log by themselves
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    assert Path(sys.modules["rnnlab"].__file__).is_relative_to(ROOT)
    runpy.run_path(command[0], run_name="__main__")
