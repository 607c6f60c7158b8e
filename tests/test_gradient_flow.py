"""The gradient through time against cells that autograd unrolls, what a run shows of it, and the guard."""

import csv
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import cells
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from rnnlab.data.memory import AddingData
from rnnlab.nn.bptt import gradients_through_time, norm_per_step, recorded
from rnnlab.nn.gradients import MAX_CONSECUTIVE_SKIPS, NonFiniteGradientGuard, any_non_finite
from rnnlab.nn.min_rnn import MinGRU, MinLSTM
from rnnlab.nn.rnn import SimpleRNN
from rnnlab.training.callbacks.curves import Curves
from rnnlab.utils.errors import UserError


def unrolled(cell, weights, x):
    """Every h_t, and for LSTM every c_t, as a node of its own; the equations of torch's documentation."""
    batch = len(x)
    if isinstance(cell, MinGRU | MinLSTM):
        h, states = x.new_zeros(batch, cell.hidden_size), []
        for step in x.unbind(1):
            parts = F.linear(step, *weights).chunk(len(cell.gates), -1)
            if isinstance(cell, MinGRU):
                z = parts[0].sigmoid()
            else:
                f, i = parts[0].sigmoid(), parts[1].sigmoid()
                z = i / (f + i)
            h = (1 - z) * h + z * parts[-1]
            states.append(h)
        return states, []
    w_ih, w_hh, *others = weights
    b_ih, b_hh = others[:2] if cell.bias else (None, None)
    h, c = x.new_zeros(batch, w_hh.shape[1]), x.new_zeros(batch, cell.hidden_size)
    hidden, cellular = [], []
    for step in x.unbind(1):
        of_x, of_h = F.linear(step, w_ih, b_ih), F.linear(h, w_hh, b_hh)
        if cell.mode == "LSTM":
            i, f, g, o = (of_x + of_h).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            h = F.linear(h, others[-1]) if cell.proj_size else h
            cellular.append(c)
        elif cell.mode == "GRU":
            (x_r, x_z, x_n), (h_r, h_z, h_n) = of_x.chunk(3, -1), of_h.chunk(3, -1)
            z = (x_z + h_z).sigmoid()
            h = (1 - z) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh() + z * h
        else:
            h = {"RNN_TANH": torch.tanh, "RNN_RELU": torch.relu}[cell.mode](of_x + of_h)
        hidden.append(h)
    return hidden, cellular


def unrolled_network(net, x):
    """The network's output and the states of each layer and direction, from below, in the order of reading."""
    found = []

    def forward(cell, x, state=None):
        layers = cell.all_weights if isinstance(cell, nn.RNNBase) else [list(cell.parameters())]
        outs = []
        for number, weights in enumerate(layers):
            backward = getattr(cell, "bidirectional", False) and number % 2
            found.append(unrolled(cell, weights, x.flip(1) if backward else x))
            out = torch.stack(found[-1][0], 1)
            outs.append(out.flip(1) if backward else out)
            if backward or not getattr(cell, "bidirectional", False):
                x, outs = torch.cat(outs, -1), []
        return x, None

    parts = [part for part in net.modules() if isinstance(part, nn.RNNBase | MinGRU | MinLSTM)]
    for part in parts:
        part.forward = partial(forward, part)
    out = net(x)[0]
    for part in parts:
        del part.forward
    return out, found


def recorded_gradients(net, x, loss_of=lambda out: out.square().sum(), lengths=None):
    """The loss, the recorded layers and what comes back to them."""
    with recorded(net) as layers:
        loss = loss_of(net(x, None, lengths)[0])
    return loss, layers, gradients_through_time(loss, layers)


def relative(found, expected):
    """The largest error of any step, over the norm of that step's derivative."""
    error, size = ((part).norm(dim=(0, 2)) for part in (found - expected, expected))
    return (error / size.clamp_min(1e-300)).max().item()


KINDS = [cell for cell in cells() if cell.id in ("rnn", "rnn_relu", "lstm", "gru", "mingru", "minlstm")]
KINDS.append(pytest.param({"_target_": "torch.nn.LSTM", "proj_size": 3, "bias": False}, id="projected"))


