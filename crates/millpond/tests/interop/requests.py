"""Random requests of all kinds against a model: URI MODEL structured|simple COUNT [ro|qemu]; writes the model back.

With ro, only those that change nothing; with qemu, no fast zeroing, which QEMU 10 may refuse after it has begun.
"""
import random
import sys

import nbd

uri, path, talk, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
structured = talk == "structured"
writable, fast_is_whole = sys.argv[5:] != ["ro"], sys.argv[5:] != ["qemu"]
model = bytearray(open(path, "rb").read())
size = len(model)
rng = random.Random(7)

h = nbd.NBD()
h.set_request_structured_replies(structured)
if structured:
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(uri)
assert h.get_size() == size
assert h.get_structured_replies_negotiated() == structured
assert h.can_df() == structured and h.can_fua() and h.can_cache() and h.is_read_only() != writable
assert not writable or (h.can_zero() and h.can_trim())


def span(longest):
    """A range: short ones more often, some aligned, some over the end of a block."""
    length = rng.randrange(1, rng.choice([512, 4096, 70000, longest]) + 1)
    start = rng.randrange(0, size - length + 1)
    if rng.random() < 0.3:
        start, length = start & ~4095, max(length & ~4095, 4096)
    return start, min(length, size - start)


def read():
    start, length = span(1 << 20)
    assert h.pread(length, start) == model[start : start + length], f"read {length} at {start}"


def read_chunks(flags=0):
    start, length = span(1 << 20)
    out = bytearray(b"\xcc" * length)
    chunks = []

    def chunk(buf, offset, status, error):
        chunks.append((offset, len(buf), status))
        out[offset - start : offset - start + len(buf)] = buf
        return 0

    whole = h.pread_structured(length, start, chunk, flags)
    assert whole == model[start : start + length], f"structured read {length} at {start}"
    assert out == model[start : start + length], f"chunks of {length} at {start}"
    assert sum(c[1] for c in chunks) == length
    if flags & nbd.CMD_FLAG_DF:
        assert len(chunks) == 1 and chunks[0][2] == nbd.READ_DATA, chunks


def write():
    start, length = span(300000)
    data = rng.randbytes(length) if rng.random() < 0.8 else bytes(length)
    h.pwrite(data, start, rng.choice([0, nbd.CMD_FLAG_FUA]))
    model[start : start + length] = data


def zero():
    start, length = span(1 << 20)
    h.zero(length, start, rng.choice([0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA]))
    model[start : start + length] = bytes(length)


def fast_zero():
    start, length = span(1 << 20)
    try:
        h.zero(length, start, nbd.CMD_FLAG_FAST_ZERO)
    except nbd.Error as error:
        # Allowed where it would be slow, but then nothing may have changed.
        assert error.errno == "ENOTSUP", error
    else:
        model[start : start + length] = bytes(length)


def trim():
    start, length = span(1 << 20)
    h.trim(length, start, rng.choice([0, nbd.CMD_FLAG_FUA]))
    now = h.pread(length, start)
    old = model[start : start + length]
    assert all(n in (o, 0) for n, o in zip(now, old)), "a trim leaves what was there, or zeros"
    model[start : start + length] = now


def many():
    """Disjoint writes (if any) and reads side by side, in one batch."""
    cookies, buffers = [], []
    for slot in rng.sample(range(size >> 16), 24):
        start, length = slot << 16, rng.randrange(1, 1 << 16)
        if writable and rng.random() < 0.5:
            data = rng.randbytes(length)
            cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), start))
            model[start : start + length] = data
        else:
            buffer = nbd.Buffer(length)
            cookies.append(h.aio_pread(buffer, start))
            buffers.append((buffer, start, length))
    for cookie in cookies:
        while not h.aio_command_completed(cookie):
            h.poll(-1)
    for buffer, start, length in buffers:
        assert buffer.to_bytearray() == model[start : start + length]


def extents():
    start, length = span(size)
    got = []

    def extent(context, offset, entries, error):
        assert context == nbd.CONTEXT_BASE_ALLOCATION
        got.extend(zip(entries[0::2], entries[1::2]))
        return 0

    one = rng.random() < 0.3
    h.block_status(length, start, extent, nbd.CMD_FLAG_REQ_ONE if one else 0)
    assert got and (len(got) == 1 or not one), got
    at = start
    for length_of, flags in got:
        end = min(at + length_of, size)
        if flags & nbd.STATE_ZERO:
            assert not any(model[at:end]), f"said to be zero: {at} to {end}"
        at = end


kinds = [read, read, write, write, zero, fast_zero, trim, many] if writable else [read, read, many]
kinds = [kind for kind in kinds if fast_is_whole or kind is not fast_zero]
kinds += [h.flush, lambda: h.cache(*reversed(span(1 << 20)))]
if structured:
    kinds += [read_chunks, lambda: read_chunks(nbd.CMD_FLAG_DF), extents]
for _ in range(count):
    rng.choice(kinds)()
h.flush()
assert h.pread(size, 0) == model
h.shutdown()
open(path, "wb").write(model)
