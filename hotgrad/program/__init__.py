"""Programs: captured functions as flat lists of primitives, and what is done with them before an engine runs them.

In reading order: `instructions`, what a program is; `trace`, how calls of ops become one, with `torch_calls`, which refuses what a program
cannot hold, and `tree`, the structure of what a function returns; `guards`, what a function depends on besides; `captured`, both put
together, twice; `passes`, equal programs that cost less; `memory`, where values stand; `serialisation`, programs as files.
"""
