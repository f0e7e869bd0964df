"""The passes over programs, one by one."""

from __future__ import annotations

import torch
from building import Build

from hotgrad.program.constants import Constants
from hotgrad.program.instructions import Code
from hotgrad.program.memory import assign_buffers, liveness, writable
from hotgrad.program.passes import fold_constants, fuse_matmul_add, merge_common, remove_dead, simplified, sum_rows_by_product


def ops(code: Code) -> str:
    return " ".join(instruction.op.name for instruction in code.instructions)


# -------------------------------------------------------------------------------------------------------- dead, common


def test_remove_dead() -> None:
    """What no result needs goes, constants too; what a state's update needs stays, and inputs and states always do."""
    b = Build()
    x, w, c, d = b.input(2), b.state(2), b.constant(2), b.constant(2)
    y = b.run("Exp", x)
    b.run("Mul", b.run("Exp", y), c)
    new = b.run("Sub", w, d)
    b.update(w, new)
    before = str(b.done(y))
    code = remove_dead(b.code)
    assert ops(code) == "Exp Sub" and list(code.constants) == [d] and code.inputs == [x] and code.states[0].update is new
    assert str(b.code) == before  # a pass leaves its program as it was


def test_merge_common() -> None:
    """Same op, operands and options; equal constants where nobody else can write to them."""
    b = Build()
    x = b.input(2, 2)
    one, same, other = (b.constant(t) for t in (torch.ones(2), torch.ones(2), torch.zeros(2)))
    exps = [b.run("Exp", x), b.run("Exp", x)]
    sums = [b.run("Sum", exps[0], dim=0), b.run("Sum", exps[1], dim=0), b.run("Sum", exps[1], dim=1)]
    adds = [b.run("Add", sums[0], one), b.run("Add", sums[1], same), b.run("Add", sums[1], other)]
    code = merge_common(b.done(*adds))
    assert ops(code) == "Exp Sum Sum Add Add Add" and list(code.constants) == [one, same, other]
    code = merge_common(b.code, Constants(b.code.constants, b.code.constants))
    assert ops(code) == "Exp Sum Sum Add Add" and code.outputs == [adds[0], adds[0], adds[2]] and list(code.constants) == [one, other]


def test_numbers_that_only_look_equal_stay_apart() -> None:
    b = Build()
    x = b.input(torch.ones(2, dtype=torch.int64))
    values = [b.run("Mul", x, number) for number in (1, 1.0, True, 0.0, -0.0, 1)]
    code = merge_common(b.done(*values))
    assert len(code.instructions) == 5 and code.outputs[5] is code.outputs[0]
    b = Build()
    zero, minus = b.constant(torch.tensor([0.0])), b.constant(torch.tensor([-0.0]))
    assert len(merge_common(b.done(zero, minus)).constants) == 2


def test_index_tensors_are_compared() -> None:
    b = Build()
    x = b.input(3)
    picks = [b.run("GetItem", x, index=torch.tensor(index)) for index in ([0, 1], [0, 1], [1, 0])]
    slices = [b.run("GetItem", x, index=slice(0, n)) for n in (1, 1, 2)]
    code = merge_common(b.done(*picks, *slices))
    assert len(code.instructions) == 4


# ------------------------------------------------------------------------------------------------------------- folding


def test_fold_constants() -> None:
    b = Build()
    x, c = b.input(2), b.constant(torch.tensor([1.0, 2.0]))
    product = b.run("Mul", b.run("Add", c, 1), 3.0)
    out = b.run("Mul", b.run("Mul", x, 2.0), product)
    code = fold_constants(b.done(out))
    assert ops(code) == "Mul Mul"  # x * 2 * [6, 9] is not reordered
    assert torch.equal(code.constants[code.instructions[1].operands[1]], torch.tensor([6.0, 9.0]))
    assert ops(b.code) == "Add Mul Mul Mul" and len(b.code.constants) == 1


def test_folding_does_not_fill_memory() -> None:
    b = Build()
    one = b.constant(torch.ones(()))
    wide = b.run("Expand", b.run("Div", one, 4.0), shape=(100, 100))
    code = fold_constants(b.done(b.run("Mul", wide, b.input(100, 100))))
    assert ops(code) == "Expand Mul"


def test_an_output_and_an_update_may_become_constants() -> None:
    b = Build()
    w, c = b.state(2), b.constant(2)
    twice = b.run("Add", c, c)
    b.update(w, twice)
    code = simplified(b.done(twice))
    assert (
        not code.instructions
        and code.outputs[0].kind == "constant"
        and code.states[0].update is code.outputs[0]
        and code.states[0].value is w
    )


# ------------------------------------------------------------------------------------------------------------ products


def test_fuse_matmul_add() -> None:
    b = Build()
    x, w, bias = b.input(5, 3), b.state(3, 4), b.state(4)
    first = b.run("Add", b.run("MatMul", x, w), bias)
    second = b.run("Add", bias, b.run("MatMul", x, w))
    code = fuse_matmul_add(b.done(first, second))
    assert ops(code) == "AddMM AddMM" and code.instructions[0].operands == (bias, x, w) and code.outputs == [first, second]


