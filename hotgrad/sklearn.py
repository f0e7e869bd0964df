"""Estimators for scikit-learn (extra `sklearn`): they work in its pipelines, grid searches and cross-validation.

Both take networks of `hidden` layers, or any network through `network`, a function of the numbers of features and outputs
that returns a Sequential without loss. Inputs are not scaled: put a StandardScaler in front. Numbers stay float32 if they
come so, else float64. Fitted attributes: `model_` (the Sequential), `history_`, `n_features_in_`, and `classes_`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from hotgrad.checks import nearest, shown, whole_number
from hotgrad.core.arrays import check_unmasked
from hotgrad.data import moments
from hotgrad.errors import DataError, OperandError, SettingError
from hotgrad.modules import Linear, Module, ReLU
from hotgrad.training import Sequential
from hotgrad.training.inputs import by_class
from hotgrad.training.model import optimizer_of
from hotgrad.training.side_by_side import part_of_more
from hotgrad.training.state import twin

_LARGEST = 1e300  # of targets


class _HotEstimator(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: their settings, and the training of a network."""

    def __init__(
        self,
        hidden: Sequence[int] = (64,),
        *,
        epochs: int = 100,
        batch_size: int | None = 32,
        optimizer: Any = "adam",
        network: Callable[[int, int], Sequential] | None = None,
        callbacks: Sequence[Callable[..., Any]] = (),
        random_state: Any = None,
        verbose: int | bool | str = 0,
    ) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.network = network
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def _train(self, x: Any, y: torch.Tensor, outputs: int, what: str, loss: str, **settings: Any) -> None:
        """Build a network for the data, initialise it from `random_state` and train it."""
        try:
            random = check_random_state(self.random_state)
        except ValueError as error:
            raise SettingError(
                f"random_state must be None, a whole number from 0 to 2**32 - 1 or a numpy RandomState; got {self.random_state!r:.60}"
            ) from error
        optimizer = optimizer_of(self.optimizer).fresh()
        model = self._network(x.shape[1], outputs)
        model.to(torch.float32 if x.dtype == np.float32 else torch.float64)
        model.reset(int(random.randint(2**31 - 1)))
        found = tuple(twin(model).predict(x[:1]).shape)
        if found != (1, outputs):
            raise SettingError(f"network must give rows of {outputs} numbers, one for each {what}; it gives {found} for one row")
        with part_of_more():
            self.history_ = model.fit(
                x,
                y,
                self.epochs,
                self.batch_size,
                loss=loss,
                optimizer=optimizer,
                callbacks=self.callbacks,
                verbose=self.verbose,
                **settings,
            )
        self.model_, self._dtype = model, x.dtype

    def _network(self, features: int, outputs: int) -> Sequential:
        """What `network` returns, or the network of `hidden` layers."""
        if self.network is not None:
            if isinstance(self.network, Module) or not callable(self.network):
                raise OperandError(
                    f"network is a function of the numbers of features and outputs that returns a new Sequential; got {shown(self.network)}"
                )
            model = self.network(features, outputs)
            if not isinstance(model, Sequential):
                raise OperandError(f"network must return a Sequential; it returned {shown(model)}")
            return model
        try:
            sizes = [features, *self.hidden]
        except TypeError:
            raise SettingError(f"hidden is the sizes of the hidden layers, such as (64,) or (); got {shown(self.hidden)}") from None
        layers: list[Any] = []
        for size, following in pairwise([features, *(whole_number("a size in hidden", size) for size in sizes[1:])]):
            layers += [Linear(size, following), ReLU()]
        return Sequential(*layers, Linear(sizes[-1], outputs))

    def _outputs(self, x: Any) -> torch.Tensor:
        check_is_fitted(self)
        check_unmasked(x)
        x = validate_data(self, x, reset=False, dtype=(np.float64, np.float32))
        return self.model_.predict(x.astype(self._dtype, copy=False))


class HotClassifier(ClassifierMixin, _HotEstimator):  # type: ignore[misc]
    """A classifier: cross-entropy on the classes found in `y`, which may be numbers or strings.

    `hidden`: sizes of the hidden layers, ReLU between them. `network(features, outputs)` replaces them. `optimizer` is a name or
    an optimizer, of which a fresh copy is used. `class_weight`: None, "balanced" or a dict from class to weight. `random_state`
    as in scikit-learn. Raises ValueError for bad data, as scikit-learn does, and hotgrad's errors for bad settings.

    >>> import numpy
    >>> x = numpy.array([[0.0], [0.1], [0.9], [1.0]])
    >>> HotClassifier((8,), epochs=200, random_state=0).fit(x, ["low", "low", "high", "high"]).predict(x[[0, 3]])
    array(['low', 'high'], dtype='<U4')
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64,),
        *,
        epochs: int = 100,
        batch_size: int | None = 32,
        optimizer: Any = "adam",
        network: Callable[[int, int], Sequential] | None = None,
        callbacks: Sequence[Callable[..., Any]] = (),
        class_weight: Any = None,
        random_state: Any = None,
        verbose: int | bool | str = 0,
    ) -> None:
        super().__init__(
            hidden,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            network=network,
            callbacks=callbacks,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any) -> HotClassifier:
        """Train on `X` (n, features) and the classes `y` (n,). Returns the estimator."""
        check_unmasked([X, y])
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        weights = by_class(self.class_weight)
        if isinstance(weights, dict):
            names = classes.tolist()
            for name in weights:
                if name not in names:
                    close = nearest(name, [known for known in names if isinstance(known, str)])
                    raise SettingError(f"class_weight names {name!r}, which y does not have; its classes are {names!r:.200}{close}")
            weights = [weights.get(name, 1.0) for name in names]
        self._train(X, torch.from_numpy(labels.astype(np.int64)), len(classes), "class", "cross_entropy", class_weight=weights)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, (n, classes)."""
        return torch.softmax(self._outputs(X), 1).numpy()

    def predict(self, X: Any) -> Any:
        """The likeliest class of each row."""
        best = self._outputs(X).argmax(1).numpy()
        return self.classes_[best]


class HotRegressor(RegressorMixin, _HotEstimator):  # type: ignore[misc]
    """A regressor: mean squared error on targets that are scaled to mean 0 and deviation 1 inside. Several columns are allowed.

    The settings are those of HotClassifier, without `class_weight`.

    >>> import numpy
    >>> x = numpy.linspace(-1, 1, 40)[:, None]
    >>> HotRegressor(epochs=200, random_state=0).fit(x, 3 * x[:, 0] + 1).score(x, 3 * x[:, 0] + 1) > 0.99
    True
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> HotRegressor:
        """Train on `X` (n, features) and `y` (n,) or (n, columns). Returns the estimator."""
        check_unmasked([X, y])
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), multi_output=True, y_numeric=True)
        targets = torch.as_tensor(y.reshape(len(y), -1).astype(np.float64))
        if float(targets.abs().max()) > _LARGEST:
            raise DataError(f"y holds values beyond {_LARGEST:g}, where predictions would overflow; divide y by a constant before")
        mean, spread = moments(targets)
        self._train(X, (targets - mean) / spread, targets.shape[1], "column of y", "mse")
        constant = (targets == targets[0]).all(0)  # predicted as it is
        self._mean, self._spread, self._one_column = mean, torch.where(constant, 0.0, spread), y.ndim == 1
        return self

    def predict(self, X: Any) -> Any:
        """The predicted targets, float64, of the shape that `fit` was given."""
        found = self._outputs(X).double() * self._spread + self._mean
        return (found[:, 0] if self._one_column else found).numpy()
