"""A network cable between two TAP devices that delays frames and loses some: wire.py NEAR FAR SECONDS LOSS

Unlike netem, it needs nothing that a kernel may have been built without. It ends with its standard input.
"""
import collections
import fcntl
import os
import random
import select
import struct
import sys
import time


def tap(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    # TUNSETIFF with IFF_TAP | IFF_NO_PI.
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))
    return device


ends = [tap(sys.argv[1]), tap(sys.argv[2])]
delay, loss = float(sys.argv[3]), float(sys.argv[4])
print("ready", flush=True)
flying = collections.deque()
while True:
    limit = max(0, flying[0][0] - time.monotonic()) if flying else None
    ready = select.select([*ends, sys.stdin], [], [], limit)[0]
    if sys.stdin in ready:
        break
    for near in ready:
        frame = os.read(near, 65536)
        if random.random() >= loss:
            flying.append((time.monotonic() + delay, ends[near == ends[0]], frame))
    while flying and flying[0][0] <= time.monotonic():
        _, far, frame = flying.popleft()
        try:
            os.write(far, frame)
        except OSError:  # The device is down, or its queue is full: as on a real wire, the frame is gone.
            pass
