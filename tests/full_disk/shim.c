/* A disk that is full from the k-th call on that asks it for room, for every file below one folder.

   Loaded with LD_PRELOAD. fulldisk_arm(folder, k): the k-th such call (from 1; 0: count only) fails with ENOSPC, and so
   does every later one until room is made: a file that holds something is shortened or removed. A renaming needs no
   room, so the k-th call may be one, and later ones work. fulldisk_disarm() gives the number of calls so far.
   A process that is started with FULLDISK="k folder" in its environment begins armed, and counts its own calls. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static long calls, fail_at;
static int armed, full;
static char trace[1 << 20];
static size_t traced;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void fulldisk_arm(const char *folder, long k) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root), calls = 0, fail_at = k, full = 0, traced = 0, trace[0] = 0, armed = 1;
}

__attribute__((constructor)) static void from_the_start(void) {
    const char *asked = getenv("FULLDISK"), *folder = asked ? strchr(asked, ' ') : NULL;
    if (folder) fulldisk_arm(folder + 1, atol(asked));
}

long fulldisk_disarm(void) { armed = 0; return calls; }
const char *fulldisk_trace(void) { return trace; } /* "call path\n" of every call */

static int below(const char *path) { return strncmp(path, root, root_length) == 0; }

static int full_path(int folder, const char *path, char *found) {
    char at[64];
    ssize_t n;
    if (path[0] == '/') return snprintf(found, PATH_MAX, "%s", path) > 0;
    if (folder == AT_FDCWD) { if (!getcwd(found, PATH_MAX)) return 0; }
    else {
        snprintf(at, sizeof at, "/proc/self/fd/%d", folder);
        if ((n = readlink(at, found, PATH_MAX - 1)) < 0) return 0;
        found[n] = 0;
    }
    size_t used = strlen(found);
    return snprintf(found + used, PATH_MAX - used, "/%s", path) > 0;
}

static int of_file(int fd, char *found) {
    char at[64];
    struct stat held;
    snprintf(at, sizeof at, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(at, found, PATH_MAX - 1);
    if (n < 0 || fstat(fd, &held) || !S_ISREG(held.st_mode)) return 0;
    return found[n] = 0, 1;
}

/* Whether a call that asks for room at a place fails. */
static int refused(const char *call, const char *path, int takes_room) {
    int saved = errno, fails;
    if (!below(path)) return errno = saved, 0;
    pthread_mutex_lock(&lock);
    calls++;
    if (traced + strlen(path) + 32 < sizeof trace) traced += sprintf(trace + traced, "%s %s\n", call, path);
    fails = calls == fail_at || (full && takes_room);
    if (calls == fail_at && takes_room) full = 1;
    pthread_mutex_unlock(&lock);
    errno = fails ? ENOSPC : saved;
    return fails;
}

static void room(long size) { if (size > 0) full = 0; }

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)

static int opens(int folder, const char *path, int flags) {
    char whole[PATH_MAX];
    struct stat held;
    if (!armed || !(flags & O_CREAT) || !full_path(folder, path, whole)) return 0;
    if (stat(whole, &held) == 0) { if ((flags & O_TRUNC) && below(whole)) room(held.st_size); return 0; }
    return refused("create", whole, 1);
}
#define MODE int mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list l; va_start(l, flags); mode = va_arg(l, int); va_end(l); }
int open(const char *p, int flags, ...) { REAL(open); MODE return opens(AT_FDCWD, p, flags) ? -1 : real(p, flags, mode); }
int open64(const char *p, int flags, ...) { REAL(open64); MODE return opens(AT_FDCWD, p, flags) ? -1 : real(p, flags, mode); }
int openat(int d, const char *p, int flags, ...) { REAL(openat); MODE return opens(d, p, flags) ? -1 : real(d, p, flags, mode); }
int openat64(int d, const char *p, int flags, ...) { REAL(openat64); MODE return opens(d, p, flags) ? -1 : real(d, p, flags, mode); }
FILE *fopen(const char *p, const char *m) { REAL(fopen); return opens(AT_FDCWD, p, strpbrk(m, "wa") ? O_CREAT : 0) ? NULL : real(p, m); }
FILE *fopen64(const char *p, const char *m) { REAL(fopen64); return opens(AT_FDCWD, p, strpbrk(m, "wa") ? O_CREAT : 0) ? NULL : real(p, m); }