@pytest.mark.filterwarnings("ignore:.*projections.*")  # torch says that they are slow
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2}, {"bidirectional": True, "num_layers": 2}, {"residual": True, "num_layers": 2}],
    ids=["one", "two", "bidirectional", "residual"],
)  # fmt: skip
@pytest.mark.parametrize("readout", ["last", "all"])
@pytest.mark.parametrize("cell", KINDS)
def test_the_total_derivative_is_that_of_the_unrolled_cell(cell, readout, options):
    net = SimpleRNN({**cell, "num_layers": 1, **options, "hidden_size": 6}, 4, 2, readout).double()
    x = torch.randn(5, 12, 4, dtype=torch.float64)
    loss, layers, gradients = recorded_gradients(net, x)
    assert loss.item() == pytest.approx(net(x)[0].square().sum().item(), rel=1e-12)  # by torch's own kernels
    out, states = unrolled_network(net, x)
    assert len(states) == len(layers)
    numbers = range(1, options.get("num_layers", 1) + 1)
    directions = ("", " backward") if options.get("bidirectional") else ("",)
    assert [layer.name for layer in layers] == [f"layer {number}{way}" for number in numbers for way in directions]
    for gradient, (hidden, cellular) in zip(gradients, states, strict=True):
        assert set(gradient) == ({"h", "c"} if cellular else {"h"})
        for name, nodes in (("h", hidden), ("c", cellular)):
            if nodes:
                expected = torch.autograd.grad(out.square().sum(), nodes, retain_graph=True, materialize_grads=True)
                assert relative(gradient[name], torch.stack(expected, 1)) < 1e-12


