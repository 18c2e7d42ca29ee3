"""Parameters with gradients -> parameters one step further: the training step, as in Gluon.

    trainer = Trainer(net.parameters(), "adagrad", lr=0.05, weight_decay=1e-4)
    with record():
        loss = loss_fn(net(batch))
    loss.backward()
    trainer.step(batch.n_graphs)

A step divides the gradients by n, checks that they are finite, clips them by their global norm, and
updates each parameter with its own learning rate and weight decay: all of them or, if it is
interrupted, none.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..arguments import LARGEST, number, shown
from ..arguments import name as text
from ..arrays import aligned
from ..errors import CheckpointError, ConfigError, TrainingError
from ..interrupts import assigned, called, in_one_go
from ..language import Changing, Parameter, RowSparse, aligned_copy
from .lr_schedules import Schedule, constant
from .optim import OPTIMIZERS, USUAL, Hyper, check_hyper, is_usual


class Given(NamedTuple):
    """What an update needs besides the gradient; `are_usual` is what `is_usual` says of it."""

    hyper: Hyper
    numbers: tuple[float, ...]
    are_usual: bool


class Trainer:
    """Updates `parameters` in place with one optimizer.

    Args:
        parameters: name -> Parameter, as `net.parameters()` gives them.
        optimizer: a name in OPTIMIZERS.
        lr: learning rate; a parameter's own is `lr * schedule(step) * parameter.lr_mult`, and a
            parameter with `lr_mult = 0` stays as it is.
        weight_decay: factor on the weight that is added to its gradient (AdamW: taken off the
            weight); a parameter's own is `weight_decay * parameter.decay_mult`.
        clip_norm: the largest global norm of the averaged gradients, or None for no clipping.
        schedule: step number, from 0 -> factor on lr (see lr_schedules.py).
        cache: folder of compiled kernels (default: the user's cache folder), False for none.
        extra: further numbers of this optimizer, for instance `momentum=0.9`.

    Raises:
        ConfigError: the optimizer or one of its numbers is unknown, or a number cannot work, such
            as a clip_norm of 0 or a beta of 1.

    Examples:
        >>> import tvm_cavs as cavs
        >>> w = cavs.Parameter((2,))
        >>> w.set_data([1.0, 2.0])
        >>> trainer = cavs.Trainer({"w": w}, "sgd", lr=0.1, cache=False)
        >>> w.grad = [6.0, -8.0]  # as loss.backward() leaves it, the sum over two graphs
        >>> print(trainer.step(2), w.data)
        5.0 [0.7 2.4]
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        optimizer: str,
        lr: float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        schedule: Schedule = constant,
        cache: Any = None,
        **extra: float,
    ) -> None:
        self._check(optimizer, extra, parameters, schedule)
        self.parameters = dict(parameters)
        self.n_steps = 0
        lr = number("lr", lr, least=0)
        weight_decay = number("weight_decay", weight_decay, least=0)
        if clip_norm is not None:
            clip_norm = number("clip_norm (None for no clipping)", clip_norm, above=0)
        from .updates import Updates  # here, so that `import tvm_cavs` needs no TVM

        self._optimizer, self._updates = OPTIMIZERS[optimizer], Updates(optimizer, cache)
        self._extra = {**self._optimizer.extra, **{k: float(v) for k, v in extra.items()}}
        self._lr, self._weight_decay = lr, weight_decay
        self._clip_norm, self._schedule, self._cache = clip_norm, schedule, cache
        self._seen: dict[str, int] = {}  # versions of parameters whose values were seen to be usual
        self._states = {
            name: tuple(aligned(p.shape) for _ in self._optimizer.states)
            for name, p in self.parameters.items()
        }
        self._take_hold()

    def __repr__(self) -> str:
        extra = "".join(f", {name} {value:g}" for name, value in self._extra.items())
        return (
            f"Trainer({self._updates.name}, lr {self._lr:g}{extra}; parameters "
            f"{', '.join(self.parameters)}; step {self.n_steps})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Everything but compiled code and locks. Copy a network and its trainer in one call: a
        trainer updates the parameters that are copied with it.
        """
        left = "_updates", "_optimizer", "_changing"
        kept = {k: v for k, v in vars(self).items() if k not in left}
        return kept | {"_name": self._updates.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from .updates import Updates

        name = state.pop("_name")
        self.__dict__.update(state)
        self._optimizer, self._updates = OPTIMIZERS[name], Updates(name, self._cache)
        kept = self._states
        self._states = {name: tuple(map(aligned_copy, arrays)) for name, arrays in kept.items()}
        self._take_hold()

    def _take_hold(self) -> None:
        """From now on whoever reads the parameters sees when this trainer changes them."""
        self._changing = Changing()
        for p in self.parameters.values():
            p.changed_by = self._changing

    @staticmethod
    def _check(optimizer: str, extra: Mapping[str, float], parameters: Any, schedule: Any) -> None:
        if text("optimizer", optimizer) not in OPTIMIZERS:
            near = difflib.get_close_matches(optimizer, OPTIMIZERS, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"optimizer {optimizer!r} is unknown; expected one of {', '.join(OPTIMIZERS)}. "
                f"Did you mean {near!r}?"
            )
        check_hyper(optimizer, extra)
        if (
            not isinstance(parameters, Mapping)
            or not parameters
            or not all(isinstance(p, Parameter) for p in parameters.values())
        ):
            raise ConfigError(
                f"parameters: expected a mapping name -> Parameter with at least one, as "
                f"net.parameters() gives it, given {shown(parameters)}"
            )
        if not callable(schedule):
            raise ConfigError(
                f"schedule: expected a function step -> factor, as make_schedule(...) gives it, "
                f"given {shown(schedule)}"
            )

    @property
    def lr(self) -> float:
        """The learning rate of the next step, schedule applied; set it without the schedule.

        Raises:
            TrainingError: the schedule gives what is no finite number of 0 or more.
        """
        factor = self._schedule(self.n_steps)
        if type(factor) is not float or not 0.0 <= factor <= LARGEST:
            what = f"the schedule's factor at step {self.n_steps}"
            factor = number(what, factor, least=0, error=TrainingError)
        return self._lr * factor

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = number("lr", value, least=0)

    def step(self, n: int) -> float:
        """Update every parameter that has a gradient; return the norm of the gradients over n.

        Args:
            n: how many examples (or labels) the loss was summed over.

        Raises:
            TrainingError: no parameter has a gradient, one is not finite or too large for the
                optimizer, the learning rate is none, or a parameter would leave float32; nothing
                was changed.
        """
        ready = {
            name: (p, gradient)
            for name, p in self.parameters.items()
            if p.lr_mult != 0.0 and (gradient := p.checked_grad()) is not None
        }
        if not ready:
            raise TrainingError(
                f"step({shown(n)}): no parameter has a gradient. Call loss.backward() first, on a "
                "loss made inside record()."
            )
        count: float = n
        if type(n) is not int or not 1 <= n < 1 << 53:
            what = "step(n), of how many examples the loss is a sum"
            count = number(what, n, least=1, error=TrainingError)
        lr, given = self.lr, []
        known: dict[tuple[float, float], Given] = {}
        for p, _ in ready.values():
            own = p.lr_mult, p.decay_mult
            if own not in known:
                known[own] = self._numbers(lr, *own)
            given.append(known[own])
        norm = self._updates.norm(gradient for _, gradient in ready.values()) / count
        if not np.isfinite(norm):
            raise TrainingError(self._describe_non_finite(norm))
        clipped = self._clip_norm is not None and norm > self._clip_norm
        scale = (self._clip_norm / norm if clipped and self._clip_norm else 1.0) / count
        self._check_size(norm * count * scale)
        is_small, updates, seen = norm * count * scale <= USUAL, [], {}
        for (name, (p, gradient)), these in zip(ready.items(), given, strict=True):
            job = p.memory, gradient, self._states[name], these.numbers, scale
            if is_small and these.are_usual and self._has_usual_values(name):
                seen[name] = p.version + 1
            elif not self._updates.stay_finite(*job):
                raise TrainingError(self._describe_too_far(name, these.hyper))
            updates.append(self._updates.prepared(*job))
        changed = [p for p, _ in ready.values()]
        versions = [p.version + 1 for p in changed]
        with self._changing.lock:
            in_one_go(
                assigned(changed, "version", versions),
                called(updates),
                assigned((self,), "n_steps", (self.n_steps + 1,)),
                assigned((self,), "_seen", (seen,)),
            )
        return norm

    def _has_usual_values(self, name: str) -> bool:
        """Neither the parameter nor its state is far from what one trains; they are looked at where
        others than this trainer have changed them.
        """
        p = self.parameters[name]
        return self._seen.get(name) == p.version or (
            _size(p.memory) <= USUAL and all(_size(s) <= USUAL**2 for s in self._states[name])
        )

    def _check_size(self, norm: float) -> None:
        if norm > self._optimizer.largest:
            raise TrainingError(
                f"step {self.n_steps}: the gradient norm is {norm:.3g}; the optimizer's arrays "
                f"hold what comes of at most {self._optimizer.largest:.3g} in float32. The "
                "parameters are unchanged. Set clip_norm, or scale the loss."
            )

    def _numbers(self, lr: float, lr_mult: float, decay_mult: float) -> Given:
        """What this step's update of a parameter needs besides its gradient."""
        if not (
            type(lr_mult) is type(decay_mult) is float
            and 0.0 <= lr_mult <= LARGEST
            and 0.0 <= decay_mult <= LARGEST
        ):
            lr_mult = number("a parameter's lr_mult", lr_mult, least=0)
            decay_mult = number("a parameter's decay_mult", decay_mult, least=0)
        decay = self._weight_decay * decay_mult
        hyper = Hyper(lr * lr_mult, decay, self.n_steps + 1, self._extra)
        found = self._updates.numbers(hyper)
        if not -LARGEST <= min(found) <= max(found) <= LARGEST:
            raise TrainingError(
                f"step {self.n_steps}: the numbers of this update leave float32: a learning rate "
                f"of {hyper.lr:.3g} and a weight decay of {decay:.3g}. Nothing was changed."
            )
        return Given(hyper, found, is_usual(hyper))

    def _describe_too_far(self, name: str, hyper: Hyper) -> str:
        return (
            f"step {self.n_steps}: {name} would leave float32, whose largest number is "
            f"{LARGEST:.3g}: a learning rate of {hyper.lr:.3g}, a weight decay of "
            f"{hyper.decay:.3g}, values of up to {_size(self.parameters[name].memory):.3g}. "
            "The parameters are unchanged. Lower the learning rate or the weight decay."
        )

    def _describe_non_finite(self, norm: float) -> str:
        counts = []
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            values = p.grad.values if isinstance(p.grad, RowSparse) else p.grad
            n_bad = int(values.size - np.isfinite(values).sum())
            if n_bad:
                counts.append(f"{name}: {n_bad} of {values.size}")
        where = "; ".join(counts)
        return (
            f"step {self.n_steps}: the gradient norm is {norm} ({where} not finite). The "
            "parameters are unchanged. Is an input or a target of this batch, or the loss, nan, "
            "infinite or huge? If none is, lower the learning rate."
        )

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on besides the parameters, for a checkpoint."""
        arrays: dict[str, np.ndarray] = {"n_steps": np.array(self.n_steps, np.int64)}
        for name, states in self._states.items():
            arrays |= {
                f"{name}.{s}": a for s, a in zip(self._optimizer.states, states, strict=True)
            }
        return arrays

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what `state()` gave.

        Raises:
            CheckpointError: names or shapes differ; nothing was changed.
        """
        own = self.state()
        wrong = sorted(
            name
            for name in own.keys() | state.keys()
            if name not in own or name not in state or own[name].shape != state[name].shape
        )
        if wrong:
            raise CheckpointError(
                f"the optimizer state does not fit: {', '.join(wrong)} is missing, unknown or of "
                "another shape. Was the checkpoint written with another optimizer or model?"
            )
        own.pop("n_steps")
        self._seen = {}
        jobs = [partial(array.__setitem__, ..., state[name]) for name, array in own.items()]
        in_one_go(called(jobs), assigned((self,), "n_steps", (int(state["n_steps"]),)))


def _size(array: np.ndarray) -> float:
    """The largest absolute value of an array, 0 of none; inf or nan where one of them is."""
    return float(np.abs(array).max(initial=0.0))
