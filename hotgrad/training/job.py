"""What `fit` is asked to do, and all that it checks before it changes anything: settings, data, and one trial of model and loss on a stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import span, whole_number
from hotgrad.core.modes import no_grad
from hotgrad.core.variable import Variable, wrap
from hotgrad.errors import DataError, HotgradError, OperandError, SettingError, ShapeError
from hotgrad.files import digest
from hotgrad.modules import Loss, Module, Residual, Sigmoid
from hotgrad.training.checkpoint import Checkpoint
from hotgrad.training.evaluation import columns_of, forward, labels_of, row_loss, unrecorded
from hotgrad.training.history import History
from hotgrad.training.inputs import check_filled, check_lengths, check_resolved, column_names, pair, row_weights, to_tensor
from hotgrad.training.model import LOSSES, Model
from hotgrad.training.state import parameters_of, trial, twin


@dataclass
class Data:
    """Rows that fit together: inputs, targets, their labels where the targets are such, and weights of mean 1 or None."""

    x: Tensor
    y: Tensor
    labels: Tensor | None = None
    weights: Tensor | None = None

    def sources(self) -> list[Tensor]:
        """What a step takes a batch of."""
        return [self.x, self.y] if self.weights is None else [self.x, self.y, self.weights]

    def keep_apart(self, model: Model) -> None:
        """Copy what lies where Parameters and buffers of `model` do, so that the rows do not change as these do."""
        written = [span(value._data if isinstance(value, Variable) else value) for value in model._state().values()]
        for name, tensor in vars(self).items():
            if tensor is not None:
                device, start, end = span(tensor)
                if any(start < last and first < end and device == other for other, first, last in written):
                    setattr(self, name, tensor.clone())


@dataclass
class Job:
    """What `fit` was asked to do, checked."""

    data: Data
    epochs: int
    batch_size: int
    validation: Data | None = None
    shuffle: bool = True
    threshold: float = 0.0
    verbose: int | bool | str = "auto"
    callbacks: Sequence[Callable[..., Any]] = ()
    checkpoint: Checkpoint | None = None
    history: History = field(default_factory=History)

    def keep_apart(self, model: Model) -> None:
        """Data that share memory with `model` are copied."""
        self.data.keep_apart(model)
        if self.validation is not None:
            self.validation.keep_apart(model)

    @cached_property
    def sizes(self) -> list[int]:
        """The rows of each batch of an epoch."""
        rows = len(self.data.x)
        return [min(self.batch_size, rows - start) for start in range(0, rows, self.batch_size)]

    @cached_property
    def shares(self) -> Tensor:
        """What each batch's loss counts in that of the epoch."""
        return torch.tensor(self.sizes, dtype=torch.float64, device=self.data.x.device) / len(self.data.x)


USED = 16  # rows outside of training from which on it is judged whether their differences are lost
ELEMENTS = 2**22  # of the outputs against which one call of the loss checks targets


def check_verbose(verbose: Any) -> None:
    """Raises SettingError unless `verbose` is True, a whole number or "auto"."""
    if isinstance(verbose, str) and verbose == "auto":
        return
    if isinstance(verbose, str):
        raise SettingError(f"verbose must be 0, True, a whole number k for a line each k-th epoch, or 'auto'; got {verbose!r}")
    whole_number("verbose", int(verbose) if isinstance(verbose, bool) else verbose, 0)


