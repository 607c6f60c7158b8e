"""Behaviour that moving code must not change, against goldens.json; `python tests/test_goldens.py` regenerates it."""

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
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import ENVIRONMENT, ROOT, forked, needs, options
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import OmegaConf

FILE = Path(__file__).with_name("goldens.json")
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra")


def machine():
    """What the bits of a float depend on: the kind of CPU, and torch."""
    info = Path("/proc/cpuinfo")
    lines = re.findall(r"^(cpu family|model|model name)\s*: (.*)", info.read_text(), re.M) if info.is_file() else []
    return [*dict(lines).values(), platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.__version__]


def flat(node, key=""):
    """The leaves of nested dicts and lists, by their path."""
    if isinstance(node, dict | list) and node:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        return {path: leaf for name, child in pairs for path, leaf in flat(child, f"{key}.{name}").items()}
    return {key[1:]: node}


def compare(name, found, rel=0.0):
    """Compare with what is stored, floats to `rel`; on another kind of machine roughly, and without the digests."""
    goldens = json.loads(FILE.read_text(encoding="utf-8"))
    if "RENEW_GOLDENS" in os.environ:
        goldens[name] = found
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in goldens.items())
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    found, expected = flat(json.loads(json.dumps(found))), flat(goldens[name])
    bitwise = goldens["machine"] == machine() or not any(key.endswith(".sha") for key in expected)
    assert sorted(found) == sorted(expected)
    wrong = {}
    for key, value in expected.items():
        right = pytest.approx(value, rel=rel if bitwise else 1e-3) if isinstance(value, float) else value
        if found[key] != right and (bitwise or not key.endswith(".sha")):
            wrong[key] = f"{found[key]} and not {value}"
    assert not wrong
    if not bitwise:
        pytest.skip(f"NOT BITWISE: the goldens are of {goldens['machine']}, this is {machine()}; norms agree to 1e-3")


def digest(tensors):
    """The sha256 of tensors one after the other, in short, and their norm without what is nan: a target that lacks."""
    sha, square = hashlib.sha256(), 0.0
    for tensor in tensors:
        sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.detach().cpu().numpy().tobytes())
        square += tensor.double().nan_to_num().square().sum().item()
    return {"sha": sha.hexdigest()[:16], "norm": float(f"{square**0.5:.6g}")}