@pytest.mark.parametrize("cell", ["RNN", "GRU"])
def test_the_total_derivative_is_that_by_a_state_that_is_carried_over(cell):
    """By torch's own kernels: a sequence is cut, and the state at the cut is what the derivative is taken by."""
    net = SimpleRNN({"_target_": f"torch.nn.{cell}", "hidden_size": 6}, 4, 2).double()
    x = torch.randn(5, 12, 4, dtype=torch.float64)
    _, _, [gradient] = recorded_gradients(net, x)
    for t in range(1, 12):
        state = net(x[:, :t])[1].detach().requires_grad_()
        expected = torch.autograd.grad(net(x[:, t:], state)[0].square().sum(), state)[0]
        torch.testing.assert_close(gradient["h"][:, t - 1], expected[0], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("target", ["torch.nn.GRU", "rnnlab.nn.min_rnn.MinGRU"])
def test_padding_sends_nothing_back(target):
    net = SimpleRNN({"_target_": target, "hidden_size": 6, "bidirectional": True, "num_layers": 1}, 4, 2).double()
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    _, _, padded = recorded_gradients(net, x, lambda out: out[1].square().sum(), [9, 5])
    _, _, alone = recorded_gradients(net, x[1:, :5])
    for found, expected in zip(padded, alone, strict=True):
        torch.testing.assert_close(found["h"][1:, :5], expected["h"], rtol=1e-9, atol=1e-12)
        assert found["h"][:, 5:].abs().max() == 0


def test_sequences_of_several_lengths_are_aligned_at_their_ends():
    gradient = torch.zeros(2, 4, 3, dtype=torch.float64)
    gradient[0, :, 0] = torch.tensor([1.0, 2, 3, 4])
    gradient[1, :2, 1] = torch.tensor([3.0, 0])
    # the second ends with the first; the steps before that only the first has, which counts for two
    expected = torch.tensor([2 * 1.0, 2 * 4, 9 + 9, 16 + 0], dtype=torch.float64).sqrt()
    torch.testing.assert_close(norm_per_step(gradient, [4, 2]), expected)
    torch.testing.assert_close(norm_per_step(gradient, [4, 4]), norm_per_step(gradient))


def test_saturation_counts_what_is_closed():
    net = SimpleRNN({"_target_": "torch.nn.LSTM", "hidden_size": 4}, 2, 1)
    for weight in net.cell.parameters():
        nn.init.zeros_(weight)
    net.cell.bias_ih_l0.data = torch.tensor([9.0, 9, 9, 0] + [-9.0, 0, 0, 0] + [9.0] * 4 + [0.0] * 4)  # i, f, g, o
    _, [layer], _ = recorded_gradients(net, torch.randn(3, 1, 2))
    shares = {name: share.item() for name, share in layer.saturation().items()}
    assert shares == {"input": 0.75, "forget": 0.25, "output": 0, "units": 0}  # tanh(c) with c = i is 0.76 or less
    relu = SimpleRNN({"_target_": "torch.nn.RNN", "hidden_size": 4, "nonlinearity": "relu"}, 2, 1)
    x = torch.randn(3, 7, 2)
    _, [layer], _ = recorded_gradients(relu, x)
    assert layer.saturation()["units"] == (relu.cell(x)[0] == 0).double().mean()


def test_saturation_leaves_padding_out():
    net = SimpleRNN({"_target_": "torch.nn.LSTM", "hidden_size": 8, "bidirectional": True}, 2, 1)
    x = 20 * torch.randn(2, 9, 2)

    def shares(x, lengths):
        return [layer.saturation(lengths) for layer in recorded_gradients(net, x, lengths=lengths)[1]]

    longer = F.pad(x, (0, 0, 0, 30))
    torch.testing.assert_close(shares(longer, [9, 4]), shares(x, [9, 4]))
    torch.testing.assert_close(shares(longer, [9, 9]), shares(x, None))


def ratio_at_the_start(cell, state, seeds=(1, 2, 3)):
    """The median of ||dL/dh_1|| / ||dL/dh_T|| before training on the adding problem of 100 steps."""
    data = AddingData(100)
    data.setup("fit")
    x, y, *_ = data.example(32)
    ratios = []
    for seed in seeds:
        torch.manual_seed(seed)
        net = SimpleRNN({**cell, "hidden_size": 64}, 2, 1)
        _, _, [gradient] = recorded_gradients(net, x, lambda out: F.mse_loss(out, y))
        norms = norm_per_step(gradient[state])
        ratios.append((norms[0] / norms[-1]).item())
    return sorted(ratios)[len(ratios) // 2]


LSTM, GRU = ({"_target_": f"torch.nn.{name}", "init": "orthogonal"} for name in ("LSTM", "GRU"))


@pytest.mark.parametrize(
    ("cell", "low", "high"),
    [
        ({"_target_": "torch.nn.RNN"}, 0, 1e-20),
        ({"_target_": "torch.nn.RNN", "init": "orthogonal"}, 1e-4, 5e-3),
        ({"_target_": "torch.nn.RNN", "nonlinearity": "relu", "init": "identity"}, 0.5, 1),
        ({**LSTM, "forget_bias": 1.0}, 5e-4, 2e-2),
        ({**LSTM, "chrono": 100}, 1e-3, 4e-3),
        ({**LSTM, "chrono": 100, "state": "c"}, 0.15, 0.4),
        (GRU, 1e-14, 1e-12),
        ({**GRU, "chrono": 100}, 0.15, 0.4),
    ],
    ids=["rnn", "orthogonal", "irnn", "lstm", "lstm-chrono", "lstm-chrono-c", "gru", "gru-chrono"],
)
def test_what_vanishes_before_training(cell, low, high):
    cell = dict(cell)
    assert low <= ratio_at_the_start(cell, cell.pop("state", "h")) <= high


def test_a_run_shows_its_gradients(script):
    small = ("model=regressor", "data=adding", "data.seq_len=20", "data.epoch_steps=12", "trainer.max_epochs=2")
    result = script("train", *small, "cell=lstm", "callbacks=gradient_flow", "callbacks.gradient_flow.every=8")
    rows = list(csv.DictReader((result.folder / "gradient_flow.csv").read_text().splitlines()))
    assert len(rows) == 2 * 4 * 20  # h and c, at steps 0, 8, 16, 24
    assert [row["t"] for row in rows[:20]] == [str(t) for t in range(1, 21)]
    assert (result.folder / "figures" / "gradient_flow.png").stat().st_size > 10_000
    events = EventAccumulator(str(result.folder), {"images": 0, "scalars": 0}).Reload()
    assert "gradient_flow" in events.Tags()["images"]
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    assert set(scalars["gradient_flow/first_over_last"]) == {0, 8, 16, 24}
    norms = {t: float(row["norm"]) for t, row in enumerate(rows[60:80], 1)}
    last = scalars["gradient_flow/first_over_last"][24]
    assert last == pytest.approx(norms[1] / norms[20], rel=1e-5)
    assert scalars["gradient_flow/decades_per_step"][24] == pytest.approx(-math.log10(last) / 19, rel=1e-5)
    assert set(scalars["update/network.cell.weight_hh_l0"]) == {8, 16, 24}
    for gate in ("input", "forget", "output"):
        assert 0 <= scalars[f"saturated/{gate}"][8] <= 1
        assert scalars[f"recurrent/norm_{gate}"][8] >= scalars[f"recurrent/radius_{gate}"][8] > 0
    saved = result.last["state_dict"]
    block = saved["network.cell.weight_hh_l0"].chunk(4)[1].double()
    assert scalars["recurrent/radius_forget"][24] == pytest.approx(
        torch.linalg.eigvals(block).abs().max().item(), rel=1e-4
    )
    assert scalars["gradient_flow/skipped_steps"] == {0: 0, 8: 0, 16: 0, 24: 0}


def test_a_resumed_run_goes_on_with_its_curves(script):
    small = ("model=regressor", "data=adding", "data.seq_len=10", "data.epoch_steps=6", "logger=none")
    small += ("callbacks=gradient_flow", "callbacks.gradient_flow.every=4")
    first = script("train", *small, "trainer.max_epochs=1")
    before = (first.folder / "gradient_flow.csv").read_text()
    ckpt = first.folder / "checkpoints" / "last.ckpt"
    script("train", *small, "trainer.max_epochs=2", f"ckpt={ckpt}")
    after = (first.folder / "gradient_flow.csv").read_text()
    assert after.startswith(before)
    assert {row["optimizer_step"] for row in csv.DictReader(after.splitlines())} == {"0", "4", "8", "12"}
    bare = script("train", *small[:-2], "trainer.max_epochs=3", f"ckpt={ckpt}", folder="bare")
    assert not bare.stderr  # what watched then need not watch now


def test_probing_changes_nothing_of_a_run(script):
    small = ("model=classifier", "data=latch", "data.seq_len=10", "cell=gru", "cell.num_layers=2", "cell.dropout=0.5")
    small += ("data.epoch_steps=10", "trainer.max_epochs=2", "trainer=cpu")
    plain = script("train", *small, folder="plain")
    watched = script("train", *small, "callbacks=gradient_flow", "callbacks.gradient_flow.every=3", folder="watched")
    assert watched.metrics == plain.metrics


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=char", "data=hello"),
        ("model=forecaster", "data=waves", "cell=mingru"),
        ("model=classifier", "data=parity", "cell=lstm", "cell.bidirectional=true", "trainer.precision=bf16-mixed"),
        ("model=classifier", "data=copy", "cell=minlstm", "trainer.precision=64-true"),
    ],
    ids=["char", "forecaster", "bidirectional", "float64"],
)
def test_every_task_can_be_watched(overrides, script):
    result = script("train", *overrides, "callbacks=gradient_flow", "data.epoch_steps=4", "trainer.max_epochs=1")
    assert (result.folder / "figures" / "gradient_flow.png").exists()
    assert not result.stderr


