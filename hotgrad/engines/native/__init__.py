"""Programs compiled to C: one call for as many steps as wished.

In reading order:

- `layout`: buffers, and how arrays lie in them; `expressions`: C expressions of single elements;
- `kernels`: loops over elements, and copies; `matmul_kernels`, `reductions`, `indexing`: the kernels of ops that are not elementwise;
- `builder`: kernels appended one by one, with fusing; `structured`, `contractions`: which kernels an op that is not elementwise becomes;
- `written_out`: ops whose native form is a function, as other ops; `lowering`: a program's instructions to kernels and memory;
- `vector_maths`: exp, tanh and the like in C that compilers vectorise; `csource`: kernels to the text of a C file;
- `compiler`: finding one, compiling, the cache of what was compiled; `soundness`: whether what it makes can be trusted;
- `user_forms`: the native forms of users' ops, compared with `forward` before they run;
- `engine`: the engine itself.
"""
