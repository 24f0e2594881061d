"""Runs PROGRAM ARGUMENT... under a seccomp filter by which the kernel answers EPERM to everything about io_uring."""
import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
EPERM, ALLOW = 0x00050000 | 1, 0x7FFF0000
# Setup, enter and register: the same numbers on every architecture.
FORBIDDEN = [425, 426, 427]

steps = [(LOAD_WORD, 0, 0, 0)]
for at, number in enumerate(FORBIDDEN):
    last = at == len(FORBIDDEN) - 1
    steps.append((JUMP_EQUAL, len(FORBIDDEN) - 1 - at, 1 if last else 0, number))
steps += [(RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


program = Program(len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
