"""Random programs on the tape, step for step against a naive engine that keeps everything and shares no code with ours."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import hotgrad as hg
from hotgrad import Variable

# ------------------------------------------------------------------------------------------------------- the naive engine


class Freed(Exception):
    """A record was walked before."""


class Written(Exception):
    """A value that a rule reads was written to."""


class Broken(ArithmeticError):
    """What the rule of `fragile` raises when it is told to."""


def shrink(t: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Broadcasting undone, one axis at a time."""
    while t.ndim > len(shape):
        t = t.sum(0)
    for axis, size in enumerate(shape):
        if size == 1 and t.shape[axis] != 1:
            t = t.sum(axis, keepdim=True)
    return t


def place(g: torch.Tensor, shape: tuple[int, ...], index: Any) -> torch.Tensor:
    out = torch.zeros(shape, dtype=g.dtype)
    for position, i in enumerate(index["value"].tolist()):
        out[i] += g[position]
    return out


FORWARD: dict[str, Callable[..., torch.Tensor]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "sin": lambda a: a.sin(),
    "cos": lambda a: a.cos(),
    "tanh": lambda a: a.tanh(),
    "tanh_slope": lambda g, out: g * (1 - out * out),
    "scale": lambda a, factor: a * factor,
    "sum": lambda a: a.sum(),
    "expand": lambda a, shape: a.expand(shape).clone(),
    "shrink": shrink,
    "pick": lambda a, index: a[index["value"]],
    "place": place,
    "fragile": lambda a: a * 1.0,
}
# Per operand, the operands that its rule reads by position; -1 is the result.
READS: dict[str, tuple[tuple[int, ...], ...]] = {
    "mul": ((1,), (0,)),
    "sin": ((0,),),
    "cos": ((0,),),
    "tanh": ((-1,),),
    "tanh_slope": ((1,), (0, 1)),
}


