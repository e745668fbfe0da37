/* A disk that fails on purpose: preloaded (LD_PRELOAD), it counts the calls that change what lies
   below one folder, and makes some of them fail.

   FAULTS_ROOT   the folder; calls on anything else pass through uncounted
   FAULTS_FILE   a text file, read at every call so that it can be changed while a server runs:
                 KIND FIRST COUNT SHARE SEED
                 KIND is none, eio, enospc, short (half is written, and that is said) or torn (half
                 is written, and EIO is said). The calls FIRST to FIRST + COUNT - 1 of a process
                 fail, or, if SHARE is not 0, so many of a million from FIRST on, by SEED.

   A program that loads this can do without the file: faults_arm and faults_count are exported, and
   faults_hook, which is called before each counted call with its name and path. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, EIO_KIND, ENOSPC_KIND, SHORT, TORN };
static const char *const KINDS[] = {"none", "eio", "enospc", "short", "torn"};

struct plan {
    enum kind kind;
    long first, count, share, seed;
};

typedef void (*hook)(const char *call, const char *path, const char *other);

static struct plan armed;
static atomic_long counter;
static atomic_long failed;
static hook told;
static __thread int inside;

void faults_arm(const char *kind, long first, long count) {
    armed = (struct plan){NONE, first, count, 0, 0};
    for (int i = 0; i < 5; i++)
        if (!strcmp(kind, KINDS[i])) armed.kind = i;
    counter = 0;
    failed = 0;
}
long faults_count(void) { return counter; }
long faults_failed(void) { return failed; }
void faults_hook(hook call) { told = call; }

static struct plan plan_now(void) {
    const char *file = getenv("FAULTS_FILE");
    if (!file) return armed;
    struct plan plan = {NONE, 0, 0, 0, 0};
    char text[200] = "", kind[16] = "";
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return plan;
    long size = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (size <= 0) return plan;
    if (sscanf(text, "%15s %ld %ld %ld %ld", kind, &plan.first, &plan.count, &plan.share,
               &plan.seed) < 5)
        return plan;
    for (int i = 0; i < 5; i++)
        if (!strcmp(kind, KINDS[i])) plan.kind = i;
    return plan;
}

/* splitmix64, so that a seed chooses the same calls again */
static uint64_t mixed(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int is_ours(const char *path) {
    const char *root = getenv("FAULTS_ROOT");
    size_t length = root ? strlen(root) : 0;
    return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* How this call is to fail, after it has been counted and told. */
static enum kind fate(const char *call, const char *path, const char *other) {
    if (inside || !is_ours(path)) return NONE;
    int keep = errno;
    struct plan plan = plan_now();
    long number = atomic_fetch_add(&counter, 1);
    if (told) {
        inside = 1;
        told(call, path, other);
        inside = 0;
    }
    int fails = plan.share ? number >= plan.first && (long)(mixed(plan.seed ^ (uint64_t)number << 20) %
                                                            1000000) < plan.share
                           : number >= plan.first && number < plan.first + plan.count;
    enum kind kind = fails ? plan.kind : NONE;
    if (kind != NONE) atomic_fetch_add(&failed, 1);
    errno = keep;
    return kind;
}

static int refuse(enum kind kind) {
    errno = kind == ENOSPC_KIND ? ENOSPC : EIO;
    return -1;
}

static const char *path_of(int fd, char *buffer) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, buffer, PATH_MAX - 1);
    buffer[size < 0 ? 0 : size] = 0;
    return buffer;
}

static const char *absolute(const char *path, char *buffer) {
    if (path[0] == '/') return path;
    if (!getcwd(buffer, PATH_MAX / 2)) return path;
    strncat(buffer, "/", PATH_MAX - strlen(buffer) - 1);
    strncat(buffer, path, PATH_MAX - strlen(buffer) - 1);
    return buffer;
}

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* What a write does with its fate: `all` and `half` are the calls. */
#define WRITING(fd, size, all, half)                            \
    do {                                                        \
        char buffer[PATH_MAX];                                  \
        enum kind kind = fate("write", path_of(fd, buffer), 0); \
        if (kind == NONE) return all;                           \
        if (kind < SHORT || (size) < 2) return refuse(kind);    \
        ssize_t done = half;                                    \
        return kind == TORN ? refuse(kind) : done;              \
    } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    WRITING(fd, size, real(fd, data, size), real(fd, data, size / 2));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    WRITING(fd, size, real(fd, data, size, at), real(fd, data, size / 2, at));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    WRITING(fd, size, real(fd, data, size, at), real(fd, data, size / 2, at));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    WRITING(fd, (size_t)count, real(fd, parts, count), real(fd, parts, count / 2));
}

#define SIMPLE(call, path, other, made)                         \
    do {                                                        \
        enum kind kind = fate(call, path, other);               \
        return kind == NONE ? made : refuse(kind);              \
    } while (0)

int fsync(int fd) {
    REAL(int, "fsync", int);
    char buffer[PATH_MAX];
    SIMPLE("fsync", path_of(fd, buffer), 0, real(fd));
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    char buffer[PATH_MAX];
    SIMPLE("fsync", path_of(fd, buffer), 0, real(fd));
}

int ftruncate(int fd, off_t size) {
    REAL(int, "ftruncate", int, off_t);
    char buffer[PATH_MAX];
    SIMPLE("truncate", path_of(fd, buffer), 0, real(fd, size));
}

int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    char buffer[PATH_MAX];
    SIMPLE("truncate", path_of(fd, buffer), 0, real(fd, size));
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    char first[PATH_MAX], second[PATH_MAX];
    SIMPLE("rename", absolute(from, first), absolute(to, second), real(from, to));
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    char first[PATH_MAX], second[PATH_MAX];
    SIMPLE("rename", absolute(from, first), absolute(to, second), real(from_fd, from, to_fd, to));
}

int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    char first[PATH_MAX], second[PATH_MAX];
    SIMPLE("link", absolute(from, first), absolute(to, second), real(from, to));
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    char buffer[PATH_MAX];
    SIMPLE("mkdir", absolute(path, buffer), 0, real(path, mode));
}

/* Only what makes files: reading is not what a full disk refuses. */
#define OPENING(name, pass, ...)                                                   \
    mode_t mode = 0;                                                               \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                         \
        va_list rest;                                                              \
        va_start(rest, flags);                                                     \
        mode = va_arg(rest, mode_t);                                               \
        va_end(rest);                                                              \
    }                                                                              \
    REAL(int, name, __VA_ARGS__);                                                  \
    if (!(flags & O_CREAT)) return pass;                                           \
    char buffer[PATH_MAX];                                                         \
    SIMPLE("open", absolute(path, buffer), 0, pass)

int open(const char *path, int flags, ...) {
    OPENING("open", real(path, flags, mode), const char *, int, ...);
}

int open64(const char *path, int flags, ...) {
    OPENING("open64", real(path, flags, mode), const char *, int, ...);
}

int openat(int fd, const char *path, int flags, ...) {
    OPENING("openat", real(fd, path, flags, mode), int, const char *, int, ...);
}

int openat64(int fd, const char *path, int flags, ...) {
    OPENING("openat64", real(fd, path, flags, mode), int, const char *, int, ...);
}
