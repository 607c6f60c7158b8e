import pytest
import torch
from conftest import cells
from torch import nn

from rnnlab.nn.rnn import SimpleRNN

CELLS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


def network(name: str, readout: str = "last", **options) -> SimpleRNN:
    cell = {"_target_": f"torch.nn.{name}", "hidden_size": 8, **options}
    return SimpleRNN(cell, input_size=5, output_size=2, readout=readout)


@pytest.mark.parametrize("name", CELLS)
def test_is_the_torch_cell_and_a_linear_layer(name):
    net = network(name, "all", num_layers=2)
    plain = CELLS[name](5, 8, num_layers=2, batch_first=True)
    plain.load_state_dict(net.cell.state_dict())
    x = torch.randn(3, 7, 5)
    expected, _ = plain(x)
    torch.testing.assert_close(net(x)[0], expected @ net.head.weight.T + net.head.bias)


def test_bidirectional_last_has_read_everything_both_ways():
    net = network("LSTM", bidirectional=True)
    x = torch.randn(3, 7, 5)
    _, (hidden, _) = net.cell(x)
    torch.testing.assert_close(net(x)[0], net.head(torch.cat((hidden[0], hidden[1]), -1)))


def test_tokens_are_one_hot():
    net = network("RNN")
    tokens = torch.tensor([[0, 4, 2]])
    torch.testing.assert_close(net(tokens)[0], net(torch.eye(5)[tokens])[0])


@torch.no_grad()
@pytest.mark.parametrize("cell", cells())
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 3}, {"num_layers": 2, "embedding": 6}, {"readout": "last"}, {"batch": 20}]
)
def test_steps_are_the_sequence(cell, options):
    """One step at a time, from the state that a prompt leaves, gives what the whole sequence gives."""
    cell = {**cell, "num_layers": options.get("num_layers", 1)}
    net = SimpleRNN(cell, 5, 4, options.get("readout", "all"), options.get("embedding"))
    x = torch.randint(5, (options.get("batch", 3), 9))
    whole, last = net(x)
    out, state = net(x[:, :4])
    for k in range(4, 9):
        out, state = net.step(x[:, k], state)
        if net.readout == "all":
            torch.testing.assert_close(out, whole[:, k])
    torch.testing.assert_close(out, whole[:, -1] if net.readout == "all" else whole)
    torch.testing.assert_close(state, last)


def test_dropout_hides_the_same_units_at_every_step():
    net = SimpleRNN({"_target_": "torch.nn.GRU", "hidden_size": 400}, 5, 400, "all", dropout=0.25)
    net.head.weight.data, net.head.bias.data = torch.eye(400), torch.zeros(400)
    x = torch.randn(2, 7, 5)
    seen = net(x)[0]
    hidden = net.cell(x)[0]
    hides = seen == 0
    assert torch.equal(hides, hides[:, :1].expand_as(hides))
    assert not torch.equal(hides[0], hides[1])
    assert hides.float().mean().item() == pytest.approx(0.25, abs=0.06)
    torch.testing.assert_close(seen[~hides], hidden[~hides] / 0.75)
    net.eval()
    torch.testing.assert_close(net(x)[0], hidden)


def test_tied_weights_are_one():
    net = SimpleRNN({"_target_": "torch.nn.RNN", "hidden_size": 8}, 5, 5, "all", embedding=8, tied=True)
    assert net.embed.weight is net.head.weight
    net(torch.randint(5, (2, 3)))[0].sum().backward()
    assert net.head.weight.grad.abs().sum() > 0
