/* Counts the calls of the C library that change files below one folder, and lets the n-th of them fail.

   Loaded by LD_PRELOAD (benchmarks/faults.py), so that Python, Arrow, safetensors, NumPy and DuckDB meet the same
   faults, and code that is not under test pays for nothing. What is counted is shared with forked processes. */

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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { COUNT, FAIL_ONCE, FAIL_FROM, KILL };
enum sort { TAKES_SPACE, FREES_SPACE, SYNCS };

#define DIRTY 4096

struct shared {
    atomic_int armed;
    atomic_long calls, fired;
    long at;
    int mode, error;
    char root[PATH_MAX];
    size_t root_length;
    atomic_int dirty_count;
    ino_t dirty[DIRTY]; /* files written and not synced since; 0: none */
};

static struct shared *shared;

__attribute__((constructor)) static void begin(void) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void faults_arm(const char *root, long at, int mode, int error) {
    shared->calls = shared->fired = 0;
    shared->at = at, shared->mode = mode, shared->error = error;
    shared->root_length = strlen(root);
    strncpy(shared->root, root, PATH_MAX - 1);
    shared->dirty_count = 0;
    shared->armed = 1;
}

void faults_disarm(void) { shared->armed = 0; }
long faults_calls(void) { return shared->calls; }
long faults_fired(void) { return shared->fired; }

int faults_is_dirty(ino_t inode) {
    for (int place = 0; place < shared->dirty_count && place < DIRTY; place++)
        if (shared->dirty[place] == inode) return 1;
    return 0;
}

static int is_below(const char *path) {
    return strncmp(path, shared->root, shared->root_length) == 0;
}

static int of_descriptor(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static int of_path(int folder, const char *path) {
    char here[PATH_MAX];
    if (path == NULL) return 0;
    if (path[0] == '/') return is_below(path);
    if (folder == AT_FDCWD) return getcwd(here, sizeof here) != NULL && is_below(here);
    return of_descriptor(folder);
}

/* 0: the call goes on; 1: it fails with errno; 2: it is the one before which the process group ends. */
static int fault(int below, enum sort sort) {
    if (!below) return 0;
    long call = ++shared->calls;
    int due = shared->mode == FAIL_FROM ? call >= shared->at && sort == TAKES_SPACE : call == shared->at;
    if (!due || shared->mode == COUNT) return 0;
    shared->fired++;
    if (shared->mode == KILL) return 2;
    errno = shared->error;
    return 1;
}

static void end(void) {
    shared->armed = 0;
    kill(0, SIGKILL);
    pause();
}

static void mark(int descriptor, int written) {
    struct stat found;
    if (fstat(descriptor, &found) != 0 || !S_ISREG(found.st_mode)) return;
    for (int place = 0; place < shared->dirty_count && place < DIRTY; place++)
        if (shared->dirty[place] == found.st_ino) {
            if (!written) shared->dirty[place] = 0;
            return;
        }
    if (written && shared->dirty_count < DIRTY) shared->dirty[shared->dirty_count++] = found.st_ino;
}

#define ARMED (shared != NULL && shared->armed)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* A call on a path: what it is, its parameters, their names, whether it is below the root, and whether it takes space. */
#define ON_PATH(name, parameters, arguments, below, sort)          \
    int name parameters {                                          \
        static __typeof__(&name) real;                             \
        if (real == NULL) real = REAL(name);                       \
        int what = ARMED ? fault(below, sort) : 0;                 \
        if (what == 2) end();                                      \
        return what ? -1 : real arguments;                         \
    }

ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), of_path(AT_FDCWD, path), TAKES_SPACE)
ON_PATH(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), of_path(at, path), TAKES_SPACE)
ON_PATH(unlink, (const char *path), (path), of_path(AT_FDCWD, path), FREES_SPACE)
ON_PATH(unlinkat, (int at, const char *path, int flags), (at, path, flags), of_path(at, path), FREES_SPACE)
ON_PATH(rmdir, (const char *path), (path), of_path(AT_FDCWD, path), FREES_SPACE)
ON_PATH(rename, (const char *from, const char *to), (from, to), of_path(AT_FDCWD, from), TAKES_SPACE)
ON_PATH(renameat, (int at, const char *from, int there, const char *to), (at, from, there, to), of_path(at, from),
        TAKES_SPACE)
