# The engine: losses, gradients and training steps of one configuration.

cdef class Engine:
    """The whole model on the compiled kernels.

    Several threads may call an engine at once: each call has a workspace of its own. The engine's pool of threads works
    for one call at a time; the others run on their calling threads, with the same bits.

    Parameters
    ----------
    config : GPTConfig
    dtype : numpy dtype or "bfloat16"
        float32 or float64; bfloat16 is that of the operands of all products, while parameters, gradients, moments and
        logits are float32.
    numerics : {"fast", "exact"}
        "exact" keeps the scalar original's order of operations: float64, one document per step, one thread.
    threads : int
        Threads that share a call's work; the results' bits do not depend on it.

    Raises
    ------
    ValueError
        For exact numerics in float32, or for a model that exact numerics do not serve.
    MemoryError
        If the workspace cannot be allocated.
    """
    cdef mgf_config config
    cdef engine_tables tables
    cdef mgf_pool *pool
    cdef object pool_is_free  # a lock: held by the call that the pool works for
    cdef list spare  # workspaces that no call uses
    cdef Py_ssize_t num_params
    cdef readonly object dtype
    cdef readonly str numerics
    cdef readonly int threads
    cdef readonly str isa
    cdef readonly str path

    def __init__(self, config, dtype, str numerics="fast", int threads=1):
        cdef bint mixed = isinstance(dtype, str) and dtype == "bfloat16"
        self.dtype = np.dtype(np.float32 if mixed else dtype)
        self.numerics = numerics
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype is float32, float64 or bfloat16, not {dtype}")
        if numerics not in ("fast", "exact"):
            raise ValueError(f"numerics is 'fast' or 'exact', not {numerics!r}")
        if numerics == "exact" and self.dtype != np.float64:
            raise ValueError(f"exact numerics are float64's; dtype is {dtype}")
        self.path = path_of(config, numerics, dtype)
        if self.path in (None, "composed"):
            raise ValueError(f"the compiled {numerics} model does not serve this configuration: {config}")
        self.config = c_config(config)
        self.num_params = config.num_params
        self.isa = active_isa()
        if numerics == "exact":
            self.tables.exact = active.exact
        elif mixed:
            self.tables.mixed = active.mixed
        elif self.dtype == np.float32:
            self.tables.f32 = f32
        else:
            self.tables.f64 = f64
        self.spare = []
        self.pool_is_free = Lock()
        self.threads = 1 if numerics == "exact" else threads
        if self.threads > 1:
            self.pool = mgf_pool_create(self.threads)
            if self.pool == NULL:
                raise MemoryError("no memory for a pool of threads")

    def __dealloc__(self):
        mgf_pool_destroy(self.pool)

    cdef int kind(self):
        return REAL64 if self.tables.f64 != NULL or self.tables.exact != NULL else REAL32

    cdef Workspace begin(self, Py_ssize_t rows=0, Py_ssize_t documents=0):
        """A workspace for batches up to this size, with the pool if that is free; give it back by `end`."""
        cdef Workspace workspace
        try:
            workspace = self.spare.pop()
        except IndexError:
            workspace = Workspace()
        if rows:
            workspace.hold(gpt_workspace_size(&self.tables, &self.config, rows, documents, self.pool))
        workspace.pool = self.pool if self.pool != NULL and self.pool_is_free.acquire(False) else NULL
        return workspace

    cdef int end(self, Workspace workspace) except -1:
        """Take a workspace back."""
        if workspace.pool != NULL:
            workspace.pool = NULL
            self.pool_is_free.release()
        self.spare.append(workspace)
        return 0

    cdef Workspace prepare(self, const int32_t[::1] tokens, const int64_t[::1] starts, const int32_t[::1] lengths,
                           Py_ssize_t batch_size):
        """Checks that the documents lie within tokens, and begins with a workspace for the largest batch."""
        cdef Py_ssize_t i, rows = 0, largest = 0
        if lengths.shape[0] != starts.shape[0] or batch_size < 1 or starts.shape[0] % batch_size:
            raise ValueError(f"starts [{starts.shape[0]}] and lengths [{lengths.shape[0]}] must hold whole batches of {batch_size}")
        if self.tables.exact != NULL and batch_size != 1:
            raise ValueError(f"exact numerics take one document per step, not {batch_size}")
        for i in range(starts.shape[0]):
            if starts[i] < 0 or lengths[i] < 1 or starts[i] >= tokens.shape[0] - lengths[i]:
                raise IndexError(f"document {i}, {lengths[i]} tokens from {starts[i]} on and a target, is not within the "
                                 f"{tokens.shape[0]} tokens")
            rows = lengths[i] if i % batch_size == 0 else rows + lengths[i]
            largest = max(largest, rows)
        return self.begin(largest, batch_size)

    cdef check(self, Py_ssize_t bad, const int32_t[::1] tokens, const int64_t[::1] starts, const int32_t[::1] lengths):
        """Turns the index of a refused document into an IndexError."""
        if bad < 0:
            return
        if lengths[bad] > self.config.block_size:
            raise IndexError(f"document {bad} has {lengths[bad]} tokens, block_size is {self.config.block_size}")
        document = np.asarray(tokens[starts[bad]:starts[bad] + lengths[bad] + 1])
        raise IndexError(f"document {bad} has token ids from {document.min()} to {document.max()}, the vocabulary 0 to "
                         f"{self.config.vocab_size - 1}")

    cdef void *flat(self, array, bint writable, str name) except NULL:
        if array.shape != (self.num_params,) or not array.flags.c_contiguous:
            raise ValueError(f"{name} must be a contiguous array of shape ({self.num_params},), not {array.shape}")
        return address(array, self.kind(), writable, name)

    def train_steps(self, double[::1] losses, params, m, v, const int32_t[::1] tokens, const int64_t[::1] starts,
                    const int32_t[::1] lengths, Py_ssize_t batch_size, const double[::1] lr, adam, int64_t first_step):
        """len(lr) training steps in one call without the GIL.

        Parameters
        ----------
        losses : float64 [k]
            Overwritten with each step's loss.
        params, m, v : dtype [P]
            Parameters and Adam's moments, updated in place.
        tokens : int32
            The corpus; document i of the run reads tokens[starts[i] : starts[i] + lengths[i] + 1].
        starts, lengths : int64 [k * batch_size], int32 [k * batch_size]
        lr : float64 [k]
        adam : (beta1, beta2, eps, weight_decay)
        first_step : int
            Adam's count of the first of these steps, from 1.

        Raises
        ------
        IndexError
            For a token or length out of range, before anything is written.
        """
        cdef Py_ssize_t k = lr.shape[0], bad = -1
        cdef mgf_adam constants = mgf_adam(adam[0], adam[1], adam[2], adam[3])
        cdef void *p = self.flat(params, True, "params")
        cdef void *first = self.flat(m, True, "m")
        cdef void *second = self.flat(v, True, "v")
        if losses.shape[0] < k or starts.shape[0] != k * batch_size:
            raise ValueError(f"{k} steps of {batch_size} documents need losses [{k}] and starts [{k * batch_size}], not "
                             f"[{losses.shape[0]}] and [{starts.shape[0]}]")
        if k == 0:
            return
        cdef Workspace w = self.prepare(tokens, starts, lengths, batch_size)
        with nogil:
            bad = gpt_train_steps(&self.tables, &losses[0], p, first, second, &tokens[0], &starts[0], &lengths[0], k, batch_size, &lr[0], &constants, first_step, &self.config, w.memory, w.pool)
        self.end(w)
        self.check(bad, tokens, starts, lengths)

    def forward(self, params, const int32_t[::1] tokens, const int64_t[::1] starts, const int32_t[::1] lengths, logits=None):
        """Mean cross-entropy of each document: float64 [B]. `logits` [N, V], if given, is overwritten."""
        cdef Py_ssize_t B = starts.shape[0], bad = -1
        cdef double[::1] losses = np.empty(B)
        cdef void *p = self.flat(params, False, "params")
        cdef void *out = address(logits, self.kind(), True, "logits") if logits is not None else NULL
        if B == 0:
            return np.empty(0)
        if logits is not None and (not logits.flags.c_contiguous or logits.shape != (np.sum(lengths), self.config.vocab_size)):
            raise ValueError(f"logits must be contiguous [{np.sum(lengths)}, {self.config.vocab_size}], not {logits.shape}")
        cdef Workspace w = self.prepare(tokens, starts, lengths, B)
        with nogil:
            bad = gpt_forward(&self.tables, &losses[0], out, p, &tokens[0], &starts[0], &lengths[0], B, &self.config, w.memory, w.pool)
        self.end(w)
        self.check(bad, tokens, starts, lengths)
        return np.asarray(losses)

    def backward(self, grads, params, const int32_t[::1] tokens, const int64_t[::1] starts, const int32_t[::1] lengths):
        """grads [P] += the gradient of the mean of the documents' losses; returns these losses, float64 [B]."""
        cdef Py_ssize_t B = starts.shape[0], bad = -1
        cdef double[::1] losses = np.empty(B)
        cdef void *g = self.flat(grads, True, "grads")
        cdef void *p = self.flat(params, False, "params")
        if B == 0:
            return np.empty(0)
        cdef Workspace w = self.prepare(tokens, starts, lengths, B)
        with nogil:
            bad = gpt_backward(&self.tables, &losses[0], g, p, &tokens[0], &starts[0], &lengths[0], B, &self.config, w.memory, w.pool)
        self.end(w)
        self.check(bad, tokens, starts, lengths)
        return np.asarray(losses)

    def update(self, params, m, v, grads, double lr, adam, int64_t step, double divisor=1.0, double max_norm=0.0):
        """One step of AdamW with what `backward` has added to grads.

        Parameters
        ----------
        params, m, v, grads : dtype [P]
            Updated in place; grads become 0.
        lr : float
        adam : (beta1, beta2, eps, weight_decay)
        step : int
            Adam's count of this step, from 1.
        divisor : float
            The gradient is grads / divisor, as for the mean over so many batches.
        max_norm : float
            A gradient of a larger Euclidean norm is scaled down to this one; 0 for none.

        Returns
        -------
        norm : float
            The gradient's, before it is clipped; 0 where max_norm is 0.

        Raises
        ------
        ValueError
            With exact numerics.
        """
        cdef mgf_adam constants = mgf_adam(adam[0], adam[1], adam[2], adam[3])
        cdef void *p = self.flat(params, True, "params")
        cdef void *first = self.flat(m, True, "m")
        cdef void *second = self.flat(v, True, "v")
        cdef void *g = self.flat(grads, True, "grads")
        cdef double norm
        if self.tables.exact != NULL:
            raise ValueError("exact numerics have no updates of their own, only train_steps")
        cdef Workspace w = self.begin()
        with nogil:
            norm = gpt_update(&self.tables, p, first, second, g, lr, &constants, step, divisor, max_norm, &self.config, w.pool)
        self.end(w)
        return norm

    def decoder(self, params):
        """A Decoder for these parameters [P]; make a new one when they change."""
        return Decoder(self, params)

    def streams(self, params, Py_ssize_t size):
        """Streams for these parameters [P]; make new ones when they change. ValueError with exact numerics."""
        return Streams(self, params, size)
