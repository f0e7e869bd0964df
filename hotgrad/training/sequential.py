"""Layers in a row that train themselves: `Sequential`, and several of them: `fit_many`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import flag, seed_number, shown, whole_number
from hotgrad.core.drawing import drawing_from
from hotgrad.errors import FileError, OperandError, SettingError
from hotgrad.files import read, write
from hotgrad.modules import Module
from hotgrad.training.callbacks import EarlyStopping, check_callbacks
from hotgrad.training.captured import Predictor
from hotgrad.training.checkpoint import Checkpoint
from hotgrad.training.engine_choice import check_engine, runner_for
from hotgrad.training.evaluation import chosen, forward, keeping_modes, score
from hotgrad.training.fingerprint import Subject
from hotgrad.training.history import History, row_keys
from hotgrad.training.inputs import by_class, check_lengths, column_names, pair, to_tensor
from hotgrad.training.job import (
    Data,
    Job,
    check_batches,
    check_verbose,
    cut_of,
    data_for,
    given,
    held_out_pair,
    inputs_for,
    threshold_of,
)
from hotgrad.training.loop import begin, evaluated, signal_back, train
from hotgrad.training.model import Model
from hotgrad.training.side_by_side import claim_more, cores, part, side_by_side, stratified, training, using
from hotgrad.training.state import Snapshot, check_trained, checked, follow, layout, trial, twin

_SAVED = {
    "state": dict,
    "optimizer": (str, type(None)),
    "axes": (int, type(None)),
    "columns": (list, type(None)),
    "cut": (float, type(None)),
}


class Sequential(Model):
    """Layers applied one after the other, with training built in.

    `Sequential(*layers, loss=None, optimizer=None)` or `Sequential([layers], loss, optimizer)`; a dict gives the layers names.
    A layer is a Module or any function of a Variable. `loss` is a name ("mse", "cross_entropy", ...) or any callable
    `loss(output, target)` that gives a scalar Variable; `optimizer` a name ("sgd", "adam", ...) or an optimizer. Both may also
    be given to `fit`.

    Layers are reached by position or name, and slices are Sequentials that share the layers; `model[-1] = layer` replaces one.

    >>> model = Sequential(hg.Linear(2, 3), hg.ReLU(), hg.Linear(3, 1), loss="mse", optimizer="sgd")
    >>> len(model), model(torch.ones(5, 2)).shape
    (3, torch.Size([5, 1]))
    >>> history = model.fit([[0.0, 0.0], [1.0, 1.0]], [[0.0], [1.0]], epochs=2, seed=0, verbose=0)
    >>> [row["epoch"] for row in history]
    [1, 2]
    """

    _unwatched = frozenset(("_setup", "_epochs"))  # captured steps read these as they are at each step

    def __init__(self, *layers: Any, loss: Any = None, optimizer: Any = None) -> None:
        if layers and isinstance(layers[0], (list, tuple, dict)):
            given, *rest = layers
            if len(rest) > 2 or (rest and loss is not None) or (len(rest) > 1 and optimizer is not None):
                raise OperandError("Sequential takes layers one by one, or one list of layers, then a loss and an optimizer")
            loss = rest[0] if rest else loss
            optimizer = rest[1] if len(rest) > 1 else optimizer
            named = list(given.items()) if isinstance(given, dict) else [(str(i), layer) for i, layer in enumerate(given)]
        else:
            named = [(str(i), layer) for i, layer in enumerate(layers)]
        self._names: list[str] = []
        super().__init__(loss, optimizer)
        for name, layer in named:
            self.append(layer, name)

    # ---- the layers

    def append(self, layer: Any, name: str | None = None) -> Sequential:
        """Add a layer at the end, under its position or a name of its own. Returns the model."""
        name = str(len(self._names)) if name is None else name
        layer = _layer(layer)
        if not isinstance(name, str) or "." in name or not name or hasattr(self, name):
            raise SettingError(f"{name!r} cannot name a layer: names are non-empty strings without dots that nothing else has")
        self._names.append(name)
        setattr(self, name, layer)
        return self

    def named_layers(self) -> list[tuple[str, Any]]:
        """The layers with their names."""
        return [(name, getattr(self, name)) for name in self._names]

    def _name(self, key: int | str) -> str:
        if isinstance(key, str):
            if key not in self._names:
                raise SettingError(f"no layer is named {key!r}; there are {', '.join(self._names)}")
            return key
        return self._names[key]

    def __getitem__(self, key: int | str | slice) -> Any:
        if not isinstance(key, slice):
            return getattr(self, self._name(key))
        names = self._names[key]
        return Sequential({(str(i) if name.isdigit() else name): getattr(self, name) for i, name in enumerate(names)})

    def __setitem__(self, key: int | str, layer: Any) -> None:
        setattr(self, self._name(key), _layer(layer))
        self._setup.axes = self._setup.columns = None  # another layer may take other rows

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Any]:
        return iter([layer for name, layer in self.named_layers()])

    def forward(self, x: Any) -> Any:
        """Apply the layers in order."""
        for name in self._names:
            x = getattr(self, name)(x)
        return x

    # ---- training

    @training
    def fit(
        self,
        x: Any,
        y: Any = None,
        epochs: int = 1,
        batch_size: int | None = None,
        *,
        loss: Any = None,
        optimizer: Any = None,
        validation_data: Any = None,
        shuffle: bool = True,
        seed: int | None = None,
        verbose: int | bool | str = "auto",
        callbacks: Sequence[Callable[..., Any]] = (),
        sample_weight: Any = None,
        class_weight: Any = None,
        engine: str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> History:
        """Train for `epochs` on rows of `x` (n, ...) with targets `y` (n, ...) and return what happened, epoch by epoch.

        `x`, `y`: tensors, numpy arrays, pandas objects or nested lists; or `x` a torch Dataset or DataLoader and no `y`. Both are
        read once, into memory, and copied where they lie in that of the model. Floats are cast to the parameters' dtype, which must resolve the differences between the rows.
        `batch_size`: rows per step, all by default; the last batch may be smaller. `loss` and `optimizer` replace those of the model.
        `validation_data`: a pair (x, y), evaluated after each epoch. `seed` restarts the model's own generator, which shuffles.
        `verbose`: 0, k for a line each k-th epoch, or "auto" for a bar or about ten lines. `callbacks`: see `EarlyStopping`.
        `sample_weight` (n,) and `class_weight` (a dict, one weight per class, or "balanced") are scaled to a mean of 1 over the rows.
        `checkpoint`: a file to write as training goes; if it exists, training resumes from it, `epochs` being the total. It must be of
        the same run: layers, loss, optimizer and callbacks with a `state_dict` are compared with all that they depend on, code,
        closures and attributes included, data and settings too; a RuntimeWarning names what cannot be compared. Besides model,
        optimizer and generator it keeps what callbacks give as their `state_dict`, and nothing that a loss or layer counts by itself.
        Where a callback changes layers, the model that resumes needs those of the end.

        A second `fit` goes on where the first ended. Parameters that the model has got meanwhile are trained too, unless the optimizer
        was given its parameters: then SettingError names those it lacks, frozen ones aside. Ctrl-C ends between two steps and returns
        the History so far, an empty one if it comes while the step is captured or compiled. Whatever ends it, the model stands as after
        the last completed epoch.

        It has the model alone: another thread that fits or uses it meanwhile gets a BusyError, as does a callback that calls `fit` of it.
        Callbacks may call all else; a loss that one sets trains from then on, another optimizer is a SettingError, and so is nothing
        left to train, if it freezes all. Inside `no_grad` it trains all the same, and callbacks run with recording on.

        Everything is checked first, and nothing changes on bad input: DataError (empty, lengths, NaN), ShapeError, DtypeError,
        SettingError, NoLossError, FileError. NonFiniteLossError if the loss becomes NaN or infinite.

        >>> x, labels = hg.data.disc(200, seed=0)
        >>> model = Sequential(hg.Linear(2, 8), hg.ReLU(), hg.Linear(8, 2), loss="cross_entropy", optimizer="adam")
        >>> model.fit(x, labels, epochs=3, batch_size=20, seed=0, verbose=0)
        <History of 3 epochs, eager: epoch 3  loss ...>
        """
        epochs = whole_number("epochs", epochs)
        seed = None if seed is None else seed_number("seed", seed)
        engine = check_engine(engine)
        shuffle = flag("shuffle", shuffle)
        check_verbose(verbose)
        callbacks = check_callbacks(callbacks)
        new_loss = self._given_loss(loss)
        new_optimizer = self._given_optimizer(optimizer)
        check_trained(self, new_optimizer)
        claim_more(self, [new_optimizer, *(callback for callback in callbacks if hasattr(callback, "begin"))])
        x, y, brought = pair(x, y)
        held_out = held_out_pair(validation_data)
        subject = None if checkpoint is None else Subject(self, new_loss, new_optimizer, callbacks)
        batch_size = whole_number("batch_size", batch_size) if batch_size is not None else brought
        names = column_names(x)
        stand_in = twin(self).use_generator(torch.Generator())  # whose draws are nobody's
        with drawing_from(stand_in.generator):
            data = data_for(stand_in, new_loss, x, y, "", sample_weight, class_weight, resolved=2)
            stand_in._setup.axes, stand_in._setup.columns = data.x.ndim, names or self._setup.columns
            stand_in._setup.cut = cut_of(new_loss, data)
            validation = None if held_out is None else data_for(stand_in, new_loss, held_out[0], held_out[1], "validation ")
            keys = row_keys(data.labels is not None, validation is not None, validation is not None and validation.labels is not None)
            for callback in callbacks:
                if isinstance(callback, EarlyStopping):
                    callback.check(keys)
        rows = len(data.x)
        batch_size = min(rows, batch_size or rows)
        if new_optimizer.needs_closure and batch_size < rows:
            raise SettingError(
                f"{type(new_optimizer).__name__} needs full batches; got batch_size={batch_size} for {rows} rows. Leave batch_size out"
            )
        with drawing_from(stand_in.generator):
            check_batches(stand_in, data.x, batch_size)
        file = None
        if subject is not None and checkpoint is not None:
            settings = {
                "batch size": batch_size,
                "shuffle": shuffle,
                "seed": seed,
            }
            file = Checkpoint(checkpoint, subject, given(stand_in, data, validation, settings))
            engine = file.preferred(engine)
        job = Job(data, epochs, batch_size, validation, shuffle, threshold_of(stand_in), verbose, callbacks, file)
        try:
            with self._setup.kept(self, new_optimizer):
                self.use_generator(self._seeded(seed))
                if layout(self) != layout(stand_in):
                    forward(
                        self, data.x[:2]
                    )  # sizes lazy layers; without such ones a forward that counts its calls sees none but the steps
                self.loss, self.optimizer = new_loss, new_optimizer
                follow(self, list(self.parameters()))
                job.keep_apart(self)
                new_optimizer.convert_state()
                with drawing_from(self.generator):
                    runner = runner_for(self, job, engine)
                    begin(self, job)
        except KeyboardInterrupt:  # while capturing or compiling
            if part.get() or job.history:
                raise
            job.history.engine_note = "interrupted before the first step"
            return job.history
        self._setup.axes, self._setup.columns, self._setup.cut = stand_in._setup.axes, stand_in._setup.columns, stand_in._setup.cut
        with drawing_from(self.generator):
            return keeping_modes(self, lambda: train(self, job, runner), signal_back())

    def _seeded(self, seed: int | None) -> torch.Generator:
        """The model's generator: restarted by a seed, else as it stands, else seeded by one draw from torch's global one."""
        if seed is None and self.generator is not None:
            return self.generator
        if seed is None:
            seed = int(torch.randint(2**63 - 1, ()))
        return (self.generator or torch.Generator()).manual_seed(seed_number("seed", seed))

    # ---- using it

    @using
    def predict(self, x: Any, batch_size: int | None = None) -> Tensor:
        """The output for each row of `x`, a plain tensor, in eval mode. `batch_size` rows at a time, which changes no result.

        >>> Sequential(hg.Linear(2, 3)).predict([[0.0, 0.0]])
        tensor([[0., 0., 0.]])
        """
        size = None if batch_size is None else whole_number("batch_size", batch_size)
        return forward(self, inputs_for(self, x, "x"), size, self._predictor())

    def _predictor(self) -> Callable[[Tensor], Any]:
        if self._setup.predictor is None:
            self._setup.predictor = Predictor(self)
        return self._setup.predictor

    def classify(self, x: Any, batch_size: int | None = None) -> Tensor:
        """The label of each row of `x`, int64 (n,): the column with the largest output; for one column 1 where the logit is
        positive (above 0.5 after a Sigmoid, or if last trained on targets 0 and 1 with MSE, L1 or Huber), else 0. Raises ShapeError for outputs of more than two axes.

        >>> Sequential(hg.nn.Linear(2, 3)).classify([[0.0, 0.0]])
        tensor([0])
        """
        return chosen(self.predict(x, batch_size), threshold_of(self))

    @using
    def score(self, x: Any, y: Any = None, batch_size: int | None = None) -> float:
        """Accuracy where `y` holds labels, one-hot rows or -1/+1, else R2, the coefficient of determination.

        Raises DataError for bad data, labels that no output stands for included, ShapeError for targets of another shape than the output.

        >>> Sequential(hg.nn.Linear(2, 3)).score([[0.0, 0.0], [0.0, 0.0]], [0, 1])
        0.5
        """
        size = None if batch_size is None else whole_number("batch_size", batch_size)
        x, y, _ = pair(x, y)
        y = to_tensor(y, "y", torch.float64)
        x = inputs_for(self, x, "x")
        check_lengths(x, y)
        output = forward(self, x, size, self._predictor())
        return score(output, y.to(output.device), threshold_of(self))

    @using
    def evaluate(self, x: Any, y: Any = None, batch_size: int | None = None) -> dict[str, float]:
        """`loss`, and `accuracy` where `y` holds labels, over all rows in eval mode. Raises NoLossError without a loss.

        >>> Sequential(hg.nn.Linear(2, 2), loss="mse").evaluate([[0.0, 0.0]], [[0.5, 1.5]])
        {'loss': 1.25}
        """
        loss = self._given_loss(None)
        size = None if batch_size is None else whole_number("batch_size", batch_size)
        x, y, _ = pair(x, y)
        return evaluated(self, loss, data_for(trial(self), loss, x, y, ""), threshold_of(self), size)

    def cross_validate(
        self, x: Any, y: Any = None, n_splits: int = 4, *, seed: int | None = None, jobs: int = 1, **settings: Any
    ) -> dict[str, list[float]]:
        """Train and score on `n_splits` splits, each from a fresh start: {"train_score": [...], "test_score": [...]}.

        Stratified where the targets are labels. `settings` are those of `fit`; `verbose` is 0 unless given. The model itself
        keeps its weights. `jobs`: threads to train on, which changes no result and gains on the native engine. Raises SettingError for fewer than two splits or more than rows, and what `fit` raises.

        >>> x, labels = hg.data.disc(40, seed=0)
        >>> model = Sequential(hg.Linear(2, 2), loss="cross_entropy", optimizer="sgd")
        >>> len(model.cross_validate(x, labels, n_splits=3, seed=0)["test_score"])
        3
        """
        n_splits = whole_number("n_splits", n_splits, 2)
        if "validation_data" in settings or "checkpoint" in settings:
            raise SettingError("cross_validate takes no validation_data and no checkpoint: each fold is its own training")
        if settings.get("sample_weight") is not None:
            raise SettingError("cross_validate takes no sample_weight; use class_weight")
        if whole_number("jobs", jobs) > 1 and settings.get("callbacks"):
            raise SettingError("cross_validate takes no callbacks with several jobs: they would be shared by trainings side by side")
        x, y, brought = pair(x, y)
        settings.setdefault("batch_size", brought)
        settings.setdefault("verbose", 0)
        stand_in = twin(self).use_generator(torch.Generator())
        weights = by_class(settings.get("class_weight"))
        data: Data = data_for(stand_in, self._given_loss(settings.get("loss")), x, y, "", class_weight=weights, resolved=2)
        if isinstance(weights, dict) and data.labels is not None:  # by place, so that a fold may lack a class
            settings["class_weight"] = [weights.get(label, 1) for label in range(int(data.labels.max()) + 1)]
        generator = self._seeded(seed)
        optimizer = self._given_optimizer(settings.pop("optimizer", None))

        def fold(model: Sequential, optimizer: Any, kept: Tensor, held_out: Tensor) -> Callable[[], tuple[float, float]]:
            def task() -> tuple[float, float]:
                model.fit(data.x[kept], data.y[kept], optimizer=optimizer, **settings)
                return model.score(data.x[kept], data.y[kept]), model.score(data.x[held_out], data.y[held_out])

            return task

        folds = []
        for kept, held_out in stratified(len(data.x), n_splits, data.labels, generator):
            model, own = twin(self, optimizer)
            model.reset(int(torch.randint(2**63 - 1, (), generator=generator)))
            folds.append(fold(model, own.restarted(), kept, held_out))
        scores = side_by_side(folds, jobs, [f"fold {number}" for number in range(1, n_splits + 1)])
        return {"train_score": [train for train, _ in scores], "test_score": [test for _, test in scores]}

    @using
    def reset(self, seed: int | None = None) -> None:
        """Start anew: parameters and buffers initialised again, the optimizer's state forgotten, no epochs done.

        The model's generator, restarted by `seed`, draws the weights.
        """
        self.use_generator(self._seeded(seed))
        self.reset_parameters(self.generator)
        if self.optimizer is not None:
            self.optimizer = self.optimizer.restarted()
        self.epochs_done = 0
        self._setup.axes = self._setup.columns = None
        self._setup.cut = 0.0

    # ---- files

    @using
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, buffers, the optimizer's state, the number of epochs done and the generator's state to `path`.

        The file appears whole or not at all; an old one keeps its mode, a link goes on pointing to it. Raises TapeError while a lazy
        layer is not sized, FileError, which is an OSError, if it cannot be written, as where its folder is missing.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Sequential(hg.nn.Linear(2, 3)).save(folder + "/model")
        ...     model = Sequential(hg.nn.Linear(3)).load(folder + "/model")
        >>> model
        Sequential: 9 parameters
          0  Linear(2, 3)  weight (2, 3), bias (3,)  9
        """
        name = None if self.optimizer is None else type(self.optimizer).__name__
        setup = self._setup
        kept = {"axes": setup.axes, "columns": setup.columns, "cut": setup.cut}
        write(path, "model", {"state": Snapshot(self).tree, "optimizer": name, **kept})

    @using
    def load(self, path: str | os.PathLike[str]) -> Sequential:
        """Bring back what `save` wrote, into a model of the same layers; lazy ones are sized. Returns the model.

        Nothing in the file is executed. Raises FileError, the model unchanged, for a file that is broken, foreign or of other
        layers (all differences listed).
        """
        content = read(path, "model", _SAVED)
        current = None if self.optimizer is None else type(self.optimizer).__name__
        if None is not content["optimizer"] != current is not None:
            raise FileError(
                f"{path} was saved with the optimizer {content['optimizer']}, this model has {current}; "
                "set model.optimizer = None before loading, and give the new one to fit"
            )
        try:
            snapshot = Snapshot(checked(content["state"]))
            snapshot.restore(twin(self))
        except Exception as error:
            raise FileError(f"{path} does not fit this model: {error}") from error
        snapshot.restore(self)
        self._setup.axes, self._setup.columns = content.get("axes"), content.get("columns")
        self._setup.cut = content.get("cut") or 0.0
        return self


