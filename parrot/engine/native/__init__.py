"""CPU kernels in C++: tree attention over the KV cache's own layout, and what is done row by row around the
matrix products, each one call a layer for a whole batch.

    library   finds the compiled file, and what each of its functions takes
    kernels   those functions on tensors
    plan      a step's attention: which rows see which slots

The sources are in `csrc/`. They are compiled when the package is built and a compiler is there; without them
`load_native` gives None, and the engine computes the same in plain torch.
"""
