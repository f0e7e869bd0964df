"""Scenarios of functions that read values: of what they compute, of Parameters, of tensors and of arrays."""

from __future__ import annotations

import array
import contextlib
import math
import threading
import types
from typing import Any

import numpy as np
import torch
from scenarios import WIDE, F, depend, doubled, network, nothing, refuse, weight

import hotgrad as hg


def while_on_data(x: Any) -> Any:
    while x.sum() < 10.0:
        x = x * 2 + 20
    return x


def swallowed(x: Any) -> Any:
    try:
        scale = float(x.sum())
    except Exception:
        scale = 1.0
    return x * scale


def suppressed(x: Any) -> Any:
    scale = 1.0
    with contextlib.suppress(RuntimeError):
        scale = x.sum().item()
    return x * scale


def swallowed_branch(x: Any) -> Any:
    try:
        return x * 2 if x.sum() > 0 else x
    except hg.CaptureError:
        return x * 3


def rows_until(x: Any) -> Any:
    total = x[0]
    for row in x:
        if row < 0:
            break
        total = total + row
    return total


READS: dict[str, F] = {
    "a branch": lambda x: x * 2 if x.sum() > 0 else x,
    "a number on the left": lambda x: x * 2 if x.sum() > 0 else x,
    "a branch on a mask": lambda x: x if (x > 0).to(torch.float32).sum() > 1 else -x,
    "a while loop": while_on_data,
    "and": lambda x: x * 2 if x.sum() > 0 and x[0] > 0 else x,
    "not": lambda x: x * 2 if not x.sum() > 0 else x,
    "max of Python": lambda x: max(x[0], x[1]) * 2,
    "sorted": lambda x: sorted([x[0], x[1]])[0],
    "in": lambda x: x * 2 if x[0] in (1.0, 5.0) else x,
    "float": lambda x: x * float(x.sum()),
    "int": lambda x: x * int(x.sum()),
    "bool": lambda x: x * bool(x.sum()),
    "item": lambda x: x * x.sum().item(),
    "tolist": lambda x: x * x.data.tolist()[0],
    "numpy": lambda x: x * float(x.numpy()[0]),
    "np.asarray": lambda x: x * float(np.asarray(x)[0]),
    "np.float64": lambda x: x * np.float64(x[0]),
    "math.sqrt": lambda x: x * math.sqrt(x.sum() ** 2),
    "math.isnan": lambda x: x * 2 if math.isnan(x[0]) else x,
    "print": lambda x: (print(x), x * 2)[1],
    "format": lambda x: x * len(f"{x}"),
    "str": lambda x: x * len(str(x)),
    "repr": lambda x: x * len(repr(x)),
    "data": lambda x: x * x.data,
    "data of a result": lambda x: x * (x + 1).data,
    "a shape from data": lambda x: x.sum() * x[x.data > 0].shape[0],
    "an index from data": lambda x: x[int(x.abs().data.argmax())],
    "an index of a list": lambda x: x * [1.0, 2.0, 3.0, 4.0, 5.0][x.abs().amax().data.long()],
    "a mask as an index": lambda x: x[x > 0],
    "range": lambda x: sum(x[0] for _ in range(int(x.abs().sum()))) + x[0],
    "rows until": rows_until,
    "a swallowed refusal": swallowed,
    "a suppressed refusal": suppressed,
    "a swallowed branch": swallowed_branch,
}
refuse("reads", READS)


def grow(w: Any) -> None:
    w.data.add_(1)


depend("reads a parameter", {
    "item": (lambda: weight(2), lambda w, x: x * w.item(), grow),
    "float": (lambda: weight(2), lambda w, x: x * float(w), grow),
    "numpy": (lambda: hg.Variable([2.0, 3.0]), lambda w, x: x * float(w.numpy()[1]), grow),
    "np.asarray": (lambda: hg.Variable([2.0, 3.0, 4.0]), lambda w, x: x * np.asarray(w), grow),
    "branch": (lambda: weight(2), lambda w, x: x * 2 if w > 0 else x, lambda w: w.data.mul_(-1)),
    "bool": (lambda: weight(2), lambda w, x: x * 2 if w else x, lambda w: w.data.mul_(0)),
    "str": (lambda: weight(2), lambda w, x: x * len(str(w)), lambda w: w.data.mul_(0.123)),
    "format": (lambda: weight(2), lambda w, x: x * len(f"{w}"), lambda w: w.data.mul_(0.123)),
    "sum of data": (lambda: weight(2, 3, 4), lambda w, x: x * w.data.sum(), grow),
    "item of data": (lambda: weight(2), lambda w, x: x * w.data.item(), grow),
    "set": (lambda: weight(2, 3, 4), lambda w, x: (setattr(w, "data", torch.ones(3)), x * w)[1], nothing),
    "computed outside": (lambda: weight(2, 3, 4) * 2, lambda y, x: x * y, nothing),
}, refused=True)  # fmt: skip
depend("a parameter", {
    "a write through data": (lambda: weight(2, 3, 4), lambda w, x: (w.data.mul_(0.9), x * w)[1], nothing),
    "data": (lambda: weight(2, 3, 4), lambda w, x: x * w.data, grow),
    "itself and its data": (lambda: weight(2, 3, 4), lambda w, x: x * w + w.data, grow),
    "itself and its detach": (lambda: weight(2, 3, 4), lambda w, x: x * w + w.detach(), grow),
    "its detach": (lambda: weight(2, 3, 4), lambda w, x: x * w.detach(), grow),
    "written": (lambda: weight(2, 3, 4), lambda w, x: x * w, grow),
    "a constant Variable written": (lambda: hg.Variable([2.0, 3.0, 4.0]), lambda w, x: x * w, grow),
    "data replaced": (lambda: weight(2, 3, 4), lambda w, x: x * w, lambda w: setattr(w, "data", torch.ones(3))),
    "data replaced in a namespace": (lambda: types.SimpleNamespace(w=weight(2, 3, 4)), lambda s, x: x * s.w, lambda s: setattr(s.w, "data", torch.ones(3))),
    "another one": (lambda: [weight(2, 3, 4)], lambda ws, x: x * ws[0], lambda ws: ws.__setitem__(0, weight(5, 6, 7))),
    "requires_grad": (lambda: weight(2, 3, 4), lambda w, x: x * 2 if w.requires_grad else x * w, lambda w: setattr(w, "requires_grad", False)),
    "in another thread": (lambda: weight(2, 3, 4), lambda w, x: x * elsewhere(lambda: (w * 2).detach()), grow),
    "an index": (lambda: hg.Variable(torch.tensor([0, 1])), lambda rows, x: x[rows], lambda rows: rows.data.__setitem__(0, 2)),
})  # fmt: skip


