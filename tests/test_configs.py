"""Random configs, started as a user starts them: each ends in a run or in one message."""

import contextlib
import gc
import io
import json
import logging
import os
import re
import runpy
import shlex
import shutil
import sys
import threading
from collections import Counter
from functools import cache

import pytest
import torch
from conftest import LABELLED, ROOT, SERIES
from hydra._internal import utils as hydra_utils
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rnnlab.commands import train
from rnnlab.config import repository

# By hand: EXAMPLES=5000 SEED=7 pytest tests/test_configs.py
EXAMPLES, SEED, PARTS = int(os.environ.get("EXAMPLES", "500")), int(os.environ.get("SEED", "0")), 4

GROUPS = ("model", "data", "cell", "optim", "trainer", "callbacks", "logger", "debug", "experiment")
OPTIONS = {group: repository.options(group) for group in GROUPS}
FILES = repository.read(repository.HOME / "conf")
KINDS = {
    group: {name: get_class(target) for name, target in repository.targets(group).items()}
    for group in ("model", "data")
}
# what takes long to read or starts processes
SLOW = ("data=python", "experiment=python", "trainer=ddp_cpu", "trainer=slurm")

WHOLE = st.integers(1, 6)
SHARE = st.sampled_from(["0", "0.0", "0.25", "0.5"])
SWITCH = st.sampled_from(["true", "false"])
TEXT = "to be or not to be, that is the question\n" * 40
# right values, small ones where they cost; a key that is not here stays as its yaml has it
RIGHT = {
    **dict.fromkeys(("hidden_size", "batch_size", "output_size", "num_waves", "num_series"), st.integers(2, 6)),
    **dict.fromkeys(("input_size", "min_count", "lag", "accumulate_grad_batches"), st.integers(1, 3)),
    **dict.fromkeys(("num_layers", "horizon", "stride", "log_every_n_steps", "every"), st.integers(1, 3)),
    **dict.fromkeys(("num_train", "num_val", "num_test", "symbols"), st.integers(2, 8)),
    **dict.fromkeys(("bidirectional", "residual", "tied", "tf32", "fused", "default_hp_metric"), SWITCH),
    **dict.fromkeys(("dropout", "label_smoothing", "momentum", "weight_decay"), SHARE),
    **dict.fromkeys(("warmup", "final", "noise", "shift", "trend"), SHARE),
    "seq_len": st.integers(7, 12),
    "test_lengths": st.sampled_from(["[]", "[9]", "[8,16]"]),
    "embedding": st.sampled_from(["null", "3", "4"]),
    "epoch_steps": st.sampled_from(["1", "2"]),
    "length": st.sampled_from(["3", "120", "150"]),
    "context": st.integers(5, 9),
    "season": st.integers(1, 4),
    "val": st.sampled_from(["0", "0.2", "12"]),
    "test": st.sampled_from(["0", "0.2", "12"]),
    "split": st.sampled_from(["[0.6,0.2,0.2]", "[0.5,0.5,0]", "[0.5,0,0.5]", "[1,0,0]"]),
    "seed": st.sampled_from(["0", "1", "4294967295", "-0"]),
    "lr": st.sampled_from(["1e-3", "0.1", "1"]),
    "betas": st.sampled_from(["[0.5,0.9]", "[0,0]"]),
    "interval": st.sampled_from(["step", "epoch"]),
    "init": st.sampled_from(["default", "identity", "orthogonal"]),
    "nonlinearity": st.sampled_from(["tanh", "relu"]),
    "forget_bias": st.sampled_from(["null", "1", "-2.5"]),
    "chrono": st.sampled_from(["null", "auto", "4"]),
    "target": st.sampled_from(["labels", "values", "noise"]),
    "readout": st.sampled_from(["last", "mean"]),
    "loss": st.sampled_from(["pinball", "mae", "huber", "mse"]),
    "quantiles": st.sampled_from(["[0.5]", "[0.1,0.5,0.9]", "[0.5,0.75]"]),
    "norm": st.sampled_from(["last", "std", "mean", "none"]),
    "log": st.sampled_from(["null", "false"]),
    "head": st.sampled_from(["direct", "recursive"]),
    "patch": st.sampled_from(["null", "1", "3"]),
    "unit": st.sampled_from(["char", "byte"]),
    "text": st.sampled_from(["hello", "1234", "'a b, c'", "ünïcödé", "true", "日本語"]),
    "calendar": st.sampled_from(["[]", "[month]"]),
    "max_epochs": st.sampled_from(["1", "2", "-1"]),
    "max_time": st.sampled_from(["null", "00:00:01:00"]),
    "gradient_clip_val": st.sampled_from(["null", "0", "1.0"]),
    "check_val_every_n_epoch": st.integers(1, 2),
    **dict.fromkeys(("limit_val_batches", "limit_test_batches"), st.sampled_from(["null", "0", "1", "0.5", "1.0"])),
    "limit_train_batches": st.sampled_from(["null", "1", "1.0"]),
    "overfit_batches": st.sampled_from(["0", "0.0", "1", "1.0"]),
    "deterministic": st.sampled_from(["null", "true", "false", "warn"]),
    "precision": st.sampled_from(["32-true", "64-true", "bf16-mixed"]),
    "profiler": st.sampled_from(["null", "simple"]),
    "every_minutes": st.sampled_from(["0.5", "5"]),
    "mode": st.sampled_from(["min", "max"]),
}
# what people type that is rarely right, whatever the key
TYPED = [
    "", "null", "nan", "-inf", ".inf", "inf", "-1", "0", "-0.0", "1.5", "1e400", "1e-400", "true", "yes", "abc", "a b",
    "[]", "[1,2]", "[[1]]", "{}", "{a:1}", "{_target_:torch.nn.RNN}", "{_target_:no.such.thing}", "999999999999",
    "1000000000000000000000", "9" * 5000, "x" * 3000, "ünïcödé", "日本", "\udcff", "'quoted'", "'it''s'", "\\'", "\\",
    "${nope}", "${seed}", "${data}", "${name}", "${oc.env:NOPE}", "${hydra:nope}", "${now:%Y}", "${..}", "${", "$",
    "???", "0x10", "1_000", "00:00:01:00", "2024-01-01", "range(3)", "choice(1,2)", "glob(*)", "a,b", "[", "}", "'",
    '"', "=", "a=b", "#", "~", "\n", "a\nb", "\t", "auto", "last", "/", "..", "torch.nn.RNN", "os.system",
]  # fmt: skip
FORMS = [
    *["{key}={value}"] * 8, "++{key}={value}", "+{key}={value}", "+{key}.more={value}", "{typo}={value}",
    "+{typo}={value}", "~{key}", "~{key}={value}", "~{section}", "{section}={value}", "+{section}.{new}={value}",
    "{section}.{new}={value}", *["{group}={option}"] * 2, "+{group}={option}", "~{group}", "{group}={value}",
    "+callbacks.{new}={value}", "+{new}={value}", "{key}", "hydra.{new}={value}", "any",
]  # fmt: skip
NEW = [
    "foo", "_target_", "_args_", "_partial_", "_convert_", "a b", "ö", "0", "run", "job.name", "verbose", "trial",
    "curves", "progress", "output_subdir", "dir", "logger", "spec", "batch_first", "params", "hidden_size.x",
]  # fmt: skip
NO_OPTIONS = ["nope", "null", "", "[]", "[rnn,lstm]", "rnn,lstm", "../cell/rnn", "5", "/", "none.yaml"]


