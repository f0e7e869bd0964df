"""The experiments that `python -m hotgrad` runs: the disc, scikit-learn's digits, and a table of one's own."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotgrad import data
from hotgrad.core.modes import Tape
from hotgrad.core.variable import Variable
from hotgrad.errors import DataError, SettingError
from hotgrad.modules import Linear, ReLU, Tanh
from hotgrad.optim import SGD, Adam, CosineLR
from hotgrad.training import History, Sequential
from hotgrad.training.side_by_side import part_of_more, side_by_side

POINTS = 1000
BATCH = 20


# ------------------------------------------------------------------------------------------------------------- the disc


def disc_data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training points and labels, test points and labels; the points normalised by the training set's statistics."""
    x, labels = data.disc(POINTS, seed=2 * seed % 2**64)
    test_x, test_labels = data.disc(POINTS, seed=(2 * seed + 1) % 2**64)
    x, test_x = data.normalize(x, test_x)
    return x, labels, test_x, test_labels


def disc_model(loss: str, epochs: int, momentum: float, cosine: bool, seed: int) -> Sequential:
    """The network 2-25-25-25-2 with ReLU three times; Tanh at the end for MSE."""
    layers: list[Any] = [Linear(2, 25), ReLU(), Linear(25, 25), ReLU(), Linear(25, 25), ReLU(), Linear(25, 2)]
    if loss == "mse":
        layers.append(Tanh())
    lr = CosineLR(0.01, epochs) if cosine else 0.01
    model = Sequential(layers, loss, SGD(lr=lr, momentum=momentum))
    model.reset(seed)
    return model


def disc_targets(labels: Tensor, loss: str) -> Tensor:
    """One-hot rows of -1 and +1 for MSE, the labels themselves for cross-entropy."""
    return 2 * data.one_hot(labels, 2) - 1 if loss == "mse" else labels


@part_of_more()
def disc(
    epochs: int, loss: str, runs: int, baselines: bool, plot: str | None, seed: int, momentum: float, cosine: bool, jobs: int = 1
) -> None:
    """The reference experiment: 1,000 + 1,000 points in the unit square, label 1 inside the disc of radius 1/sqrt(2 pi)."""
    if runs > 1 and (baselines or plot is not None):
        raise SettingError("--runs is for accuracies alone; leave out --baselines and --plot")
    if plot is not None:
        _check_plot(plot)
    torch.set_num_threads(1)  # fastest at this size
    head = "2-25-25-25-2, ReLU x3" + (", Tanh; MSE on -1/+1" if loss == "mse" else "; cross-entropy on labels")
    recipe = "SGD 0.01" + (f", momentum {momentum:g}" if momentum else "") + (", cosine schedule" if cosine else "")
    print(
        f"disc: {POINTS:,} training and {POINTS:,} test points uniform in the unit square, label 1 inside the disc of radius 1/sqrt(2 pi)"
    )
    print(f"network {head}; {recipe}, batch {BATCH}, {epochs} epochs")
    if runs > 1:
        _disc_runs(epochs, loss, runs, seed, momentum, cosine, jobs)
        return
    x, labels, test_x, test_labels = disc_data(seed)
    model = disc_model(loss, epochs, momentum, cosine, seed)
    y, test_y = disc_targets(labels, loss), disc_targets(test_labels, loss)
    began = time.perf_counter()
    history = model.fit(x, y, epochs, BATCH, seed=seed)
    seconds = time.perf_counter() - began
    steps = len(history) * math.ceil(POINTS / BATCH)
    train, test = model.evaluate(x, y), model.evaluate(test_x, test_y)
    print()
    print(
        table(
            ["", "loss", "accuracy"], [[name, f"{s['loss']:.4f}", f"{s['accuracy']:.4f}"] for name, s in (("train", train), ("test", test))]
        )
    )
    print(
        f"\n{len(history)} epochs, {steps:,} steps in {seconds:.2f} s: {1e6 * seconds / max(steps, 1):.0f} us per step, engine {history.engine}"
    )
    print("\nThe tape of one step, before it is walked backwards:")
    print(tape_of_a_step(model, x[:BATCH], y[:BATCH]))
    if baselines:
        print()
        print(
            table(
                ["on the same data", "train", "test", "seconds"],
                list(_baselines(x, labels, test_x, test_labels, loss, epochs, seed, momentum, cosine)),
            )
        )
    if plot is not None:
        _plot(plot, history, model, test_x, test_labels)
        print(f"\ndecision regions and curves: {plot}")


