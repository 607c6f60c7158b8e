"""How a run starts: a table of what is in its folder, what the command says, and what follows."""

import json
import os
import socket

import pytest
import torch
from conftest import runner
from test_errors import message_of

from rnnlab.training.checkpoint_file import FORMAT
from rnnlab.training.run_record import process_start_time
from rnnlab.training.start import decide_start
from rnnlab.utils.errors import UserError

HERE = {"host": socket.gethostname(), "pid": os.getpid(), "born": process_start_time(os.getpid())}
ALONE, CHILD = (), (False,)  # writes, external, restarted
TORCHRUN, SECOND, AGAIN = (True, True), (False, True), (True, True, True)
OWN, OLD = "run/checkpoints/last.ckpt", "old/checkpoints/best.ckpt"


def record(status, overrides=("seed=1",), **more):
    return {"status": status, "overrides": list(overrides), "host": "another", **more}


# record, checkpoints, ckpt=, swept, role: kind, checkpoint, whether it replaces what is there, words of the message
CASES = {
    "nothing is there": (None, [], None, False, ALONE, "fresh", None, False, ""),
    "it was stopped": (record("stopped"), [OWN], None, False, ALONE, "own", OWN, False, ""),
    "it was killed": (record("running") | {**HERE, "born": 1.0}, [OWN], None, True, ALONE, "own", OWN, False, ""),
    "it was killed elsewhere": (record("running"), [OWN], None, False, ALONE, "own", OWN, False, ""),
    "it was stopped before a checkpoint": (record("stopped"), [], None, False, ALONE, "fresh", None, True, ""),
    "it is running": (record("running") | HERE, [OWN], None, False, ALONE, "refused", None, False, "is at this run"),
    "another is running": (record("running", []) | HERE, [], None, True, ALONE, "refused", None, False, "process"),
    "it is finished": (record("finished"), [OWN], None, False, ALONE, "fresh", None, True, ""),
    "it is finished, in a sweep": (record("finished"), [OWN], None, True, ALONE, "finished", None, False, "already"),
    "another is finished": (record("finished", []), [OWN], None, True, ALONE, "fresh", None, True, ""),
    "it failed": (record("failed"), [OWN], None, True, ALONE, "fresh", None, True, ""),
    "another was stopped": (record("stopped", []), [OWN], None, False, ALONE, "refused", None, False, "another run"),
    "stopped, another ckpt=": (record("stopped"), [OWN, OLD], OLD, False, ALONE, "refused", None, False, "another"),
    "finished, last": (record("finished"), [OWN, OLD], "last", False, ALONE, "own", OWN, False, ""),
    "last of another run": (None, [OLD], "last", False, ALONE, "other", OLD, False, ""),
    "last of none": (None, [], "last", False, ALONE, "refused", None, False, "there is no checkpoint below"),
    "a given checkpoint": (None, [OLD], OLD, False, ALONE, "other", OLD, False, ""),
    "a given one replaces": (record("finished"), [OWN, OLD], OLD, False, ALONE, "other", OLD, True, ""),
    "a damaged last": (record("killed"), [f"{OWN} damaged", "run/checkpoints/previous.ckpt"], None, False, ALONE,
                       "own", "run/checkpoints/previous.ckpt", False, "passed over"),
    "all damaged": (record("killed"), [f"{OWN} damaged"], None, False, ALONE, "refused", None, False, "none of"),
    "a rank that is told": (record("running") | HERE, [OWN], OWN, False, CHILD, "own", OWN, False, ""),
    "torchrun": (record("killed"), [OWN], None, False, TORCHRUN, "fresh", None, True, ""),
    "torchrun over another": (record("killed", []), [OWN], None, False, TORCHRUN, "refused", None, False, "another"),
    "torchrun, second rank": (record("running", []), [OWN], None, False, SECOND, "fresh", None, True, ""),
    "torchrun again": (record("running") | HERE, [OWN], None, False, AGAIN, "own", OWN, False, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_decide_start(case, tmp_path):
    content, kept, ckpt, swept, role, kind, found, replaces, words = CASES[case]
    for number, name in enumerate(kept):
        path = tmp_path / name.removesuffix(" damaged")
        path.parent.mkdir(parents=True, exist_ok=True)
        spec = {"kind": "tokens", "vocab": [], "input_size": 1, "output_size": 1, "seq_len": 1}
        torch.save({"rnnlab": {"format": FORMAT, "model": {}, "data": {}}, "hyper_parameters": {"spec": spec},
                    "state_dict": {}, "global_step": number}, path)  # fmt: skip
        if name.endswith("damaged"):
            path.write_bytes(b"PK")
    folder = tmp_path / "run"
    if content:
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps(content))
    given = str(tmp_path / ckpt) if ckpt and ckpt != "last" else ckpt
    overrides = ["seed=1", *([f"ckpt={given}"] if ckpt else [])]
    before = sorted(tmp_path.rglob("*"))
    arguments = (folder, overrides, given, tmp_path, swept, *role)
    if kind == "refused":
        with pytest.raises(UserError, match=words):
            decide_start(*arguments)
        return
    start = decide_start(*arguments)
    assert (start.kind, start.ckpt, start.replaces) == (kind, found and tmp_path / found, replaces)
    assert words in start.message
    assert bool(words) == bool(start.message)
    assert sorted(tmp_path.rglob("*")) == before


SCHEDULE = "{_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 5, gamma: 0.5}"
SHORT = ("data=hello", "data.epoch_steps=2", "callbacks=none", "logger=none", "trainer=cpu",
         "+optim.optimizer.weight_decay=0.1", f"optim.scheduler={SCHEDULE}")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The last checkpoint of a run."""
    return runner(tmp_path_factory.mktemp("trained"))("train", *SHORT).folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("setting", "there"),
    [
        ("optim.optimizer.lr=0.5", "0.01"),
        ("optim.optimizer.betas=[0.5,0.9]", "[0.9, 0.999]"),
        ("optim.scheduler.gamma=0.1", "0.5"),
        ("optim.scheduler=null", "torch.optim.lr_scheduler.StepLR"),
    ],
)
def test_settings_that_the_restored_optimizer_would_replace(setting, there, trained, script):
    """The state of an optimizer or a schedule restores its settings: the run would not be what its config says."""
    refused = script("train", *SHORT, "trainer.max_epochs=11", setting, f"ckpt={trained}", check=False)
    key, _, value = setting.partition("=")
    here = "None" if value == "null" else value.replace(",", ", ")
    message_of(refused, f"ckpt={trained}", key, f"is {here} here", f"{there} there", "init_from=")


def test_the_same_settings_resume_and_a_new_optimizer_has_its_own(trained, script):
    script("train", *SHORT, "trainer.max_epochs=11", f"ckpt={trained}")
    script("train", *SHORT, "optim.optimizer.lr=0.5", f"init_from={trained}", folder="new")
