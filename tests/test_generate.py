"""Writing and scoring text with a checkpoint, as a user does it."""

import csv
import math
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, TEXT, runner

from rnnlab.nn.rnn import SimpleRNN
from rnnlab.tasks.sampling import probabilities, write


def trained(tmp_path_factory, *arguments):
    """`ckpt=PATH` of a short training."""
    call = runner(tmp_path_factory.mktemp("trained"))
    result = call("train", *arguments, "callbacks=none", "logger=none")
    return f"ckpt={result.folder}/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def hello(tmp_path_factory):
    return trained(tmp_path_factory, "experiment=tutorial/hello")


SHORT = ("data=text", f"data.path={TEXT}", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model of a text with two characters of its vocabulary folded into the unknown character."""
    return trained(tmp_path_factory, *SHORT, "data.min_count=3", "cell=gru", "data.epoch_steps=100")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return trained(tmp_path_factory, *SHORT, "data.unit=byte", "data.epoch_steps=5")


def test_greedy_text(hello, script, tmp_path):
    assert script("generate", hello, "prompt=hell", "length=1", "top_k=1").stdout == "hello\n"
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_seed_is_a_text(hello, script):
    def text(*how):
        return script("generate", hello, "prompt=h", "length=200", "temperature=5", *how).stdout

    first = text("seed=3")
    assert first == text("seed=3")
    assert first != text("seed=4")
    assert len(first) == 1 + 200 + 1  # prompt, new characters, end of line


def test_the_prompt_is_taken_as_it_is(source, script):
    prompt = 'a, b=\'${c}\': [x] \\${d} """ \\'
    assert script("generate", source, f"prompt={prompt}", "length=5").stdout[:-6] == prompt
    piped = script("generate", source, "prompt=-", "length=5", stdin=f"{prompt}\n")
    assert piped.stdout[:-6] == prompt
    assert len(script("generate", source, "length=5").stdout) == 6  # no prompt at all
    assert len(script("generate", source, "prompt=", "length=5").stdout) == 6
    assert script("generate", source, "prompt=???", "length=5").stdout.startswith("???")


def test_what_the_vocabulary_lacks_is_folded_if_it_can_be(source, hello, script):
    assert script("generate", source, "prompt=日本", "length=5").stdout.startswith("日本")
    refused = script("generate", hello, "prompt=hallo", check=False)
    assert refused.returncode == 1
    assert refused.stderr == "Error: prompt has characters that the model's vocabulary 'helo' lacks: 'a'.\n"


def test_the_unknown_character_is_never_generated(source, script):
    assert "\ufffd" not in script("generate", source, "length=3000", "temperature=20").stdout


def test_many_texts_at_once(hello, script, tmp_path):
    many = script("generate", hello, "prompt=he", "num_samples=3", "length=7", "out=a, b.txt", "temperature=3")
    texts = many.stdout.split("--- ")[1:]
    assert [text.split("\n")[0] for text in texts] == [f"{k} of 3 ---" for k in (1, 2, 3)]
    assert all(text.split("\n")[1][:2] == "he" and len(text.split("\n")[1]) == 9 for text in texts)
    assert len({text.split("\n")[1] for text in texts}) > 1
    assert (tmp_path / "a, b.txt").read_text() == many.stdout


def test_a_reader_that_has_enough(hello, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "generate.py"), hello, "length=100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as job:
        job.stdout.read(5)
        job.stdout.close()
        assert job.stderr.read() == b""
        assert job.wait(60) == 0


def test_ctrl_c_ends_a_text(hello, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "generate.py"), hello, "length=1000000000"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # if it is ignored here, children ignore it
    with (tmp_path / "text").open("wb") as file:
        job = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    try:
        while not (tmp_path / "text").stat().st_size:  # it comes as it is generated
            assert job.poll() is None
            time.sleep(0.1)
        job.send_signal(signal.SIGINT)
        assert job.communicate(timeout=60)[1] == b""
        assert job.returncode == 130
    finally:
        job.kill()


def test_bytes_are_written_as_text(raw, script):
    written = script("generate", raw, "prompt=日本", "length=50", "num_samples=1")
    assert written.stdout.startswith("日本")


@pytest.mark.parametrize("model", ["source", "raw"])
def test_a_score_is_the_loss_of_the_text(model, request, script, tmp_path):
    ckpt = request.getfixturevalue(model)
    text = "def f(x):\n    return 'é'\n" * 100
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    scored = script("generate", ckpt, "score=mine.txt", "out=nats.csv")
    saved = torch.load(ckpt[5:], weights_only=True)
    spec = saved["hyper_parameters"]["spec"]
    cell = dict(saved["hyper_parameters"]["cell"])
    network = SimpleRNN(cell, spec["input_size"], spec["output_size"], "all")
    network.load_state_dict({name[8:]: value for name, value in saved["state_dict"].items()})
    characters = spec["vocab"]
    known = [character if character in characters else "\ufffd" for character in text]
    tokens = list(map(characters.index, known)) if characters else list(text.encode())
    with torch.no_grad():
        out, _ = network(torch.tensor([tokens[:-1]]))
    nats = F.cross_entropy(out[0], torch.tensor(tokens[1:]), reduction="none")
    row = dict(line.strip("│ \n").replace(" ", "").split("│") for line in scored.stdout.splitlines() if "│" in line)
    unit = "character" if characters else "byte"
    assert int(row[f"{unit}spredicted,allbutthefirst"].replace(",", "")) == len(nats)
    assert float(row[f"natsper{unit}"]) == pytest.approx(nats.mean().item(), abs=1e-5)
    assert float(row[f"bitsper{unit}"]) == pytest.approx(nats.mean().item() / math.log(2), abs=1e-5)
    assert float(row["perplexity"]) == pytest.approx(nats.mean().exp().item(), rel=1e-5)
    with (tmp_path / "nats.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(line["nats"]) for line in table] == pytest.approx(nats.tolist(), abs=1e-4)
    content = text if characters else map(str, text.encode())
    assert [line[unit] for line in table] == list(content)[1:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["temperature=0", "top_p=0", "top_k=-1", "length=0", "num_samples=0", "seed=-1", "device=tpu"],
            ["temperature=0 must be a number above 0; top_k=1", "top_p=0 must be", "top_k=-1 must be", "0 keeps all",
             "length=0 must be", "num_samples=0 must be", "seed=-1 must be", "device=tpu must be cpu or cuda"],
        ),
        (["temprature=1"], ["temprature is not a setting", "temperature"]),
        (["score=one.txt"], ["score=one.txt is too short"]),
        (["score=latin.txt"], ["score=latin.txt", "byte 3", "not UTF-8"]),
        (["score=mine.txt", "out=link.txt"], ["out=link.txt would replace score=mine.txt"]),
        (["out=no/such/folder.txt"], ["out=no/such/folder.txt"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)  # fmt: skip
def test_what_a_user_can_get_wrong(arguments, words, hello, script, tmp_path):
    (tmp_path / "one.txt").write_text("h")
    (tmp_path / "mine.txt").write_text("hello")
    (tmp_path / "link.txt").hardlink_to(tmp_path / "mine.txt")
    (tmp_path / "latin.txt").write_bytes(b"hel\xe4o")
    refused = script("generate", hello, *arguments, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ")
    assert "Traceback" not in refused.stderr
    assert all(word in refused.stderr for word in words), refused.stderr
    assert not refused.stdout
    assert (tmp_path / "mine.txt").read_text() == "hello"


@pytest.mark.parametrize("how", [{"top_k": 1}, {"top_p": 1e-50}, {"temperature": 1e-45}], ids=str)
def test_extremes_take_the_likeliest(how):
    chances = probabilities(torch.tensor([[100.0, 300.0, 299.0], [-1e4, -1e5, -1e6]]), **how)
    assert chances.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_ties_are_kept_as_many_as_asked_for():
    for k in (1, 2, 3):
        chances = probabilities(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), top_k=k)
        assert sorted(chances[0].tolist()) == pytest.approx([0] * (4 - k) + [1 / k] * k)
    even = probabilities(torch.tensor([[1.0, 2.0, 3.0]]), temperature=1e39, top_k=2)
    assert even[0].tolist() == pytest.approx([0, 0.5, 0.5])


LOGITS = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04]).log()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.06, 0.04]),
        ({"temperature": 0.5}, [0.16, 0.09, 0.04, 0.0036, 0.0016]),
        ({"temperature": 2.0}, [0.4**0.5, 0.3**0.5, 0.2**0.5, 0.06**0.5, 0.04**0.5]),
        ({"top_k": 2}, [0.4, 0.3, 0, 0, 0]),
        ({"top_p": 0.75}, [0.4, 0.3, 0.2, 0, 0]),
        ({"top_p": 0.65}, [0.4, 0.3, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.7, "temperature": 1.0}, [0.4, 0.3, 0, 0, 0]),
    ],
    ids=str,
)
def test_samples_have_the_right_distribution(how, expected):
    """20,000 samples against the distribution that the definitions give."""
    expected = torch.tensor(expected) / sum(expected)
    order = torch.tensor([3, 0, 4, 1, 2])  # not sorted, as logits are

    class Known(torch.nn.Module):
        def forward(self, x, state=None):
            return LOGITS[order].expand(*x.shape, -1).clone(), state

        def step(self, x, state):
            return LOGITS[order].expand(len(x), -1).clone(), state

    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack(list(write(Known(), torch.zeros(200, 1, dtype=torch.long), 100, generator=generator, **how)))
    found = torch.bincount(drawn.flatten(), minlength=5) / drawn.numel()
    expected = expected[order]
    assert (found[expected == 0] == 0).all()
    torch.testing.assert_close(found, expected, atol=4 * 0.5 / 20_000**0.5, rtol=0)
    torch.testing.assert_close(probabilities(LOGITS[order][None], **how)[0], expected, atol=1e-6, rtol=1e-5)
