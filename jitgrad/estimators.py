"""scikit-learn estimators: multilayer perceptrons, and a formula fitted to every row.

`JitMLPClassifier` and `JitMLPRegressor` take the parameters of scikit-learn's own and learn through `jg.fit`;
`JitCurveFitter` is `scipy.optimize.curve_fit` for many curves at once. They work in pipelines and searches, and take
whatever scikit-learn takes as X: arrays, lists, pandas and polars frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from jitgrad import errors, losses, optim
from jitgrad.api import Transformed, jit, recorded_once
from jitgrad.curves import Curves, Solver, parameter_names, solver
from jitgrad.examples import check_finite
from jitgrad.functions import PUBLIC
from jitgrad.schedules import in_range
from jitgrad.settings import positive
from jitgrad.train import Epoch, fit

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, validate_data
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] != "sklearn":
        raise
    raise ModuleNotFoundError(errors.explain(
        "jitgrad.estimators needs scikit-learn, which is not installed.", None, "pip install 'jitgrad[sklearn]'"),
        name="sklearn") from None

Array = npt.NDArray[Any]
Layers = list[tuple[Array, Array]]                          # (weights (inputs, outputs), biases (outputs,)) of each layer

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x, "logistic": PUBLIC["sigmoid"], "tanh": PUBLIC["tanh"], "relu": PUBLIC["relu"]}


def _network(activation: str, params: Any, x: Any) -> Any:
    """The outputs for ONE example."""
    for weights, biases in params[:-1]:
        x = _ACTIVATIONS[activation](x @ weights + biases)
    weights, biases = params[-1]
    return x @ weights + biases


@lru_cache(maxsize=32)
def _forward(activation: str, device: str) -> Transformed:
    """(layers, X) -> outputs (n, k); recorded once for all networks of a shape.

    Every row gets the same bits whatever the other rows are.
    """
    return jit(lambda params, x: _network(activation, params, x), in_axes=(None, 0), reduce=None, device=device)


@lru_cache(maxsize=32)
def _objective(activation: str, loss: Callable[[Any, Any], Any], weighted: bool) -> Callable[..., Any]:
    """The loss of one example; the same function at each fit, so that a search records a network of a shape once."""
    def objective(params: Any, x: Any, target: Any) -> Any:
        return loss(_network(activation, params, x), target)

    def with_weight(params: Any, x: Any, target: Any, weight: Any) -> Any:
        return weight * objective(params, x, target)

    return recorded_once(with_weight if weighted else objective)


def _two_classes(logits: Any, label: Any) -> Any:
    return losses.binary_cross_entropy(logits[0], label)


class _JitMLP(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share."""

    def __init__(self, hidden_layer_sizes: int | Sequence[int] = (100,), activation: str = "relu", *,
                 weight_decay: float = 0.0, batch_size: int | str = "auto", learning_rate_init: float = 5e-3,
                 max_iter: int = 200, tol: float = 1e-3, n_iter_no_change: int = 10, random_state: Any = None,
                 device: str = "auto", verbose: bool = False):
        self.hidden_layer_sizes, self.activation = hidden_layer_sizes, activation
        self.weight_decay, self.batch_size, self.learning_rate_init = weight_decay, batch_size, learning_rate_init
        self.max_iter, self.tol, self.n_iter_no_change, self.random_state = max_iter, tol, n_iter_no_change, random_state
        self.device, self.verbose = device, verbose

    def _initial(self, sizes: Sequence[int], generator: Any, dtype: np.dtype[Any]) -> Layers:
        """Glorot and Bengio's (2010) uniform distribution, as in scikit-learn."""
        layers = []
        for inputs, outputs in pairwise(sizes):
            bound = np.sqrt((2.0 if self.activation == "logistic" else 6.0) / (inputs + outputs))
            layers.append((generator.uniform(-bound, bound, (inputs, outputs)).astype(dtype),
                           generator.uniform(-bound, bound, outputs).astype(dtype)))
        return layers

    def _train(self, loss: Callable[[Any, Any], Any], X: Array, targets: Array, outputs: int,
               sample_weight: Array | None) -> Layers:
        """Fit the layers; `loss(outputs of one example, its target)`."""
        if self.activation not in _ACTIVATIONS:
            raise errors.ArgumentError(f"activation must be one of {', '.join(_ACTIVATIONS)}; got {self.activation!r}")
        hidden = self.hidden_layer_sizes
        sizes = [X.shape[1], *(np.atleast_1d(hidden).tolist()), outputs]
        if any(not isinstance(size, Integral) or size < 1 for size in sizes):
            raise errors.ArgumentError(f"hidden_layer_sizes must be positive whole numbers; got {hidden!r}")
        epochs = positive("max_iter", self.max_iter, "the number of epochs at most")
        patience = positive("n_iter_no_change", self.n_iter_no_change, "the number of epochs without a lower loss")
        in_range(type(self).__name__, "tol", self.tol, 0.0, np.inf)
        in_range(type(self).__name__, "learning_rate_init", self.learning_rate_init, 0.0, np.inf)
        best, waited = np.inf, 0

        def enough(epoch: Epoch, _: Any) -> bool:
            nonlocal best, waited
            waited = 0 if epoch.loss < best - self.tol else waited + 1
            best = min(best, epoch.loss)
            return waited >= patience

        generator, dtype = check_random_state(self.random_state), X.dtype
        data: tuple[Array, ...] = (X, targets)
        if sample_weight is not None:
            data = (*data, (sample_weight * (len(X) / sample_weight.sum())).astype(dtype))
        rate = self.learning_rate_init
        found = fit(
            _objective(self.activation, loss, sample_weight is not None),
            self._initial(sizes, generator, dtype),
            data,
            optimizer=optim.adamw(rate, weight_decay=self.weight_decay) if self.weight_decay else optim.adam(rate),
            epochs=epochs,
            batch_size=min(64, len(X)) if self.batch_size == "auto" else self.batch_size,  # type: ignore[arg-type]
            seed=int(generator.randint(2**31 - 1)),
            device=self.device,
            progress=bool(self.verbose),
            callback=enough,
        )
        self.loss_curve_: list[float] = found.losses
        self.n_iter_, self.loss_ = len(found.history), found.losses[-1]
        layers: Layers = found.params
        return layers

    def _keep(self, layers: Layers) -> None:
        self.coefs_, self.intercepts_ = [w for w, _ in layers], [b for _, b in layers]
        self.n_layers_ = len(layers) + 1

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=self.coefs_[0].dtype)
        outputs: Array = _forward(self.activation, self.device)(list(zip(self.coefs_, self.intercepts_, strict=True)), X)
        return outputs

    def _inputs(self, X: Any, y: Any, sample_weight: Any, **options: Any) -> tuple[Array, Array, Array | None]:
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), **options)
        weight: Array | None = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            if not weight.any():
                raise errors.DataError("every sample weight is zero: there is nothing to learn from")
            # An example of no weight takes no part: not in the classes, not in a minibatch.
            X, y, weight = X[weight > 0.0], y[weight > 0.0], weight[weight > 0.0]
        return X, y, weight


