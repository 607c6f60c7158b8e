"""What a user gets wrong ends in one message that says what is wrong and what to do."""

import os
import re

import pytest
import torch
from conftest import LABELLED, SERIES, TEXT, composed, needs, options, runner
from hydra.utils import get_class

from rnnlab.config import repository
from rnnlab.config.validate import faults
from rnnlab.data.base import SequenceData
from rnnlab.training.dry_run import check_run
from rnnlab.utils.errors import UserError

BARE = ("callbacks=none", "logger=none")
VALUES = ("model=regressor", "data=random", "data.target=values", "optim=sgd", "logger=none")
PATHS = {  # what presets of one's own files need
    "series": (f"data.path={SERIES}", "data.target=sales"),
    "shakespeare": (f"data.path={TEXT}",),
    "shakespeare_gpu": (f"data.path={TEXT}",),
}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="NOT TESTED: asking for a GPU where there is none")


def message_of(result, *words, lines=1):
    """The one message that a failed script leaves on stderr, of so many lines, which must hold `words`."""
    assert result.returncode in (1, 2), result.stdout + result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    assert result.stderr.startswith("Error: "), result.stderr
    assert lines in (None, len(result.stderr.splitlines())), result.stderr
    for word in words:
        assert word in result.stderr
    return result.stderr


