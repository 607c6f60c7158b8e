"""Every cell of conf/cell, and the mathematics of those that are rnnlab's own."""

import pytest
import torch
import torch.nn.functional as F
from conftest import cells
from torch import nn

from rnnlab.nn.cells import make_cell
from rnnlab.nn.min_rnn import LinearRNN, MinGRU, MinLSTM
from rnnlab.nn.rnn import SimpleRNN
from rnnlab.nn.scan import scan

OWN = [MinGRU, MinLSTM]
MIN = {"_target_": "rnnlab.nn.min_rnn.MinGRU", "hidden_size": 6}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "residual": True}, {"num_layers": 2, "residual": False}])
@pytest.mark.parametrize("cell", cells())
def test_pieces_are_the_sequence(cell, options):
    net = SimpleRNN({**cell, **options}, 5, 4, "all").double()
    x = torch.randn(3, 11, 5, dtype=torch.float64)
    whole, end = net(x)
    first, state = net(x[:, :4])
    second, state = net(x[:, 4:], state)
    close(torch.cat((first, second), 1), whole)
    close(state, end)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bidirectional": True, "num_layers": 2}])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("cell", cells())
def test_padding_changes_nothing(cell, options, residual):
    net = SimpleRNN({**cell, **options, "residual": residual}, 5, 4)
    lengths = [7, 1, 9, 4]
    sequences = [torch.randn(1, length, 5) for length in lengths]
    padded = torch.cat([F.pad(sequence, (0, 0, 0, 9 - sequence.shape[1]), value=99.0) for sequence in sequences])
    for net.readout in ("last", "mean", "all"):
        out, state = net(padded, None, lengths)
        assert state is None
        for row, sequence in zip(out, sequences, strict=True):
            alone = net(sequence)[0][0]
            torch.testing.assert_close(row[: len(alone)] if net.readout == "all" else row, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("cell", cells())
def test_the_mean_is_of_all_hidden_states(cell):
    last, mean = SimpleRNN(cell, 5, 4, "all"), SimpleRNN(cell, 5, 4, "mean")
    mean.load_state_dict(last.state_dict())
    x = torch.randn(3, 7, 5)
    torch.testing.assert_close(mean(x)[0], last(x)[0].mean(1))


@pytest.mark.parametrize("cell", cells())
def test_a_bidirectional_cell_reads_both_ways(cell):
    """The first output of the backward direction has seen the last input, that of the forward direction has not."""
    net = make_cell({**cell, "bidirectional": True, "num_layers": 1, "residual": False}, 5)
    x = torch.randn(2, 6, 5, requires_grad=True)
    out = net(x)[0]
    assert out.shape[-1] == 2 * net.hidden_size
    reach = torch.autograd.grad(out[:, 0, net.hidden_size :].sum(), x)[0]
    assert reach[:, -1].abs().sum() > 0
    reach = torch.autograd.grad(net(x)[0][:, 0, : net.hidden_size].sum(), x)[0]
    assert reach[:, 1:].abs().sum() == 0


@pytest.mark.parametrize("kind", OWN)
def test_minimal_cells_are_those_of_the_paper(kind):
    """Feng et al. 2024, sections 3.1 and 3.2 (length independence), written as their text has it, unit by unit."""
    cell = kind(3, 4).double()
    weights, biases = (part.chunk(len(cell.gates)) for part in (cell.linear.weight, cell.linear.bias))
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    h = [0.0] * 4
    for t in range(6):
        for unit in range(4):
            rows = [weight[unit] @ x[0, t] + bias[unit] for weight, bias in zip(weights, biases, strict=True)]
            gates = [1 / (1 + (-row).exp()) for row in rows[:-1]]
            if kind is MinGRU:
                z = gates[0]
                h[unit] = (1 - z) * h[unit] + z * rows[-1]
            else:
                f, i = gates
                h[unit] = f / (f + i) * h[unit] + i / (f + i) * rows[-1]
        close(cell(x)[0][0, t], torch.stack(h))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: the scan on a GPU")
@pytest.mark.parametrize("kind", OWN)
def test_on_a_gpu(kind):
    cell = kind(3, 4).double()
    x, state = torch.randn(2, 50, 3, dtype=torch.float64), torch.randn(1, 2, 4, dtype=torch.float64)

    def results(device):
        moved = cell.to(device)
        moved.zero_grad()
        out, end = moved(x.to(device), state.to(device))
        (out.square().sum() + end.sum()).backward()
        return [out.cpu(), end.cpu(), *(weight.grad.cpu() for weight in moved.parameters())]

    for found, expected in zip(results("cuda"), results("cpu"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: autocast on a GPU")
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}])
@pytest.mark.parametrize("cell", cells())
def test_small_gradients_survive_autocast_on_a_gpu(cell, options, monkeypatch):
    """They are those of a mean over many predictions, which float16 would round to zero."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    net = SimpleRNN({**cell, **options}, 5, 4).double()
    x = torch.randn(16, 5, 5, dtype=torch.float64)

    def gradients(network, x):
        with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda):
            loss = 1e-9 * network(x)[0].double().square().sum()
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(network.parameters()))])

    exact = gradients(net, x)
    found = gradients(net.float().cuda(), x.float().cuda()).double().cpu()
    assert (found - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("time", [1, 2, 3, 8, 37])
def test_the_scan_of_a_gpu_is_that_of_a_cpu(time, monkeypatch):
    """Both paths are plain torch, so that the other one runs here, too."""
    inputs = [torch.rand(time, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    inputs.append(torch.randn(2, 3, dtype=torch.float64, requires_grad=True))
    weights = torch.randn(time, 2, 3, dtype=torch.float64)
    out = scan(*inputs)
    expected = torch.autograd.grad((out * weights).sum(), inputs)
    monkeypatch.setattr("rnnlab.nn.scan.SEQUENTIAL", ())
    close(scan(*inputs), out)
    for found, right in zip(torch.autograd.grad((scan(*inputs) * weights).sum(), inputs), expected, strict=True):
        close(found, right)
    assert time > 8 or torch.autograd.gradcheck(scan, inputs)


@pytest.mark.parametrize("kind", OWN)
def test_long_sequences_are_exact_in_float32(kind):
    cell = kind(3, 16)
    x = torch.randn(2, 4096, 3)
    out = cell(x)[0]
    exact = cell.double()(x.double())[0]
    assert (out - exact).abs().max() < 1e-5


@pytest.mark.parametrize("kind", OWN)
def test_the_recurrence_stays_in_float32_under_bf16(kind):
    cell = kind(3, 16)
    x = torch.randn(2, 1024, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out, state = cell(x)
    assert out.dtype == state.dtype == torch.float32
    assert (out - cell(x)[0]).abs().max() < 0.1


def test_gates_that_are_both_closed_leave_numbers():
    cell = MinLSTM(1, 2)
    nn.init.constant_(cell.linear.bias, -200.0)
    assert cell(torch.zeros(1, 3, 1))[0].isfinite().all()


@pytest.mark.parametrize("cell", cells())
def test_in_16_bits_throughout(cell):
    net = SimpleRNN({**cell, "num_layers": 2}, 5, 4).to(torch.bfloat16)
    out, state = net(torch.randn(3, 7, 5))
    assert out.dtype == torch.bfloat16
    net(torch.randn(3, 7, 5), state)[0].sum().backward()


def test_residual_blocks_are_what_they_say():
    """y + cell(norm(y)) for each layer, between a linear map and a normalisation."""
    stack = make_cell({**MIN, "num_layers": 2, "residual": True}, 3).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    y = stack.input_proj(x)
    for norm, cell in zip(stack.norms, stack.cells, strict=True):
        y = y + cell(F.layer_norm(y, (6,), norm.weight, norm.bias))[0]
    close(stack(x)[0], F.layer_norm(y, (6,), stack.output_norm.weight, stack.output_norm.bias))
    assert isinstance(stack.cells[0], LinearRNN)
    assert isinstance(make_cell({"_target_": "torch.nn.LSTM", "hidden_size": 4, "residual": True}, 3).cells[0], nn.LSTM)


def test_dropout_is_between_layers_and_in_training_only():
    stack = make_cell({**MIN, "num_layers": 2, "dropout": 0.9}, 3)
    x = torch.randn(2, 5, 3)
    assert not torch.equal(stack(x)[0], stack(x)[0])
    stack.eval()
    assert torch.equal(stack(x)[0], stack(x)[0])
    one = make_cell({**MIN, "num_layers": 1, "dropout": 0.9}, 3)
    assert torch.equal(one(x)[0], one(x)[0])


def gates_of(kind, **start):
    """Weights and summed biases of each gate, as (recurrent, input, bias)."""
    cell = make_cell({"_target_": f"torch.nn.{kind}", "hidden_size": 64, **start}, 5)
    count = {"RNN": 1, "LSTM": 4, "GRU": 3}[kind]
    biases = cell.bias_ih_l0 + cell.bias_hh_l0
    return [part.detach().chunk(count) for part in (cell.weight_hh_l0, cell.weight_ih_l0, biases)]


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_orthogonal_and_identity(kind):
    for block in gates_of(kind, init="orthogonal")[0]:
        torch.testing.assert_close(block @ block.T, torch.eye(64), atol=1e-5, rtol=0)
    recurrent, enter, biases = gates_of(kind, init="identity")
    assert all(torch.equal(block, torch.eye(64)) for block in recurrent)
    bound = (6 / (64 + 5)) ** 0.5  # Glorot & Bengio 2010, of each gate by itself
    assert all(0.9 * bound < block.abs().max() <= bound for block in enter)
    assert all(not bias.any() for bias in biases)


def test_forget_bias_is_that_of_the_gate_which_keeps_the_state():
    assert torch.equal(gates_of("LSTM", forget_bias=1.0)[2][1], torch.ones(64))  # input, forget, candidate, output
    assert torch.equal(gates_of("GRU", forget_bias=2.5)[2][1], torch.full((64,), 2.5))  # reset, update, new
    (cell,) = make_cell({**MIN, "_target_": "rnnlab.nn.min_rnn.MinLSTM", "num_layers": 1, "forget_bias": 1.0}, 3).cells
    keep, _ = cell.recurrence(*cell.activate(cell.linear.bias))
    torch.testing.assert_close(keep, torch.full((6,), 1.0).sigmoid())
    (keeps,) = (cell.linear.bias[:6] for cell in make_cell({**MIN, "num_layers": 1, "forget_bias": 1.0}, 3).cells)
    assert torch.equal(keeps, -torch.ones(6))  # 1 - sigmoid(-1) of the state is kept


def test_chrono():
    """Tallec & Ollivier 2018, equation 16: b_f = log U(1, T - 1), b_i = -b_f."""
    enter, forget, *_ = gates_of("LSTM", chrono=100)[2]
    torch.testing.assert_close(enter, -forget)
    for bias in (forget, gates_of("GRU", chrono=100)[2][1]):
        memory = bias.exp()
        assert memory.min() >= 1
        assert memory.max() <= 99
        assert abs(memory.mean() - 50) < 4 * 98 / (12 * 64) ** 0.5  # four standard errors
    for kind, gate in (("MinGRU", slice(0, 64)), ("MinLSTM", slice(0, 64))):
        config = {"_target_": f"rnnlab.nn.min_rnn.{kind}", "hidden_size": 64, "num_layers": 1, "chrono": 100}
        (cell,) = make_cell(config, 3).cells
        nn.init.zeros_(cell.linear.weight)
        keep, _ = cell.recurrence(*cell.activate(cell.linear(torch.zeros(1, 3))))
        memory = 1 / (1 - keep)  # a state is kept by 1 - 1/memory
        assert memory.min() >= 2 - 1e-4
        assert memory.max() <= 100.1
        assert memory.mean() > 30
        assert cell.linear.bias[gate].isfinite().all()