class JitMLPClassifier(ClassifierMixin, _JitMLP):  # type: ignore[misc]
    """A multilayer perceptron that minimises cross-entropy, as scikit-learn's MLPClassifier with solver "adam".

    hidden_layer_sizes: neurons of each hidden layer, or one number
    activation: "relu", "tanh", "logistic" or "identity"
    weight_decay: decoupled decay of every parameter (Loshchilov & Hutter 2019); 0 is plain Adam
    batch_size: examples a step; "auto" is min(64, examples), fewer than in scikit-learn: a step costs little here
    learning_rate_init: Adam's learning rate
    max_iter: epochs at most; training ends earlier once the loss has not fallen by `tol` for `n_iter_no_change` epochs
    random_state: an int makes the same bits at every fit
    device: "auto", "cpu" or "cuda", as in `jg.value_and_grad`; verbose: a progress bar

    float32 X is computed with in float32, anything else in float64. Fitted: classes_; coefs_ and intercepts_ of each layer,
    as in scikit-learn, (inputs, outputs) and (outputs,); loss_curve_, the mean loss of each epoch, and loss_, the last;
    n_iter_. Two classes share one output, the logit of the second.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from X (n, features) and class labels y (n,); sample_weight: (n,) factors of each example's loss."""
        X, y, weight = self._inputs(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) == 2:
            self._keep(self._train(_two_classes, X, targets.astype(X.dtype), 1, weight))
        else:
            self._keep(self._train(losses.cross_entropy, X, targets, len(self.classes_), weight))
        return self

    def decision_function(self, X: Any) -> Array:
        """The logits: (n,) of the second class where there are two, else (n, classes)."""
        outputs = self._outputs(X)
        return outputs[:, 0] if outputs.shape[1] == 1 and len(self.classes_) == 2 else outputs

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (n, classes), float64."""
        logits = np.asarray(self.decision_function(X), np.float64)
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """Their logarithms."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> Array:
        """The most probable class of each row (n,)."""
        logits = self.decision_function(X)
        found: Array = self.classes_[(logits > 0).astype(np.intp) if logits.ndim == 1 else logits.argmax(axis=1)]
        return found


