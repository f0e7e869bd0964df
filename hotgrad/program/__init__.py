"""Programs: captured functions as flat lists of primitives, and what is done with them before an engine runs them.

In reading order: `instructions`, what a program is; `traced`, what stands for values while a function runs; `trace`, how calls of ops become
instructions; `torch_calls`, `unsteady` and `guards`, what a program cannot hold, or depends on besides; `tree`, the structure of what a
function returns; `captured`, a function as a program; `passes`, equal programs that cost less; `memory`, where values stand; `serialisation`, programs as files.
"""