class Naive:
    """Nodes in a dict, by number; a gradient is found by going through all numbers downwards. Nothing is ever dropped."""

    def __init__(self) -> None:
        self.nodes: dict[int, dict[str, Any]] = {}
        self.recording = [True]
        self.tapes: list[int] = [0]
        self.break_rules = False

    def new(self, value: torch.Tensor, needs: bool, **fields: Any) -> int:
        number = len(self.nodes)
        self.nodes[number] = {
            "value": value,
            "version": 0,
            "needs": needs,
            "op": None,
            "args": (),
            "option": (),
            "freed": False,
            "kept": False,
            "grad": None,
            **fields,
        }
        return number

    def cell(self, number: int) -> dict[str, Any]:
        return self.nodes[number]

    def apply(self, op: str, *args: int, option: tuple[Any, ...] = ()) -> int:
        value = FORWARD[op](*(self.nodes[a]["value"] for a in args), *option)
        needs = self.recording[-1] and any(self.nodes[a]["needs"] for a in args)
        number = self.new(value, needs, op=op if needs else None, tape=self.tapes[-1])
        node = self.nodes[number]
        node["args"], node["option"] = args, option
        if needs:
            read = {i for a, reads in zip(args, READS.get(op, ((),) * len(args))) if self.nodes[a]["needs"] for i in reads}
            cells = [node if i == -1 else self.nodes[args[i]] for i in sorted(read)]
            cells += [o for o in option if isinstance(o, dict)]
            node["guards"] = [(cell, cell["version"]) for cell in cells]
        return number

    def rule(self, node: dict[str, Any], number: int, i: int, g: int) -> int:
        op, args, option = node["op"], node["args"], node["option"]
        shapes = [tuple(self.nodes[a]["value"].shape) for a in args]
        if op in ("add", "sub", "mul"):
            g = self.apply("mul", g, args[1 - i]) if op == "mul" else self.apply("neg", g) if op == "sub" and i else g
            return self.fit(g, shapes[i])
        if op == "sin":
            return self.apply("mul", g, self.apply("cos", args[0]))
        if op == "cos":
            minus = self.apply("neg", g)
            return self.apply("mul", minus, self.apply("sin", args[0]))
        if op == "tanh":
            return self.apply("tanh_slope", g, number)
        if op == "tanh_slope":
            if i == 0:
                return self.apply("tanh_slope", g, args[1])
            return self.apply("scale", self.apply("mul", self.apply("mul", g, args[0]), args[1]), option=(-2.0,))
        if op == "fragile":
            if self.break_rules:
                raise Broken("told to")
            return g
        if op == "neg":
            return self.apply("neg", g)
        if op == "scale":
            return self.apply("scale", g, option=option)
        if op == "pick":
            return self.apply("place", g, option=(shapes[0], *option))
        if op == "place":
            return self.apply("pick", g, option=option[1:])
        return self.fit(self.apply("expand", g, option=(shapes[0],)), shapes[0]) if op in ("sum", "shrink") else self.fit(g, shapes[0])

    def fit(self, g: int, shape: tuple[int, ...]) -> int:
        return g if tuple(self.nodes[g]["value"].shape) == shape else self.apply("shrink", g, option=(shape,))

    def leading(self, root: int, wanted: set[int]) -> set[int]:
        """The records from which a wanted node is reached by at least one step, and the freed ones."""
        found: set[int] = set()
        for number in range(root + 1):
            node = self.nodes[number]
            if node["op"] and (node["freed"] or any(self.nodes[a]["needs"] and (a in wanted or a in found) for a in node["args"])):
                found.add(number)
        return found

    def walk(self, root: int, seed: int, wanted: set[int] | None, retain: bool, create: bool) -> dict[int, int]:
        self.recording.append(create)
        try:
            return self.walk_down(root, seed, wanted, retain or create)
        finally:
            self.recording.pop()

    def walk_down(self, root: int, seed: int, wanted: set[int] | None, retain: bool) -> dict[int, int]:
        arrived, found = {root: seed}, {}
        leading = None if wanted is None else self.leading(root, wanted)
        for number in range(root, -1, -1):
            node = self.nodes[number]
            if number not in arrived:
                continue
            g = arrived[number]
            if node["op"] is None:
                if wanted is None or number in wanted:
                    found[number] = g
                continue
            if node["freed"]:
                raise Freed
            if wanted is not None:
                if number in wanted:
                    found[number] = g
                if leading is not None and number not in leading:
                    continue
            elif node["kept"]:
                found[number] = g
            if any(cell["version"] != version for cell, version in node["guards"]):
                raise Written
            for i, a in enumerate(node["args"]):
                if not self.nodes[a]["needs"] or (wanted is not None and leading is not None and a not in wanted and a not in leading):
                    continue
                gi = self.rule(node, number, i, g)
                arrived[a] = self.apply("add", arrived[a], gi) if a in arrived else gi
            if not retain:
                node["freed"] = True
        return found

    def backward(self, root: int, seed: int, retain: bool, create: bool) -> None:
        for number, g in self.walk(root, seed, None, retain, create).items():
            node = self.nodes[number]
            if node["grad"] is None:
                node["grad"], node["graph"] = g, create
            else:
                self.recording.append(True)
                node["grad"], node["graph"] = self.apply("add", node["grad"], g), create or node["graph"]
                self.recording.pop()

    def alive(self, held: list[int], tape: int | None = None) -> tuple[int, int]:
        """How many unfreed records `held` reach: those of programs, and all."""
        seen: set[int] = set()
        stack = list(held)
        while stack:
            number = stack.pop()
            node = self.nodes[number]
            if number not in seen:
                seen.add(number)
                if not node["freed"] and node["needs"]:
                    stack.extend(node["args"])
                if node["grad"] is not None and node["graph"]:
                    stack.append(node["grad"])
        live = [self.nodes[n] for n in seen if self.nodes[n]["op"] and not self.nodes[n]["freed"]]
        return sum(bool(node.get("program")) and tape in (None, node["tape"]) for node in live), len(live)


# ------------------------------------------------------------------------------------------------------------- the machine