class JitMLPRegressor(RegressorMixin, _JitMLP):  # type: ignore[misc]
    """A multilayer perceptron that minimises squared error, as scikit-learn's MLPRegressor with solver "adam".

    Parameters and fitted attributes are those of `JitMLPClassifier`. Targets are standardised for the training and the
    last layer is scaled back, so that their unit does not matter; `loss_` and `tol` are in units of their variance.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from X (n, features) and numbers y, (n,) or (n, outputs)."""
        X, y, weight = self._inputs(X, y, sample_weight, multi_output=True, y_numeric=True)
        self._flat = y.ndim == 1
        y = np.asarray(y, np.float64).reshape(len(y), -1)
        mean = np.average(y, axis=0, weights=weight)
        # In units of the largest deviation: squares of very large and very small ones are no numbers.
        deviations = y - mean
        unit = np.abs(deviations).max(axis=0)
        deviations /= np.where(unit > 0.0, unit, 1.0)
        spread = np.sqrt(np.average(deviations**2, axis=0, weights=weight))
        targets = deviations / np.where(spread > 0.0, spread, 1.0)
        spread *= unit                                      # 0 for targets that are all equal, which are then predicted
        layers = self._train(losses.mse, X, targets.astype(X.dtype), y.shape[1], weight)
        weights, biases = layers[-1]
        layers[-1] = ((weights * spread).astype(X.dtype), (biases * spread + mean).astype(X.dtype))
        self._keep(layers)
        return self

    def predict(self, X: Any) -> Array:
        """Predictions, (n,) or (n, outputs) like the targets."""
        outputs = self._outputs(X)
        return outputs[:, 0] if self._flat else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class JitCurveFitter(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A formula fitted to every row by least squares: `scipy.optimize.curve_fit` for many curves at once.

    As a transformer it turns curves (n, points) into their parameters (n, parameters).

    model: model(x, a, b, …) -> the curve at x, written as for curve_fit, in plain arithmetic and NumPy's or jitgrad's
        functions; the parameters are named by its arguments
    x: where the curves were measured, (points,) or anything whose form `model` understands; None: 0, 1, 2, …
    p0: where to start, (parameters,), or a function (x, curves) -> (n, parameters); None: as curve_fit, 1 or what lies
        well within the bounds
    bounds: (low, high), each a number or (parameters,)
    sigma: standard deviations of the measurements, (points,), by which residuals are divided; None: all equal
    absolute_sigma: whether sigma is in the measurements' own unit; otherwise only the ratios count, and the residuals
        say how large the errors are
    ftol, xtol: a curve is finished when a step's relative gain, or its relative change of parameters, is below these
    max_iter: evaluations of the model at most, for each curve

    Fitted, for the rows given to `fit`: params_ (n, p), standard_errors_ (n, p), covariance_ (n, p, p) as curve_fit's
    pcov, cost_ (n,) half the sum of squares, converged_ (n,); n_iter_, of the curve that took longest; parameter_names_.

    Levenberg and Marquardt's method (Marquardt 1963), in float64, each curve with its own damping and its own end.
    Parameters at a bound are held while the gradient pushes outwards. A curve that does not converge is no error: read
    `converged_`.
    """

    def __init__(self, model: Callable[..., Any], x: Any = None, *, p0: Any = None, bounds: Any = (-np.inf, np.inf),
                 sigma: Any = None, absolute_sigma: bool = False, ftol: float = 1e-8, xtol: float = 1e-8,
                 max_iter: int = 100):
        self.model, self.x, self.p0, self.bounds, self.sigma = model, x, p0, bounds, sigma
        self.absolute_sigma, self.ftol, self.xtol, self.max_iter = absolute_sigma, ftol, xtol, max_iter

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit every row of X (n, points); y is ignored."""
        found = self._solve(self._curves(X, reset=True))
        self.parameter_names_ = parameter_names(self.model)
        self.params_, self.covariance_, self.cost_ = found.params, found.covariance, found.cost
        self.standard_errors_ = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
        self.converged_, self.n_iter_ = found.converged, int(found.steps.max())
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Array:
        """The parameters of every row of X, (n, parameters)."""
        found: Array = self.fit(X).params_
        return found

    def transform(self, X: Any) -> Array:
        """The parameters of every row of X, (n, parameters); the fitted attributes stay those of `fit`."""
        check_is_fitted(self)
        return self._solve(self._curves(X, reset=False)).params

    def inverse_transform(self, X: Any) -> Array:
        """The curves (n, points) of parameters (n, parameters)."""
        check_is_fitted(self)
        x = self._points()
        made = solver(self.model, x, self.n_features_in_)
        params = check_array(X, dtype=np.float64)
        if params.shape[1] != len(made.names):
            raise errors.ShapeError(f"the model has the parameters {', '.join(made.names)}; got rows of {params.shape[1]}")
        curves: Array = made.evaluate(params, x, np.zeros(self.n_features_in_))
        return curves

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the mean over the rows of X of Σr² / (points - parameters): higher is better, across models too."""
        check_is_fitted(self)
        curves = self._curves(X, reset=False)
        spare = curves.shape[1] - len(self.parameter_names_)
        return -float(np.mean(2.0 * self._solve(curves).cost / max(spare, 1)))

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """The parameters' names."""
        check_is_fitted(self)
        return np.asarray(self.parameter_names_, object)

    @property
    def _n_features_out(self) -> int:
        return len(self.parameter_names_)

    def _curves(self, X: Any, reset: bool) -> Array:
        least = len(parameter_names(self.model))
        curves: Array = validate_data(self, X, reset=reset, dtype=np.float64, ensure_min_features=least if reset else 1)
        return curves

    def _points(self) -> Array:
        if self.x is None:
            return np.arange(float(self.n_features_in_))
        x = np.asarray(self.x, np.float64)
        check_finite(x, "x", "A curve is measured at finite points.")
        return x

    def _solve(self, curves: Array) -> Curves:
        x, points = self._points(), curves.shape[1]
        made = solver(self.model, x, points)
        p = len(made.names)
        sigma = np.ones(points) if self.sigma is None else np.asarray(self.sigma, np.float64)
        if sigma.shape != (points,) or not (sigma > 0.0).all():
            raise errors.ArgumentError(f"sigma must be {points} positive numbers, one a point; got shape {sigma.shape}")
        if not (isinstance(self.max_iter, Integral) and self.max_iter >= 1):
            raise errors.ArgumentError(f"max_iter must be a positive int; got {self.max_iter!r}")
        low, high = self._limits(p)
        return made.fit(x, curves, self._first(x, curves, made, low, high), low, high, sigma, bool(self.absolute_sigma),
                        float(self.ftol), float(self.xtol), int(self.max_iter))

    def _limits(self, p: int) -> tuple[Array, Array]:
        try:
            low, high = (np.array(np.broadcast_to(np.asarray(b, np.float64), (p,))) for b in self.bounds)
        except (TypeError, ValueError):
            low = high = np.full(p, np.nan)
        if not (low < high).all():
            raise errors.ArgumentError(errors.explain(
                f"bounds must be (low, high), each a number or {p} of them, with low < high.", f"bounds={self.bounds!r}",
                "Write for example bounds=(0, np.inf), or bounds=([0, 0, -1], np.inf)."))
        return low, high

    def _first(self, x: Array, curves: Array, made: Solver, low: Array, high: Array) -> Array:
        if self.p0 is None:
            with np.errstate(invalid="ignore"):
                start = np.where(np.isfinite(low), np.where(np.isfinite(high), 0.5 * (low + high), low + 1.0),
                                 np.where(np.isfinite(high), high - 1.0, 1.0))
        else:
            start = np.asarray(self.p0(x, curves) if callable(self.p0) else self.p0, np.float64)
        try:
            first = np.broadcast_to(start, (len(curves), len(made.names)))
        except ValueError:
            raise errors.ShapeError(errors.explain(
                f"p0 has shape {start.shape} for the parameters {', '.join(made.names)}.", None,
                "Give one number a parameter, or a function of (x, curves) that answers a row of them a curve.")) from None
        if not ((low <= first) & (first <= high)).all():
            raise errors.ArgumentError(errors.explain("p0 is not within the bounds.", None, "Start from inside them."))
        return first
