"""A decoder's process to which a fault happens: segfault, oom or hang, when a file holds these bytes.

The words are the fault, the bytes, and a file: if there is a name, it happens only once, and makes the file.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from purifyctl.images import Decoded, Decoder
from purifyctl.images.damage import Encoded
from purifyctl.run.worker import decoder


def strike(kind: str) -> None:
    if kind == "segfault":
        ctypes.string_at(0)
    elif kind == "oom":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        time.sleep(10**6)


if __name__ == "__main__":
    fault, mark, once, _ = sys.argv[1:]
    real = Decoder.decode

    def decode(self: Decoder, files: Sequence[Encoded]) -> Decoded:
        if any(mark.encode() in file.tobytes() for file in files) and not (once and Path(once).exists()):
            if once:
                Path(once).touch()
            strike(fault)
        return real(self, files)

    Decoder.decode = decode  # type: ignore[method-assign]
    decoder.main()