def _layer(layer: Any) -> Any:
    """What may be a layer. Raises OperandError for anything else."""
    if not callable(layer) or isinstance(layer, type):
        raise OperandError(f"a layer is a Module or a function of a Variable; got {layer!r:.60}")
    return layer


_MANY = 10**6  # trainings, more of which nobody means


def fit_many(
    make_model: Callable[[], Sequential], x: Any, y: Any = None, epochs: int = 1, batch_size: int | None = None, *,
    seeds: int | Iterable[int], jobs: int | None = None, **settings: Any,
) -> list[tuple[Sequential, History]]:  # fmt: skip
    """Train one model per seed on the same data: what `make_model` returns, reset and fitted with that seed, and its History.

    `seeds`: several whole numbers, or k for 0 to k - 1. `jobs`: threads, by default as many as there are cores; the results do not
    depend on it. All models are made in order before any training starts. `settings` are those of `fit`; `verbose` is 0 unless given.
    A training on the eager or replay engine holds Python's lock, so that only the native engine gains from threads.

    Ctrl-C raises KeyboardInterrupt, with the seeds whose training is not finished. Raises what `fit` raises, and SettingError for settings that several trainings cannot share.

    >>> x, labels = hg.data.disc(100, seed=0)
    >>> def make_model():
    ...     return Sequential(hg.Linear(2, 8), hg.ReLU(), hg.Linear(8, 2), loss="cross_entropy", optimizer="adam")
    >>> results = fit_many(make_model, x, labels, epochs=2, batch_size=20, seeds=3)
    >>> [len(history) for model, history in results]
    [2, 2, 2]
    """
    numbers = _numbers(seeds)
    if not callable(make_model) or isinstance(make_model, Module):
        raise OperandError(f"make_model is a function that returns a new model at each call; got {shown(make_model)}")
    jobs = cores() if jobs is None else whole_number("jobs", jobs)
    for name in ("seed", "checkpoint", "optimizer", "callbacks"):
        if name in settings and (name == "seed" or settings[name]):
            raise SettingError(f"fit_many takes no {name}, which each training needs of its own; let make_model bring it, or call fit")
    settings.setdefault("verbose", 0)
    models: list[Sequential] = []
    for seed in numbers:
        model = make_model()
        if not isinstance(model, Sequential):
            raise OperandError(f"make_model must return a Sequential; got {model!r:.60}")
        if any(model is other for other in models):
            raise OperandError("make_model returned the same model twice; it must make a new one at each call")
        model.reset(seed)
        models.append(model)

    def task(model: Sequential, seed: int) -> Callable[[], History]:
        return lambda: model.fit(x, y, epochs, batch_size, seed=seed, **settings)

    histories = side_by_side([task(model, seed) for model, seed in zip(models, numbers)], jobs, [f"seed {seed}" for seed in numbers])
    return list(zip(models, histories))


def _numbers(seeds: Any) -> list[int]:
    """The seeds that are meant by several, or by their number. Raises SettingError for anything else."""
    try:
        several = list(seeds)
    except TypeError:  # one number
        count = whole_number("seeds", seeds, most=2**128 - 1)  # told below of too many
        if count > _MANY:
            raise SettingError(
                f"seeds={shown(seeds)} asks for so many models; give [{shown(seeds)}] for a single one with this seed"
            ) from None
        return list(range(count))
    return [seed_number("seeds", seed) for seed in several]
