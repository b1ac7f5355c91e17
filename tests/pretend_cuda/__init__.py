"""A pretend CUDA device in a CPU build of PyTorch, for machines without a GPU.

Tensors say `cuda:0`, and dispatch, autograd, autocast and optimizers take their CUDA paths, but the CPU computes. So
code written for a GPU runs in the tests, which then see

- mixed devices: a CPU tensor beside a CUDA tensor raises, as do a generator of the wrong device and `.numpy()`;
- uninitialised memory: `torch.empty` on the device is NaN;
- cuDNN's rule that no gradient passes a recurrent layer in evaluation mode;
- what each line of the project makes the device do (`Watch`): kernels, host synchronisations (`.item()`, `.cpu()`,
  indexing by a mask, ...) and copies from pageable memory, which the host waits for as well.

It does not show speed, memory use, streams, events, graphs, several GPUs, `torch.compile`, or CUDA's rounding. A kernel
here is a PyTorch operator other than a view or an allocation; a GPU may launch several for it. A CPU tensor without
dimensions passes everywhere, where CUDA takes it in elementwise arithmetic only. The device draws its random numbers
from the CPU's default generator. Child processes run on the plain CPU. A real GPU has the last word.

    python -m tests.pretend_cuda.run -m pytest tests/test_cuda.py     # any command, from the repository's root
    python -m tests.pretend_cuda.counts --top 3                       # counts of training steps and evaluations

The first use compiles the device (`device.cpp`) for about a minute; the library stays in the user's cache.
"""
