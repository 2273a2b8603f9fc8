/* Makes the disk under one folder fail: loaded before the program (LD_PRELOAD), off until the flag file exists.
 *
 * CRASH_FOLDER  files under it are concerned, all others are left alone
 * CRASH_FLAG    while this file exists, its text is the fault:
 *   eio, enospc   every write fails
 *   short         every write takes half of what it is given, as write(2) may
 *   torn          one write takes half, those behind it fail (ENOSPC)
 *   stuck         the same, and what was written cannot be truncated away
 *   sync          every fsync and fdatasync fails (EIO)
 *   stall S       every write takes S seconds first; syncstall S: every fsync and fdatasync
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static int torn; /* half of a write was taken since the flag was set */

static int is(const char *fault, const char *name) { return strcmp(fault, name) == 0; }

/* The fault that holds for *fd* now, in *fault*, and its seconds; 0 if there is none. */
static int fault_of(int fd, char fault[16], double *seconds) {
    const char *folder = getenv("CRASH_FOLDER"), *flag = getenv("CRASH_FLAG");
    char link[64], path[4096], text[64];
    if (!folder || !flag) return 0;
    int file = syscall(SYS_openat, AT_FDCWD, flag, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        torn = 0;
        return 0;
    }
    ssize_t length = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    if (length <= 0) return 0;
    text[length] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, folder, strlen(folder)) != 0) return 0;
    *seconds = 0;
    return sscanf(text, "%15s %lf", fault, seconds) >= 1;
}

static void stall(double seconds) {
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {}
}

/* How many of *count* bytes a write may take; -1 with errno if it fails. */
static ssize_t allowed(int fd, size_t count) {
    char fault[16];
    double seconds;
    int before = errno;
    ssize_t taken = (ssize_t)count;
    if (!fault_of(fd, fault, &seconds)) {
        errno = before;
        return taken;
    }
    errno = before;
    if (is(fault, "stall")) {
        stall(seconds);
    } else if (is(fault, "short")) {
        taken = count > 1 ? (ssize_t)(count / 2) : taken;
    } else if (is(fault, "eio")) {
        errno = EIO;
        taken = -1;
    } else if (is(fault, "enospc") || ((is(fault, "torn") || is(fault, "stuck")) && (torn || count < 2))) {
        errno = ENOSPC;
        taken = -1;
    } else if (is(fault, "torn") || is(fault, "stuck")) {
        torn = 1;
        taken = (ssize_t)(count / 2);
    }
    return taken;
}

ssize_t write(int fd, const void *data, size_t count) {
    ssize_t taken = allowed(fd, count);
    return taken < 0 ? -1 : syscall(SYS_write, fd, data, (size_t)taken);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t at) {
    ssize_t taken = allowed(fd, count);
    return taken < 0 ? -1 : syscall(SYS_pwrite64, fd, data, (size_t)taken, at);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t at) { return pwrite64(fd, data, count, at); }

static int synced(int fd, long call) {
    char fault[16];
    double seconds;
    int before = errno;
    if (fault_of(fd, fault, &seconds)) {
        if (is(fault, "syncstall")) stall(seconds);
        if (is(fault, "sync")) {
            errno = EIO;
            return -1;
        }
    }
    errno = before;
    return (int)syscall(call, fd);
}

int fsync(int fd) { return synced(fd, SYS_fsync); }

int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int ftruncate64(int fd, off64_t length) {
    char fault[16];
    double seconds;
    int before = errno;
    if (fault_of(fd, fault, &seconds) && is(fault, "stuck")) {
        errno = EIO;
        return -1;
    }
    errno = before;
    return (int)syscall(SYS_ftruncate, fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }
