"""The engine: what an op is, what is recorded of a call, and the walk backwards over the records.

Read `primitive`, `records`, `walk`, `variable`, `recording`, in this order: 750 lines, which are the heart. Around them stand

- what they use: `domains`, `options`, `nodes`, `arrays`, `operands`, `array_like` (all of a Variable but gradients), `methods`, `modes`
  (tapes, no_grad), `trace` and `scalars` (what a capture asks and is asked), `explain` (the texts of errors);
- what completes them: `declarations` (checks of a declared op), `shortcuts` (the calls of usual ops, written out for speed),
  `operators` (what a declared op gets) and `in_place` (`v += w`).
"""
