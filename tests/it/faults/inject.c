/* Makes one system call on a file below $FAULT_ROOT fail: call number $FAULT_AT of kind $FAULT_OP, with errno $FAULT_ERRNO;
 * if that is 0, the process is killed there.
 * At the end of the process the number of calls of each kind is appended to $FAULT_LOG. Preloaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { OPEN, READ, WRITE, SYNC, RENAME, MKDIR, OPS };
static const char *const NAMES[OPS] = {"open", "read", "write", "fsync", "rename", "mkdir"};
static atomic_long calls[OPS];
static const char *root;
static size_t root_length;
static int failing = -1, code;
static long at;

__attribute__((constructor)) static void begin(void) {
    root = getenv("FAULT_ROOT");
    root_length = root ? strlen(root) : 0;
    const char *op = getenv("FAULT_OP"), *number = getenv("FAULT_AT"), *error = getenv("FAULT_ERRNO");
    for (int i = 0; op && i < OPS; i++)
        if (!strcmp(op, NAMES[i])) failing = i;
    at = number ? atol(number) : 0;
    code = error ? atoi(error) : EIO;
}

__attribute__((destructor)) static void end(void) {
    const char *log = getenv("FAULT_LOG");
    int file = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    for (int i = 0; file >= 0 && i < OPS; i++) {
        char line[64];
        int length = snprintf(line, sizeof line, "%s %ld\n", NAMES[i], atomic_load(&calls[i]));
        if (syscall(SYS_write, file, line, length) < 0) break;
    }
    if (file >= 0) syscall(SYS_close, file);
}

/* Does this call fail? */
static int fails(enum op op) {
    long number = atomic_fetch_add(&calls[op], 1) + 1;
    if ((int)op != failing || number != at) return 0;
    if (!code) kill(getpid(), SIGKILL);
    errno = code;
    return 1;
}

static int below(const char *path) {
    char whole[PATH_MAX];
    if (!root) return 0;
    if (path[0] != '/') {
        if (syscall(SYS_getcwd, whole, sizeof whole) < 0) return 0;
        path = whole;
    }
    return !strncmp(path, root, root_length);
}

static int file_below(int file) {
    char link[64], path[PATH_MAX];
    if (!root) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return !strncmp(path, root, root_length);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static mode_t mode_of(int flags, va_list more) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = mode_of(flags, more);                                                                            \
        va_end(more);                                                                                                  \
        if (below(path) && fails(OPEN)) return -1;                                                                     \
        return NEXT(name)(path, flags, mode);                                                                          \
    }
OPENS(open)
OPENS(open64)

ssize_t read(int file, void *to, size_t bytes) {
    if (file_below(file) && fails(READ)) return -1;
    return NEXT(read)(file, to, bytes);
}

ssize_t pread64(int file, void *to, size_t bytes, off64_t from) {
    if (file_below(file) && fails(READ)) return -1;
    return NEXT(pread64)(file, to, bytes, from);
}

ssize_t write(int file, const void *from, size_t bytes) {
    if (file_below(file) && fails(WRITE)) return -1;
    return NEXT(write)(file, from, bytes);
}

ssize_t writev(int file, const struct iovec *from, int count) {
    if (file_below(file) && fails(WRITE)) return -1;
    return NEXT(writev)(file, from, count);
}

int fsync(int file) {
    if (file_below(file) && fails(SYNC)) return -1;
    return NEXT(fsync)(file);
}

int rename(const char *from, const char *to) {
    if (below(to) && fails(RENAME)) return -1;
    return NEXT(rename)(from, to);
}

int mkdir(const char *path, mode_t mode) {
    if (below(path) && fails(MKDIR)) return -1;
    return NEXT(mkdir)(path, mode);
}
