"""What the code does today, as numbers that a change of structure leaves alone; `python tests/test_goldens.py` renews.

`goldens.json` holds a line for each test. Bits are compared where the kind of CPU and torch are those of that file;
elsewhere norms and metrics are, roughly, and the test is skipped.
"""

import csv
import dataclasses
import hashlib
import json
import os
import platform
import re
import shlex
import sys
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import ENVIRONMENT, LABELLED, ROOT, SERIES, forked, needs
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import OmegaConf, open_dict

FILE = Path(__file__).with_name("goldens.json")
RENEW = "RENEW_GOLDENS" in os.environ
SEEDS = (1, 2)
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra")


def options(group):
    folder = ROOT / "conf" / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def machine():
    """The kind of CPU and the version of torch: what the bits of a float depend on."""
    info = Path("/proc/cpuinfo")
    told = (
        dict(re.findall(r"^(vendor_id|cpu family|model|model name)\s*: (.*)", info.read_text(), re.M))
        if info.is_file()
        else {}
    )
    return [*told.values(), platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.__version__]


def flat(node, key=""):
    """The leaves of nested dicts and lists, by their path."""
    if isinstance(node, dict | list) and node:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        return {path: leaf for name, child in pairs for path, leaf in flat(child, f"{key}.{name}").items()}
    return {key[1:]: node}


def compare(name, found, rel=0.0):
    """Compare with what is stored, numbers to `rel`; digests bit for bit on the same machine, elsewhere their norms."""
    found = json.loads(json.dumps(found))
    golden = json.loads(FILE.read_text(encoding="utf-8"))
    if RENEW:
        golden[name] = found
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    expected, found = flat(golden[name]), flat(found)
    here = golden["machine"] == machine()
    digests = {key for key, value in expected.items() if isinstance(value, str) and DIGEST.fullmatch(value)}
    if digests and not here:
        rel = max(rel, 1e-3)
        expected, found = (
            {key: float(leaf.split()[-1]) if key in digests else leaf for key, leaf in side.items()}
            for side in (expected, found)
        )
    numbers = {key for key, value in expected.items() if isinstance(value, float)}
    assert {key: found[key] for key in numbers} == pytest.approx({key: expected[key] for key in numbers}, rel=rel)
    assert {**found, **dict.fromkeys(numbers)} == {**expected, **dict.fromkeys(numbers)}
    if digests and not here:
        pytest.skip(f"NOT BITWISE: goldens.json is of {golden['machine']}, this is {machine()}; norms agree")


DIGEST = re.compile(r"[0-9a-f]{16} norm \S+")


def digest(tensors):
    """The sha256 of tensors one after the other, in short, and their norm."""
    sha, square = hashlib.sha256(), 0.0
    for tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        square += tensor.double().square().sum().item()
    return f"{sha.hexdigest()[:16]} norm {square**0.5:.6g}"


def tensors_of(batch):
    """x, y, and what other tensors a batch holds, in order."""
    return [
        part for part in (vars(batch).values() if dataclasses.is_dataclass(batch) else batch) if torch.is_tensor(part)
    ]


