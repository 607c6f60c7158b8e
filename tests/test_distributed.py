"""Weights that the processes share (`trainer=fsdp`)."""

from pathlib import Path

import pytest
import torch
from conftest import TEXT, server
from torch import nn

from rnnlab.nn.gradients import NonFiniteGradientGuard, total_norm
from rnnlab.nn.rnn import SimpleRNN
from rnnlab.nn.sharding import shard

FSDP = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.precision=32-true")
SMALL = ("model=char", "data=text", f"data.path={TEXT}", "data.seq_len=16", "data.epoch_steps=6", "cell=lstm",
         "cell.hidden_size=9", "cell.num_layers=2", "model.embedding=9", "model.tied=true", "optim=adamw_cosine",
         "trainer.gradient_clip_val=0.5", "trainer.limit_val_batches=5", "trainer.limit_test_batches=5")  # fmt: skip


def test_fsdp_is_one_process_with_the_same_global_batch(script):
    """What a carried state, tied weights, uneven shards and clipping give, and the files, are those of one process."""
    alone = (*SMALL, "trainer=cpu", "data.batch_size=8")
    together = (*SMALL, *FSDP, "trainer.devices=2", "data.batch_size=4")
    watched = ("trainer.max_epochs=2", "callbacks=gradient_flow", "callbacks.gradient_flow.every=3", "logger=none")
    one = script("train", *alone, *watched, folder="one")
    two = script("train", *together, *watched, folder="two")
    assert not two.stderr
    for said in ("total", "test/loss", "run folder"):  # nothing is printed twice
        assert two.stdout.count(said) == one.stdout.count(said) == 1
    assert two.metrics == pytest.approx(one.metrics, abs=1e-5)
    here, there = two.last, one.last
    assert here.keys() == there.keys()
    torch.testing.assert_close(here["state_dict"], there["state_dict"], atol=1e-5, rtol=1e-4)
    states = (part["optimizer_states"][0]["state"] for part in (here, there))
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-4)
    flows = [(run.folder / "gradient_flow.csv").read_text().splitlines()[1:] for run in (two, one)]
    for row, expected in zip(*flows, strict=True):
        *which, norm = row.split(",")
        assert expected.startswith(",".join(which))
        assert float(norm) == pytest.approx(float(expected.split(",")[-1]), rel=1e-3)

    ckpt = {run.folder.name: f"ckpt={run.folder / 'checkpoints' / 'last.ckpt'}" for run in (one, two)}
    few = ("trainer=cpu", "trainer.limit_test_batches=5", "data.batch_size=8")
    assert script("evaluate", ckpt["two"], *few, folder="test").metrics == pytest.approx(two.metrics, rel=1e-6)
    onward = ("trainer.max_epochs=3", "callbacks=none", "logger=none")
    fewer = script("train", *alone, *onward, ckpt["two"], folder="two-one").last
    more = script("train", *together, *onward, ckpt["one"], folder="one-two").last
    assert fewer["global_step"] == more["global_step"] == 18
    torch.testing.assert_close(more["state_dict"], fewer["state_dict"], atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: trainer=fsdp on a GPU")
@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_fsdp_on_a_gpu(cell, script):
    """What is trained with is what is saved."""
    small = (*SMALL, f"cell={cell}", "trainer.devices=1", "trainer.precision=32-true")
    one = script("train", *small, "trainer=gpu", "trainer.max_epochs=2", "logger=none", folder="one")
    shared = script("train", *small, "trainer=fsdp", "trainer.max_epochs=2", "logger=none", folder="shared")
    assert not shared.stderr
    torch.testing.assert_close(shared.last["state_dict"], one.last["state_dict"], atol=1e-5, rtol=1e-4)
    ckpt = shared.folder / "checkpoints" / "best.ckpt"
    again = script("evaluate", f"ckpt={ckpt}", "trainer=gpu", "trainer.precision=32-true",
                   "trainer.limit_test_batches=5", folder="again")  # fmt: skip
    assert again.metrics == pytest.approx(shared.metrics, rel=1e-4)


def test_fsdp_needs_an_optimizer_that_remembers(script):
    sgd = ("optim=sgd", "optim.optimizer.momentum=0")
    result = script("train", "data=hello", *FSDP, "trainer.devices=1", *sgd, check=False)
    assert result.returncode == 1
    assert "optim.optimizer.momentum=0" in result.stderr
    assert result.stderr.count("\n") == 1


def test_ranks_agree_about_gradients_of_which_each_has_a_share(tmp_path):
    ranks = [server.Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0, 0]


def _rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    alone, network = (_network() for _ in range(2))
    shard(network, "cpu")
    weights = list(network.parameters())
    assert weights[-1].to_local().numel() == 1 - rank  # the bias of the head: nothing is left for the second rank
    optimizer = torch.optim.Adam(weights, fused=True)
    for net in (alone, network):
        net(torch.ones(4, 6, 5))[0].sum().backward()
    torch.testing.assert_close(total_norm([w.grad for w in weights]), total_norm([w.grad for w in alone.parameters()]))
    size = total_norm([w.detach() for w in weights], torch.inf)
    torch.testing.assert_close(size, total_norm([*alone.parameters()], torch.inf))
    guard = NonFiniteGradientGuard()
    guard(optimizer, 0.01)
    nn.utils.clip_grad_norm_(alone.parameters(), 0.01)
    for weight, expected in zip(weights, alone.parameters(), strict=True):
        torch.testing.assert_close(weight.grad.full_tensor(), expected.grad)
    optimizer.step()
    before = [weight.detach().clone() for weight in weights]
    for skipped, (clip, number) in enumerate([(None, torch.nan), (1.0, torch.nan), (None, torch.inf)], 1):
        network(torch.ones(4, 6, 5))[0].sum().backward()
        if rank == 1:
            weights[0].grad.to_local()[0, 0] = number
        guard(optimizer, clip)
        assert guard.bad is True
        assert guard.skipped == skipped
        optimizer.step()
    assert all(torch.equal(now.to_local(), then.to_local()) for now, then in zip(weights, before, strict=True))
    torch.distributed.destroy_process_group()


def _network() -> SimpleRNN:
    torch.manual_seed(0)
    return SimpleRNN({"_target_": "torch.nn.LSTM", "hidden_size": 3}, input_size=5, output_size=1)