def _disc_runs(epochs: int, loss: str, runs: int, seed: int, momentum: float, cosine: bool, jobs: int) -> None:
    began = time.perf_counter()
    done = count(1)
    found: list[tuple[float, float]] = []

    def task(run: int, model: Sequential, x: Tensor, labels: Tensor, test_x: Tensor, test_labels: Tensor) -> Callable[[], None]:
        def train() -> None:
            model.fit(x, disc_targets(labels, loss), epochs, BATCH, seed=run, verbose=0)
            scores = model.score(x, labels), model.score(test_x, test_labels)
            found.append(scores)
            print(f"run {next(done):3}/{runs}  seed {run:3}  train {scores[0]:.4f}  test {scores[1]:.4f}", flush=True)

        return train

    seeds = range(seed, seed + runs)
    tasks = [task(run, disc_model(loss, epochs, momentum, cosine, run), *disc_data(run)) for run in seeds]
    try:
        side_by_side(tasks, jobs, [f"seed {run}" for run in seeds])
    finally:  # also of those that were finished before something ended the rest
        rows = []
        for name, values in zip(("train", "test"), zip(*found)):
            deviation = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
            rows.append([name, f"{statistics.mean(values):.4f}", deviation, f"{min(values):.4f}", f"{max(values):.4f}"])
        if rows:
            print()
            print(table(["accuracy", "mean", "std", "min", "max"], rows))
            print(f"\n{len(found)} runs in {time.perf_counter() - began:.1f} s")


def tape_of_a_step(model: Sequential, x: Tensor, y: Tensor) -> str:
    """The records of one forward pass and its loss."""
    loss: Callable[..., Any] = model.loss
    for name, parameter in model.named_parameters():
        parameter.name = name
    with Tape() as tape:
        value = loss(model(Variable(x, name="x")), y)
        text = str(tape)
    del value
    return text


def _baselines(
    x: Tensor, labels: Tensor, test_x: Tensor, test_labels: Tensor, loss: str, epochs: int, seed: int, momentum: float, cosine: bool
) -> Iterator[list[str]]:
    """Rows of name, train and test accuracy, seconds."""
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError:
        print("(scikit-learn is not installed, so its baselines are left out: pip install scikit-learn)")
    else:
        named = {
            "logistic regression": LogisticRegression(),
            "k-NN, k=5": KNeighborsClassifier(),
            "random forest": RandomForestClassifier(random_state=seed % 2**32),
        }
        for name, estimator in named.items():
            began = time.perf_counter()
            estimator.fit(x.numpy(), labels.numpy())
            seconds = time.perf_counter() - began
            train, test = (estimator.score(a.numpy(), b.numpy()) for a, b in ((x, labels), (test_x, test_labels)))
            yield [name, f"{train:.4f}", f"{test:.4f}", f"{seconds:.2f}"]
    began = time.perf_counter()
    network = _torch_network(x, disc_targets(labels, loss), loss, epochs, seed, momentum, cosine)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        train, test = (float((network(a).argmax(1) == b).double().mean()) for a, b in ((x, labels), (test_x, test_labels)))
    yield ["the network in torch.nn", f"{train:.4f}", f"{test:.4f}", f"{seconds:.2f}"]


