"""What must be refused, with which errno: URI rw|ro structured|simple ours|qemu. After each the connection goes on."""
import sys

import nbd

uri, writable, structured = sys.argv[1], sys.argv[2] == "rw", sys.argv[3] == "structured"
h = nbd.NBD()
h.set_request_structured_replies(structured)
if structured:
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(uri)
# libnbd would refuse most of this by itself.
h.set_strict_mode(0)
size = h.get_size()
assert h.is_read_only() == (not writable)
# The protocol has numbers of their own for writes past the end and to what is read-only; QEMU 10 says EINVAL.
SAID = {"ENOSPC": "EINVAL", "EPERM": "EINVAL"} if sys.argv[4] == "qemu" else {}
before = h.pread(4096, 65536 * 2)
KIB64, MIB33 = 65536, 33 << 20


def refused(code, what, call):
    try:
        call()
    except nbd.Error as error:
        code = SAID.get(code, code)
        assert error.errno == code, f"{what}: {error.errno}, not {code}: {error}"
    else:
        raise AssertionError(f"{what}: was not refused")
    assert h.pread(4096, 65536 * 2) == before, f"{what}: the connection is out of step"


refused("EINVAL", "read past the end", lambda: h.pread(KIB64, size - 4096))
refused("EINVAL", "read behind the end", lambda: h.pread(512, size))
refused("EINVAL", "read far behind the end", lambda: h.pread(512, (1 << 63) - 1024))
refused("EINVAL", "read of 33 MiB", lambda: h.pread(MIB33, 0))
refused("EINVAL", "read with an unknown flag", lambda: h.pread(512, 0, 1 << 13))
refused("EINVAL", "cache past the end", lambda: h.cache(KIB64, size - 4096))
if not structured:
    refused("EINVAL", "DF without structured replies", lambda: h.pread(512, 0, nbd.CMD_FLAG_DF))
else:
    refused("EINVAL", "status past the end", lambda: h.block_status(KIB64, size - 512, lambda *_: 0))
if writable:
    data = bytes(KIB64)
    refused("ENOSPC", "write past the end", lambda: h.pwrite(data, size - 4096))
    refused("ENOSPC", "zero past the end", lambda: h.zero(KIB64, size - 4096))
    refused("EINVAL", "write with an unknown flag", lambda: h.pwrite(data, 0, 1 << 13))
    refused("EINVAL", "trim past the end", lambda: h.trim(KIB64, size - 4096))
else:
    refused("EPERM", "write to what is read-only", lambda: h.pwrite(bytes(4096), 0))
    refused("EPERM", "long write to what is read-only", lambda: h.pwrite(bytes(1 << 20), 0))
    refused("EPERM", "zero of what is read-only", lambda: h.zero(4096, 0))
    refused("EPERM", "trim of what is read-only", lambda: h.trim(4096, 0))
h.flush()
h.shutdown()