def weights(folder):
    """The weights in every checkpoint of a run, each of which must load and be finite."""
    found = {}
    for path in sorted((folder / "checkpoints").glob("*.ckpt")):
        found[path.name] = torch.load(path, weights_only=True)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in found[path.name].values()), path
    return found


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The checkpoint of a small char run: hello, RNN, hidden size 32, Adam."""
    result = runner(tmp_path_factory.mktemp("good"))("train", *BARE, "data.epoch_steps=3")
    return result.folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cell=grru"], ["cell=grru", *options("cell")]),
        (["experiment=tutorial/helo"], ["experiment=tutorial/helo", *options("experiment")]),
        (["optim.lrr=1"], ["optim.lrr", "Did you mean optim.lr?"]),
        (["hidden_size=3"], ["hidden_size", "Did you mean cell.hidden_size?"]),
        (["data=hello", "data.stride=3"], ["data.stride", "data/waves"]),
        (["callbacks=none", "callbacks.curves=null"], ["callbacks.curves", "callbacks/default"]),
    ],
    ids=" ".join,
)
def test_unknown_options_and_keys(arguments, words, script):
    message_of(script("train", *arguments, check=False), *words)


def fitting(overrides):
    """What makes a run of the choice of a dataset: a model for it, and a file where it needs one."""
    chosen = [override.partition("=")[2] for override in overrides if override.startswith("data=")]
    if not chosen or any(override.startswith("model=") for override in overrides):
        return []
    kind = get_class(repository.targets("data")[chosen[0]]).kinds[0]
    return [
        f"model={name}" for name, target in repository.targets("model").items() if get_class(target).kind == kind
    ] + [given for given in needs(chosen[0]) if given.partition("=")[0] not in " ".join(overrides)]


def checked(*overrides):
    right = fitting(overrides)
    check_run(composed("name=any", *right, *overrides))


@pytest.mark.parametrize(
    ("fault", "right"),
    [
        ("cell.hidden_size=0", "a whole number, 1 or more"),
        ("cell.bidirectional=7", "true or false"),
        ("cell.nonlinearity=sigmoid", "tanh or relu"),
        ("cell.dropout=1", "from 0 to below 1"),
        ("optim.lr=fast", "a number above 0"),
        ("optim.lr=nan", "a number above 0"),
        ("seed=-1", "0 or more and below 2^32"),
        ("data.batch_size=0", "a whole number, 1 or more"),
        ("data.epoch_steps=0", "or null"),
        ("data=random data.num_test=1", "a whole number, 2 or more"),
        ("trainer.max_epochs=0", "-1 for no end"),
        ("trainer.gradient_clip_val=-1", "or null"),
        ("optim=adamw_cosine optim.scheduler.warmup=1", "from 0 to below 1"),
    ],
)
def test_every_wrong_value_is_one_fault(fault, right):
    with pytest.raises(UserError) as raised:
        checked(*fault.split())
    message = str(raised.value)
    assert message.startswith(f"{fault.split()[-1]} must be ")
    assert right in message
    assert message.count("\n") == 0


@pytest.mark.parametrize(
    "overrides",
    [
        *[(f"experiment={preset}", *PATHS.get(preset, ())) for preset in options("experiment")],
        *[(f"{group}={option}",) for group in ("data", "cell", "optim", "trainer") for option in options(group)],
        ("cell.hidden_size=1", "seed=0", "trainer.max_epochs=-1", "data.epoch_steps=null"),
        ("seed=4294967295", "trainer.gradient_clip_val=0.5", "trainer.max_steps=1", "optim.lr=1", "mode=max"),
    ],
    ids=" ".join,
)
def test_right_values_pass(overrides):
    checked(*overrides)


FORECAST = "model=forecaster data=waves"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("cell.bidirectional=true", "cell.bidirectional=true lets model=char read the character"),
        ("model.tied=true", "set model.embedding=32, the cell's width; it is null"),
        ("cell.dropout=0.5", "cell.dropout=0.5 is between layers: set cell.num_layers=2"),
        ("cell=lstm cell.forget_bias=1 cell.chrono=9", "cell.forget_bias and cell.chrono set the same"),
        ("+cell.forget_bias=1", "cell.forget_bias sets a gate, and RNN has none"),
        ("cell=mingru +cell.init=identity", "cell.init=identity sets recurrent weights"),
        ("cell=lstm +cell.proj_size=32", "proj_size has to be smaller than hidden_size"),
        (f"{FORECAST} model.patch=7", "model.patch=7 does not divide data.context=50"),
        (f"{FORECAST} model.head=recursive model.patch=5", "reads one step at a time, not model.patch=5"),
        (f"{FORECAST} model.head=recursive cell.bidirectional=true", "the steps to forecast"),
        (f"{FORECAST} data.context=4", "data.context=4 is too short"),
        ("data=echo data.lag=40", "data.seq_len=40 is too short: this task needs 41 or more steps"),
        ("data=adding data.seq_len=1", "data.seq_len=1 is too short"),
        ("data=temporal_order data.seq_len=9", "10 or more"),
        ("data=copy data.seq_len=30 data.length=15", "31 or more"),
        (f"data=labelled data.path={LABELLED} data.split=[0.5,0.2,0.2]", "must be three shares"),
        ("model=char data=waves", "use model=forecaster"),
        ("data=random data.target=labels data.output_size=1", "data.output_size=1 leaves one label"),
        ("model=regressor data=random", "data=random gives labels: use model=classifier"),
        ("optim=adamw_cosine trainer.max_epochs=-1", "optim.scheduler has to know when the run ends"),
        ("optim=sgd optim.optimizer.momentum=0 trainer=fsdp", "optim.optimizer.momentum=0: with trainer=fsdp"),
        ("optim.optimizer._target_=torch.optim.Admm", "cannot be imported. Did you mean torch.optim.Adam?"),
        ("optim.optimizer._target_=torch.nn.RNN", "optim.optimizer._target_=torch.nn.RNN is no Optimizer"),
        ("+optim.optimizer.beta=0.9", "is not a setting of torch.optim.Adam. Did you mean betas?"),
        ("+optim.weight_decay=0.1", "is not a setting of optim. Did you mean optim.optimizer.weight_decay?"),
        ("+cell.batch_first=false", "cell.batch_first is set by rnnlab: leave it out"),
        ("+trainer.logger=false", "trainer.logger is set by rnnlab: leave it out"),
        ("~cell.hidden_size", "cell.hidden_size is needed by torch.nn.RNN"),
        ("optim=adamw_cosine ~optim.scheduler", "optim.scheduler is left out: a run needs it"),
        ("~callbacks", "callbacks is left out: a run needs one. callbacks takes: default, gradient_flow, none"),
        ("model.cell=null", "model.cell=null must stay ${cell}: set cell=NAME"),
        ("callbacks.curves=5", "callbacks.curves=5 must be a section with a _target_, or null"),
        ("seed=${nope}", "seed=${nope}: Interpolation key 'nope' not found"),
        ("trainer.strategy=${data}", "trainer.strategy._target_=rnnlab.data.hello.HelloData is no Strategy"),
        ("data=text data.path=???", "data.path is needed: give data.path=VALUE"),
        ("cell.hidden_size={a:1}", "cell.hidden_size={a:1} must be a whole number"),
        (
            "cell.hidden_size=1000000000000",
            "cell.hidden_size=1000000000000 must be a whole number, 1 or more, at most 1,000,000",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_data_are_read(overrides, words, monkeypatch):
    monkeypatch.setattr(SequenceData, "setup", None)
    with pytest.raises(UserError) as raised:
        checked(*overrides.split())
    assert words in str(raised.value)
    assert len(raised.value.args) == 1


def test_all_that_is_wrong_is_told_at_once():
    """Each kind of fault, in parts that have to do with each other, hides no other."""
    with pytest.raises(UserError) as raised:
        checked(
            "model=char", "data=echo", "data.lag=99", "data.num_val=1", "cell.hidden_size=0", "cell.bidirectional=true",
            "+cell.sise=3", "optim.lr=nan", "optim.optimizer.betas=[2,0.9]", "~trainer.devices", "seed=${nope}",
        )  # fmt: skip
    begins = ("data.num_val=1 must be", "cell.hidden_size=0 must be", "cell.sise is not", "optim.lr=nan must be",
              "optim.optimizer.betas=[2,0.9] must be", "trainer.devices is left out", "seed=${nope}: ", "data.seq_len=",
              "cell.bidirectional=true lets", "model=char reads tokens, data=echo gives labels")  # fmt: skip
    assert all(sum(line.startswith(begin) for line in raised.value.args) == 1 for begin in begins)
    assert len(raised.value.args) == len(begins)


@pytest.mark.parametrize(
    ("key", "config", "lines"),
    [
        ("data", {"_target_": "rnnlab.data.memory.EchoData", "seq_len": 9, "lag": 99}, []),  # nothing is built
        ("data", {"_target_": "rnnlab.data.memory.EchoData", "seq_len": 9, "lag": 0, "symbol": 3},
         ["data.lag=0", "data.symbol is"]),
        ("data", {"lag": 0}, ["data.lag=0 must be"]),
        ("model", {"_target_": "torch.nn.RNN"}, ["model._target_=torch.nn.RNN is no Task"]),
        ("model", {"cell": {"_target_": "torch.nn.GRU", "hidden_size": "x", "mode": "LSTM"}},
         ["model.cell.mode is not", "model.cell.hidden_size=x must be"]),
    ],
)  # fmt: skip
def test_a_config_of_a_checkpoint_is_checked_and_nothing_built(key, config, lines):
    found = faults(config, key)
    assert len(found) == len(lines)
    assert all(any(line.startswith(begin) for line in found) for begin in lines)


def test_a_text_too_short_to_predict(script):
    message_of(script("train", "data.text=a", *BARE, check=False), "data.text='a'", "two or more")


def test_a_checkpoint_that_is_none(script, good, tmp_path):
    torch.save({"a": 1}, tmp_path / "foreign.ckpt")
    version = torch.load(good, weights_only=True)["rnnlab"]["format"]
    torch.save({"rnnlab": {"format": version}}, tmp_path / "hollow.ckpt")  # rnnlab's mark, but nothing behind it
    for command, name, words in (
        ("train", "missing", "no such file"),
        ("evaluate", "foreign", "no whole checkpoint of rnnlab"),
        ("evaluate", "hollow", "no whole checkpoint of rnnlab"),
    ):
        ckpt = f"ckpt={tmp_path / name}.ckpt"
        message_of(script(command, ckpt, check=False), ckpt, words)


def test_nothing_to_go_on_with(script):
    message_of(script("train", "ckpt=last", *BARE, check=False), "ckpt=last", "no checkpoint", "without ckpt=")


def test_resuming_with_what_does_not_fit_the_checkpoint(script, good):
    for other, words in (
        ("cell.hidden_size=17", ["cell.hidden_size", "17", "32"]),
        ("optim=sgd", ["optim", "Adam", "SGD"]),
    ):
        result = script("train", f"ckpt={good}", other, "trainer.max_epochs=2", *BARE, check=False)
        message_of(result, f"ckpt={good}", *words)


def test_a_run_folder_that_cannot_be_made(script, tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    for folder in (file, file / "run"):
        message_of(script("train", f"hydra.run.dir={folder}", *BARE, check=False), str(folder), "hydra.run.dir=")
    assert file.read_text() == "not a folder"


@NO_GPU
@pytest.mark.parametrize("trainer", ["gpu", "ddp"])
def test_a_gpu_where_there_is_none(trainer, script):
    result = script("train", f"trainer={trainer}", *BARE, check=False)
    message_of(result, "trainer.accelerator=gpu", "no GPU", "trainer=cpu", "trainer=ddp_cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: float16 on a GPU")
def test_float16_clips_no_fused_optimizer(script):
    clipped = ("trainer=gpu", "trainer.precision=16-mixed", "trainer.gradient_clip_val=1.0", "data.epoch_steps=2")
    result = script("train", *clipped, *BARE, check=False)
    message_of(result, "trainer.gradient_clip_val", "optim.optimizer.fused=false")
    script("train", *clipped, "optim.optimizer.fused=false", *BARE, folder="unfused")


def test_more_devices_than_there_are(script):
    result = script("train", "trainer=ddp_cpu", "trainer.devices=1000", *BARE, check=False)
    message_of(result, f"trainer.devices=1000: {max(2, os.cpu_count())} CPU processes")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("optim.lr=1e12",), "consecutive steps"),
        # every gradient is finite, what the last step made of the weights is not
        (("optim.lr=1e39", "data.epoch_steps=1", "trainer.limit_val_batches=0"), "a weight is inf at step 1."),
        # the square of the error overflows, twice the error does not
        (("optim.lr=1.43e9", "seed=16", "data.batch_size=2"), "train/loss is inf at step"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_explosion_stops_the_run(overrides, words, script):
    """One step makes weights of 1e12, the next squares them, from the third on gradients overflow."""
    result = script("train", *VALUES, *overrides, "trainer.max_epochs=1", check=False)
    message_of(result, words, "optim.lr", "trainer.gradient_clip_val", "earlier steps are intact")
    weights(result.folder)


def test_a_few_steps_without_a_gradient_are_left_out_and_told(script):
    result = script("train", *VALUES, "optim.lr=1e12", "trainer.max_steps=4", "trainer.max_epochs=1")
    assert "2 steps were skipped: the gradient was not finite." in result.stdout
    weights(result.folder)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("optim.lr=1e12",), "consecutive steps"),
        # the loss of rank 1 overflows at step 3, that of rank 0 one step later
        (("seed=16", "data.batch_size=2", "optim.lr=1.43e9"), "train/loss is inf at step 3"),
    ],
    ids=["gradient", "loss"],
)
def test_an_explosion_stops_every_rank(overrides, words, script):
    result = script(
        "train", *VALUES, *overrides, "trainer=ddp_cpu", "trainer.log_every_n_steps=1", "trainer.max_epochs=1",
        check=False,
    )  # fmt: skip
    message_of(result, words, "optim.lr")
    weights(result.folder)


def test_the_last_good_checkpoints_survive_an_explosion(script):
    short = ("model=forecaster", "data=waves", "model.loss=mse", "optim=sgd", "logger=none", "data.epoch_steps=20")
    trained = script("train", *short, "trainer.max_epochs=1")
    before = weights(trained.folder)
    assert sorted(before) == ["best.ckpt", "last.ckpt"]
    ckpt = trained.folder / "checkpoints" / "last.ckpt"
    resumed = script("train", *short, "model.noise=1e38", "trainer.max_epochs=2", f"ckpt={ckpt}", check=False)
    assert resumed.folder == trained.folder
    message_of(resumed, "consecutive steps", "optim.lr")
    after = weights(trained.folder)
    assert sorted(after) == sorted(before)
    for name, saved in before.items():
        assert all(map(torch.equal, after[name].values(), saved.values()))


def test_an_argument_that_the_optimizer_does_not_take(script):
    result = script("train", "optim.optimizer._target_=torch.optim.RMSprop", *BARE, check=False)
    unknown = ("optim.optimizer.betas is not a setting", "optim.optimizer.fused is not a setting", "It takes alpha, ")
    message_of(result, *unknown, lines=2)


def test_evaluating_on_data_of_another_kind(script, good):
    message_of(script("evaluate", f"ckpt={good}", "data=waves", check=False), "kind", "series", "tokens")
    message_of(script("evaluate", f"ckpt={good}", "+data.batch_size=0", check=False), "data.batch_size=0")


def test_a_monitor_that_is_not_measured(script):
    result = script("train", "monitor=val/los", "data.epoch_steps=3", *BARE, check=False)
    message_of(result, "monitor=val/los", "val/loss", "val/accuracy")


@pytest.mark.parametrize("fault", ["optim.lrr=1", "data.text=a"])
def test_a_traceback_on_request(fault, script):
    result = script("train", fault, *BARE, check=False, HYDRA_FULL_ERROR="1")
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert not re.search(r"^Error: ", result.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1\nb", "expected ',' or ']', but got '<stream end>' in \""),
        (b"# \xfc\na: 1", "can't decode byte 0xfc"),
        (b"defaults: [mine]", "recursion"),
    ],
    ids=["syntax", "encoding", "cycle"],
)
def test_a_yaml_of_ones_own_that_cannot_be_read(content, said, script, tmp_path):
    (tmp_path / "own" / "cell").mkdir(parents=True)
    (tmp_path / "own" / "cell" / "mine.yaml").write_bytes(content)
    refused = script("train", "--config-dir", str(tmp_path / "own"), "cell=mine", "data=hello", check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ")
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1