def keys_of(chosen):
    """The keys of the chosen options' files and of train.yaml, with the values that they hold."""
    held = [FILES["train"], *(FILES.get(f"{group}/{option}", {}) for group, option in chosen.items())]
    found = {key: value for content in held for key, value in repository.flatten(content)}
    return {key: value for key, value in found.items() if not re.search(r"(^|\.)(defaults|hydra)(\.|$)", key)}


@st.composite
def right_arguments(draw):
    """A config that trains for a step or two, as far as can be said without repeating `config.validate`."""
    task = draw(st.sampled_from(OPTIONS["model"]))
    fitting = [name for name, data in KINDS["data"].items() if KINDS["model"][task].kind in data.kinds]
    chosen = {"model": task, "data": draw(st.sampled_from([name for name in fitting if f"data={name}" not in SLOW]))}
    for group in ("cell", "optim"):
        chosen[group] = draw(st.sampled_from(OPTIONS[group]))
    chosen["trainer"] = draw(st.sampled_from(["cpu", "cpu", "auto"]))
    chosen["callbacks"] = draw(st.sampled_from(["none"] * 25 + OPTIONS["callbacks"]))
    chosen["logger"] = draw(st.sampled_from(["none"] * 8 + OPTIONS["logger"]))
    if draw(st.integers(0, 9)) == 0:
        chosen["debug"] = draw(st.sampled_from(OPTIONS["debug"]))
    keys = keys_of(chosen)
    sizes = {"data.batch_size": "2", "data.epoch_steps": "2", "cell.hidden_size": "4", "data.num_test": "6"}
    sizes |= {"data.num_series": "2", "data.length": "3" if "data.symbols" in keys else "120", "data.seq_len": "9"}
    sizes |= {"data.lag": "2", "data.num_val": "4", "data.num_train": "8", "data.test_lengths": "[9]"}
    values = {key: value for key, value in sizes.items() if key in keys}
    files = {"series": SERIES, "labelled": LABELLED}
    values |= {"data.path": str(files.get(chosen["data"], "text.txt"))} if "data.path" in keys else {}
    values |= {"data.target": "sales", "data.series_id": "shop"} if chosen["data"] == "series" else {}
    values |= {"trainer.max_steps": str(draw(st.integers(1, 2))), "trainer.limit_test_batches": "2"}
    values |= {"trainer.limit_val_batches": "2"}
    known = sorted(key for key in keys if key.split(".")[-1] in RIGHT and key not in ("optim.optimizer.lr",))
    for key in draw(st.lists(st.sampled_from(known), max_size=4, unique=True)):
        if chosen["data"] not in ("series", "weather") or key != "data.target":
            values[key] = str(draw(RIGHT[key.split(".")[-1]]))
    arguments = [f"{group}={option}" for group, option in chosen.items()]
    return chosen, [*arguments, *(f"{key}={value}" for key, value in values.items())]


