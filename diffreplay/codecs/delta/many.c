/* Many frames at once, on several cores: each thread takes the next frame until there is none left.
 *
 * Nobody waits for a thread that has not begun: it finds no frame left whenever it does, and touches nothing else. */
#define _GNU_SOURCE
#include "many.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORTH 300000 /* nanoseconds of coding for which a thread is started: that takes up to half of it */

typedef struct {
    const Index *index;
    const uint8_t *set, *frames;
    Blob *blobs;
    size_t count, room;
    size_t done, users; /* under `lock` */
    int failed;                /* likewise */
    atomic_size_t next;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} Work;

static int encode_one(Work *work, Workspace *workspace, uint8_t *out, size_t number) {
    const size_t room = index_shape(work->index)->frame_bytes;
    const ptrdiff_t size = encode_frame(work->index, workspace, work->set, work->frames + number * room, out, room);
    if (size < 0) return 0;
    Blob *blob = &work->blobs[number];
    blob->bytes = malloc(size ? (size_t)size : 1);
    if (!blob->bytes) return -1;
    memcpy(blob->bytes, out, (size_t)size);
    blob->size = (size_t)size;
    return 0;
}

static void encode_rest(Work *work, Workspace *workspace, uint8_t *out) {
    size_t done = 0;
    int failed = 0;
    for (size_t number; (number = atomic_fetch_add(&work->next, 1)) < work->count; done++)
        failed |= encode_one(work, workspace, out, number) < 0;
    pthread_mutex_lock(&work->lock);
    work->done += done;
    work->failed |= failed;
    pthread_cond_signal(&work->changed);
    pthread_mutex_unlock(&work->lock);
}

/* Leave the work; the last one frees it. */
static void leave(Work *work) {
    pthread_mutex_lock(&work->lock);
    const size_t users = --work->users;
    pthread_mutex_unlock(&work->lock);
    if (users) return;
    pthread_cond_destroy(&work->changed);
    pthread_mutex_destroy(&work->lock);
    free(work);
}

static void *help(void *argument) {
    Work *work = argument;
    Workspace *workspace = workspace_new();
    uint8_t *out = workspace ? malloc(work->room) : NULL;
    if (out) encode_rest(work, workspace, out);
    free(out);
    workspace_free(workspace);
    leave(work);
    return NULL;
}

static void start_helpers(Work *work, size_t helpers) {
    sigset_t all, before;
    pthread_attr_t detached;
    pthread_t thread;
    if (pthread_attr_init(&detached)) return;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for threads that Python knows */
    for (size_t k = 0; k < helpers; k++) {
        pthread_mutex_lock(&work->lock);
        work->users++;
        pthread_mutex_unlock(&work->lock);
        if (pthread_create(&thread, &detached, help, work)) { /* where the system gives no more, fewer do it */
            leave(work);
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
}

static size_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (size_t)now.tv_sec * 1000000000 + (size_t)now.tv_nsec;
}

int encode_many(const Index *index, Workspace *workspace, uint8_t *out, const uint8_t *set, const uint8_t *frames,
                size_t count, size_t helpers, Blob *blobs) {
    Work *work = malloc(sizeof(Work));
    if (!work) return -1;
    *work = (Work){.index = index, .set = set, .frames = frames, .blobs = blobs, .count = count, .users = 1,
                   .room = index_shape(index)->frame_bytes, .lock = PTHREAD_MUTEX_INITIALIZER,
                   .changed = PTHREAD_COND_INITIALIZER};
    if (count) {
        const size_t begin = nanoseconds();
        atomic_store(&work->next, 1);
        work->failed = encode_one(work, workspace, out, 0) < 0;
        work->done = 1;
        const size_t worth = (count - 1) * (nanoseconds() - begin) / WORTH; /* by how long the first one took */
        start_helpers(work, helpers < worth ? helpers : worth);
        encode_rest(work, workspace, out);
    }
    pthread_mutex_lock(&work->lock);
    while (work->done < count) pthread_cond_wait(&work->changed, &work->lock);
    const int failed = work->failed;
    pthread_mutex_unlock(&work->lock);
    leave(work);
    return failed ? -1 : 0;
}
