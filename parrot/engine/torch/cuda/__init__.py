"""Attention on CUDA devices by Triton kernels: what several requests share is read once for all of them.

`pieces` writes a step's attention as tables of numbers, `kernels` has one kernel for each piece and its
readers and one for the merge, `attention` is the engine's attention over both, and `check` finds out whether
they run here, and right.

The kernels have been checked against the reference by Triton's interpreter only; they have not been run, let
alone measured, on a device. So an engine on CUDA compares them with the reference when it starts, and
computes attention in plain torch where they fail. CUDA graphs are not used.
"""