@st.composite
def slips(draw, chosen):
    """One thing typed wrongly, or at least unusually."""
    keys = sorted(keys_of(chosen))
    form = draw(st.sampled_from(FORMS))
    if form == "any":
        return draw(st.text(max_size=8)).replace("\0", "")
    group = draw(st.sampled_from(GROUPS))
    key = draw(st.sampled_from(keys))
    parts = {
        "key": key,
        "value": draw(st.sampled_from(TYPED)) if "value" in form else "",
        "section": key.rpartition(".")[0] or "data",
        "new": draw(st.sampled_from(NEW)) if "new" in form else "",
        "group": group,
        "option": draw(st.sampled_from([*OPTIONS[group], *NO_OPTIONS])) if "option" in form else "",
    }
    if "typo" in form:
        spot = draw(st.integers(0, len(key) - 1))
        parts["typo"] = key[:spot] + draw(st.sampled_from(["", "x", "."])) + key[spot + 1 :]
    return form.format(**parts)


@st.composite
def command_lines(draw):
    chosen, arguments = draw(right_arguments())
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 1, 2, 5]))):
        arguments.append(draw(slips(chosen)))
    if draw(st.integers(0, 3)):
        arguments.append("hydra.output_subdir=null")  # writing these files takes a tenth of the time
    return [argument for argument in arguments if argument.lstrip("+") not in SLOW]


LOAD = OmegaConf.load


@cache
def parsed(text):
    return OmegaConf.to_container(LOAD(io.StringIO(text)))


# what `rnnlab.commands.cli.run` leaves changed in its process
LEFT = [(hydra_utils, "run_and_report"), (logging, "raiseExceptions"), (threading, "excepthook")]


class Ended:
    """How a command line ended: exit code, what it said, and whether it had come further than the checks.

    It runs in this process, where it takes a tenth of the time; what it leaves behind there is put back.
    """

    def __init__(self, arguments, folder):
        out, err = io.StringIO(), io.StringIO()
        self.code, self.begun = 0, False
        original, environment, handlers = train._train, dict(os.environ), list(logging.root.handlers)

        def noted(*args):
            self.begun = True
            return original(*args)

        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(folder.parent)
            patch.setattr(sys, "argv", [str(ROOT / "scripts" / "train.py"), *arguments, f"hydra.run.dir={folder}"])
            patch.setattr(Hydra, "get_mode", lambda *_, **__: RunMode.RUN)  # for which it composes the config twice
            patch.setattr(OmegaConf, "load", lambda file: OmegaConf.create(parsed(file.read())))  # once for all configs
            patch.setattr(HydraConfig.instance(), "cfg", None)
            for place, name in LEFT:
                patch.setattr(place, name, getattr(place, name))
            patch.setattr(train, "_train", noted)
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as ended:
                self.code = ended.code
            finally:
                for handler in logging.root.handlers:
                    if handler not in handlers:
                        handler.close()
                logging.root.handlers[:] = handlers
                os.environ.clear()
                os.environ.update(environment)
                torch.use_deterministic_algorithms(False)
        self.out, self.err = out.getvalue(), err.getvalue()