static int on_path(const char *call, int folder, const char *path, int takes_room) {
    char whole[PATH_MAX];
    return armed && full_path(folder, path, whole) && refused(call, whole, takes_room);
}
int mkdir(const char *p, mode_t m) { REAL(mkdir); return access(p, F_OK) && on_path("mkdir", AT_FDCWD, p, 1) ? -1 : real(p, m); }
int mkdirat(int d, const char *p, mode_t m) { REAL(mkdirat); return faccessat(d, p, F_OK, 0) && on_path("mkdir", d, p, 1) ? -1 : real(d, p, m); }
int link(const char *a, const char *b) { REAL(link); return on_path("link", AT_FDCWD, b, 0) ? -1 : real(a, b); }
int linkat(int c, const char *a, int d, const char *b, int f) { REAL(linkat); return on_path("link", d, b, 0) ? -1 : real(c, a, d, b, f); }
int rename(const char *a, const char *b) { REAL(rename); return on_path("rename", AT_FDCWD, b, 0) ? -1 : real(a, b); }
int renameat(int c, const char *a, int d, const char *b) { REAL(renameat); return on_path("rename", d, b, 0) ? -1 : real(c, a, d, b); }

/* Bytes that the k-th call still writes: all but the last, as a disk does that fills up. Later ones fail. */
static size_t taken(int fd, size_t n) {
    char whole[PATH_MAX];
    if (!armed || !of_file(fd, whole) || !refused("write", whole, 1)) return n;
    int now = calls == fail_at && n > 1;
    return now ? n - 1 : 0;
}
#define WRITES(done) size_t left = taken(fd, n); return n && !left ? (errno = ENOSPC, -1) : done

static int on_file(const char *call, int fd) {
    char whole[PATH_MAX];
    return armed && of_file(fd, whole) && refused(call, whole, 1);
}
ssize_t write(int fd, const void *b, size_t n) { REAL(write); WRITES(real(fd, b, left)); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { REAL(pwrite); WRITES(real(fd, b, left, o)); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { REAL(pwrite64); WRITES(real(fd, b, left, o)); }
ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev); return on_file("write", fd) ? -1 : real(fd, v, n); }
ssize_t sendfile(int a, int b, off_t *o, size_t n) { REAL(sendfile); return on_file("write", a) ? -1 : real(a, b, o, n); }
ssize_t sendfile64(int a, int b, off64_t *o, size_t n) { REAL(sendfile64); return on_file("write", a) ? -1 : real(a, b, o, n); }
ssize_t copy_file_range(int a, off64_t *p, int b, off64_t *q, size_t n, unsigned f) { REAL(copy_file_range); return on_file("write", b) ? -1 : real(a, p, b, q, n, f); }
int fsync(int fd) { REAL(fsync); return on_file("fsync", fd) ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync); return on_file("fsync", fd) ? -1 : real(fd); }
int posix_fallocate(int fd, off_t o, off_t n) { REAL(posix_fallocate); return on_file("grow", fd) ? ENOSPC : real(fd, o, n); }
int posix_fallocate64(int fd, off64_t o, off64_t n) { REAL(posix_fallocate64); return on_file("grow", fd) ? ENOSPC : real(fd, o, n); }

static int grows(int fd, long size) {
    struct stat held;
    if (!armed || fstat(fd, &held)) return 0;
    if (size > held.st_size) return on_file("grow", fd);
    char whole[PATH_MAX];
    if (of_file(fd, whole) && below(whole)) room(held.st_size - size);
    return 0;
}
int ftruncate(int fd, off_t size) { REAL(ftruncate); return grows(fd, size) ? -1 : real(fd, size); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); return grows(fd, size) ? -1 : real(fd, size); }

static void removes(int folder, const char *path, long left) {
    char whole[PATH_MAX];
    struct stat held;
    if (armed && full_path(folder, path, whole) && below(whole) && stat(whole, &held) == 0 && S_ISREG(held.st_mode))
        room(held.st_size - left);
}
int truncate(const char *p, off_t size) { REAL(truncate); removes(AT_FDCWD, p, size); return real(p, size); }
int truncate64(const char *p, off64_t size) { REAL(truncate64); removes(AT_FDCWD, p, size); return real(p, size); }
int unlink(const char *p) { REAL(unlink); removes(AT_FDCWD, p, 0); return real(p); }
int unlinkat(int d, const char *p, int f) { REAL(unlinkat); removes(d, p, 0); return real(d, p, f); }
