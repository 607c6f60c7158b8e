"""Files that call themselves checkpoints: damaged, foreign and hostile ones end in one message, and run nothing."""

import io
import os
import random
import resource
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import runner
from test_errors import message_of
from test_kills import same

from rnnlab.training import checkpoint_file as checkpoint
from rnnlab.training.callbacks.checkpoints import AtomicIO
from rnnlab.utils.errors import UserError
from rnnlab.utils.files import write_atomically

BARE = ("callbacks=none", "logger=none", "trainer=cpu")
DEEP = ("data=hello", "cell.num_layers=3", "mode=max", *BARE)
HUGE = 10**12


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run's folder with three checkpoints; small, but for a network of three layers."""
    return runner(tmp_path_factory.mktemp("good"))("train", *DEEP, "trainer.max_epochs=3").folder / "checkpoints"


@pytest.fixture
def saved(good):
    return torch.load(good / "last.ckpt", weights_only=True)


def damages(content):
    """Ways to spoil a file."""
    chances = random.Random(0)
    yield b""
    for _ in range(20):
        yield content[: chances.randrange(len(content))]
        changed = bytearray(content)
        for at in chances.sample(range(len(content)), 20):
            changed[at] ^= chances.randrange(1, 256)
        yield bytes(changed)


def test_a_damaged_checkpoint_is_told_or_is_read_as_it_was_written(good, saved, tmp_path):
    """Between its parts a file has bytes that nobody reads."""
    path = tmp_path / "spoilt.ckpt"
    messages = []
    for content in damages((good / "last.ckpt").read_bytes()):
        path.write_bytes(content)
        try:
            assert same(checkpoint.load(path), saved)
        except UserError as error:
            messages.append(str(error))
    assert all(message.startswith(f"ckpt={path} is damaged") and "\n" not in message for message in messages)
    assert len(messages) > 36