# what only the data can tell, or Lightning when it has counted their batches
LATER = re.compile(
    r"Error: data\.path=(?!.*no such file)|too short|or more: use a longer series|You requested to check|is inf|is nan|"
    "val_check_interval|is not measured|conditioned on metric|not a number"
)


def one_ending(arguments, folder):
    """Run a command line, see that it ended in a run or in one message, and say in which."""
    shutil.rmtree(folder, ignore_errors=True)
    ended = Ended(arguments, folder)
    if ended.code == 0:
        scores = json.loads((folder / "metrics.json").read_text())
        assert all(isinstance(score, float | int | None) for score in scores.values())
        return "run"
    assert ended.code in (1, 2)
    assert ended.err.startswith("Error: ")
    assert len(ended.err) > len("Error: ") + 10
    assert "Traceback" not in ended.err
    if ended.begun:
        assert LATER.search(ended.err), ended.err
        return "message of the data"
    assert not (folder / "checkpoints").exists()
    return "message"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder that runs start in."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "text.txt").write_text(TEXT)
    gc.freeze()
    return folder


@pytest.mark.parametrize("part", range(PARTS))
def test_every_config_ends_in_a_run_or_in_one_message(part, place):
    endings = Counter()

    @seed(PARTS * SEED + part)
    @settings(max_examples=EXAMPLES // PARTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(command_lines())
    def start(arguments):
        note(f"train.py {shlex.join(arguments)}")
        endings[one_ending(arguments, place / "run")] += 1

    start()
    assert endings["run"] >= EXAMPLES // PARTS // 5, endings
    assert endings["message"] >= EXAMPLES // PARTS // 5, endings


WRONG = {
    "cell.hidden_size": "0", "cell.num_layers": "many", "cell.dropout": "1", "cell.init": "zeros", "optim.lr": "-1",
    "optim.interval": "hour", "optim.optimizer.betas": "[0.9]", "trainer.max_epochs": "0", "trainer.precision": "8",
    "trainer.limit_val_batches": "-1", "trainer.max_time": "soon", "trainer.deterministic": "5", "data.batch_size": "0",
    "data.num_val": "1", "data.target": "none", "model.readout": "first", "seed": "-1", "mode": "least", "monitor": "",
    "tf32": "maybe", "ckpt": "{a:1}", "checkpoint.every_minutes": "0", "callbacks.progress.every": "0",
    "callbacks.curves": "5", "logger.tensorboard.default_hp_metric": "7", "name": "${nope}",
}  # fmt: skip
NO_KEYS = ["+cell.hiden_size=3", "+data.num_trian=3", "+optim.optimizer.bets=3", "+trainer.max_epoch=3"]


@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(
    wrong=st.lists(st.sampled_from(sorted(WRONG)), min_size=1, max_size=8, unique=True),
    unknown=st.lists(st.sampled_from(NO_KEYS), max_size=3, unique=True),
    fits=st.booleans(),
)
def test_every_fault_is_told_once(wrong, unknown, fits, place):
    model = "classifier" if fits or "data.target" in wrong or "model.readout" in wrong else "char"
    slips = [*(f"{key}={WRONG[key]}" for key in wrong), *unknown]
    ended = Ended([f"model={model}", "data=random", "callbacks=default", "logger=tensorboard", *slips], place / "run")
    lines = ended.err.removeprefix("Error: ").splitlines()
    assert ended.code == 1
    assert not ended.begun
    for slip in slips:
        key, _, _ = slip.lstrip("+").partition("=")
        told = [line for line in lines if re.match(rf"{re.escape(key)}\b", line)]
        assert len(told) == 1, (slip, lines)
    assert len(lines) == len(slips) + (model == "char"), lines
