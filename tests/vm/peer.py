"""The other process of test_processes.py: does what it is told over the unix socket whose number it is given.

Each message is a JSON list, a command and its arguments, with descriptors beside it; each answer is one JSON value,
with descriptors beside it. An OSError is answered as ``["refused", errno]``.
"""

import json
import os
import socket
import sys
from types import SimpleNamespace

from children import taken

from linuxsync import SyncFile, Timeline


def main(fd: int) -> None:
    """Serve until the socket is closed."""
    peer = socket.socket(fileno=fd)
    held = SimpleNamespace(fences=[], timelines=[])
    while message := socket.recv_fds(peer, 65536, 8):
        data, fds, _, _ = message
        if not data:
            break
        command, *arguments = json.loads(data)
        sent: list[int] = []
        answer: object = None
        try:
            if command == "take fences":
                held.fences += map(SyncFile, fds)
            elif command == "take timelines":
                held.timelines += map(taken, fds)
            elif command == "new timeline":
                held.timelines.append(Timeline(name=arguments[0]))
            elif command == "create fence":
                held.fences.append(held.timelines[-1].create_fence(arguments[0]))
                sent = [held.fences[-1].fileno()]
            elif command == "send timeline":
                sent = [held.timelines[-1].fileno()]
            elif command == "inc":
                held.timelines[-1].inc(arguments[0])
            elif command == "close timeline":
                held.timelines.pop().close()
            elif command == "forget":
                for owner in held.fences + held.timelines:
                    owner.close()
                held = SimpleNamespace(fences=[], timelines=[])
            elif command == "status":
                answer = [fence.status for fence in held.fences]
            elif command == "wait":
                held.fences[-1].wait(arguments[0])
                answer = held.fences[-1].status
            elif command == "numbers":
                answer = [owner.fileno() for owner in held.fences + held.timelines]
            else:
                raise AssertionError(command)
        except OSError as error:
            answer = ["refused", error.errno]
        socket.send_fds(peer, [json.dumps(answer).encode()], sent)
    # Without ceremony: what happens to the descriptors of a process that ends is part of what is tested.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
