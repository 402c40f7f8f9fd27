"""Numbers so small that a processor takes a hundred cycles for each."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import llvm
from .vec import X86


def _control_register(b, name, pointer):
    llvm.call(b, f"llvm.x86.sse.{name}", ir.VoidType(), b.bitcast(pointer, ir.IntType(8).as_pointer()))


@intrinsic
def denormals_flush(typing):
    """Let denormal numbers count as 0, where they cost a hundred cycles; returns what `denormals_restore`
    takes.

    The setting is the thread's: restore it before the jitted function returns. It holds for loops and calls
    in between; a single operation LLVM may move past it.
    """

    def emit(context, b, sig, a):
        if not X86:
            return llvm.I32(0)
        memory = cgutils.alloca_once(b, llvm.I32)
        _control_register(b, "stmxcsr", memory)
        before = b.load(memory)
        b.store(b.or_(before, llvm.I32(0x8040)), memory)
        _control_register(b, "ldmxcsr", memory)
        return before

    return types.int32(), emit


@intrinsic
def denormals_restore(typing, before):
    """Undo `denormals_flush`."""

    def emit(context, b, sig, a):
        if X86:
            memory = cgutils.alloca_once(b, llvm.I32)
            b.store(a[0], memory)
            _control_register(b, "ldmxcsr", memory)
        return context.get_dummy_value()

    return types.none(types.int32), emit
