/* Faults of the disk and of the clock, for one process: loaded before the C library (LD_PRELOAD).
 *
 * What files in the directory $FAULT_SHIM say holds from then on, until they are gone:
 *   fsync   fsync and fdatasync fail with this errno
 *   pwrite  pwrite fails with this errno
 *   clock   the wall clock is off by so many seconds
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long told(const char *name) {
    const char *directory = getenv("FAULT_SHIM");
    char path[512];
    long value = 0;
    FILE *file;
    if (directory == NULL || snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path ||
        access(path, R_OK) != 0 || (file = fopen(path, "r")) == NULL)
        return 0;
    if (fscanf(file, "%ld", &value) != 1)
        value = 0;
    fclose(file);
    return value;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF_TOLD(name)           \
    do {                             \
        long code = told(name);      \
        if (code) {                  \
            errno = (int)code;       \
            return -1;               \
        }                            \
    } while (0)

int fsync(int fd) {
    FAIL_IF_TOLD("fsync");
    return REAL(fsync)(fd);
}

int fdatasync(int fd) {
    FAIL_IF_TOLD("fsync");
    return REAL(fdatasync)(fd);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    FAIL_IF_TOLD("pwrite");
    return REAL(pwrite)(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    FAIL_IF_TOLD("pwrite");
    return REAL(pwrite64)(fd, data, size, offset);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int status = REAL(clock_gettime)(clock, time);
    if (clock == CLOCK_REALTIME)
        time->tv_sec += told("clock");
    return status;
}

int gettimeofday(struct timeval *time, void *zone) {
    int status = REAL(gettimeofday)(time, zone);
    time->tv_sec += told("clock");
    return status;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}
