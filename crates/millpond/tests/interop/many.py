"""Several clients of one export: URI CLIENTS MODEL [ro]. Each writes its own slices, then each reads all of it.

With ro, the model is read, and all read at the same time."""
import random
import sys

import nbd

uri, count, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
writable = sys.argv[4:] != ["ro"]
rng = random.Random(3)
clients = []
for _ in range(count):
    h = nbd.NBD()
    h.connect_uri(uri)
    assert h.can_multi_conn()
    clients.append(h)
size = clients[0].get_size()
model = bytearray(clients[0].pread(size, 0) if writable else open(path, "rb").read())
SLICE = 16384


def read_together():
    under_way = []
    for at in range(400):
        start, length = rng.randrange(size - SLICE), rng.randrange(1, SLICE + 1)
        buffer, h = nbd.Buffer(length), clients[at % count]
        under_way.append((h, h.aio_pread(buffer, start), buffer, start, length))
    for h, cookie, buffer, start, length in under_way:
        while not h.aio_command_completed(cookie):
            h.poll(-1)
        assert buffer.to_bytearray() == model[start : start + length], f"read {length} at {start}"


for round in range(6):
    if not writable:
        read_together()
        continue
    # Every slice has one writer in a round, and all write at the same time.
    slices = rng.sample(range(size // SLICE), 200)
    under_way = []
    for at, number in enumerate(slices):
        length = rng.randrange(1, SLICE + 1)
        data = bytearray(rng.randbytes(length))
        h = clients[at % count]
        under_way.append((h, h.aio_pwrite(nbd.Buffer.from_bytearray(data), number * SLICE)))
        model[number * SLICE : number * SLICE + length] = data
    for h, cookie in under_way:
        while not h.aio_command_completed(cookie):
            h.poll(-1)
    # What one has written and another has flushed, all see.
    clients[round % count].flush()
    for h in clients:
        assert h.pread(size, 0) == model
for h in clients:
    assert h.pread(size, 0) == model
    h.shutdown()
open(path, "wb").write(model)
