"""Recurrent cells behind one step: RNN (Elman 1990), GRU (Cho et al. 2014), LSTM (Hochreiter 1997).

Each is torch's own cell with one more method, so its parameters keep torch's names.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

__all__ = ["CELLS", "Cell", "Gru", "Lstm", "Rnn", "build_cell"]


class Cell(Protocol):
    """A step of recurrence.

    Attributes:
        parts: How many state vectors it keeps: 1, or 2 where there is a memory cell.

    """

    parts: int

    def advance(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """From (rows, I) inputs and the state to the next hidden and memory cell, (rows, H).

        ``cell`` is (rows, 0) for a cell with one part, and comes back as it is.
        """


class Lstm(nn.LSTMCell):
    """Long short-term memory."""

    parts = 2

    def advance(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """One step."""
        new_hidden, new_cell = self(inputs, (hidden, cell))
        return new_hidden, new_cell


class Gru(nn.GRUCell):
    """Gated recurrent unit."""

    parts = 1

    def advance(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """One step; ``cell`` is empty."""
        return self(inputs, hidden), cell


class Rnn(nn.RNNCell):
    """Plain recurrence with tanh."""

    parts = 1

    def advance(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """One step; ``cell`` is empty."""
        return self(inputs, hidden), cell


CELLS: dict[str, type[Lstm | Gru | Rnn]] = {"rnn": Rnn, "gru": Gru, "lstm": Lstm}


def build_cell(name: str, input_size: int, hidden_size: int) -> Lstm | Gru | Rnn:
    """Build ``rnn``, ``gru`` or ``lstm``.

    Raises:
        ValueError: No cell has this name.

    """
    if name not in CELLS:
        raise ValueError(f"no cell is called {name!r}; there are {', '.join(CELLS)}")
    return CELLS[name](input_size, hidden_size)