def test_every_changed_bit_of_a_weight_is_noticed(good, saved, tmp_path):
    content = (good / "last.ckpt").read_bytes()
    weight = saved["state_dict"]["network.head.weight"].numpy().tobytes()
    at = content.index(weight)
    path = tmp_path / "flipped.ckpt"
    for bit in range(0, 8 * len(weight), 37):
        changed = bytearray(content)
        changed[at + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert torch.load(path, weights_only=True)  # torch does not look
        with pytest.raises(UserError, match="is damaged"):
            checkpoint.load(path)


def test_what_was_verified_is_what_is_read(good, saved, tmp_path):
    """Of two archives in one file Python's reader finds the second, torch's the first, without a look at checksums."""
    content = (good / "last.ckpt").read_bytes()
    weight = saved["state_dict"]["network.head.weight"].numpy().tobytes()
    path = tmp_path / "two.ckpt"
    path.write_bytes(content.replace(weight, bytes(len(weight))) + content)
    assert not torch.load(path, weights_only=True)["state_dict"]["network.head.weight"].any()
    assert same(checkpoint.load(path), saved)


def test_an_optimizer_state_of_other_shapes_is_refused(script, saved, tmp_path):
    saved["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(1)
    torch.save(saved, tmp_path / "other.ckpt")
    refused = script("train", *DEEP, "trainer.max_epochs=4", f"ckpt={tmp_path / 'other.ckpt'}", check=False)
    message_of(refused, "other.ckpt does not hold the optimizer of this network", "init_from=")


def test_a_file_is_on_disk_before_it_replaces_another(tmp_path, monkeypatch):
    calls = []
    replace = os.replace

    def fsync(number):
        path = Path(f"/proc/self/fd/{number}")
        calls.append(("fsync", path.readlink().name, path.stat().st_size > 0))

    def rename(source, target):
        calls.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    AtomicIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert calls == [("fsync", "last.partial", True), ("rename", "last.ckpt"), ("fsync", tmp_path.name, True)]
    calls.clear()
    write_atomically(tmp_path / "run.json", "{}")
    assert calls == [("fsync", "run.json.partial", True), ("rename", "run.json")]


def test_last_passes_over_what_cannot_be_read(script, good, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(good, folder)
    last, before = folder / "last.ckpt", torch.load(folder / "previous.ckpt", weights_only=True)["global_step"]
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    result = script("train", *DEEP, "trainer.max_epochs=4", "ckpt=last")
    assert f"passed over: ckpt={last} is damaged" in result.stdout
    assert f"goes on at step {before}: {folder / 'previous.ckpt'}" in result.stdout
    assert checkpoint.load(last)["global_step"] == 400


def test_a_newer_format_is_told(saved, tmp_path):
    saved["rnnlab"]["format"] += 1
    torch.save(saved, tmp_path / "newer.ckpt")
    with pytest.raises(UserError, match=r"newer\.ckpt: it has format"):
        checkpoint.load(tmp_path / "newer.ckpt")


class Call:
    """Unpickling it would call a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def cell(**changes):
    return lambda saved, _: saved["rnnlab"]["model"]["cell"].update(changes)


def model(**changes):
    return lambda saved, _: saved["rnnlab"]["model"].update(changes)


def spec(**changes):
    return lambda saved, _: saved["hyper_parameters"]["spec"].update(changes)


def program(saved, trace):
    saved["more"] = Call(os.system, f"touch {trace}")


def test_an_unsafe_load_leaves_the_trace(tmp_path):
    """What the hostile checkpoints below rely on."""
    saved = {}
    program(saved, tmp_path / "trace")
    torch.save(saved, tmp_path / "program.ckpt")
    torch.load(tmp_path / "program.ckpt", weights_only=False)
    assert (tmp_path / "trace").exists()


def weights(saved, trace):
    saved["rnnlab"]["model"]["cell"]["hidden_size"] = 10**6
    for name, tensor in saved["state_dict"].items():
        saved["state_dict"][name] = torch.zeros(1).expand([10**6] * tensor.dim())


def traced(section, target, **arguments):
    def change(saved, trace):
        written = {key: value.format(trace=trace) for key, value in arguments.items()}
        node = saved["rnnlab"] if section == "data" else saved["rnnlab"]["model"]
        node[section] = {"_target_": target, **written}

    return change


def in_the_spec(saved, trace):
    saved["rnnlab"]["model"].update(_recursive_=True, cell={}, optim={})
    saved["hyper_parameters"]["spec"] = {"_target_": "os.mkdir", "_args_": [trace]}


def in_a_list(saved, trace):
    saved["rnnlab"]["data"]["text"] = [{"_target_": "os.mkdir", "_args_": [trace]}]


def by_interpolation(saved, trace):
    saved["rnnlab"]["model"]["cell"]["hidden_size"] = f"${{oc.create:{{_target_:os.mkdir,_args_:[{trace}]}}}}"


HOSTILE = {
    "a call in the spec": in_the_spec,
    "a call in a list": in_a_list,
    "a call in an interpolation": by_interpolation,
    "a pickled os.system": program,
    "a pickled eval": lambda saved, _: saved.update(more=Call(eval, "1")),
    "os.system as a cell": traced("cell", "os.system", command="touch {trace}"),
    "eval as an optimizer": traced("optim", "builtins.eval", expression="open('{trace}', 'w')"),
    "eval as data": traced("data", "builtins.eval", source="open('{trace}', 'w')"),
    "torch.load through a module of rnnlab": traced("cell", "rnnlab.training.checkpoint.torch.load", f="{trace}"),
    "a network as data": traced("data", "torch.nn.RNN"),
    "data as a cell": traced("cell", "rnnlab.data.text.TextData", path="{trace}"),
    "another network as a cell": cell(_target_="torch.nn.Transformer"),
    "a cell in a size": cell(hidden_size={"_target_": "torch.nn.RNN"}),
    "a size that is text": cell(hidden_size="__import__('os')"),
    "an unknown argument": cell(hook="os.system"),
    "a device": cell(device="cuda:7"),
    "positional arguments": cell(_args_=["os.system"]),
    "an interpolation": cell(hidden_size="${oc.env:HOME}"),
    "a negative size": cell(hidden_size=-1),
    "no size": cell(hidden_size=None),
    "a huge cell": cell(hidden_size=HUGE),
    "a large cell": cell(hidden_size=10**5),
    "a huge number of layers": cell(num_layers=HUGE),
    "a number beyond all": cell(hidden_size=10**400),
    "a huge embedding": model(embedding=HUGE),
    "huge weights": weights,
    "a huge output": spec(output_size=HUGE),
    "a huge input": spec(input_size=HUGE, vocab=[]),
    "a vocabulary of something else": spec(vocab=[{"_target_": "os.system"}, 1, None, "a"]),
    "an unknown field": spec(hook=1),
    "no model": lambda saved, _: saved["rnnlab"].update(model={}),
    "no data": lambda saved, _: saved["rnnlab"].update(data={}),
    "no weights": lambda saved, _: saved.update(state_dict={}),
    "weights that are none": lambda saved, _: saved["state_dict"].update({"network.head.bias": "a"}),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_checkpoint_runs_nothing_and_takes_no_memory(how, script, saved, tmp_path):
    path, trace = tmp_path / "hostile.ckpt", tmp_path / "trace"
    HOSTILE[how](saved, str(trace))
    torch.save(saved, path)
    peaks = []

    def watch(process):
        status = Path(f"/proc/{process.pid}/status")
        while process.exitcode is None:
            process.join(0.005)
            try:
                peaks.extend(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
            except OSError:
                break

    result = script("evaluate", f"ckpt={path}", killer=watch, check=False)
    message_of(result)
    assert not trace.exists()
    assert max(peaks) < 1.5 * 2**20, f"{max(peaks) / 2**20:.1f} GiB"


def test_a_path_in_a_checkpoint_is_not_written_to(script, good, saved, tmp_path):
    """Neither the names of a file's parts, nor those of logs to go on with, nor a cache lead out of a run's folder."""
    victim = tmp_path / "victim.tfevents"
    victim.write_text("as it was")
    saved["rnnlab"]["written"] = {f"../{victim.name}": 2, str(victim): 2, "../../etc": 0}
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(folder / "last.ckpt", "w") as copy:
        for entry in source.infolist():
            copy.writestr(entry, source.read(entry))
        copy.writestr(f"../../../{victim.name}", "replaced")
    script("train", *DEEP, "trainer.max_epochs=4", "ckpt=last", check=False)
    assert victim.read_text() == "as it was"
    saved["rnnlab"]["data"] = {
        "_target_": "rnnlab.data.text.TextData", "path": __file__, "cache": str(tmp_path / "cache"), "batch_size": 1,
        "seq_len": 4, "split": [0.8, 0.1, 0.1],
    }  # fmt: skip
    saved["hyper_parameters"]["spec"]["vocab"] = []
    torch.save(saved, tmp_path / "cache.ckpt")
    script("evaluate", f"ckpt={tmp_path / 'cache.ckpt'}", check=False)
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_in_the_middle_of_a_save(script, tmp_path):
    arguments = ("data=hello", "cell=lstm", "cell.hidden_size=256", "data.epoch_steps=20", *BARE)
    arguments += ("trainer.max_epochs=40",)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"

    def fill(process):
        while not last.exists():
            process.join(0.01)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (last.stat().st_size // 2, resource.RLIM_INFINITY))

    message_of(script("train", *arguments, killer=fill, check=False), str(last), "File too large", "same command")
    assert not last.with_suffix(".partial").exists()
    step = checkpoint.load(last)["global_step"]
    assert 0 < step < 800
    result = script("train", *arguments)
    assert f"goes on at step {step}: {last}" in result.stdout
    assert checkpoint.load(last)["global_step"] == 800
