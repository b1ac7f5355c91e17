"""Obey SIGTERM at once, even while the main thread waits in a collective.

torchrun ends what is left of a run by SIGTERM, but Python runs signal handlers in the main thread, between two
instructions: a process that waits in C code for a dead peer would never run one. The signal's number, however, is
written to a pipe right away, and the thread that reads it is free.
"""

import os
import signal
import threading
from collections.abc import Callable


def call_on_sigterm(function: Callable[[], None]) -> None:
    """Call the function, in a thread of its own, when SIGTERM comes; it has to end the process by itself."""
    signals, pipe = os.pipe()
    os.set_blocking(pipe, False)
    signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        while os.read(signals, 1)[0] != signal.SIGTERM:
            pass
        function()

    threading.Thread(target=wait, daemon=True).start()