def test_clipping_by_value_does_not_hide_what_is_infinite(script):
    overrides = ("model=regressor", "data=random", "data.target=values", "optim=sgd", "optim.lr=1e12", "logger=none")
    by_value = ("trainer.gradient_clip_val=1e30", "+trainer.gradient_clip_algorithm=value")
    failed = script("train", *overrides, *by_value, "trainer.max_epochs=1", check=False)
    assert "consecutive steps had a non-finite gradient" in failed.stderr


def steps_of(optimizer_of, gradients, device="cpu"):
    """Weights after each step of an optimizer behind a guard, and the guard."""
    weight = nn.Parameter(torch.ones(3, device=device))
    optimizer, guard, found = optimizer_of([weight]), NonFiniteGradientGuard(), []
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        guard(optimizer, None)
        optimizer.step()
        found.append(weight[0].item())
    return found, guard


OPTIMIZERS = {
    "adam": lambda w: torch.optim.Adam(w, lr=0.1, fused=True),
    "sgd": lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, fused=True),
    "adamw": lambda w: torch.optim.AdamW(w, lr=0.1, weight_decay=0.5),
    "rmsprop": lambda w: torch.optim.RMSprop(w, lr=0.1),
}
NAN, INF = float("nan"), float("inf")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: the guard on a GPU")