def place_of(model: Module) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of the model's first floating parameter; torch's defaults if it has none."""
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point:
            return parameter.dtype, parameter.device
    return torch.get_default_dtype(), torch.device("cpu")


def inputs_for(model: Model, x: Any, name: str) -> Tensor:
    """`x` as the model takes it: floats in the dtype of its parameters, integers too unless the model takes them as they are."""
    dtype, device = place_of(model)
    check_columns(model, x, name)
    tensor = to_tensor(x, name, dtype, USED).to(device)
    check_filled(tensor, name)
    check_axes(model, tensor, name)
    taken = _taken(model, tensor, dtype)
    check_resolved(tensor, taken, name, USED)
    return taken


def _taken(model: Model, x: Tensor, dtype: torch.dtype) -> Tensor:
    if not x.is_floating_point():
        try:
            forward(trial(model), x[:2])
        except Exception:  # whatever is wrong with it beside the dtype is raised again for the floats
            return x.to(dtype)
    return x


def check_columns(model: Model, x: Any, name: str) -> None:
    """Raises DataError for a frame whose columns are not those, in their order, of the frame that the model was trained on."""
    given, trained = column_names(x), model._setup.columns
    if given is None or trained is None or given == trained:
        return
    differences = [
        f"{what} {', '.join(map(repr, names))}"
        for what, names in (("lacks", [n for n in trained if n not in given]), ("has in addition", [n for n in given if n not in trained]))
        if names
    ]
    what = " and ".join(differences) or "has its columns in another order"
    raise DataError(f"{name} {what}; the model was trained on the columns {trained!r:.300}")


def check_axes(model: Model, x: Tensor, name: str) -> None:
    """Raises ShapeError unless `x` has as many axes as what the model was trained on; before, as its first layers need.

    A single row without the axis of rows would otherwise be taken for as many rows as it has features.
    """
    trained = model._setup.axes
    least = trained or _axes_of_rows(model) + 1
    if x.ndim == trained or (not trained and x.ndim >= least and (x.ndim > 1 or _takes_numbers_as_rows(model, x))):
        return
    wanted = f"was trained on x of {trained} axes" if trained else f"takes x of at least {max(least, 2)} axes"
    row = ". For a single row give x[:1], or x[None] of the row alone" if x.ndim == max(least, 2) - 1 else ""
    raise ShapeError(f"{name} has shape {tuple(x.shape)}, but this model {wanted}, the first of them the rows{row}")


def _axes_of_rows(layer: Any) -> int:
    """How many axes a row must have at least for this layer, or for the first of its layers that can tell; 0 where none can."""
    seen: set[int] = set()  # a loop rather than recursion: nesting may be deep, and even circular
    while id(layer) not in seen:
        seen.add(id(layer))
        least: int | None = getattr(layer, "_row_axes", None)
        if least:
            return least
        layers = [layer.inner] if isinstance(layer, Residual) else layer if hasattr(layer, "named_layers") else ()
        tell = [inner for inner in layers if getattr(inner, "_row_axes", None) != 0]
        layer = tell[0] if tell else None
    return 0


def _takes_numbers_as_rows(model: Model, x: Tensor) -> bool:
    """Whether a model whose layers do not tell gives one row for the first of the numbers in `x` (n,)."""
    try:
        forward(twin(model), x[:1])
    except Exception:  # whatever it is, x is no column of rows
        return False
    return True


@contextlib.contextmanager
def _about(what: str) -> Iterator[None]:
    """Errors raised inside say which of the inputs they are about."""
    try:
        yield
    except HotgradError as error:
        if type(error).__module__ != HotgradError.__module__:
            raise
        raise type(error)(f"{what}: {error}") from error


def data_for(
    model: Model,
    loss: Callable[..., Any],
    x: Any,
    y: Any,
    name: str,
    sample_weight: Any = None,
    class_weight: Any = None,
    resolved: int = USED,
) -> Data:
    """Checked data for `model`, which is a stand-in: its lazy layers are sized. Raises what fits for data that would fail later.

    The loss sees every target once, each against the output of the first row, so that a label out of range is found wherever
    it stands. `resolved`: from how many rows on their differences must not be lost in the cast.
    """
    dtype, device = place_of(model)
    y = to_tensor(y, f"{name}y", dtype, resolved).to(device)
    check_columns(model, x, f"{name}x")
    given = to_tensor(x, f"{name}x", dtype, resolved).to(device)
    check_axes(model, given, f"{name}x")
    check_lengths(given, y, name)
    x = _taken(model, given, dtype)
    if resolved:
        check_resolved(given, x, f"{name}x", resolved)
    with _about(f"{name}x, of shape {tuple(x.shape)}"):
        output = forward(model, x[:2])
    columns = columns_of(output) if 1 <= output.ndim <= 2 else 0
    labels = labels_of(y, columns) if columns else None
    if resolved and labels is None:
        check_resolved(y, y.to(output.dtype), f"{name}y", resolved)  # integers, which the loss takes with floats
    weights = row_weights(sample_weight, class_weight, y, labels, max(columns, 2), output.dtype)
    call = row_loss(loss, weights is not None)

    def look_at_targets() -> None:
        for targets in torch.split(y, max(1, ELEMENTS // output[:1].numel())):
            ones = torch.ones(len(targets), dtype=output.dtype, device=output.device)
            value = call(wrap(output[:1].expand(len(targets), *output.shape[1:]), None), targets, ones)
            if not isinstance(value, Variable):
                raise OperandError(f"the loss must give a Variable; got {type(value).__name__} ({value!r:.60})")
            if value.numel() != 1:
                raise ShapeError(f"the loss must give a scalar; got shape {tuple(value.shape)}. Average it, for example with mean()")
        if isinstance(loss, Loss):
            loss.check(output, y)

    with _about(f"{name}y, of shape {tuple(y.shape)} and {y.dtype}"):
        unrecorded(look_at_targets)
    return Data(x, y, labels, weights)


def check_batches(model: Model, x: Tensor, batch_size: int) -> None:
    """Raises DataError if a batch has a single row and `model`, a stand-in, cannot be trained on one, as with BatchNorm."""
    rows = len(x)
    if batch_size > 1 and rows % batch_size != 1:
        return
    try:
        with no_grad:
            model.train()(wrap(x[:1], None))
    except DataError as error:
        better = next((size for size in range(max(batch_size, 2), rows) if rows % size != 1), rows)
        remedy = f"give another batch_size, such as {better}" if rows > 1 else "more rows are needed"
        raise DataError(f"of {rows} rows in batches of {batch_size} the last has a single one, and {error}; {remedy}") from error
    except Exception:  # comes out of the training itself
        return


def held_out_pair(validation_data: Any) -> tuple[Any, Any] | None:
    """What `fit` measures after each epoch, as a pair (x, y). Raises DataError for anything but a pair, a Dataset or a DataLoader."""
    if validation_data is None:
        return None
    x, y = validation_data, None
    if isinstance(validation_data, (tuple, list)):
        if len(validation_data) != 2:
            raise DataError(f"validation_data must be a pair (x, y), a Dataset or a DataLoader; got {len(validation_data)} items")
        x, y = validation_data
    return pair(x, y, "validation ")[:2]


def threshold_of(model: Model) -> float:
    """Where one column turns from label 0 to 1: 0.5 after a Sigmoid, else what the model was trained for; see `cut_of`."""
    last: Module = model
    while True:
        inner = list(last.children()) if isinstance(last, Module) else []
        if not inner or not hasattr(last, "append"):
            return 0.5 if isinstance(last, Sigmoid) else model._setup.cut
        last = inner[-1]


def cut_of(loss: Callable[..., Any], data: Data) -> float:
    """Between the labels of one column as this loss draws the output to them: 0.5 where that is to 0 and 1 themselves, else 0, the
    sign of a logit, and the middle of -1 and +1.
    """
    kinds = [
        type(loss) if isinstance(loss, Loss) else known for known in LOSSES.values() if isinstance(loss, Loss) or loss is known.function
    ]
    direct = any(kind.reaches_target for kind in kinds)
    one = data.labels is not None and data.y.numel() == len(data.y)
    return 0.5 if direct and one and bool(data.y.min() == 0) else 0.0


def given(stand_in: Any, data: Data, validation: Data | None, settings: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The sections of a fingerprint that do not change while training: shapes, data and settings. `stand_in`: the model with its lazy layers sized."""
    plain = {
        "x": f"shape {tuple(data.x.shape)}, hash {digest(data.x)}",
        "y": f"shape {tuple(data.y.shape)}, hash {digest(data.y)}",
        "weights": None if data.weights is None else digest(data.weights),
        "validation data": None if validation is None else digest(validation.x, validation.y),
        **settings,
    }
    return {"parameters": parameters_of(stand_in), **{name: {"": str(value)} for name, value in plain.items()}}
