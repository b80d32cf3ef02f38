"""Measures the sockets that ipc-channel uses on Linux."""

import socket

HEADER = 16  # bytes that ipc-channel puts before a packet
RESERVED = 528  # RESERVED_SIZE of ipc-channel 0.23.1


def channel():
    kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
    return socket.socketpair(socket.AF_UNIX, kind)


def buffer_bytes():
    sender, _receiver = channel()
    option = socket.SO_SNDBUF
    return sender.getsockopt(socket.SOL_SOCKET, option)


def room(size):
    """How many packets fit in, if nobody reads."""
    sender, _receiver = channel()
    packet = bytes(size)
    for count in range(100_000):
        try:
            sender.send(packet)
        except BlockingIOError:
            return count


def main():
    buffer = buffer_bytes()
    piece = buffer - RESERVED - HEADER
    fragment = piece + HEADER
    print(f"SO_SNDBUF: {buffer:,} bytes")
    print(f"a message in one piece: {piece:,} bytes")
    print(f"its packet: {fragment:,} bytes")
    both = piece + fragment
    print(f"the first two pieces: {both:,} bytes")
    for size in [16, 100, 1_000, 65_600, fragment]:
        name = f"packets of {size:,} bytes"
        print(f"room for {name}: {room(size)}")


if __name__ == "__main__":
    main()
