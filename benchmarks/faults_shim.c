/* Preloaded into a training run (LD_PRELOAD): a disk that errors, and a clock that jumps.
 *
 * FAULTS_CONTROL names a file of struct control, which faults_runs.py writes while the run is under way, FAULTS_FOLDER the
 * folder whose files are hit.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, FSYNC = 2, RENAME = 4 };

/* Seconds that the clock is wrong by; the calls that fail, how many pass before, how many fail, how many have failed. */
static struct control { int64_t jump, calls, pass, fail, failed; } *control;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(real))dlsym(RTLD_NEXT, #name)

static struct control *controlled(void)
{
    const char *path = control ? NULL : getenv("FAULTS_CONTROL");
    if (path) {
        int fd = open(path, O_RDWR);
        void *found = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        control = found == MAP_FAILED ? NULL : found;
        close(fd);
    }
    return control;
}

static int fails(int call, const char *path)
{
    const char *folder = getenv("FAULTS_FOLDER");
    if (!controlled() || !(control->calls & call) || !folder || strncmp(path, folder, strlen(folder)))
        return 0;
    if (control->pass > 0)
        return control->pass--, 0;
    if (control->fail <= 0)
        return 0;
    control->fail--, control->failed++;
    errno = EIO;
    return 1;
}

static int fails_on(int call, int fd)
{
    char link[64], path[4096];
    if (!controlled() || !(control->calls & call))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(call, path);
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    return fails_on(WRITE, fd) ? -1 : real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    return fails_on(WRITE, fd) ? -1 : real(fd, parts, count);
}

int fsync(int fd)
{
    REAL(fsync);
    return fails_on(FSYNC, fd) ? -1 : real(fd);
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    return fails(RENAME, to) ? -1 : real(from, to);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    REAL(clock_gettime);
    int code = real(clock, now);
    if (!code && clock == CLOCK_REALTIME && controlled())
        now->tv_sec += control->jump;
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    REAL(gettimeofday);
    int code = real(now, zone);
    if (!code && controlled())
        now->tv_sec += control->jump;
    return code;
}

time_t time(time_t *now)
{
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now)
        *now = found.tv_sec;
    return found.tv_sec;
}