@pytest.fixture(autouse=True)
def no_hydra_config(monkeypatch):
    """`composed` sets one, as `hydra.main` does; no other test finds it."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)


def composed(config, overrides):
    """A config as a script gets it, and the part that is Hydra's own, as a dict."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        whole = compose(config, overrides, return_hydra_config=True)
    own = OmegaConf.to_container(whole.hydra)
    OmegaConf.update(whole, "hydra.runtime.output_dir", "OUT", force_add=True)
    OmegaConf.update(whole, "hydra.sweep.dir", "OUT")
    HydraConfig.instance().set_config(whole)
    return OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"]), own


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A file of 57,000 characters that are the same everywhere."""
    words = [hashlib.sha256(b"%d" % number).hexdigest()[: 3 + number % 7] for number in range(8000)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n".join(" ".join(words[k : k + 9]) for k in range(0, 8000, 9)))
    return str(path)


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


def tensors(parts):
    """All tensors within nested tuples, in order."""
    for part in parts:
        if torch.is_tensor(part):
            yield part
        elif isinstance(part, tuple):
            yield from tensors(part)


def first_two(loader):
    """x, y and what other tensors the first two batches hold, in order."""
    return digest(tensors(islice(loader, 2)))


@pytest.mark.parametrize("data", [name for name in options("data") if name != "python"])  # which every interpreter has
def test_batches(data, text):
    """The first two batches of each split, and of two epochs of the training part."""
    cfg, _ = composed("train", [f"data={data}", *([f"data.path={text}"] if data == "text" else needs(data))])
    found = {}
    for seed in (1, 2):
        with seeded(seed):
            datamodule = data_of(cfg)
            train, tests = datamodule.train_dataloader(), datamodule.test_dataloader()
            for epoch in range(2):
                train.sampler.set_epoch(epoch)
                found[f"{seed} train {epoch}"] = first_two(train)
            found[f"{seed} val"] = first_two(datamodule.val_dataloader())
            for number, loader in enumerate(tests if isinstance(tests, list) else [tests]):
                found[f"{seed} test {number}"] = first_two(loader)
    assert all(found[f"1 {part}"] == found[f"2 {part}"] for part in ("val", "test 0"))
    different = [found[name]["sha"] for name in ("1 train 0", "1 train 1", "2 train 0", "1 val", "1 test 0")]
    assert data == "hello" or len(set(different)) == 5
    compare(f"batches {data}", found)


NETWORKS = [f"classifier data=random cell={cell}" for cell in options("cell")]
NETWORKS += ["char", "char model.embedding=6", "regressor data=adding", "forecaster data=waves model.head=recursive"]


@pytest.mark.parametrize("network", NETWORKS)
def test_initial_weights(network):
    cfg, _ = composed("train", f"model={network}".split())
    found = {}
    for seed, layers in ((1, 1), (2, 1), (1, 2)):
        OmegaConf.update(cfg, "cell.num_layers", layers, force_add=True)
        with seeded(seed):
            spec = dataclasses.asdict(data_of(cfg).spec)
            found[f"{seed} layers {layers}"] = digest(instantiate(cfg.model, spec=spec).parameters())
    assert len({weights["sha"] for weights in found.values()}) == 3
    compare(f"initial {network}", found)


SHORT = "trainer=cpu trainer.log_every_n_steps=1 trainer.max_epochs=2 logger=csv callbacks.pictures=null "
BOTH = "trainer=cpu trainer.log_every_n_steps=1 logger=[tensorboard,csv] "
RUNS = {
    "hello": BOTH + "experiment=tutorial/hello",
    "classify_random": SHORT + "experiment=tutorial/classify_random data.num_train=160",
    "regress_random": SHORT + "experiment=tutorial/regress_random data.num_train=160",
    "binary_random": SHORT + "experiment=tutorial/binary_random data.num_train=160",
    "value_random": SHORT + "experiment=tutorial/value_random data.num_train=160",
    "waves": BOTH + "experiment=waves trainer.max_epochs=2 data.epoch_steps=10 data.num_series=3 data.length=300",
    "text": SHORT + "data=text data.path=TEXT data.epoch_steps=8 model.embedding=8 model.dropout=0.2 cell=lstm "
    "cell.num_layers=2 cell.dropout=0.3 cell.hidden_size=16",
    "adding": SHORT + "experiment=memory/adding cell=gru data.epoch_steps=8 data.num_val=64 data.num_test=64",
    "digits": SHORT + "experiment=memory/digits cell=lstm_chrono trainer.max_steps=10",
    "ddp_cpu": SHORT.replace("=cpu", "=ddp_cpu") + "model=classifier data=random cell=gru data.num_train=160",
}  # about a second each; TEXT stands for the path of that text


@pytest.fixture(scope="module")
def run(tmp_path_factory, text):
    """`run(name)` gives the folder of one of `RUNS`, `run(script, *arguments)` that of a script; each runs once."""
    place = tmp_path_factory.mktemp("goldens")

    @cache
    def once(name, *arguments):
        if not arguments:
            once("train", *RUNS[name].replace("TEXT", text).split(), f"hydra.run.dir={place / name}")
            return place / name
        command = [str(ROOT / "scripts" / f"{name}.py"), *arguments]
        result = forked(command, "", place, {**os.environ, **ENVIRONMENT})
        assert result.returncode == 0, result.stderr
        return place

    return once


@pytest.mark.parametrize("name", RUNS)
def test_runs(name, run):
    """Final weights, what is written of the first five steps, test metrics."""
    folder = run(name)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    weights = digest(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"].values())
    steps = [{key: float(value) for key, value in row.items() if value} for row in rows[:5]]
    metrics = json.loads((folder / "metrics.json").read_text())
    compare(f"run {name}", {"weights": weights, "steps": steps, "test": metrics}, rel=1e-5)


def test_formats(run):
    """Files of run folders, keys and columns in them, tags of TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hello, waves, labels = (run(name) for name in ("hello", "waves", "classify_random"))
    place = run("train", "-m", "data=hello", "seed=1,2", "logger=none", "trainer=cpu", "hydra.sweep.dir=sweep")
    run("evaluate", f"ckpt={labels}/checkpoints/best.ckpt", "out=predictions.csv", "hydra.run.dir=evaluated")
    run("forecast", f"ckpt={waves}/checkpoints/best.ckpt", "out=forecast.csv")
    found = {"files": {}, "tags": {}, "columns": {}, "keys": {}}
    for folder in (hello, waves, labels, place / "sweep", place / "evaluated"):
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        found["files"][folder.name] = sorted(re.sub(r"(tfevents)[^/]*?(\.\d+)?$", r"\1\2", name) for name in names)
    for folder in (hello, waves):
        events = EventAccumulator(str(folder))
        events.Reload()
        found["tags"][folder.name] = {kind: sorted(events.Tags()[kind]) for kind in ("scalars", "images", "tensors")}
    tables = [f"{folder.name}/metrics.csv" for folder in (hello, waves, labels)]
    for name in (*tables, "sweep/results.csv", "predictions.csv", "forecast.csv"):
        found["columns"][name] = (place / name).read_text(encoding="utf-8").splitlines()[0]
    contents = {name: json.loads((hello / f"{name}.json").read_text()) for name in ("run", "environment", "curves")}
    found["keys"] = {name: list(each if isinstance(each, dict) else each[0]) for name, each in contents.items()}
    compare("formats", found)