def _torch_network(x: Tensor, y: Tensor, loss: str, epochs: int, seed: int, momentum: float, cosine: bool) -> Any:
    """The same network, initialisation and budget in torch.nn and torch.optim."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[Any] = [nn.Linear(2, 25), nn.ReLU(), nn.Linear(25, 25), nn.ReLU(), nn.Linear(25, 25), nn.ReLU(), nn.Linear(25, 2)]
    for layer in layers[::2]:
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    network = nn.Sequential(*layers, nn.Tanh()) if loss == "mse" else nn.Sequential(*layers)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs) if cosine else None
    criterion: Any = nn.MSELoss() if loss == "mse" else nn.CrossEntropyLoss()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            optimizer.zero_grad()
            criterion(network(x.index_select(0, rows)), y.index_select(0, rows)).backward()
            optimizer.step()
        if schedule is not None:
            schedule.step()
    return network


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SettingError("--plot needs matplotlib: pip install 'hotgrad[plot]'") from None
    return Figure


def _check_plot(path: str) -> None:
    """Raises SettingError or OSError, rather before the training than after it, unless a picture can be written there."""
    check_place(path)
    figure, kind = _figure_class()(), Path(path).suffix[1:]
    try:
        figure.savefig(io.BytesIO(), format=kind.lower() or "none")
    except Exception as error:  # matplotlib's, of any kind
        known = ", ".join(sorted(figure.canvas.get_supported_filetypes()))
        raise SettingError(
            f"--plot {path}: no picture can be written as {kind or 'a file without an ending'!r}; known are {known}"
        ) from error


def check_place(path: str, table: str | None = None) -> None:
    """Raises OSError unless a file can be written to `path`, and SettingError for a path that names no file, or that is the `table`."""
    if not path or path.endswith(("/", os.sep)) or "\0" in path:
        raise SettingError(f"{path!r} is no name of a file; give one to write to")
    place = Path(path)
    if table is not None and place.exists() and os.path.samefile(place, table):
        raise SettingError(f"{path} is the table itself, which would be lost; give another path with --save")
    if place.exists() and not (place.is_file() and os.access(place, os.W_OK)):
        raise PermissionError(f"{path} cannot be written: it is a folder, no plain file, or protected")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {place.parent}")
    with tempfile.TemporaryFile(dir=place.parent):
        pass  # or it raises what would be raised after the training


def _plot(path: str, history: History, model: Sequential, x: Tensor, labels: Tensor) -> None:
    """Decision regions with the test points, and the curves of the training, as one picture."""
    figure = _figure_class()(figsize=(13, 4), layout="constrained")
    regions, loss, accuracy = figure.subplots(1, 3)
    low, high = x.min(0).values - 0.1, x.max(0).values + 0.1
    across, up = torch.linspace(float(low[0]), float(high[0]), 200), torch.linspace(float(low[1]), float(high[1]), 200)
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), 2)
    inside = model.classify(grid.reshape(-1, 2)).reshape(200, 200)
    regions.contourf(across.numpy(), up.numpy(), inside.numpy(), levels=[-0.5, 0.5, 1.5], colors=["#dbe6f4", "#f6d9c9"])
    for label, color in ((0, "#3b6ea5"), (1, "#c8562b")):
        points = x[labels == label].numpy()
        regions.scatter(points[:, 0], points[:, 1], s=6, color=color, label=f"label {label}")
    regions.set_title("decision regions, test points")
    regions.legend(loc="upper right")
    for axis, name in ((loss, "loss"), (accuracy, "accuracy")):
        axis.plot([row["epoch"] for row in history], [row[name] for row in history])
        axis.set_xlabel("epoch")
        axis.set_title(f"training {name}")
    figure.savefig(path)


# ------------------------------------------------------------------------------------------------------- other data


@part_of_more()
def digits(epochs: int, seed: int) -> None:
    """scikit-learn's 1,797 handwritten digits of 8 by 8 pixels, 64-64-10 with ReLU, cross-entropy, Adam."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SettingError("digits are scikit-learn's: pip install 'hotgrad[sklearn]'") from None
    torch.set_num_threads(1)
    bunch = load_digits()
    x, labels = torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target)
    train, test = split(len(x), 0.25, seed)
    model = Sequential(Linear(64, 64), ReLU(), Linear(64, 10), loss="cross_entropy", optimizer=Adam(lr=0.003))
    model.reset(seed)
    print(f"digits: {len(train):,} training and {len(test):,} test images of 8 x 8 pixels, ten classes")
    print(f"network 64-64-10, ReLU; cross-entropy; Adam 0.003, batch 32, {epochs} epochs\n")
    history = model.fit(x[train], labels[train], epochs, 32, validation_data=(x[test], labels[test]), seed=seed)
    _report(model, history, x, labels, train, test)
    found = model.classify(x[test])
    counts = torch.zeros(10, 10, dtype=torch.int64).index_put_((labels[test], found), torch.tensor(1), accumulate=True)
    print("\nrows: the digit; columns: what the network says")
    print(table(["", *map(str, range(10))], [[str(i), *(str(int(n)) if n else "." for n in counts[i])] for i in range(10)]))


@part_of_more()
def own_table(path: str, target: str, epochs: int, seed: int, save: str | None, encoding: str | None = None) -> None:
    """A table of one's own: classification or regression by the target's type, three quarters for training, scores, a saved model."""
    torch.set_num_threads(1)
    columns = read_csv(path, encoding)
    save = str(Path(path).with_suffix(".hotgrad")) if save is None else save
    check_place(save, path)
    if target not in columns:
        raise SettingError(f"{path} has no column {target!r}; it has {', '.join(columns)}")
    x, names = features({name: values for name, values in columns.items() if name != target})
    y, classes = targets(columns[target], target)
    train, test = split(len(x), 0.25, seed)
    x = _scaled(x, data.moments(x[train]))
    if classes is None:
        scale = data.moments(y[train])
        y = _scaled(y, scale)
    out = len(classes) if classes else 1
    model = Sequential(
        Linear(len(names), 64),
        ReLU(),
        Linear(64, 64),
        ReLU(),
        Linear(64, out),
        loss="cross_entropy" if classes else "mse",
        optimizer=Adam(lr=0.001),
    )
    model.reset(seed)
    kind = f"{out} classes ({', '.join(classes[:6])}{', ...' if out > 6 else ''})" if classes else "a number"
    print(f"{path}: {len(x):,} rows, {len(columns) - 1} columns as {len(names)} features; target {target!r}: {kind}")
    print(
        f"network {len(names)}-64-64-{out}, ReLU; {'cross-entropy' if classes else 'MSE on the scaled target'}; Adam 0.001, batch 32, {epochs} epochs\n"
    )
    history = model.fit(x[train], y[train], epochs, 32, validation_data=(x[test], y[test]), seed=seed)
    _report(model, history, x, y, train, test)
    if classes is None:
        error = (model.predict(x[test]).double() - y[test]).abs().mean() * scale[1]
        print(f"mean absolute error on the test rows: {float(error):.4g}")
    else:
        share = max(float((y[test] == label).double().mean()) for label in range(out))
        print(f"always the commonest class would score {share:.4f} on the test rows")
    model.save(save)
    print(f"saved: {save} (model.load brings it back; features: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})")


def _scaled(columns: Tensor, moments: tuple[Tensor, Tensor]) -> Tensor:
    """Less the means, over the deviations, and only then cast to what the network computes in."""
    return ((columns - moments[0]) / moments[1]).to(torch.get_default_dtype())


def _report(model: Sequential, history: History, x: Tensor, y: Tensor, train: Tensor, test: Tensor) -> None:
    rows = []
    for name, part in (("train", train), ("test", test)):
        rows.append([name, f"{model.evaluate(x[part], y[part])['loss']:.4f}", f"{model.score(x[part], y[part]):.4f}"])
    print()
    print(table(["", "loss", "accuracy" if not y.is_floating_point() else "R2"], rows))
    seconds = sum(row["seconds"] for row in history)
    print(f"\n{len(history)} epochs in {seconds:.2f} s, engine {history.engine}")


def split(rows: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Shuffled row numbers for training and, the last `share` of them, for testing. Raises DataError for fewer than 4 rows."""
    if rows < 4:
        raise DataError(f"{rows} rows are too few to split; at least 4 are needed")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    held_out = max(1, round(share * rows))
    return order[:-held_out], order[-held_out:]


def read_csv(path: str, encoding: str | None = None) -> dict[str, list[str]]:
    """The columns of a CSV file with a header line, as text. Raises DataError for an empty file or rows of differing lengths, and for
    text of another encoding: by default UTF-8, or UTF-16 where the file says so at its start.
    """
    content = Path(path).read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode(encoding or ("utf-16" if wide else "utf-8-sig")).removeprefix("\ufeff")
    except LookupError:
        raise SettingError(f"there is no encoding {encoding!r}; such as utf-8, utf-16, latin-1 and cp1252 are known") from None
    except UnicodeError as error:
        raise DataError(f"{path} is no text in {encoding or 'UTF-8'} ({error}); give its --encoding, such as latin-1 or utf-16") from None
    if "\0" in text:
        raise DataError(f"{path} is no text in {encoding or 'UTF-8'}, it holds zero bytes; give its --encoding, such as utf-16-le")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file: {error}") from None
    if len(rows) < 2:
        raise DataError(f"{path} needs a header line and rows below it; it has {len(rows)} lines")
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        raise DataError(f"{path} names a column twice: {', '.join(header)}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise DataError(f"{path}, row {number}: {len(row)} cells, but the header has {len(header)}")
    return {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(header)}


def _is_gap(value: str) -> bool:
    return value.lower() in ("", "na", "n/a", "nan", "null", "none")


def _numbers(values: list[str]) -> list[float] | None:
    """The values as numbers, NaN where there are none; None if some are text."""
    found = []
    for value in values:
        try:
            found.append(math.nan if _is_gap(value) else float(value))
        except ValueError:
            return None
    return found


def features(columns: dict[str, list[str]]) -> tuple[Tensor, list[str]]:
    """One float64 column per numeric column (gaps filled with its mean), one 0/1 column per value of a text column.

    Raises DataError if nothing is left. Text columns of more than 50 values are left out, with a line that says so.
    """
    parts, names = [], []
    for name, values in columns.items():
        numbers = _numbers(values)
        if numbers is not None:
            column = torch.tensor(numbers, dtype=torch.float64)
            known = column.isfinite()
            if not bool(known.any()):
                print(f"(column {name!r} is left out: it holds no finite number)")
                continue
            if not bool(known.all()):
                print(f"(column {name!r}: {int((~known).sum())} cells without a finite number get its mean)")
            parts.append(torch.where(known, column, column[known].mean()))
            names.append(name)
            continue
        kinds = sorted(set(values))
        if len(kinds) > 50:
            print(f"(column {name!r} is left out: {len(kinds)} different texts)")
            continue
        for kind in kinds:
            parts.append(torch.tensor([float(value == kind) for value in values], dtype=torch.float64))
            names.append(f"{name}={kind}")
    if not parts:
        raise DataError("no column besides the target can be used as a feature")
    return torch.stack(parts, 1), names


def targets(values: list[str], name: str) -> tuple[Tensor, list[str] | None]:
    """Labels and their names for text and for few whole numbers, else a float64 column (n, 1) and None. Raises DataError for gaps."""
    numbers = _numbers(values)
    gaps = [_is_gap(value) for value in values] if numbers is None else [not math.isfinite(number) for number in numbers]
    if any(gaps):
        first = gaps.index(True)
        raise DataError(
            f"the target column {name!r} has {sum(gaps)} values missing or infinite, the first, {values[first]!r}, in row {first + 2}; "
            "remove those rows, or write another word if it is a class"
        )
    if numbers is None:
        classes = sorted(set(values))
    else:
        kinds = sorted(set(numbers))
        if len(kinds) > 20 or any(kind != int(kind) for kind in kinds):
            return torch.tensor(numbers, dtype=torch.float64)[:, None], None
        values = [str(int(number)) for number in numbers]
        classes = [str(int(kind)) for kind in kinds]
    if len(classes) < 2:
        raise DataError(f"the target column {name!r} has only one value, {classes[0]!r}; there is nothing to learn")
    place = {kind: i for i, kind in enumerate(classes)}
    return torch.tensor([place[value] for value in values]), classes


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns under their heads, the first to the left, the others to the right.

    >>> print(table(["", "loss"], [["train", "0.5"]]))
           loss
    train   0.5
    """
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip() for row in (head, *rows)]
    return "\n".join(lines)
