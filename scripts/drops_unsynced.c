/* A disk that loses at a power cut whatever was not synced, for scripts/chaos.py: preloaded into fusiond, it copies the store's files
 * to SYNCED_FOLDER at each sync, before the sync returns; files deleted go when their folder is synced. What is there when the process
 * is killed is what such a disk would still have. With SYNC_LIES set, only the first syncs are true: then losses must be found, or the check is worth nothing. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRUE_SYNCS = 40 };

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* Reads through the descriptor itself: closing another one of the same file would drop SQLite's locks. */
static void copy(int from, const char *to) {
    char draft[2 * PATH_MAX + 8], buffer[1 << 16];
    snprintf(draft, sizeof draft, "%s.draft", to);
    int out = open(draft, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (out < 0)
        abort();
    off_t at = 0;
    ssize_t got;
    while ((got = pread(from, buffer, sizeof buffer, at)) > 0) {
        if (write(out, buffer, got) != got)
            abort();
        at += got;
    }
    close(out);
    if (got < 0 || rename(draft, to) != 0)
        abort();
}

/* Forgets the files that are no longer in the folder. */
static void forget_deleted(const char *folder, const char *synced) {
    DIR *files = opendir(synced);
    for (struct dirent *file; files != NULL && (file = readdir(files)) != NULL;) {
        char path[2 * PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", folder, file->d_name);
        if (access(path, F_OK) != 0)
            unlinkat(dirfd(files), file->d_name, 0);
    }
    if (files != NULL)
        closedir(files);
}

static void keep(int fd) {
    static int syncs;
    const char *synced = getenv("SYNCED_FOLDER");
    char link[64], path[PATH_MAX], other[2 * PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (synced == NULL || length <= 0)
        return;
    path[length] = 0;
    struct stat file;
    if (fstat(fd, &file) != 0)
        return;
    const char *name = strrchr(path, '/');
    pthread_mutex_lock(&one_at_a_time);
    if (S_ISDIR(file.st_mode)) {
        snprintf(other, sizeof other, "%s/fusiond.sqlite", path);
        if (access(other, F_OK) == 0)
            forget_deleted(path, synced);
    } else if (name != NULL && strncmp(name, "/fusiond.sqlite", 15) == 0) {
        snprintf(other, sizeof other, "%s%s", synced, name);
        if (getenv("SYNC_LIES") == NULL || syncs++ < TRUE_SYNCS)
            copy(fd, other);
    }
    pthread_mutex_unlock(&one_at_a_time);
}

static int sync_with(const char *name, int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    int result = real(fd);
    if (result == 0)
        keep(fd);
    return result;
}

int fsync(int fd) { return sync_with("fsync", fd); }

int fdatasync(int fd) { return sync_with("fdatasync", fd); }
