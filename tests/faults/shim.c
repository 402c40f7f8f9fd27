/* Loaded before the C library (LD_PRELOAD): one call about files below a folder fails, or all from one on; or a write is
 * short. Calls are counted from 1 between faults_begin and faults_end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[4096];
static long calls, at;
static int code, is_short, lasts;
static const char *hit = "";

void faults_begin(const char *folder, long number, int error, int shortened, int all_later) {
    calls = 0, at = number, code = error, is_short = shortened, lasts = all_later, hit = "";
    snprintf(root, sizeof root, "%s/", folder);
}
long faults_end(void) {
    root[0] = 0;
    return calls;
}
const char *faults_hit(void) { return hit; }

static int below(const char *path) { return root[0] && path && strncmp(path, root, strlen(root)) == 0; }
static int opened_below(int descriptor) {
    char name[64], path[4096];
    if (!root[0]) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* whether this call is to fail */
static int fails(const char *name) {
    calls++;
    if (!at || calls < at || (calls > at && !lasts)) return 0;
    if (!hit[0]) hit = name;
    errno = code;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define PATH_CALL(name, arguments, parameters)                                                                             \
    int name parameters { return below(path) && fails(#name) ? -1 : REAL(name) arguments; }
#define DESCRIPTOR_CALL(name, arguments, parameters)                                                                       \
    int name parameters { return opened_below(fd) && fails(#name) ? -1 : REAL(name) arguments; }
#define OPEN_CALL(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                           \
        va_list more;                                                                                                      \
        va_start(more, flags);                                                                                             \
        mode_t mode = va_arg(more, mode_t);                                                                                \
        va_end(more);                                                                                                      \
        return below(path) && fails(#name) ? -1 : REAL(name)(path, flags, mode);                                           \
    }
OPEN_CALL(open)
OPEN_CALL(open64)
PATH_CALL(rename, (path, to), (const char *path, const char *to))
PATH_CALL(mkdir, (path, mode), (const char *path, mode_t mode))
PATH_CALL(unlink, (path), (const char *path))
PATH_CALL(rmdir, (path), (const char *path))
DESCRIPTOR_CALL(fsync, (fd), (int fd))
DESCRIPTOR_CALL(ftruncate, (fd, length), (int fd, off_t length))
DESCRIPTOR_CALL(ftruncate64, (fd, length), (int fd, off64_t length))
DESCRIPTOR_CALL(flock, (fd, operation), (int fd, int operation))

ssize_t write(int fd, const void *bytes, size_t count) {
    if (opened_below(fd) && fails("write")) {
        if (!is_short) return -1;
        count = (count + 1) / 2;
    }
    return REAL(write)(fd, bytes, count);
}
int close(int fd) {
    int is_ours = opened_below(fd), result = REAL(close)(fd);
    return is_ours && fails("close") ? -1 : result;
}
