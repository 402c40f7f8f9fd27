# What calls that may come from several threads at once share: workspaces, a pool, and objects that one call owns.

cdef class Workspace:
    """Memory for one call of an engine, and the pool that works for it; NULL where the pool works for another call."""
    cdef void *memory
    cdef size_t size
    cdef mgf_pool *pool

    def __dealloc__(self):
        free(self.memory)

    cdef int hold(self, size_t size) except -1:
        """Room for so many bytes; what was held is lost."""
        if size > self.size:
            free(self.memory)
            self.size = 0
            self.memory = malloc(size)
            if self.memory == NULL:
                raise MemoryError(f"no memory for a workspace of {size / 2**20:.0f} MiB")
            self.size = size
        return 0


cdef class Owned:
    """What one call at a time may change, without the GIL: a second one that comes meanwhile is refused."""
    cdef bint at_work

    cdef int begin(self) except -1:
        if self.at_work:
            raise RuntimeError(f"this {type(self).__name__} is at work in another thread: let each thread have its own")
        self.at_work = True
        return 0

    cdef int check_idle(self) except -1:
        if self.at_work:
            self.begin()
        return 0
