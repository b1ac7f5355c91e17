"""Obey SIGTERM at once, even while the main thread waits in a collective.

torchrun ends a run by SIGTERM. Python runs signal handlers in the main thread between two instructions, so never while
that thread waits in C code for a dead peer. But it writes the signal's number to a pipe at once, where another thread
reads it.
"""

import os
import signal
import threading
from collections.abc import Callable


def call_on_sigterm(function: Callable[[], None]) -> None:
    """Call the function, which must end the process, in a thread when SIGTERM arrives."""
    signals, pipe = os.pipe()
    os.set_blocking(pipe, False)
    signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        while os.read(signals, 1)[0] != signal.SIGTERM:
            pass
        function()

    threading.Thread(target=wait, daemon=True).start()