@pytest.fixture(autouse=True)
def as_hydra_leaves_it():
    """Configs are composed and checked in this process as a script would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HydraConfig.instance(), "cfg", None)
        yield


def composed(config, overrides):
    """A config as a script gets it, and the part that is Hydra's own, as a dict."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        whole = compose(config, overrides, return_hydra_config=True)
    own = OmegaConf.to_container(whole.hydra)
    with open_dict(whole):
        whole.hydra.runtime.output_dir = whole.hydra.sweep.dir = "OUT"
        HydraConfig.instance().set_config(whole)
        cfg = deepcopy(whole)
        del cfg.hydra
    return cfg, own


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text that is the same everywhere: 57,000 characters of words out of a hash, some of them often."""
    words = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(4000)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("".join(word[: 3 + k % 7] + (" " if k % 9 else "\n") for k, word in enumerate(words * 2)))
    return str(path)


def given(data, text):
    return [f"data.path={text}"] if data == "text" else needs(data)


@contextmanager
def seeded(seed):
    """As a run of that seed begins."""
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        seed_everything(seed, workers=True, verbose=False)
        yield


def data_of(cfg):
    datamodule = instantiate(cfg.data)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


def model_of(cfg, datamodule):
    return instantiate(cfg.model, spec=dataclasses.asdict(datamodule.spec))


# the text of python depends on the interpreter
@pytest.mark.parametrize("data", [name for name in options("data") if name != "python"])
def test_batches(data, text):
    """The first two batches of each split, and of two epochs of the training part."""
    cfg, _ = composed("train", [f"data={data}", *given(data, text)])
    found = {}
    for seed in SEEDS:
        with seeded(seed):
            datamodule = data_of(cfg)
            train = datamodule.train_dataloader()
            for epoch in range(2):
                train.sampler.set_epoch(epoch)
                found[f"{seed} train {epoch}"] = first_two(train)
            found[f"{seed} val"] = first_two(datamodule.val_dataloader())
            tests = datamodule.test_dataloader()
            for number, loader in enumerate(tests if isinstance(tests, list) else [tests]):
                found[f"{seed} test {number}"] = first_two(loader)
        if data != "hello":
            assert len({found[f"{seed} {part}"] for part in ("train 0", "train 1", "val", "test 0")}) == 4
    assert found["1 val"] == found["2 val"]
    assert found["1 test 0"] == found["2 test 0"]
    assert data == "hello" or found["1 train 0"] != found["2 train 0"]
    compare(f"batches {data}", found)


def first_two(loader):
    return digest(tensor for batch in islice(loader, 2) for tensor in tensors_of(batch))


@pytest.mark.parametrize("cell", options("cell"))
def test_initial_weights_of_cells(cell):
    cfg, _ = composed("train", ["model=classifier", "data=random", f"cell={cell}"])
    found = {}
    for layers in (1, 2):
        with open_dict(cfg):
            cfg.cell.num_layers = layers
        found |= {f"{seed} layers {layers}": initial(cfg, seed) for seed in SEEDS}
    assert len(set(found.values())) == 4
    compare(f"initial cell {cell}", found)


MODELS = {"char": "data=hello", "regressor": "data=adding", "forecaster": "data=waves"}


@pytest.mark.parametrize("model", MODELS)
def test_initial_weights_of_models(model):
    more = {"char": ["model.embedding=6"], "forecaster": ["model.head=recursive"], "regressor": ["cell=lstm"]}[model]
    plain, _ = composed("train", [f"model={model}", MODELS[model]])
    other, _ = composed("train", [f"model={model}", MODELS[model], *more])
    compare(f"initial model {model}", {" ".join(extra): initial(cfg, 1) for cfg, extra in ((plain, []), (other, more))})


def initial(cfg, seed):
    with seeded(seed):
        return digest(model_of(cfg, data_of(cfg)).parameters())


# A second or two each. `text` stands for the path of the text above.
SHORT = ["trainer=cpu", "logger=csv", "callbacks.pictures=null", "trainer.log_every_n_steps=1"]
SET = ["data.num_train=160", "trainer.max_epochs=2"]
ENDLESS = ["data.epoch_steps=8", "data.num_val=64", "data.num_test=64", "trainer.max_epochs=2"]
RUNS = {
    "hello": ["experiment=tutorial/hello", "trainer=cpu", "logger=[tensorboard,csv]", "trainer.log_every_n_steps=1"],
    "classify_random": ["experiment=tutorial/classify_random", *SHORT, *SET],
    "regress_random": ["experiment=tutorial/regress_random", *SHORT, *SET],
    "binary_random": ["experiment=tutorial/binary_random", *SHORT, *SET],
    "value_random": ["experiment=tutorial/value_random", *SHORT, *SET],
    "waves": [
        "experiment=waves", "trainer=cpu", "logger=[tensorboard,csv]", "trainer.log_every_n_steps=1",
        "data.epoch_steps=10", "trainer.max_epochs=2", "data.num_series=3", "data.length=300",
    ],
    "text": [
        "model=char", "data=text", "cell=lstm", "cell.num_layers=2", "cell.dropout=0.3", "cell.hidden_size=16",
        "model.dropout=0.2", "model.embedding=8", "data.epoch_steps=8", "trainer.max_epochs=2", *SHORT, "text",
    ],
    "adding": ["experiment=memory/adding", "cell=gru", *SHORT, *ENDLESS],
    "digits": ["experiment=memory/digits", "cell=lstm_chrono", *SHORT, "trainer.max_steps=10"],
    "ddp_cpu": ["model=classifier", "data=random", "cell=gru", *SHORT, "trainer=ddp_cpu", *SET],
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, text):
    """`run(name)` is the folder of one of `RUNS`, `run(script, *arguments)` what else a script leaves; each runs once."""
    place = tmp_path_factory.mktemp("goldens")

    def call(script, *arguments):
        command = [str(ROOT / "scripts" / f"{script}.py"), *arguments]
        result = forked(command, "", place, {**os.environ, **ENVIRONMENT})
        assert result.returncode == 0, result.stderr
        return place

    @cache
    def once(name, *arguments):
        if arguments:
            return call(name, *arguments)
        words = [f"data.path={text}" if word == "text" else word for word in RUNS[name]]
        words = [word for word in words if word != "trainer=cpu" or "trainer=ddp_cpu" not in words]
        return call("train", *words, f"hydra.run.dir={place / name}") / name

    return once


def header(path):
    return path.read_text(encoding="utf-8").splitlines()[0].split(",")


@pytest.mark.parametrize("name", RUNS)
def test_runs(name, run):
    """Final weights, what is written of the first five steps, test metrics."""
    folder = run(name)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    steps = [{key: float(value) for key, value in row.items() if value} for row in rows[:5]]
    metrics = json.loads((folder / "metrics.json").read_text())
    compare(f"run {name}", {"weights": digest(saved["state_dict"].values()), "steps": steps, "test": metrics}, rel=1e-5)


def test_formats(run):
    """Files of run folders, keys and columns in them, tags of TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hello, waves, labels = (run(name) for name in ("hello", "waves", "classify_random"))
    place = run("train", "-m", "data=hello", "seed=1,2", "logger=none", "trainer=cpu", "hydra.sweep.dir=sweep")
    run(
        "evaluate",
        f"ckpt={labels}/checkpoints/best.ckpt",
        "trainer=cpu",
        "out=predictions.csv",
        "hydra.run.dir=evaluated",
    )
    run("forecast", f"ckpt={waves}/checkpoints/best.ckpt", "out=forecast.csv")
    run("forecast", f"ckpt={waves}/checkpoints/best.ckpt", "backtest=true", "out=backtest.csv")
    found = {"files": {}, "tags": {}, "columns": {}}
    for folder in (hello, waves, labels, place / "sweep", place / "evaluated"):
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        found["files"][folder.name] = sorted(re.sub(r"(tfevents)[^/]*?(\.\d+)?$", r"\1\2", name) for name in names)
    for folder in (hello, waves):
        events = EventAccumulator(str(folder))
        events.Reload()
        tags = events.Tags()
        found["tags"][folder.name] = {kind: sorted(tags[kind]) for kind in ("scalars", "images", "tensors")}
    for path in (*(folder / "metrics.csv" for folder in (hello, waves, labels)), place / "sweep" / "results.csv",
                 *(place / f"{name}.csv" for name in ("predictions", "forecast", "backtest"))):  # fmt: skip
        found["columns"][path.relative_to(place).as_posix()] = header(path)
    contents = {
        name: json.loads((hello / name).read_text()) for name in ("run.json", "environment.json", "curves.json")
    }
    found["keys"] = {
        name: list(content if isinstance(content, dict) else content[0]) for name, content in contents.items()
    }
    found["settings"] = sorted(contents["run.json"]["settings"])
    compare("formats", found)