def elsewhere(f: F) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(f()))
    thread.start()
    thread.join()
    return found[0]


def tensor() -> torch.Tensor:
    return torch.tensor([2.0, 3.0, 4.0])


def on_tensor(table: dict[str, F]) -> dict[str, tuple[F, F, F]]:
    return {name: (tensor, use, lambda t: t.mul_(1.5)) for name, use in table.items()}


depend("reads a tensor", on_tensor({
    "exp": lambda t, x: x * torch.exp(t),
    "method": lambda t, x: x * t.exp(),
    "operator": lambda t, x: x * (t + 1),
    "item": lambda t, x: x * t[0].item(),
    "float": lambda t, x: x * float(t[1]),
    "index": lambda t, x: x * t[1],
    "tolist": lambda t, x: x * t.tolist()[0],
    "numpy": lambda t, x: x * t.numpy(),
    "np.asarray": lambda t, x: x * np.asarray(t),
    "branch": lambda t, x: x if t.sum() > 10 else -x,
    "iteration": lambda t, x: x * next(iter(t)),
    "repr": lambda t, x: x * len(repr(t)),
    "data": lambda t, x: x * t.data,
    "clone": lambda t, x: x * t.clone(),
    "view": lambda t, x: x * t.view(3),
    "to": lambda t, x: x * t.to(torch.float64),
    "allclose": lambda t, x: x * torch.allclose(t, t),
    "write by index": lambda t, x: (t.__setitem__(0, 1.0), x * t)[1],
    "write with out": lambda t, x: x * torch.add(t, 1.0, out=t),
    "dlpack": lambda t, x: x * float(np.from_dlpack(t)[0]),
}), refused=True)  # fmt: skip
depend("a tensor", on_tensor({
    "itself": lambda t, x: x * t,
    "a write": lambda t, x: x * t.add_(1.0),
    "Variable of it": lambda t, x: x * hg.Variable(t) * hg.Variable(t),
    "len": lambda t, x: x * len(t) * t.shape[0],
    "normalize": lambda t, x: x * hg.sum(hg.data.normalize(COLUMNS), 1),
    "predict": lambda t, x: x * hg.sum(SMALL.predict(COLUMNS), 1),
}))  # fmt: skip
COLUMNS, LABELS = torch.tensor([[2.0], [3.0], [5.0]]), torch.tensor([0, 1, 2])
SMALL = hg.Sequential(hg.Linear(1, 2))


def mix(t: torch.Tensor) -> None:
    t[0] = 2


depend("a tensor", {
    "normalize, written": (lambda: torch.tensor([[1.0], [3.0], [7.0]]), lambda t, x: x * hg.sum(hg.data.normalize(t), 1), mix),
    "one_hot": (LABELS.clone, lambda t, x: x @ hg.data.one_hot(t, 3), mix),
    "labels": (lambda: torch.tensor([0]), lambda t, x: hg.functional.cross_entropy(x.reshape(1, 3), t), mix),
    "labels of a module": (lambda: torch.tensor([0]), lambda t, x: hg.CrossEntropy()(x.reshape(1, 3), t), mix),
    "an index": (LABELS.clone, lambda t, x: x[t], mix),
    "a mask": (lambda: torch.tensor([True, False, True]), lambda t, x: hg.where(t, x, -x), lambda t: t.logical_not_()),
    "predict of a changing model": (lambda: network(), lambda m, x: x[:2] * hg.sum(m.predict(WIDE), 0), lambda m: doubled(m)),
})  # fmt: skip


def sevenfold(a: Any) -> None:
    a[0] = -7.0


depend("an array", {
    "itself": (lambda: np.array([2.0, 3.0, 4.0], dtype=np.float32), lambda a, x: x * a, sevenfold),
    "a number": (lambda: np.array([2.0, 3.0]), lambda a, x: x * float(a[0]), sevenfold),
    "exp": (lambda: np.array([2.0, 3.0, 4.0], dtype=np.float32), lambda a, x: x * np.exp(a), sevenfold),
    "a branch": (lambda: np.array([2.0]), lambda a, x: x if a[0] > 0 else -x, sevenfold),
    "from_numpy": (lambda: np.ones(3, dtype=np.float32), lambda a, x: x * torch.from_numpy(a), sevenfold),
    "array.array": (lambda: array.array("d", [2.0]), lambda a, x: x * a[0], sevenfold),
    "bytearray": (lambda: bytearray([2]), lambda a, x: x * a[0], lambda a: a.__setitem__(0, 3)),
})  # fmt: skip
