/* Preloaded into a training run: a disk that errors, and a clock that jumps.
 * FAULTS_CONTROL names a file of struct control that faults_runs.py writes meanwhile, FAULTS_FOLDER what is hit. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, FSYNC = 2, RENAME = 4 };

/* Seconds that the clock is wrong by; which calls fail, how many pass before, how many fail, how many have failed. */
static struct control { int64_t jump, calls, pass, fail, failed; } *control;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int controlled(void)
{
    const char *path = control ? NULL : getenv("FAULTS_CONTROL");
    if (path) {
        int fd = open(path, O_RDWR);
        void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        control = found == MAP_FAILED ? NULL : found;
        close(fd);
    }
    return control != NULL;
}

/* Of a call on an open file the path is NULL. */
static int fails(int call, int fd, const char *path)
{
    char link[64], target[4096] = "";
    const char *folder = getenv("FAULTS_FOLDER");
    if (!folder || !controlled() || !(control->calls & call))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (!path && readlink(link, target, sizeof target - 1) < 0)
        return 0;
    if (strncmp(path ? path : target, folder, strlen(folder)) || control->pass-- > 0 || control->fail-- <= 0)
        return 0;
    control->failed++;
    errno = EIO;
    return 1;
}

ssize_t write(int fd, const void *data, size_t size)
{
    return fails(WRITE, fd, NULL) ? -1 : REAL(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return fails(WRITE, fd, NULL) ? -1 : REAL(writev)(fd, parts, count);
}

int fsync(int fd)
{
    return fails(FSYNC, fd, NULL) ? -1 : REAL(fsync)(fd);
}

int rename(const char *from, const char *to)
{
    return fails(RENAME, -1, to) ? -1 : REAL(rename)(from, to);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static __typeof__(&clock_gettime) real;
    real = real ? real : REAL(clock_gettime);
    int code = real(clock, now);
    if (!code && clock == CLOCK_REALTIME && controlled())
        now->tv_sec += control->jump;
    return code;
}
