import pytest
import torch
from torch import nn

from rnnlab.network import SimpleRNN

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


@pytest.mark.parametrize("name", CELLS)
def test_state_carries_over(name):
    net = network(name, "all")
    x = torch.randn(3, 7, 5)
    whole, last = net(x)
    first, state = net(x[:, :4])
    second, end = net(x[:, 4:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    torch.testing.assert_close(end, last)


def test_last_is_the_last_of_all():
    last, every = network("GRU", "last"), network("GRU", "all")
    every.load_state_dict(last.state_dict())
    x = torch.randn(3, 7, 5)
    torch.testing.assert_close(last(x)[0], every(x)[0][:, -1])


def test_bidirectional_last_has_read_everything_both_ways():
    net = network("LSTM", bidirectional=True)
    x = torch.randn(3, 7, 5)
    _, (hidden, _) = net.cell(x)
    torch.testing.assert_close(net(x)[0], net.head(torch.cat((hidden[0], hidden[1]), -1)))


def test_tokens_are_one_hot():
    net = network("RNN")
    tokens = torch.tensor([[0, 4, 2]])
    torch.testing.assert_close(net(tokens)[0], net(torch.eye(5)[tokens])[0])


def test_shapes_of_the_tutorials():
    out, state = SimpleRNN({"_target_": "torch.nn.RNN", "hidden_size": 10}, 1, 1)(torch.randn(5, 10, 1))
    assert out.shape == (5, 1)
    assert state.shape == (1, 5, 10)