@pytest.mark.parametrize("data", ["series", "labelled", "waves"])
def test_specs(data, text):
    datamodule = data_of(composed("train", [f"data={data}", *given(data, text)])[0])
    compare(f"spec {data}", dataclasses.asdict(datamodule.spec), rel=1e-6)


def leaves_sha(config, overrides):
    """Of every value in a config and of what it asks Hydra's sweeper; of a class only its name counts."""
    cfg, own = composed(config, overrides)
    content = {"cfg": OmegaConf.to_container(cfg, resolve=True)}
    content |= {key: own[key] for key in ("mode", "run", "sweep", "sweeper")}
    lines = [
        f"{key}={str(value).rpartition('.')[2] if key.endswith('_target_') else value}"
        for key, value in flat(content).items()
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def test_configs_of_options():
    """One option of every group at a time."""
    choices = {group: options(group) for group in GROUPS if group != "experiment"}
    lines = [
        [f"{group}={names[k % len(names)]}" for group, names in choices.items()]
        for k in range(max(map(len, choices.values())))
    ]
    compare("config options", {" ".join(line): leaves_sha("train", line) for line in lines})


def test_configs_of_presets_and_scripts():
    found = {name: leaves_sha("train", [f"experiment={name}"]) for name in options("experiment")}
    scripts = sorted(path.stem for path in (ROOT / "conf").glob("*.yaml"))
    compare("config presets", found | {f"{name}.yaml": leaves_sha(name, []) for name in scripts})


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOLD = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
# what stands for something in a command, the longest first
PLACES = {
    "FILE_OR_FOLDER": "text.txt", "tinyshakespeare.txt": "text.txt", "NEWER.csv": str(SERIES), "FILE.csv": str(SERIES),
    "FILE.npz": str(LABELLED), "NEW.npz": str(LABELLED), "SUNSPOTS": str(SERIES), "COLUMN": "sales",
    "logs/runs/hello_char_rnn/TIME/checkpoints/best.ckpt": "best.ckpt", "PATH": "best.ckpt", "TABLE": "table.csv",
    "FILE": "text.txt",
}  # fmt: skip
SKIPPED = {"-sc": "Hydra's own", "--help": "Hydra's own", "--config-dir": "needs a folder", "again=": "needs a run"}
TAKEN = ("ckpt", "prompt", "out", "score", "plot", "logs")  # literally, by these scripts
COMMANDS = [
    [script, *shlex.split(line, comments=True)]
    for script, line in re.findall(r"scripts/(\w+)\.py ([^`\n]*)", TOLD.replace("\\\n", " "))
    if not any(mark in line for mark in SKIPPED)
]


def check(cfg):
    """What every script does with its config before anything else; raises for what is wrong."""
    from rnnlab.check import check

    check(cfg)


def jobs_of(words):
    """The jobs of a sweep, as few as hold each value once."""
    overrides = OverridesParser.create().parse_overrides(words)
    values = [
        [f"{item.get_key_element()}={value}" for value in item.sweep_string_iterator()] if item.is_sweep_override()
        else [item.input_line]
        for item in overrides
    ]  # fmt: skip
    return [[each[k % len(each)] for each in values] for k in range(max(map(len, values), default=1))]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_of_the_readme(command, tmp_path, monkeypatch):
    script, *words = command
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.ckpt").touch()
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 1000)
    for place, value in PLACES.items():
        words = [re.sub(rf"(?<![\w.]){re.escape(place)}$", value, word) for word in words]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        launchers = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
    chosen = {word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")}
    if not chosen <= {*launchers}:  # its plugin is not installed
        words = [word for word in words if not re.match(r"\+?hydra[/.]launcher", word)]
    words = [word for word in words if "=" in word]
    if script in ("generate", "forecast", "results"):
        words = [re.sub(rf"^({'|'.join(TAKEN)})=(.*)", r"\1='\2'", word) for word in words]
    if script in ("evaluate", "forecast"):
        words = [f"++{word}" if word.startswith("data.") else word for word in words]
    for job in jobs_of(words):
        cfg, _ = composed(script, job)
        if script in ("train", "benchmark"):
            check(cfg)
        elif script != "results":
            check(OmegaConf.create({key: value for key, value in OmegaConf.to_container(cfg).items() if key != "ckpt"}))


def test_the_table_of_groups_is_that_of_conf():
    rows = dict(re.findall(r"^\| `(\w+)` \| ((?:`[\w/.]+` ?)+)\|", TOLD, re.M))
    assert sorted(rows) == GROUPS
    for group, row in rows.items():
        listed = re.findall(r"`([\w/.]+)`", row)
        folders = tuple(name.removesuffix("...") for name in listed if name.endswith("..."))
        found = {name for name in options(group) if not (folders and name.startswith(folders))}
        assert found - {"none"} == {name for name in listed if not name.endswith("...")} - {"none"}, group
        assert all(any(name.startswith(folder) for name in options(group)) for folder in folders)


if __name__ == "__main__":
    FILE.write_text(json.dumps({"machine": machine()}) + "\n", encoding="utf-8")
    os.execve(sys.executable, [sys.executable, "-m", "pytest", "-n0", __file__], {**os.environ, "RENEW_GOLDENS": "1"})