@pytest.mark.parametrize(("least", "scale"), [(0.99, "log"), (1.01, "linear"), (0.0, "linear"), (-1.0, "linear")])
def test_losses_that_differ_by_more_than_a_factor_of_ten_have_a_logarithmic_axis(least, scale, tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        "rnnlab.training.callbacks.curves.save_figure", lambda trainer, name, figure: shown.update({name: figure})
    )
    history = {"train/loss": [[10, 10.0], [20, 3.0]], "val/loss": [[20, least]]}
    curves = Curves()
    curves.load_state_dict({"history": {name: torch.tensor(rows) for name, rows in history.items()}, "losses": []})
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path)
    curves.on_fit_end(trainer, SimpleNamespace(loss_label="nats"))
    (axes,) = shown["loss"].axes
    assert (axes.get_ylabel(), axes.get_yscale()) == ("nats", scale)
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    for name, rows in history.items():
        np.testing.assert_allclose(drawn[name], rows, rtol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_skipped_leaves_no_trace(name, device):
    found, guard = steps_of(OPTIMIZERS[name], [NAN, 1.0, INF, -INF, 0.5, NAN], device)
    clean, _ = steps_of(OPTIMIZERS[name], [1.0, 0.5])
    assert found == pytest.approx([1.0, clean[0], clean[0], clean[0], clean[1], clean[1]], rel=1e-5 * (device != "cpu"))
    assert int(guard.skipped) == 4


def test_too_many_in_a_row_end_the_run():
    gradients = [NAN] * (MAX_CONSECUTIVE_SKIPS - 1) + [1.0] + [NAN] * MAX_CONSECUTIVE_SKIPS
    with pytest.raises(UserError, match=f"{MAX_CONSECUTIVE_SKIPS} consecutive steps had a non-finite gradient"):
        steps_of(OPTIMIZERS["adam"], gradients)
    assert steps_of(OPTIMIZERS["adam"], gradients[:-1])[1].skipped == 2 * MAX_CONSECUTIVE_SKIPS - 2


@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_guard_clips_as_torch_does(clip):
    gradients = [torch.randn(3, 4) * 9, torch.randn(5)]
    found, expected = ([nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients] for _ in range(2))
    for weight, gradient in zip(found + expected, gradients * 2, strict=True):
        weight.grad = gradient.clone()
    NonFiniteGradientGuard()(torch.optim.SGD(found, lr=1.0), clip)
    torch.nn.utils.clip_grad_norm_(expected, clip or INF)
    assert all(torch.equal(one.grad, other.grad) for one, other in zip(found, expected, strict=True))


def test_a_norm_that_overflows_is_not_finite():
    """Every gradient is finite, the sum of their squares is not: clipping would make a step of zeros of it."""
    weight = nn.Parameter(torch.ones(4))
    optimizer, guard = torch.optim.Adam([weight], lr=0.1), NonFiniteGradientGuard()
    weight.grad = torch.full((4,), 1e30)
    guard(optimizer, 1.0)
    assert guard.skipped == 1
    weight.grad = torch.full((4,), 1e30)
    guard(optimizer, None)
    assert guard.skipped == 1
    assert not any_non_finite([torch.full((4,), 6e4, dtype=torch.float16)])  # neither does their sum


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_the_guard_knows_gradients_of_16_bits(device, clip):
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16, device=device))
    optimizer, guard = torch.optim.Adam([weight], lr=0.5, fused=True), NonFiniteGradientGuard()
    for gradient in (NAN, 1.0, INF):
        weight.grad = torch.full_like(weight, gradient)
        guard(optimizer, clip)
        optimizer.step()
    assert weight[0].item() == 0.5
    assert int(guard.skipped) == 2