ON_PATH(renameat2, (int at, const char *from, int there, const char *to, unsigned flags), (at, from, there, to, flags),
        of_path(at, from), TAKES_SPACE)
ON_PATH(link, (const char *from, const char *to), (from, to), of_path(AT_FDCWD, to), TAKES_SPACE)
ON_PATH(symlink, (const char *from, const char *to), (from, to), of_path(AT_FDCWD, to), TAKES_SPACE)
ON_PATH(chmod, (const char *path, mode_t mode), (path, mode), of_path(AT_FDCWD, path), FREES_SPACE)
ON_PATH(fchmod, (int file, mode_t mode), (file, mode), of_descriptor(file), FREES_SPACE)
ON_PATH(ftruncate, (int file, off_t size), (file, size), of_descriptor(file), TAKES_SPACE)
ON_PATH(ftruncate64, (int file, off64_t size), (file, size), of_descriptor(file), TAKES_SPACE)
ON_PATH(fallocate, (int file, int mode, off_t from, off_t size), (file, mode, from, size), of_descriptor(file),
        TAKES_SPACE)

#define ON_SYNC(name)                                              \
    int name(int file) {                                           \
        static __typeof__(&name) real;                             \
        if (real == NULL) real = REAL(name);                       \
        int what = ARMED ? fault(of_descriptor(file), SYNCS) : 0;  \
        if (what == 2) end();                                      \
        if (what) return -1;                                       \
        int done = real(file);                                     \
        if (done == 0 && ARMED) mark(file, 0);                     \
        return done;                                               \
    }

ON_SYNC(fsync)
ON_SYNC(fdatasync)

/* A write: where the process ends, half of it is done before. */
#define ON_WRITE(name, parameters, arguments, half)                          \
    ssize_t name parameters {                                                \
        static __typeof__(&name) real;                                       \
        if (real == NULL) real = REAL(name);                                 \
        int below = ARMED && of_descriptor(file);                            \
        int what = below ? fault(below, TAKES_SPACE) : 0;                    \
        if (below && what != 1) mark(file, 1);                               \
        if (what == 2) {                                                     \
            (void)!real half;                                                \
            end();                                                           \
        }                                                                    \
        return what ? -1 : real arguments;                                   \
    }

ON_WRITE(write, (int file, const void *from, size_t size), (file, from, size), (file, from, size / 2))
ON_WRITE(pwrite, (int file, const void *from, size_t size, off_t to), (file, from, size, to), (file, from, size / 2, to))
ON_WRITE(pwrite64, (int file, const void *from, size_t size, off64_t to), (file, from, size, to),
         (file, from, size / 2, to))
ON_WRITE(writev, (int file, const struct iovec *parts, int count), (file, parts, count), (file, parts, count / 2))
ON_WRITE(pwritev, (int file, const struct iovec *parts, int count, off_t to), (file, parts, count, to),
         (file, parts, count / 2, to))

size_t fwrite(const void *from, size_t size, size_t count, FILE *stream) {
    static __typeof__(&fwrite) real;
    if (real == NULL) real = REAL(fwrite);
    int below = ARMED && of_descriptor(fileno(stream));
    int what = below ? fault(below, TAKES_SPACE) : 0;
    if (below && what != 1) mark(fileno(stream), 1);
    if (what == 2) {
        (void)!real(from, size, count / 2, stream);
        fflush(stream);
        end();
    }
    return what ? 0 : real(from, size, count, stream);
}

/* Opening a file to make or empty it. */
#define ON_OPEN(name, parameters, before, at)                                \
    int name parameters {                                                    \
        static __typeof__(&name) real;                                       \
        if (real == NULL) real = REAL(name);                                 \
        mode_t mode = 0;                                                     \
        if (flags & (O_CREAT | O_TMPFILE)) {                                 \
            va_list more;                                                    \
            va_start(more, flags);                                           \
            mode = va_arg(more, mode_t);                                     \
            va_end(more);                                                    \
        }                                                                    \
        int changes = (flags & (O_CREAT | O_TRUNC)) != 0;                    \
        int what = ARMED && changes ? fault(of_path(at, path), TAKES_SPACE) : 0; \
        if (what == 2) end();                                                \
        return what ? -1 : real before;                                      \
    }

ON_OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
ON_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
ON_OPEN(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode), folder)
ON_OPEN(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode), folder)