@pytest.mark.parametrize("data", ["series", "labelled", "waves"])
def test_specs(data):
    datamodule = data_of(composed("train", [f"data={data}", *needs(data)])[0])
    compare(f"spec {data}", dataclasses.asdict(datamodule.spec), rel=1e-6)


def leaves_sha(config, overrides):
    """Of every value in a config and of what it asks Hydra's sweeper; of a class only its name counts."""
    cfg, own = composed(config, overrides)
    content = {"cfg": OmegaConf.to_container(cfg, resolve=True)}
    content |= {key: own[key] for key in ("mode", "run", "sweep", "sweeper")}
    names = {key: str(value).rpartition(".")[2] for key, value in flat(content).items() if key.endswith("_target_")}
    lines = sorted(f"{key}={value}" for key, value in (flat(content) | names).items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_configs():
    """Of one option of every group at a time, of each preset, and of each script."""
    choices = {group: options(group) for group in GROUPS if group != "experiment"}
    number = max(map(len, choices.values()))
    asked = [" ".join(f"{group}={names[k % len(names)]}" for group, names in choices.items()) for k in range(number)]
    asked += [f"experiment={name}" for name in options("experiment")]
    found = {words: leaves_sha("train", words.split()) for words in asked}
    found |= {path.stem: leaves_sha(path.stem, []) for path in sorted((ROOT / "conf").glob("*.yaml"))}
    compare("configs", found)


TOLD = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
LITERAL = re.compile("(ckpt|prompt|out|score|plot|logs)=(.*)")  # taken as it stands by scripts that make no run
COMMANDS = [
    [script, *shlex.split(line, comments=True)]
    for script, line in re.findall(r"scripts/(\w+)\.py ([^`\n]*)", TOLD.replace("\\\n", " "))
    if not re.search("-sc|--help|--config-dir|again=", line)  # Hydra's own; need a folder that is not there
]


def check(cfg):
    """What every script does with its config before anything else; raises for what is wrong."""
    from rnnlab.config.validate import check_parts
    from rnnlab.training.dry_run import check_run

    (check_run if "cell" in cfg else check_parts)(cfg)


def jobs_of(words):
    """The jobs of a sweep, as few as hold each value once, but for seeds."""
    values = []
    for item in OverridesParser.create().parse_overrides(words):
        swept = item.sweep_string_iterator() if item.is_sweep_override() else ()
        values.append([f"{item.get_key_element()}={value}" for value in swept] or [item.input_line])
    number = max((len(each) for each in values if not each[0].startswith("seed=")), default=1)
    return [[each[k % len(each)] for each in values] for k in range(number)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_of_the_readme(command, tmp_path, monkeypatch):
    """Every command composes, and its config passes the check."""
    script, *words = command
    monkeypatch.chdir(tmp_path)
    for path in re.findall(r"\b(?:ckpt|data\.path)=([\w.]+)$", "\n".join(words), re.M):
        (tmp_path / path).touch()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        launchers = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
    if not {word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")} <= {*launchers}:
        words = [word for word in words if not re.match(r"\+?hydra[/.]launcher", word)]  # its plugin is not installed
    words = [word for word in words if "=" in word]
    if script in ("generate", "forecast", "results"):
        words = [LITERAL.sub(r"\1='\2'", word) for word in words]
    if script in ("evaluate", "forecast"):
        words = [f"++{word}" if word.startswith("data.") else word for word in words]
    for job in jobs_of(words):
        cfg, _ = composed(script, job)
        if script in ("train", "benchmark"):
            check(cfg)
        elif script != "results":  # these take the rest from the checkpoint
            check(OmegaConf.create({key: value for key, value in OmegaConf.to_container(cfg).items() if key != "ckpt"}))


def test_the_table_of_groups_is_that_of_conf():
    rows = dict(re.findall(r"^\| `(\w+)` \| ((?:`[\w/.]+` ?)+)\|", TOLD, re.M))
    assert sorted(rows) == GROUPS
    for group, row in rows.items():
        listed = {*re.findall(r"`([\w/.]+)`", row), "none"}
        assert listed == {name if "/" not in name else f"{name.split('/')[0]}/..." for name in options(group)} | {
            "none"
        }


if __name__ == "__main__":
    FILE.write_text(json.dumps({"machine": machine()}))
    os.execve(sys.executable, [sys.executable, "-m", "pytest", "-n0", __file__], {**os.environ, "RENEW_GOLDENS": "1"})