def close(value: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


class Machine(RuleBasedStateMachine):
    """Every step is done with hotgrad and with the naive engine, and both must say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.naive = Naive()
        self.held: list[tuple[Any, int]] = []  # the Variables, and their numbers in the naive engine
        self.indices: list[tuple[torch.Tensor, dict[str, Any]]] = []
        self.graphs = False
        self.scopes: list[hg.Tape] = [hg.Tape()]
        self.all_tapes = list(self.scopes)
        self.scopes[0].__enter__()
        self.modes: list[Any] = []
        self.entered: list[str] = []  # "tape" and "mode", in order

        def forward(a: Any) -> Any:
            return a * 1.0

        def backward_rule(g: Any, out: Any, a: Any) -> Any:
            if self.naive.break_rules:
                raise Broken("told to")
            return g

        fields = {"forward": staticmethod(forward), "vjps": (backward_rule,), "reads": ""}
        self.fragile: Any = type("Fragile", (hg.Primitive,), fields, register=False)
        self.leaf([0.5, -0.25], True)

    def teardown(self) -> None:
        while self.entered:
            (self.modes if self.entered.pop() == "mode" else self.scopes).pop().__exit__(None, None, None)
        self.scopes.pop().__exit__(None, None, None)
        gc.collect()
        gc.freeze()  # what hypothesis keeps need not be looked through in the next run

    def leaf(self, values: Any, needs: bool) -> None:
        data = torch.tensor(values, dtype=torch.float64)
        self.held.append((Variable(data.clone(), requires_grad=needs), self.naive.new(data, needs, writable=True)))

    def choose(self, i: int) -> tuple[Any, int]:
        return self.held[i % len(self.held)]

    def keep(self, v: Any, number: int, program: bool = True) -> None:
        node = self.naive.nodes[number]
        node["program"], node["writable"] = program, program
        assert v.requires_grad is node["needs"]
        assert v.is_leaf is (node["op"] is None)
        close(v.data, node["value"])
        self.held.append((v, number))

    def small(self) -> bool:
        """Whether graphs of gradients may still grow: each order is several times as large as the one before."""
        return len(self.naive.nodes) < 400

    number = st.integers(0, 40)
    value = st.sampled_from([-1.5, -0.5, 0.0, 0.25, 1.0, 2.0])

    # ---- programs

    @rule(
        values=st.one_of(
            value, st.lists(value, min_size=2, max_size=2), st.lists(st.lists(value, min_size=2, max_size=2), min_size=1, max_size=3)
        ),
        needs=st.booleans(),
    )
    def make_leaf(self, values: Any, needs: bool) -> None:
        self.leaf(values, needs)

    @rule(op=st.sampled_from(["add", "sub", "mul"]), i=number, j=number)
    def binary(self, op: str, i: int, j: int) -> None:
        (a, m), (b, n) = self.choose(i), self.choose(j)
        function = {"add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b}[op]
        try:
            size = FORWARD[op](self.naive.nodes[m]["value"], self.naive.nodes[n]["value"]).abs().max()
        except RuntimeError:
            with pytest.raises(hg.ShapeError):
                function()
            return
        if size < 1e3:
            self.keep(function(), self.naive.apply(op, m, n))

    @rule(op=st.sampled_from(["neg", "sin", "tanh", "sum", "fragile"]), i=number)
    def unary(self, op: str, i: int) -> None:
        a, m = self.choose(i)
        self.keep(self.fragile.apply(a) if op == "fragile" else getattr(hg, op)(a), self.naive.apply(op, m))

    @rule(i=number, positions=st.lists(st.integers(0, 1), min_size=1, max_size=3))
    def pick(self, i: int, positions: list[int]) -> None:
        a, m = self.choose(i)
        if a.ndim and a.shape[0] > 1:
            index, cell = torch.tensor(positions), {"value": torch.tensor(positions), "version": 0}
            self.indices.append((index, cell))
            self.keep(a[index], self.naive.apply("pick", m, option=(cell,)))

    @rule(i=number, data=st.data())
    def fail_forward(self, i: int, data: st.DataObject) -> None:
        a, _ = self.choose(i)
        mistakes: list[tuple[type[Exception], Callable[[], Any]]] = [
            (hg.AxisError, lambda: a.sum(7)),
            (hg.ShapeError, lambda: a @ torch.ones(5, 7, dtype=torch.float64)),
            (hg.OperandError, lambda: a * "text"),
            (hg.ShapeError, lambda: a.reshape(17)),
        ]
        error, call = data.draw(st.sampled_from(mistakes))
        with pytest.raises(error):
            call()

    @rule(i=number)
    def drop(self, i: int) -> None:
        if len(self.held) > 1:
            del self.held[i % len(self.held)]

    # ---- writes

    @rule(i=number, amount=value)
    def write(self, i: int, amount: float) -> None:
        v, m = self.choose(i)
        node = self.naive.nodes[m]
        if node.get("writable"):
            v.data.copy_(torch.full_like(v.data, amount))
            node["value"] = torch.full_like(node["value"], amount)
            node["version"] += 1

    @precondition(lambda self: self.indices)
    @rule(i=number)
    def write_index(self, i: int) -> None:
        index, cell = self.indices[i % len(self.indices)]
        index.zero_()
        cell["value"] = torch.zeros_like(cell["value"])
        cell["version"] += 1

    # ---- gradients

    def compare(self, ours: Callable[[], Any], naive: Callable[[], Any]) -> tuple[Any, Any] | None:
        """The results of both, None after both raised the same."""
        try:
            expected = naive()
        except (Freed, Written, Broken) as error:
            meant = {Freed: "freed by an earlier backward", Written: "written to in place", Broken: "told to"}[type(error)]
            with pytest.raises(Broken if isinstance(error, Broken) else hg.TapeError, match=meant):
                ours()
            return None
        return ours(), expected

    def seed(self, v: Any) -> tuple[torch.Tensor, int]:
        seed = torch.linspace(1.0, 2.0, max(v.numel(), 1), dtype=torch.float64)[: v.numel()].reshape(v.shape)
        return seed, self.naive.new(seed.clone(), False)

    @rule(i=number, retain=st.booleans(), create=st.booleans(), elsewhere=st.booleans(), broken=st.integers(0, 5))
    def backward(self, i: int, retain: bool, create: bool, elsewhere: bool, broken: int) -> None:
        v, m = self.choose(i)
        seed, s = self.seed(v)
        if not self.naive.nodes[m]["needs"]:
            with pytest.raises(hg.TapeError, match="requires a gradient"):
                v.backward(seed)
            return
        if v.numel() == 0:
            return

        def ours() -> None:
            v.backward(seed, retain_graph=retain, create_graph=create)

        create = create and self.small()
        self.graphs = self.graphs or create
        self.naive.break_rules = broken == 0
        try:
            self.compare(in_thread(ours) if elsewhere and not create else ours, lambda: self.naive.backward(m, s, retain, create))
        finally:
            self.naive.break_rules = False
        self.check_grads()

    @rule(i=number, inputs=st.lists(number, min_size=1, max_size=3), retain=st.booleans(), create=st.booleans())
    def gradients(self, i: int, inputs: list[int], retain: bool, create: bool) -> None:
        v, m = self.choose(i)
        chosen = [held for held in map(self.choose, inputs) if self.naive.nodes[held[1]]["needs"]]
        if not self.naive.nodes[m]["needs"] or not chosen:
            return
        seed, s = self.seed(v)
        create = create and self.small()
        self.graphs = self.graphs or create
        both = self.compare(
            lambda: hg.gradients(v, [x for x, _ in chosen], seed, retain_graph=retain, create_graph=create, allow_unused=True),
            lambda: self.naive.walk(m, s, {n for _, n in chosen}, retain, create),
        )
        if both is not None:
            for (x, n), g in zip(chosen, both[0]):
                assert (g is None) == (n not in both[1])
                if g is not None:
                    close(g.data, self.naive.nodes[both[1][n]]["value"])
                    assert g.shape == x.shape and g.requires_grad is self.naive.nodes[both[1][n]]["needs"]
                    if create and len(self.held) < 30 and g.data.abs().max() < 1e3:
                        self.keep(g, both[1][n], program=False)
        self.check_grads()

    @rule(i=number)
    def retain_grad(self, i: int) -> None:
        v, m = self.choose(i)
        node = self.naive.nodes[m]
        if node["needs"]:
            v.retain_grad()
            node["kept"] = True

    @rule(i=number)
    def zero_grad(self, i: int) -> None:
        v, m = self.choose(i)
        v.zero_grad()
        self.naive.nodes[m]["grad"] = None

    def check_grads(self) -> None:
        for v, m in self.held:
            node = self.naive.nodes[m]
            if node["grad"] is None:
                assert v.grad is None
                continue
            assert isinstance(v.grad, Variable) is node["graph"]
            close(v.grad.data if node["graph"] else v.grad, self.naive.nodes[node["grad"]]["value"])
            assert v.grad.shape == v.shape
            if not node["graph"]:
                assert v.grad.is_contiguous() and v.grad.data_ptr() != v.data.data_ptr()

    # ---- scopes

    @precondition(lambda self: len(self.scopes) < 4)
    @rule()
    def open_tape(self) -> None:
        scope = hg.Tape()
        assert scope.__enter__() is hg.tape()
        self.scopes.append(scope)
        self.entered.append("tape")
        self.naive.tapes.append(len(self.all_tapes))
        self.all_tapes.append(scope)

    @precondition(lambda self: self.entered[-1:] == ["tape"])  # as `with` blocks are left: the last one first
    @rule()
    def close_tape(self) -> None:
        self.entered.pop()
        self.scopes.pop().__exit__(None, None, None)
        self.naive.tapes.pop()
        assert hg.tape() is self.scopes[-1]

    @precondition(lambda self: len(self.modes) < 3)
    @rule(on=st.booleans())
    def enter_mode(self, on: bool) -> None:
        mode = hg.enable_grad if on else hg.no_grad
        mode.__enter__()
        self.modes.append(mode)
        self.entered.append("mode")
        self.naive.recording.append(on)

    @precondition(lambda self: self.entered[-1:] == ["mode"])
    @rule()
    def leave_mode(self) -> None:
        self.entered.pop()
        self.modes.pop().__exit__(None, None, None)
        self.naive.recording.pop()

    @rule()
    def check_tapes(self) -> None:
        """Without graphs of gradients the tapes hold exactly what the held Variables reach; with them, at least that, and little more."""
        gc.collect()  # a leaf's `grad` that is a Variable makes a circle, and so do the exceptions raised here
        held = [m for _, m in self.held]
        records = [list(tape) for tape in self.all_tapes]
        lengths = [len(tape) for tape in records]
        expected = [self.naive.alive(held, number)[0] for number in range(len(self.all_tapes))]
        if self.graphs:
            programs, everything = self.naive.alive(held)
            assert sum(lengths) <= 4 * everything and sum(lengths) >= programs
            assert all(length >= least for length, least in zip(lengths, expected))
        else:
            assert lengths == expected
        for tape in records:
            sequence = [record.sequence for record in tape]
            assert sequence == sorted(set(sequence))


def in_thread(f: Callable[[], Any]) -> Callable[[], Any]:
    """`f`, called on another thread."""

    def call() -> Any:
        raised: list[BaseException] = []

        def run() -> None:
            try:
                f()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if raised:
            raise raised[0]

    return call


def test_random_programs(count: Callable[[int, int], int], thorough: bool) -> None:
    phases = [Phase.generate, Phase.shrink] if thorough else [Phase.generate]  # shrinking takes minutes
    gc.freeze()  # what is there already need not be looked through for records
    try:
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=count(400, 1_000), stateful_step_count=count(40, 80), phases=phases)
        )
    finally:
        gc.unfreeze()
