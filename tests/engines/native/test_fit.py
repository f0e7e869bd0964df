"""`fit` and programs on the native engine: eager's results to rounding, and what happens where it cannot run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import COMBINATIONS, DEFAULT, compare, fit, made, problem, state

import hotgrad as hg
from hotgrad import nn
from hotgrad.engines.native import compiler
from hotgrad.training import agreement, captured, engine_choice

if compiler.find_compiler() is None:
    pytest.skip("there is no C compiler", allow_module_level=True)

# L-BFGS multiplies rounding in its line search, and is not lowered itself.
NATIVE = [combination for combination in COMBINATIONS if not combination[2].startswith("lbfgs")]


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile with less effort: many programs here, each run for a moment."""
    monkeypatch.setattr(compiler, "OPTIONS", tuple("-O1" if option == "-O3" else option for option in compiler.OPTIONS))


@pytest.mark.parametrize("combination", NATIVE, ids="/".join)
def test_three_epochs_equal_eagers(combination: tuple[str, ...], thorough: bool, quickly: None) -> None:
    """In float32 to 1e-4, in float64 to 1e-10, with a smaller last batch and without."""
    turn = NATIVE.index(combination)
    for dtype, tolerance in (
        ((torch.float32, 1e-4), (torch.float64, 1e-10)) if thorough else (((torch.float64, 1e-10), (torch.float32, 1e-4))[turn % 2],)
    ):
        for rows in (40, 43) if thorough else (40 + 3 * (turn // 2 % 2),):
            eager, native = made(combination).to(dtype), made(combination).to(dtype)
            expected = fit(eager, "eager", combination, rows, seed=5)
            history = fit(native, "native", combination, rows, seed=5)
            assert history.engine == "native"
            assert history.column("loss") == pytest.approx(expected.column("loss"), rel=tolerance)
            compare(state(native), state(eager), tolerance)


def test_the_objective_of_lbfgs_runs_natively() -> None:
    model, eager = made(("linear", "cross_entropy", "lbfgs")), made(("linear", "cross_entropy", "lbfgs"))
    fit(eager, "eager", ("linear", "cross_entropy", "lbfgs"))
    assert fit(model, "native", ("linear", "cross_entropy", "lbfgs")).engine == "native"
    for p, q in zip(model.parameters(), eager.parameters()):  # the number of iterations may differ
        assert torch.allclose(p.data, q.data, rtol=1e-5, atol=1e-6)


def test_writes_of_native_code_are_counted() -> None:
    """A graph recorded before must not be walked with parameters written since."""
    model = made(("relu", "mse", "sgd"))
    fit(model, "native", ("relu", "mse", "sgd"), 40)  # a first time, after which nothing is compared any more
    x, y = problem("mse", 40)
    loss = model.loss(model(x), y)
    fit(model, "native", ("relu", "mse", "sgd"), 40)
    with pytest.raises(hg.TapeError, match="written"):
        loss.backward()


def test_two_fits_equal_one_to_the_bit() -> None:
    whole, parts = made(), made()
    fit(whole, "native", epochs=5, seed=3)
    fit(parts, "native", epochs=2, seed=3)
    fit(parts, "native", epochs=3)
    compare(state(whole), state(parts))


@pytest.mark.parametrize("combination", [("tanh", "huber", "adamw"), ("batchnorm", "mse", "adam")], ids="/".join)
def test_the_number_of_steps_in_a_call_changes_no_bit(combination: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """It depends on the clock. Here compilers find sums of two products, either of which they may fuse with the sum."""
    states = []
    for steps in (1, 7, 10**6):
        monkeypatch.setattr(captured, "FIRST", steps)
        monkeypatch.setattr(captured, "SECONDS", 1e-9 if steps == 1 else 100.0)
        model = made(combination)
        fit(model, "native", combination, epochs=60, seed=3)
        states.append(state(model))
    compare(states[0], states[1])
    compare(states[0], states[2])


def test_resuming_goes_on_with_the_same_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(made(), "native", epochs=2, seed=1, checkpoint=tmp_path / "c")
    prepared: list[int] = []
    prepare = captured.Compiled._prepare

    def counting(self: Any, batches: Any, made: Any = None) -> None:
        prepared.append(len(batches))
        prepare(self, batches, made)

    monkeypatch.setattr(captured.Compiled, "_prepare", counting)
    whole, resumed = made(), made()
    fit(resumed, "native", epochs=4, seed=1, checkpoint=tmp_path / "c")
    assert len(prepared) == 1
    fit(whole, "native", epochs=4, seed=1)
    compare(state(resumed), state(whole))


def test_a_checkpoint_names_compiler_and_target(tmp_path: Path) -> None:
    whole, stopped, resumed = made(), made(), made()
    fit(whole, "native", epochs=5, seed=3)
    fit(stopped, "native", epochs=2, seed=3, checkpoint=tmp_path / "c")
    assert "gcc" in torch.load(tmp_path / "c")["engine"].lower() or "target" in torch.load(tmp_path / "c")["engine"]
    history = fit(resumed, "auto", epochs=5, seed=3, checkpoint=tmp_path / "c")
    assert history.engine == "native"
    compare(state(whole), state(resumed))


class Untold(hg.Primitive, register=False):
    """An op that does not say how to compute it natively."""

    forward = staticmethod(lambda a: a * 2.0)
    vjps = (lambda g, out, a: g * 2.0,)
    reads = ("",)


class Mistold(hg.Primitive, register=False):
    """An op whose native form is another function."""

    native = "{a} * 2.1"
    forward = staticmethod(lambda a: a * 2.0)
    vjps = (lambda g, out, a: g * 2.0,)
    reads = ("",)


def test_an_op_without_native_form_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refused("Untold", hg.Sequential(hg.Linear(3, 4), Untold.apply, hg.Linear(4, 2)), monkeypatch)


def test_a_native_form_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused("Mistold: its native form", hg.Sequential(hg.Linear(3, 4), Mistold.apply, hg.Linear(4, 2)), monkeypatch)


@pytest.fixture
def another_compiler() -> Any:
    compiler.find_compiler.cache_clear()
    yield
    compiler.find_compiler.cache_clear()


def test_no_compiler(another_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    refused("no C compiler", hg.Sequential(hg.Linear(3, 2)), monkeypatch)


def test_a_compiler_that_fails(another_compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "cc"
    script.write_text(
        "#!/bin/sh\ncase \"$*\" in *--version*) echo broken 1.0;; *-dM*) echo '#define X 1';; *) echo 'internal error: no' >&2; exit 1;; esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("HOTGRAD_CACHE", str(tmp_path / "cache"))
    refused("internal error: no", hg.Sequential(hg.Linear(3, 2)), monkeypatch)


def refused(says: str, model: hg.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, native raises and leaves all as it was; "auto" says so once, and trains on another engine."""
    model.loss, model.optimizer = "mse", hg.optim.SGD(lr=0.01)
    model.reset(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(hg.EngineError, match=says):
        fit(model, "native", ("", "mse", ""))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.optimizer.groups and model.epochs_done == 0
    real = engine_choice.estimates
    monkeypatch.setattr(engine_choice, "estimates", lambda code, cpu: {**real(code, cpu), "native": type(real(code, cpu)["eager"])(0, 0)})
    with pytest.warns(hg.EngineWarning, match=says):
        history = fit(model, "auto", ("", "mse", ""), epochs=30)
    assert history.engine in ("replay", "eager")
    assert says in history.engine_note
    assert len(history) == 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, "auto", ("", "mse", ""), epochs=30)


def test_a_program_of_any_function() -> None:
    def objective(x: Any) -> Any:
        value = ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()
        return value, hg.gradients(value, x)[0]

    start = torch.linspace(-1, 1, 10, dtype=torch.float64)
    program = hg.capture(objective, hg.Variable(start, requires_grad=True))
    native = program.to("native")
    assert "for (" in native.source()
    for x in (start, start + 1, torch.ones(10, dtype=torch.float64)):
        value, gradient = native(x)
        expected, slope = program.to("replay", fuse=False)(x)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        assert torch.allclose(gradient, slope, rtol=1e-10, atol=1e-10)
    with pytest.raises(hg.ShapeError, match=r"\(9,\).*\(10,\)"):
        native(start[:9])
    with pytest.raises(hg.DtypeError, match="float32"):
        native(start.float())


def test_labels_out_of_range_touch_no_foreign_memory() -> None:
    """Whatever comes of them, the process lives and finds a number or an error."""
    program = hg.capture(hg.functional.cross_entropy, torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])).to("native")
    assert program(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])).item() == pytest.approx(1.0986, abs=1e-4)
    for wrong in (3, -1, 10**12, -(10**15)):
        try:
            value = program(torch.zeros(4, 3), torch.tensor([0, 1, 2, wrong])).item()
        except hg.HotgradError:
            continue
        assert value != value


def test_no_warning_where_native_is_not_worth_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(made(DEFAULT), "auto", DEFAULT, epochs=1).engine == "eager"


def test_the_comparison_needs_no_second_time() -> None:
    agreement._AGREED.clear()
    fit(made(), "native")
    first = set(agreement._AGREED)
    assert first
    fit(made(), "native")
    assert first == agreement._AGREED


def test_auto_takes_native_for_a_short_training_whose_library_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiling would pay for 200 steps; compiled code that is there does."""
    monkeypatch.setenv("HOTGRAD_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    x, y = torch.randn(200, 3), torch.randn(200, 1)

    def trained(engine: str, epochs: int) -> str:
        model = nn.Sequential(nn.Linear(3, 17), nn.Tanh(), nn.Linear(17, 1))
        history = model.fit(
            x, y, epochs=epochs, batch_size=10, loss=nn.MSE(), optimizer=hg.optim.Adam(model.parameters()), engine=engine, verbose=False
        )
        return history.engine

    assert trained("auto", 20) == "replay"
    assert trained("native", 1) == "native"
    assert trained("auto", 20) == "native"
