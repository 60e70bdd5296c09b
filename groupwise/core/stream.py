"""Reading from a socket as many bytes as a message says that it has. Plain Python: engines in other environments read it too."""

import socket


def exactly(end: socket.socket, size: int) -> bytearray:
    """The next `size` bytes. TimeoutError (of the socket's own time limit); EOFError, OSError: the other end is gone."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = end.recv_into(view)
        if not got:
            raise EOFError("the other end closed the connection")
        view = view[got:]
    return data
