"""The optimizer: which parameters a step changes, with which settings and state. The rule itself is a subclass's."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import nullcontext
from operator import is_
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.checks import finite_number, whole_number
from hotgrad.core.modes import state
from hotgrad.core.moving import moving, untraced
from hotgrad.core.scalars import Hook
from hotgrad.core.variable import Parameter, Variable
from hotgrad.errors import FileError, OperandError, SettingError
from hotgrad.ops.reductions import Norm
from hotgrad.optim.groups import Group, Slot, check_apart, clip_factor, ready
from hotgrad.optim.lists import Each, assign, noted
from hotgrad.optim.schedules import Schedule

Own = TypeVar("Own", bound="Optimizer")


class Optimizer:
    """Base of the optimizers: `step()` changes every parameter that requires a gradient and has one, by the subclass's `rule`.

    `params`: Parameters, or dicts `{"params": [...], "lr": ..., ...}` for groups with settings of their own; None to have them
    bound later, by `bind`, or by `fit` to those of the model, whatever these are at each `fit`. A parameter given twice counts once. `lr`: a number or a Schedule. `clip_norm`: gradients
    are scaled down together so that their norm, over all parameters, is at most this.

    A rule is an expression of a parameter `p`, its gradient `g`, its `state` by name, and the settings `s`, `s.lr` among them.
    It returns the new parameter and puts new state into `state`; `state` starts at zero, with the names that `keeps` gives.

    >>> class SignSGD(hg.optim.Optimizer):
    ...     def rule(self, p, g, state, s):
    ...         return p - s.lr * g.sign()
    >>> w = hg.Parameter([1.0, 2.0])
    >>> (w * w).sum().backward()
    >>> SignSGD([w], lr=0.25).step()
    >>> w.data
    tensor([0.7500, 1.7500])
    """

    needs_closure = False
    needs_residuals = False  # whether the closure gives residuals
    _given = False  # whether it was given its parameters, rather than following a model's

    def __init__(self, params: Any = None, lr: float | Schedule = 0.01, *, clip_norm: float | None = None, **settings: Any) -> None:
        self._defaults: dict[str, Any] = {"lr": lr, **settings}
        self._check(self._defaults)
        self.clip_norm = None if clip_norm is None else finite_number("clip_norm", clip_norm, above=True)
        self.groups: list[Group] = []
        if params is not None:
            self.bind(params)

    # ---- what a subclass defines

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        """The new value of a parameter."""
        raise OperandError(f"{type(self).__name__} defines no `rule`")

    def keeps(self, s: Any) -> tuple[str, ...]:
        """The names of the state that the rule keeps for each parameter, of its shape, zero at first."""
        return ()

    def scalars(self, s: Any, count: int) -> dict[str, float]:
        """Numbers that differ from step to step, added to `s`: computed on the host, in double. `count`: the parameter's steps,
        this one included. The rule must not branch on them, nor on `s.lr`.
        """
        return {}

    def check(self, s: Any) -> None:
        """Raises SettingError for settings out of range."""

    # ---- parameters and settings

    def _check(self, settings: dict[str, Any]) -> None:
        lr = settings["lr"]
        if not isinstance(lr, Schedule):
            finite_number("lr", lr)
        self.check(SimpleNamespace(**settings))

    def bind(self, params: Any) -> None:
        """Give an optimizer made without parameters those it is to change. The same ones again change nothing.

        Raises SettingError for none, for settings it does not know, if it has others already, and for two that share memory;
        OperandError for what is no leaf.
        """
        given = [params] if isinstance(params, Variable) else list(params) if isinstance(params, Iterable) else None
        if given is None:
            raise OperandError(f"params must be Parameters, such as model.parameters(), or dicts of groups; got {type(params).__name__}")
        seen: set[int] = set()
        groups = []
        for entry in given if any(isinstance(item, dict) for item in given) else [{"params": given}]:
            if not isinstance(entry, dict) or "params" not in entry:
                raise OperandError(f"each group must be a dict with the key 'params'; got {entry!r:.60}")
            settings = {**self._defaults, **{name: value for name, value in entry.items() if name != "params"}}
            unknown = sorted(set(settings) - set(self._defaults))
            if unknown:
                raise SettingError(f"{type(self).__name__} has no settings {', '.join(unknown)}; it has {', '.join(self._defaults)}")
            self._check(settings)
            own = [entry["params"]] if isinstance(entry["params"], Variable) else list(entry["params"])
            slots = []
            for parameter in own:
                if not isinstance(parameter, Variable) or not parameter.is_leaf:
                    raise OperandError(f"params must be leaf Variables, such as model.parameters(); got {parameter!r:.60}")
                if not isinstance(parameter, Parameter) and not parameter.requires_grad:
                    raise OperandError(f"a Variable without requires_grad cannot be trained: {parameter!r:.60}")
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    slots.append(Slot(parameter))
            groups.append(Group(slots, settings.pop("lr"), settings))
        if not seen:
            raise SettingError(f"{type(self).__name__}: there are no parameters to train")
        check_apart([(p.name or f"parameter {i}", p) for i, p in enumerate(slot.parameter for group in groups for slot in group.slots)])
        if self.groups:
            if seen == {id(parameter) for parameter in self.parameters}:
                return
            raise SettingError(f"this {type(self).__name__} already has other parameters; make a new one, or use fresh()")
        self.groups, self._given = groups, True

    @property
    def follows(self) -> bool:
        """Whether it has those parameters that a model has, as it was not given any."""
        return not self._given and len(self.groups) < 2

    def follow(self, parameters: list[Variable]) -> None:
        """Have these parameters from now on, in this order: new ones join, without state, others leave, the rest keep their state.

        For `fit`. Raises SettingError where it was given its parameters.
        """
        if not self.follows:
            raise SettingError(f"this {type(self).__name__} was given its parameters; make one without to follow a model")
        if not self.groups:
            self.bind(parameters)
            self._given = False
        elif len(parameters) != len(self.parameters) or any(a is not b for a, b in zip(parameters, self.parameters)):
            known = {id(slot.parameter): slot for slot in self._slots()}
            self.groups = [copy.copy(self.groups[0])]  # programs go on with the old one until they are captured anew
            self.groups[0].slots = [known.get(id(parameter)) or Slot(parameter) for parameter in parameters]

    def convert_state(self) -> None:
        """Bring the state to dtype and device of its parameters, which may have been converted since. For `fit`."""
        for slot in self._slots():
            slot.state = {name: value.to(slot.parameter.data) for name, value in slot.state.items()}

    def fresh(self: Own) -> Own:
        """An optimizer of the same settings, without parameters and state, schedules at their start. Groups are not kept."""
        out = copy.copy(self)
        out._defaults = copy.deepcopy(self._defaults)
        out.groups, out._given = [], False
        if isinstance(out._defaults["lr"], Schedule):
            out._defaults["lr"] = out._defaults["lr"].fresh()
        return out

    def restarted(self: Own) -> Own:
        """As `fresh`, with the parameters and groups that it was given, if it was."""
        out = self.fresh()
        rates: dict[int, Any] = {id(self._defaults["lr"]): out._defaults["lr"]}  # one schedule may serve several groups
        for group in self.groups if self._given else ():
            rate = rates.setdefault(id(group.rate), group.rate.fresh() if isinstance(group.rate, Schedule) else group.rate)
            out.groups.append(Group([Slot(slot.parameter) for slot in group.slots], rate, vars(group.settings)))
        out._given = self._given
        return out

    @property
    def parameters(self) -> list[Variable]:
        """All parameters it may change, in the order that `state_dict` keeps."""
        return [slot.parameter for slot in self._slots()]

    @property
    def lr(self) -> Any:
        """The learning rate of the next step, that of the first group. Setting it, to a number or a Schedule, sets that of all."""
        return moving(self, "lr", lambda ahead: self._now())

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        if state.trace is not None:
            state.trace.refuse("the learning rate was set while capturing, which would set it once; set it outside, or use a Schedule")
        self._check({**self._defaults, "lr": value})
        self._defaults["lr"] = value
        for group in self.groups:
            group.rate = value

    def _now(self) -> Any:
        """`lr` as a number, also while a program is captured."""
        rate = self.groups[0].rate if self.groups else self._defaults["lr"]
        return rate.now() if isinstance(rate, Schedule) else rate

    def _slots(self) -> list[Slot]:
        return [slot for group in self.groups for slot in group.slots]

    def _bound(self) -> list[Group]:
        if not self.groups:
            raise SettingError(
                f"this {type(self).__name__} has no parameters yet; give {type(self).__name__}(model.parameters()), or bind them"
            )
        return self.groups

    # ---- steps

    def zero_grad(self) -> None:
        """Set the `grad` of all its parameters to None."""
        for group in self._bound():
            for slot in group.slots:
                slot.parameter._accumulator.grad = None

    def step(self) -> None:
        """Change each parameter that requires a gradient and has one; all others stay as they are, with their state.

        Raises SettingError while there are no parameters.
        """
        work = []
        for group in self._bound():
            settings = group.step_settings()
            work += [(group, settings, *alike) for alike in ready(group)]
        trace = state.trace
        factor = None
        if self.clip_norm is not None and work:
            norms = torch._foreach_norm if trace is None else lambda gradients: [Norm.apply(g) for g in gradients]
            factor = clip_factor([norm for *_, gradients in work for norm in norms(gradients)], self.clip_norm)
        if trace is not None:
            hook = Steps(self, [(group, slots) for group, _, slots, *_ in work])
            hook.again = any(isinstance(other, Steps) and other.optimizer is self for other in trace.hooks)
            trace.hooks.append(hook)
            with trace.looking_away() if type(self).__module__.startswith("hotgrad.") else nullcontext():
                for _, settings, slots, arrays, gradients in work:
                    self._note(trace, hook, settings, slots, arrays, gradients, factor)
            hook.ended = True
            return
        for _, settings, slots, tensors, gradients in work:
            self._update(settings, slots, tensors, gradients, factor)
        for schedule in self._schedules():
            schedule.step_end()

    def _note(
        self, trace: Any, hook: Steps, settings: Any, slots: list[Slot], arrays: list[Any], gradients: list[Any], factor: Any
    ) -> None:
        """As `_update`, for the program that is being captured: what differs from step to step enters it as Scalars."""
        numbers = untraced(lambda: self._numbers(settings, slots[0].steps + 1))
        s = SimpleNamespace(**{**vars(settings), **{name: trace.scalar(number, name, hook) for name, number in numbers.items()}})
        kept = {name: [trace.memory(slot, name) for slot in slots] for name in self.keeps(settings)}
        state = {name: Each(values) for name, values in kept.items()}
        g = Each(gradients)
        new = self.rule(Each(arrays), g if factor is None else g * factor, state, s)
        arrived = {name: noted(state[name]) for name in kept}
        parameters = noted(new)  # which may read what state there was, so before that is another one
        for name, values in arrived.items():
            for slot, value in zip(slots, values):
                trace.update(slot.state[name], value)
        for slot, value in zip(slots, parameters):
            trace.update(slot.parameter, value)

    def _numbers(self, settings: Any, count: int) -> dict[str, float]:
        """What differs from step to step, at the step of this count."""
        return {"lr": settings.lr, **self.scalars(settings, count)}

    def _update(self, settings: Any, slots: list[Slot], tensors: list[Tensor], gradients: list[Tensor], factor: Tensor | None) -> None:
        """One step of parameters of one dtype and count: one run of the rule over all of them."""
        count = slots[0].steps + 1
        extra = self.scalars(settings, count)
        if extra:
            settings = SimpleNamespace(**vars(settings), **extra)
        p, g = Each(tensors), Each(gradients)
        kept: dict[str, Each] = {}
        for name in self.keeps(settings):
            for slot in slots:
                if name not in slot.state:
                    slot.state[name] = torch.zeros_like(slot.parameter._data)
            kept[name] = Each([slot.state[name] for slot in slots])
        state = dict(kept)
        new = self.rule(p, g if factor is None else g * factor, state, settings)
        assign([*[(old, state[name]) for name, old in kept.items()], (p, new)])
        for slot in slots:
            slot.steps = count

    # ---- schedules

    def _schedules(self) -> list[Schedule]:
        return list({id(group.rate): group.rate for group in self.groups if isinstance(group.rate, Schedule)}.values())

    def watches_epochs(self) -> bool:
        """Whether a schedule looks at the loss of each epoch."""
        return any(type(schedule).epoch_end is not Schedule.epoch_end for schedule in self._schedules())

    def epoch_end(self, monitored: float | None = None) -> None:
        """Tell the schedules that an epoch is over. `monitored`: its loss, which PlateauLR looks at."""
        for schedule in self._schedules():
            schedule.epoch_end(monitored)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Settings, schedules, and per parameter its count and state, by position: dicts and lists of tensors, numbers and strings.

        The tensors are the optimizer's own; clone them to keep them.
        """
        groups = []
        for group in self.groups:
            settings = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(group.settings).items()}
            rate = group.rate
            saved = {"schedule": type(rate).__name__, **rate.state_dict()} if isinstance(rate, Schedule) else rate
            groups.append({"parameters": len(group.slots), "settings": settings, "lr": saved})
        state = [{"count": slot.steps, **slot.state} for slot in self._slots()]
        return {"optimizer": type(self).__name__, "clip_norm": self.clip_norm, "groups": groups, "state": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, settings included. Tensors are copied, in the dtype and to the device of their parameter,
        into those that are there, so that captured programs go on with them.

        Raises FileError, with nothing changed, if it is of another optimizer, does not fit the parameters, or is broken.
        """
        try:
            wrong = self._misfits(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            wrong = [f"it is broken ({type(error).__name__}: {error})"]
        if wrong:
            raise FileError(f"the optimizer state does not fit this {type(self).__name__}:\n  " + "\n  ".join(wrong))
        self.clip_norm = state["clip_norm"]
        for group, saved in zip(self.groups, state["groups"]):
            vars(group.settings).update(_tuples(saved["settings"]))
            if isinstance(group.rate, Schedule):
                group.rate.load_state_dict({name: value for name, value in saved["lr"].items() if name != "schedule"})
            else:
                group.rate = saved["lr"]
        for slot, entry in zip(self._slots(), state["state"]):
            like = slot.parameter.data
            slot.steps = entry["count"]
            loaded = {name: value.to(like, copy=True) for name, value in entry.items() if name != "count"}
            for name, value in loaded.items():
                old = slot.state.get(name)
                if old is not None and (old.shape, old.dtype, old.device) == (value.shape, value.dtype, value.device):
                    loaded[name] = old.copy_(value)
            slot.state = loaded

    def _misfits(self, state: Any) -> list[str]:
        """What keeps `state` from being loaded, one line each. May raise instead if it is broken."""
        if state["optimizer"] != type(self).__name__:
            return [f"it is of {state['optimizer']}"]
        slots = self._slots()
        there, here = [group["parameters"] for group in state["groups"]], [len(group.slots) for group in self.groups]
        if there != here or len(state["state"]) != len(slots):
            return [f"it has groups of {there} parameters; here they have {here}"]
        if state["clip_norm"] is not None:
            finite_number("clip_norm", state["clip_norm"], above=True)
        wrong = []
        for i, (group, saved) in enumerate(zip(self.groups, state["groups"])):
            own: dict[str, Any] = group.rate.state_dict() if isinstance(group.rate, Schedule) else {}
            kind = type(group.rate).__name__ if own else "a number"
            found = saved["lr"]["schedule"] if isinstance(saved["lr"], dict) else "a number"
            if kind != found:
                wrong.append(f"group {i}: its lr is {found}; here it is {kind}")
            elif own and (
                set(saved["lr"]) != {"schedule", *own} or not all(_like(saved["lr"][name], value) for name, value in own.items())
            ):
                wrong.append(f"group {i}: the state of its {kind} is broken")
            if not set(saved["settings"]) <= set(vars(group.settings)):  # one that came later is as it is
                wrong.append(f"group {i}: its settings are {', '.join(map(str, saved['settings']))}")
            elif kind == found:
                self._check({**vars(group.settings), **_tuples(saved["settings"]), "lr": group.rate if own else saved["lr"]})
        kept = [
            self.keeps(SimpleNamespace(**{**vars(group.settings), **_tuples(saved["settings"]), "lr": group.now()}))
            for group, saved in zip(self.groups, state["groups"])
            for _ in group.slots
        ]
        for i, (slot, entry) in enumerate(zip(slots, state["state"])):
            whole_number("count", entry["count"], 0)
            unknown = set(entry) - {"count", *kept[i]}
            if unknown:
                wrong.append(
                    f"parameter {i}: its state holds {', '.join(map(str, unknown))}; the rule keeps {', '.join(kept[i]) or 'nothing'}"
                )
            for name, value in entry.items():
                if name != "count" and tuple(value.shape) != tuple(slot.parameter.shape):
                    wrong.append(f"parameter {i}: {name} has shape {tuple(value.shape)}; the parameter has {tuple(slot.parameter.shape)}")
        return wrong

    def __repr__(self) -> str:
        settings = {**self._defaults, **({"clip_norm": self.clip_norm} if self.clip_norm is not None else {})}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in settings.items())})"


def _like(value: Any, own: Any) -> bool:
    """Whether `value` can be a number in the place of `own`: whole and not negative where that counts, never NaN."""
    if isinstance(own, int) and not isinstance(own, bool):
        return type(value) is int and value >= 0
    return isinstance(value, (int, float)) and value == value


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings out of a state, which holds lists in place of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


class Steps(Hook):
    """The optimizer's part of each run: the numbers that differ from step to step, and the counting of steps.

    `units`: groups with slots of one count and dtype, in the order of the program's scalars.
    """

    def __init__(self, optimizer: Optimizer, units: list[tuple[Group, list[Slot]]]) -> None:
        super().__init__()
        self.optimizer, self.units = optimizer, units
        self.again = False  # whether the program steps this optimizer before
        self.ended = False  # whether the step is noted to its end

    def same(self, other: Hook) -> bool:
        return (
            isinstance(other, Steps)
            and self.optimizer is other.optimizer
            and len(self.units) == len(other.units)
            and all(a is c and len(b) == len(d) and all(map(is_, b, d)) for (a, b), (c, d) in zip(self.units, other.units))
        )

    def moves(self, owner: Any) -> bool:
        """Whether this step leaves another number in `owner`: an optimizer, one of its groups or schedules, or a slot."""
        within = [schedule for schedule in self.optimizer._schedules() if schedule.moves_within_epochs]
        if isinstance(owner, Slot):
            return any(owner is slot for _, slots in self.units for slot in slots)
        if isinstance(owner, Schedule):
            return any(owner is schedule for schedule in within)
        if isinstance(owner, Group):
            return any(owner.rate is schedule for schedule in within)
        return owner is self.optimizer and bool(within)

    def steady(self) -> bool:
        """Whether the parameters of each unit still have one count."""
        return all(slot.steps == slots[0].steps for _, slots in self.units for slot in slots)

    def next(self, ahead: int = 0) -> list[float]:
        if not self.counts:
            return [group.now() for group, _ in self.units]
        numbers: list[float] = []
        for group, slots in self.units:
            numbers += self.optimizer._numbers(group.step_settings(), slots[0].steps + 1 + ahead).values()
        return numbers

    def done(self, steps: int = 1) -> None:
        """Count steps, and tell the schedules."""
        for _, slots in self.units:
            for slot in slots:
                slot.steps += steps
        for schedule in self.optimizer._schedules():
            for _ in range(steps):
                schedule.step_end()

    @property
    def counts(self) -> bool:
        return type(self.optimizer).scalars is not Optimizer.scalars

    @property
    def varies(self) -> bool:
        rates = [group.rate for group in self.optimizer.groups]
        return self.again or any(isinstance(rate, Schedule) and rate.moves_within_epochs for rate in rates)

    def mark(self) -> Any:
        return [slot.steps for _, slots in self.units for slot in slots], [s.state_dict() for s in self.optimizer._schedules()]

    def back(self, mark: Any) -> None:
        for slot, steps in zip((slot for _, slots in self.units for slot in slots), mark[0]):
            slot.steps = steps
        for schedule, kept in zip(self.optimizer._schedules(), mark[1]):
            schedule.load_state_dict(kept)
