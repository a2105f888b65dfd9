"""Parrot's own engine: one model in PyTorch, on a CPU or a CUDA device, over a tree of contexts.

    engine      the port, on the event loop          tokenizer   text ↔ ids
    step_loop   the thread that runs steps           loader      files → weights
    batcher     which tokens the next step computes  sampler     logits → tokens
    contexts    the tree, and who owns which blocks  output      tokens → text
    kv_cache    the blocks and the tensors           runner, attention, models   tokens → logits

Importing this package loads nothing; `config` and `tokenizer` can be imported without torch.
"""
