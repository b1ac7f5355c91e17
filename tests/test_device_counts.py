"""What a training step makes a CUDA device do, counted on the pretend one."""

import re

from tests.helpers import call, needs_pretend_cuda

OBJECTIVES = ["random-NS", "semi-hard-NS", "hard-text-NS", "hard-audio-NS", "InfoNCE"]  # the others differ in a sign


@needs_pretend_cuda
def test_no_training_step_waits_for_the_device():
    """No synchronisation and no copy from pageable memory, in either precision."""
    pattern = rf"step, ({'|'.join(OBJECTIVES)}), "
    out = call("-m", "tests.pretend_cuda.counts", "--rows", pattern, "--top", "9")
    rows = re.findall(r"^\| step, (.+), (.+) \| (\d+)\b.* \| (.+) \| (.+) \|$", out, re.MULTILINE)
    assert [row[:2] for row in rows] == [(name, width) for width in ("float32", "bfloat16") for name in OBJECTIVES]
    for name, precision, kernels, *waits in rows:
        assert int(kernels) > 100 and waits == ["0", "0"], f"{name}, {precision}: {waits}"
