"""Files: what is saved comes back, a run that is killed goes on bit for bit, and what is broken, foreign or malicious is refused."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import files, optim
from hotgrad.errors import EngineWarning, FileError
from hotgrad.modules import BatchNorm1d, Dropout, Linear, ReLU
from hotgrad.training import EarlyStopping, Sequential, checkpoint

Count = Callable[[int, int], int]


def make(optimizer: Any = None, hidden: int = 6, lazy: bool = False, seed: int = 0) -> Sequential:
    first = Linear(hidden) if lazy else Linear(3, hidden)
    model = Sequential(
        first,
        BatchNorm1d(hidden),
        ReLU(),
        Dropout(0.3),
        Linear(hidden, 2),
        loss="cross_entropy",
        optimizer=optimizer or optim.Adam(lr=0.01),
    )
    model.reset(seed)
    return model


G = torch.Generator().manual_seed(1)
Y = torch.arange(40) % 2
X = torch.randn(40, 3, generator=G) + Y[:, None]


def state(model: Sequential) -> dict[str, Any]:
    found: dict[str, Any] = {name: t.clone() for name, t in model.state_dict().items()}
    flat(found, "optimizer", model.optimizer.state_dict())
    found["generator"] = model.generator.get_state()  # type: ignore[union-attr]
    found["epochs"] = torch.tensor(model.epochs_done)
    return found


def flat(found: dict[str, Any], name: str, tree: Any) -> None:
    if isinstance(tree, torch.Tensor):
        found[name] = tree.clone()
    elif isinstance(tree, (dict, list, tuple)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            flat(found, f"{name}.{key}", value)
    else:
        found[name] = tree


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


# ---------------------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("optimizer", [optim.SGD(lr=0.1), optim.SGD(lr=0.1, momentum=0.9), optim.Adam(lr=0.01), optim.RMSprop(lr=0.01)])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_loaded_model_goes_on_as_the_saved_one(optimizer: Any, lazy: bool, tmp_path: Path) -> None:
    model = make(optimizer)
    model.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    model.save(tmp_path / "model")
    other = make(optimizer.fresh(), lazy=lazy, seed=5)
    assert other.load(tmp_path / "model") is other
    assert torch.equal(other.predict(X), model.predict(X))
    for each in (model, other):
        each.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    assert same(state(model), state(other))
    assert other.epochs_done == 4
    assert os.listdir(tmp_path) == ["model"]


def test_a_model_without_optimizer_loads_the_weights(tmp_path: Path) -> None:
    model = make()
    model.fit(X, Y, batch_size=8, verbose=0)
    model.save(tmp_path / "model")
    bare = Sequential(Linear(3, 6), BatchNorm1d(6), ReLU(), Dropout(0.3), Linear(6, 2))
    assert torch.equal(bare.load(tmp_path / "model").predict(X), model.predict(X))
    with pytest.raises(FileError, match="optimizer Adam, this model has SGD"):
        make(optim.SGD()).load(tmp_path / "model")


@pytest.mark.parametrize("engine", ["eager", "replay"])
@pytest.mark.parametrize(
    "optimizer", [optim.SGD(lr=optim.PlateauLR(0.1), momentum=0.9), optim.Adam(lr=optim.StepLR(0.01, 2), clip_norm=1.0)]
)
def test_pickled_and_copied_models_go_on_as_the_first(optimizer: Any, engine: str) -> None:
    model, stopping = make(optimizer.fresh()), EarlyStopping("loss", 50)
    history = model.fit(X, Y, 2, 8, seed=0, verbose=0, engine=engine, callbacks=[stopping])
    model.predict(X)
    twin, rows, callback = pickle.loads(pickle.dumps((model, history, stopping)))
    assert (type(rows), rows, rows.engine, rows.engine_note) == (type(history), history, history.engine, history.engine_note)
    assert repr(callback) == repr(stopping)
    models = [model, twin, copy.deepcopy(model)]
    for each in models:
        assert {id(p) for p in each.optimizer.parameters} == {id(p) for p in each.parameters()}
        each.fit(X, Y, 2, 8, verbose=0, engine=engine)
    assert same(state(model), state(models[1]))
    assert same(state(model), state(models[2]))


def test_loading_under_another_default_dtype(tmp_path: Path) -> None:
    """A model keeps its own dtypes; one that is made then has that dtype, and takes the values over."""
    model = make()
    model.fit(X, Y, 2, 8, seed=0, verbose=0)
    model.save(tmp_path / "model")
    run(tmp_path / "c", 2, make())
    single, pickled = make(seed=5), pickle.dumps(model)
    torch.set_default_dtype(torch.float64)
    try:
        assert same(state(single.load(tmp_path / "model")), state(model))
        assert same(state(pickle.loads(pickled)), state(model))
        for lazy in (False, True):
            double = make(lazy=lazy).load(tmp_path / "model")
            assert {p.dtype for p in double.parameters()} == {torch.float64}
            assert torch.equal(double[0].weight.data, model[0].weight.data.double())
        with pytest.raises(FileError, match=r"parameters: 0.weight was \(3, 6\) float32, is \(3, 6\) float64"):
            run(tmp_path / "c", 4, make())
    finally:
        torch.set_default_dtype(torch.float32)


def test_other_layers_are_refused_with_all_differences(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    other = Sequential(Linear(3, 7), ReLU(), Linear(7, 2))
    before = {name: t.clone() for name, t in other.state_dict().items()}
    with pytest.raises(FileError, match=r"(?s)missing: 2.weight.*unexpected: 1\..*wrong shape: 0.weight is \(3, 6\), expected \(3, 7\)"):
        other.load(tmp_path / "model")
    assert same(before, other.state_dict())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    path = tmp_path / "model"
    model.save(path)
    old = path.read_bytes()

    def full(*args: Any) -> None:
        args[1].write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        model.save(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["model"]
    with pytest.raises(hg.FileError) as caught:
        model.save(tmp_path / "nowhere" / "model")
    assert isinstance(caught.value, OSError) and caught.value.errno == errno.ENOENT


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


BROKEN: dict[str, Callable[[Path, bytes, Path], None]] = {
    "empty": lambda path, good, mark: path.write_bytes(b"") and None,
    "truncated": lambda path, good, mark: path.write_bytes(good[: len(good) // 2]) and None,
    "last byte missing": lambda path, good, mark: path.write_bytes(good[:-1]) and None,
    "bytes changed": lambda path, good, mark: path.write_bytes(good[:100] + b"\0" * 200 + good[300:]) and None,
    "text": lambda path, good, mark: path.write_text("once upon a time") and None,
    "a pickle": lambda path, good, mark: path.write_bytes(pickle.dumps({"format": "hotgrad"})) and None,
    "a malicious pickle": lambda path, good, mark: path.write_bytes(pickle.dumps(Bomb(mark))) and None,
    "a malicious torch file": lambda path, good, mark: torch.save({"format": "hotgrad", "x": Bomb(mark)}, path),
    "a malicious old torch file": lambda path, good, mark: torch.save(Bomb(mark), path, _use_new_zipfile_serialization=False),
    "a torch file of others": lambda path, good, mark: torch.save({"weights": torch.zeros(2)}, path),
    "a tensor": lambda path, good, mark: torch.save(torch.zeros(2), path),
    "another version": lambda path, good, mark: torch.save({"format": "hotgrad", "version": 99}, path),
    "another kind": lambda path, good, mark: files.write(path, "program", {}),
    "nothing inside": lambda path, good, mark: files.write(path, "model", {}) or files.write(path, "checkpoint", {}),
    "state of nothing": lambda path, good, mark: files.write(path, "model", {"state": {}, "optimizer": None}),
    "a wrong generator": lambda path, good, mark: files.write(
        path, "model", {**{k: v for k, v in torch.load(path).items() if k not in ("format", "version", "kind")}, "state": {**torch.load(path)["state"], "generator": torch.zeros(3)}}
    ),
    "a wrong optimizer state": lambda path, good, mark: files.write(
        path, "model", {"optimizer": "Adam", "state": {**torch.load(path)["state"], "optimizer": {"nonsense": 1}}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(kind: str, tmp_path: Path) -> None:
    model = make()
    model.fit(X, Y, batch_size=8, seed=0, verbose=0)
    path, mark = tmp_path / "file", tmp_path / "executed"
    model.save(path)
    BROKEN[kind](path, path.read_bytes(), mark)
    target = make(seed=3)
    target.fit(X, Y, batch_size=8, seed=1, verbose=0)
    before, data = state(target), path.read_bytes()
    with pytest.raises(FileError, match="file"):
        target.load(path)
    with pytest.raises(FileError, match="file"):
        target.fit(X, Y, batch_size=8, seed=1, checkpoint=path, verbose=0)
    assert same(state(target), before)
    assert not mark.exists()
    assert path.read_bytes() == data, "never a fresh start over it"
    assert isinstance(FileError(""), ValueError)


# ---------------------------------------------------------------------------------------------------------- checkpoints


def run(path: Path | None, epochs: int, model: Sequential | None = None, **settings: Any) -> tuple[Sequential, Any]:
    model = model or make()
    return model, model.fit(X, Y, epochs, **{"batch_size": 8, "seed": 2, "verbose": 0, "checkpoint": path, **settings})


def test_resuming_equals_the_undisturbed_run(tmp_path: Path) -> None:
    whole, history = run(None, 7)
    run(tmp_path / "c", 3)
    resumed, again = run(tmp_path / "c", 7, make(seed=9))
    assert same(state(whole), state(resumed))
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in again] == strip
    finished, third = run(tmp_path / "c", 7, make(seed=9))
    assert same(state(whole), state(finished))
    assert len(third) == 7
    assert os.listdir(tmp_path) == ["c"]


def test_the_file_is_written_at_most_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(checkpoint, "write", lambda path, kind, content, over: written.append(len(content["history"])))
    run(tmp_path / "c", 30)
    assert written[0] == 1
    assert written[-1] == 30
    assert len(written) < 10


class Stop(Exception):
    pass


def raising_after(epochs: int) -> Callable[..., None]:
    def callback(model: Any, history: Any) -> None:
        if len(history) == epochs:
            raise Stop

    return callback


def test_an_exception_leaves_the_last_completed_epoch_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(tmp_path / "c", 9, callbacks=[raising_after(4)])
    whole, _ = run(None, 9)
    resumed, _ = run(tmp_path / "c", 9, make(seed=9))
    assert same(state(whole), state(resumed))
    assert len(torch.load(tmp_path / "c")["history"]) == 9


def test_ctrl_c_leaves_the_last_completed_epoch_in_the_file(tmp_path: Path) -> None:
    def press(model: Any, history: Any) -> None:
        if len(history) == 4:
            signal.raise_signal(signal.SIGINT)

    _, history = run(tmp_path / "c", 9, callbacks=[press])
    assert len(history) == 4
    whole, _ = run(None, 9)
    resumed, _ = run(tmp_path / "c", 9, make(seed=9))
    assert same(state(whole), state(resumed))


def test_nothing_is_written_before_an_epoch_is_done(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(tmp_path / "c", 9, callbacks=[raising_after(1)])
    assert not list(tmp_path.iterdir())
    with pytest.raises(hg.FileError, match="nowhere") as caught:
        run(tmp_path / "nowhere" / "c", 2)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("first", [2, 5, 8, 20])
def test_early_stopping_resumes(first: int, tmp_path: Path) -> None:
    def settings() -> dict[str, Any]:
        return {"validation_data": (X[:9], 1 - Y[:9]), "callbacks": [EarlyStopping(patience=4)], "engine": "eager"}

    whole, history = run(None, 20, **settings())
    run(tmp_path / "c", first, **settings())
    resumed, again = run(tmp_path / "c", 20, make(seed=9), **settings())
    assert 5 <= len(history) == len(again) < 20
    assert same(state(whole), state(resumed))


def test_schedules_resume(tmp_path: Path) -> None:
    def model() -> Sequential:
        return make(optim.SGD(lr=optim.StepLR(0.1, 2, 0.5), momentum=0.9))

    whole, _ = run(None, 7, model())
    run(tmp_path / "c", 3, model())
    resumed, history = run(tmp_path / "c", 7, model())
    assert same(state(whole), state(resumed))
    assert history.column("lr")[-1] == 0.1 / 8


OTHERS: dict[str, tuple[Callable[[], Sequential], dict[str, Any], str]] = {
    "data": (make, {"x": X + 1}, "x: shape"),
    "targets": (make, {"y": 1 - Y}, "y: shape"),
    "fewer rows": (make, {"x": X[:20], "y": Y[:20]}, r"x: shape \(40, 3\).* in the file, shape \(20, 3\)"),
    "batch size": (make, {"batch_size": 10}, "batch size: 8 in the file, 10 now"),
    "seed": (make, {"seed": 3}, "seed: 2 in the file, 3 now"),
    "shuffle": (make, {"shuffle": False}, "shuffle: True in the file, False now"),
    "layers": (lambda: make(hidden=5), {}, r"parameters: .*\(3, 6\)"),
    "dropout": (lambda: _with_dropout(0.4), {}, "layers: .*0.4"),
    "frozen": (lambda: _frozen(), {}, "frozen"),
    "optimizer": (lambda: make(optim.SGD(lr=0.1)), {}, "optimizer: Adam"),
    "optimizer's settings": (lambda: make(optim.Adam(lr=0.02)), {}, "optimizer: .*0.02"),
    "loss": (make, {"loss": lambda o, t: o.mean()}, "loss: "),
    "weights": (make, {"class_weight": "balanced", "sample_weight": torch.arange(40.0)}, "weights: None in the file"),
    "validation data": (make, {"validation_data": (X, Y)}, "validation data: None in the file"),
    "callbacks": (make, {"callbacks": [EarlyStopping("loss")]}, "callbacks: .*EarlyStopping"),
}


def _with_dropout(p: float) -> Sequential:
    model = make()
    model[3] = Dropout(p)
    return model


def _frozen() -> Sequential:
    model = make()
    model[0].freeze()
    return model


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_is_refused_with_the_differences(what: str, tmp_path: Path) -> None:
    run(tmp_path / "c", 2)
    make_other, settings, says = OTHERS[what]
    data = (tmp_path / "c").read_bytes()
    other = make_other()
    before = {name: t.clone() for name, t in other.state_dict().items()}
    with pytest.raises(FileError, match=says):
        other.fit(**{"x": X, "y": Y, "epochs": 4, "batch_size": 8, "seed": 2, "verbose": 0, "checkpoint": tmp_path / "c", **settings})
    assert same(before, other.state_dict())
    assert (tmp_path / "c").read_bytes() == data


def rewrite(path: Path, **entries: Any) -> None:
    content = {k: v for k, v in torch.load(path).items() if k not in ("format", "version", "kind")}
    files.write(path, "checkpoint", {**content, **entries})


def test_another_engine_is_told(tmp_path: Path) -> None:
    run(tmp_path / "c", 2)
    rewrite(tmp_path / "c", engine="native (steam 1.0)")
    with pytest.warns(EngineWarning, match=r"written by the engine native \(steam 1.0\); training goes on with eager") as caught:
        run(tmp_path / "c", 4, engine="eager")
    assert caught[0].filename == run.__code__.co_filename, "it stands where fit was called"


def test_the_engine_that_wrote_the_file_goes_on(tmp_path: Path) -> None:
    """ "auto" alone would take eager for so few steps."""
    run(tmp_path / "c", 2, engine="replay")
    _, history = run(tmp_path / "c", 4)
    assert history.engine == "replay"
    assert len(history) == 4


def test_a_state_that_does_not_fit_its_own_fingerprint(tmp_path: Path) -> None:
    run(tmp_path / "c", 2)
    rewrite(tmp_path / "c", state={**torch.load(tmp_path / "c")["state"], "generator": torch.zeros(3)})
    model = make()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(FileError, match="broken"):
        run(tmp_path / "c", 4, model)
    assert same(before, model.state_dict())


def test_the_state_dict_goes_into_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model = make()
    safetensors.save_file(model.state_dict(), tmp_path / "weights")
    other = make(seed=4)
    other.load_state_dict(safetensors.load_file(tmp_path / "weights"))
    assert same(model.state_dict(), other.state_dict())


def test_loading_an_untrained_model_forgets_the_optimizers_state(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    model = make(seed=1)
    model.fit(X, Y, batch_size=8, verbose=0)
    model.load(tmp_path / "model")
    fresh = make()
    for each in (model, fresh):
        each.fit(X, Y, batch_size=8, seed=0, verbose=0)
    assert same(state(model), state(fresh))


def test_functions_as_layers_and_callbacks_are_known_again(tmp_path: Path) -> None:
    class Counter:
        seen = 0

        def __call__(self, model: Any, history: Any) -> None:
            self.seen += 1

        def state_dict(self) -> dict[str, int]:
            return {"seen": self.seen}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.seen = state["seen"]

    for epochs in (2, 4):
        counter = Counter()
        run(tmp_path / "c", epochs, make().append(lambda v: v * 2).append(hg.tanh), callbacks=[counter])
        assert counter.seen == epochs


def test_all_differences_are_listed(tmp_path: Path) -> None:
    run(tmp_path / "c", 2)
    with pytest.raises(FileError) as caught:
        run(tmp_path / "c", 4, make(optim.Adam(lr=0.5)), batch_size=4, seed=7)
    for part in ("optimizer: ", "batch size: ", "seed: "):
        assert part in str(caught.value)


SCRIPT = """
import sys, torch, hotgrad as hg
from hotgrad import optim
from hotgrad.training import Sequential
from hotgrad.modules import Linear, BatchNorm1d, ReLU, Dropout
from hotgrad.training import checkpoint
torch.set_num_threads(1)
checkpoint.SECONDS = 0.0
g = torch.Generator().manual_seed(1)
y = torch.arange(200) % 2
x = torch.randn(200, 3, generator=g) + y[:, None]
model = Sequential(Linear(3, 6), BatchNorm1d(6), ReLU(), Dropout(0.3), Linear(6, 2), loss="cross_entropy", optimizer=optim.Adam(lr=0.01))
model.reset(0)
told = [lambda model, history: print(len(history), flush=True)]
history = model.fit(x, y, int(sys.argv[2]), 10, seed=2, verbose=0, checkpoint=sys.argv[1], callbacks=told)
torch.save({"state": model.state_dict(), "rows": len(history), "losses": history.column("loss")}, sys.argv[3])
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_killed_at_random_moments(tmp_path: Path, count: Count) -> None:
    """SIGKILL whenever it pleases, resume, until the run is through: the same weights and History as undisturbed."""
    (tmp_path / "run.py").write_text(SCRIPT)
    kills, epochs = count(2, 10), count(40, 300)
    rng = random.Random(0)

    def start(name: str, kill_after: int | None = None) -> int:
        """Run it, and kill it in the epoch that comes after so many; its exit status."""
        command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / name), str(epochs), str(tmp_path / f"{name}.result")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(epochs if kill_after is None else kill_after):
                process.stdout.readline()
            if kill_after is not None:
                time.sleep(rng.uniform(0, 0.01))
                process.send_signal(signal.SIGKILL)
            process.wait()
            return process.returncode

    assert start("calm") == 0
    for _ in range(kills):
        assert start("killed", rng.randrange(epochs // kills)) == -signal.SIGKILL
    assert start("killed") == 0
    a, b = torch.load(tmp_path / "calm.result"), torch.load(tmp_path / "killed.result")
    assert a["rows"] == b["rows"] == epochs
    assert a["losses"] == b["losses"]
    assert same(a["state"], b["state"])


def test_two_threads_saving_to_one_file(tmp_path: Path) -> None:
    models = [make(seed=i) for i in range(2)]

    def save(model: Sequential) -> None:
        for _ in range(10):
            model.save(tmp_path / "model")

    threads = [threading.Thread(target=save, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    make().load(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]
    assert hg.tape() is not None
