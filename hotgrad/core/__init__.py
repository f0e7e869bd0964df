"""The engine: what an op is, what is recorded of a call, and the walk backwards over the records.

Read `primitive`, `records`, `variable` and `recording`, in this order.
"""
