"""The processes that decode for a worker. The first one loads the libraries, and then forks one that decodes.

A file may kill or hang the one that decodes. Another one is there at once, because nothing has to be loaded for it.
"""

import ctypes
import os
import signal
import socket
import sys
import traceback
import warnings
from multiprocessing.connection import Connection

from PIL import Image

from purifyctl.errors import PurifyctlError
from purifyctl.images import Decoder

END_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Fork a decoder whenever the worker asks for one. The last argument is the file descriptor to it.

    For each byte, the worker gets the decoder's process id with its connection; and when it has ended, how.
    """
    _end_with_parent()
    import nvidia.dali.fn  # noqa: F401 (what Decoder loads when it is first used; no thread may run when it forks)

    warnings.filterwarnings("ignore", module=r"PIL\.")  # what Pillow warns about in a file, its row says
    Image.MAX_IMAGE_PIXELS = None  # --max-pixels decides
    Image.init()
    worker = socket.socket(fileno=int(sys.argv[-1]))
    while worker.recv(1):
        ours, theirs = socket.socketpair()
        if (decoder := os.fork()) == 0:
            _end_with_parent()
            worker.close()
            theirs.close()
            _decode_all(Connection(ours.detach()))
            os._exit(0)
        ours.close()
        socket.send_fds(worker, [decoder.to_bytes(8)], [theirs.fileno()])
        theirs.close()
        _, status = os.waitpid(decoder, 0)
        worker.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, signed=True))


def _end_with_parent() -> None:
    """A process that hangs must not live on alone."""
    ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)


def _decode_all(connection: Connection) -> None:
    """Decode until the worker hangs up."""
    decoder = Decoder(**connection.recv())
    while True:
        try:
            files = connection.recv()
        except EOFError:
            return
        try:
            answer: object = decoder.decode(files)
        except PurifyctlError as error:
            answer = error
        except Exception as error:  # a bug: the worker must learn where it happened
            answer = RuntimeError("".join(traceback.format_exception(error)))
        connection.send(answer)


if __name__ == "__main__":
    main()
