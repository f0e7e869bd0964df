"""What tests of files share: a small model that trains and is written, and all that a file brings back, to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import hotgrad as hg
from hotgrad import files, nn, optim

G = torch.Generator().manual_seed(1)
X = torch.randn(20, 3, generator=G)
Y = torch.arange(20) % 2


def network(seed: int = 0) -> hg.Sequential:
    model = hg.Sequential(
        hg.Linear(3, 4), nn.BatchNorm1d(4), hg.ReLU(), hg.Linear(4, 2), loss="cross_entropy", optimizer=optim.Adam(lr=0.01)
    )
    model.reset(seed)
    return model


def trained(path: Any = None, epochs: int = 2, seed: int = 0, **settings: Any) -> hg.Sequential:
    model = network()
    model.fit(X, Y, epochs, 8, seed=seed, verbose=0, checkpoint=path, engine="eager", **settings)
    return model


def everything(model: hg.Sequential) -> str:
    """All that a file brings back, as a digest."""
    state: Any = model.state_dict(), model.optimizer.state_dict(), model.epochs_done, model.generator.get_state()  # type: ignore[union-attr]
    return files._content_digest({"all": files.plain(state, "")})


def load_model(path: Path) -> str:
    return everything(network(5).load(path))


def load_checkpoint(path: Path) -> str:
    model = network(5)
    history = model.fit(X, Y, 2, 8, seed=0, verbose=0, checkpoint=path, engine="eager")
    return everything(model) + repr([{name: value for name, value in row.items() if name != "seconds"} for row in history])


def load_program(path: Path) -> str:
    program = hg.Program.load(path)
    return str(program) + repr(program(X).tolist())
