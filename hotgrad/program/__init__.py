"""Programs: captured functions as flat lists of primitives, and what is done with them before an engine runs them.

In reading order: `instructions`, what a program is; `traced`, what stands for values while a function runs; `trace`, how calls of ops become
instructions; `torch_calls` and `unsteady`, what a program cannot hold; `names`, `kinds`, `watched` and `guards`, what it depends on besides;
`constants`, tensors that it reads; `tree`, the structure of what a function returns; `differences` and `comparison`, whether a function is
still the same program; `captured`, a function as a program; `passes`, equal programs that cost less; `memory`, where values stand;
`serialisation`, programs as files.
"""