def test_products_that_stay() -> None:
    """One that is read twice, or is an output, or broadcast by the sum; of vectors, stacks or integers; a number added."""
    b = Build()
    x, w = b.input(1, 3), b.state(3, 4)
    product, shown = b.run("MatMul", x, w), b.run("MatMul", x, w)
    sums = [
        b.run("Add", product, product),
        b.run("Add", shown, b.state(4)),
        b.run("Add", b.run("MatMul", x, w), b.state(5, 4)),
    ]
    sums += [b.run("Add", b.run("MatMul", b.input(3), w), b.state(4)), b.run("Add", b.run("MatMul", x, w), 1.0)]
    sums += [b.run("Add", b.run("MatMul", b.input(2, 1, 3), w), b.state(4))]
    whole = b.input(torch.ones(2, 2, dtype=torch.int64))
    sums += [b.run("Add", b.run("MatMul", whole, whole), whole)]
    before = ops(b.done(shown, *sums))
    assert ops(fuse_matmul_add(b.code)) == before


def test_sum_rows_by_product() -> None:
    b = Build()
    x = b.input(5, 3)
    rows, columns, kept = b.run("Sum", x, dim=(0,)), b.run("Sum", x, dim=1), b.run("Sum", x, dim=0, keepdim=True)
    code = sum_rows_by_product(b.done(rows, columns, kept))
    assert ops(code) == "Permute MatMul Sum Sum" and code.outputs == [rows, columns, kept]


# ------------------------------------------------------------------------------------------------------------- buffers


def test_views_have_the_memory_of_what_they_view() -> None:
    b = Build()
    x = b.input(2, 3)
    turned = b.run("Permute", x, dims=(1, 0))
    flat, row = b.run("Reshape", turned, shape=(6,)), b.run("GetItem", turned, index=0)
    code = b.done(flat, row)
    memory = liveness(code)
    assert memory.owner[turned] is x and memory.owner[row] is x and memory.owner[flat] is flat


def test_a_chain_needs_one_buffer() -> None:
    b = Build()
    value = b.input(10)
    for _ in range(6):
        value = b.run("Tanh", value)
    memory = assign_buffers(b.done(value))
    assert (memory.before, memory.after) == (240, 40)
    memory = assign_buffers(b.code, share=False)
    assert (memory.before, memory.after) == (240, 240)


def test_what_is_read_later_is_not_overwritten() -> None:
    b = Build()
    x = b.input(10)
    a = b.run("Exp", x)
    view = b.run("Reshape", a, shape=(2, 5))
    c = b.run("Tanh", a)
    memory = assign_buffers(b.done(b.run("Mul", view, 2.0), b.run("Neg", c)))
    assert memory.slot[a] != memory.slot[c]


def test_only_elementwise_ops_overwrite() -> None:
    b = Build()
    a = b.run("Exp", b.input(4, 4))
    memory = assign_buffers(b.done(b.run("MatMul", a, a)))
    assert len(memory.sizes) == 2
    b = Build()
    a = b.run("Exp", b.input(4, 4))
    memory = assign_buffers(b.done(b.run("Add", a, b.run("Permute", a, dims=(1, 0)))))  # reads a view of what it would overwrite
    assert len(memory.sizes) == 2


def test_outputs_stay() -> None:
    b = Build()
    a = b.run("Exp", b.input(10))
    c = b.run("Tanh", a)
    d = b.run("Tanh", c)
    memory = assign_buffers(b.done(a, d))
    assert memory.slot[a] not in (memory.slot[c], memory.slot[d])


def test_updates_are_computed_in_place() -> None:
    """Also the products on the way to them, as in `v <- 0.9 v + g`; not where the old value is read later."""
    b = Build()
    w, v, g = b.state(3), b.state(3), b.input(3)
    decayed = b.run("Mul", v, 0.9)
    moved = b.run("Add", decayed, g)
    new = b.run("AddScaled", w, moved, -0.1)
    b.update(w, new)
    b.update(v, moved)
    memory = assign_buffers(b.done())
    assert memory.in_state == {new: b.code.states[0], moved: b.code.states[1], decayed: b.code.states[1]} and not memory.sizes
    memory = assign_buffers(b.done(b.run("Exp", w)))
    assert new not in memory.in_state and moved in memory.in_state


def test_states_that_swap_are_not_updated_in_place() -> None:
    b = Build()
    w, v = b.state(3), b.state(3)
    b.update(w, b.run("Add", v, 0.0))
    b.update(v, b.run("Add", w, 0.0))
    memory = assign_buffers(b.done())
    assert list(memory.in_state) == [b.code.states[1].update]


def test_states_that_share_memory_are_not_updated_in_place() -> None:
    b = Build()
    base = torch.zeros(4)
    w, v = b.state(base[:3]), b.state(base[2:])
    b.update(w, b.run("Add", w, 1.0))
    b.update(v, b.run("Add", v, 1.0))
    assert not assign_buffers(b.done()).in_state


def test_writable() -> None:
    assert (
        writable((), ())
        and writable((2, 3), (3, 1))
        and writable((2, 3), (1, 2))
        and writable((2, 3), (10, 2))
        and writable((1, 3), (0, 1))
    )
    assert writable((0, 3), (0, 0))
    assert not writable((2, 3), (0, 1)) and not writable((3, 3), (1, 1)) and not writable((2,), (0,))
