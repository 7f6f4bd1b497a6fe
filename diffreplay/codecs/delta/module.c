/* diffreplay.codecs.delta._core: the codec's compiled half, for CPython 3.11 and later through its limited API. */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include <stdlib.h>

#include "batch.h"
#include "decode.h"
#include "encode.h"
#include "many.h"

static const char INDEX_NAME[] = "diffreplay.codecs.delta.Index";

/* What coding a frame takes; one is kept for the next call. Taken and given back only while the GIL is held. */
typedef struct {
    Workspace *workspace;
    uint8_t *out;
    size_t room;
} Bench;

static Bench spare;

static int shape_from(Shape *shape, Py_ssize_t frame_bytes, Py_ssize_t row_bytes, Py_ssize_t pixel_bytes) {
    if (frame_bytes < 1 || row_bytes < 1 || pixel_bytes < 1 || frame_bytes > MOST_FRAME_BYTES ||
        row_bytes > frame_bytes || pixel_bytes > row_bytes || frame_bytes % pixel_bytes) {
        PyErr_Format(PyExc_ValueError, "expected a frame of 1 to %d bytes in rows of pixels, got %zd, %zd and %zd bytes",
                     (int)MOST_FRAME_BYTES, frame_bytes, row_bytes, pixel_bytes);
        return -1;
    }
    *shape = (Shape){(size_t)frame_bytes, (size_t)row_bytes, (size_t)pixel_bytes};
    return 0;
}

static void index_release(PyObject *capsule) { index_free(PyCapsule_GetPointer(capsule, INDEX_NAME)); }

static PyObject *py_index(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer set;
    Py_ssize_t frame_bytes, row_bytes, pixel_bytes;
    int level;
    if (!PyArg_ParseTuple(args, "y*nnni", &set, &frame_bytes, &row_bytes, &pixel_bytes, &level)) return NULL;
    Shape shape;
    PyObject *capsule = NULL;
    if (shape_from(&shape, frame_bytes, row_bytes, pixel_bytes) < 0) goto done;
    if (set.len % frame_bytes || set.len / frame_bytes > MOST_REFERENCES || set.len > INT32_MAX - frame_bytes) {
        PyErr_Format(PyExc_ValueError, "expected a set of at most %d frames of %zd bytes, got %zd bytes", MOST_REFERENCES,
                     frame_bytes, set.len);
        goto done;
    }
    Index *index;
    Py_BEGIN_ALLOW_THREADS
    index = index_new(set.buf, (size_t)set.len, &shape, level);
    Py_END_ALLOW_THREADS
    if (!index) {
        PyErr_NoMemory();
        goto done;
    }
    capsule = PyCapsule_New(index, INDEX_NAME, index_release);
    if (!capsule) index_free(index);
done:
    PyBuffer_Release(&set);
    return capsule;
}

static PyObject *py_index_bytes(PyObject *self, PyObject *capsule) {
    (void)self;
    Index *index = PyCapsule_GetPointer(capsule, INDEX_NAME);
    if (!index) return NULL;
    return PyLong_FromSize_t(index_bytes(index) + workspace_bytes() + index_shape(index)->frame_bytes);
}

static int bench_take(Bench *bench, const Index *index) {
    const size_t room = index_shape(index)->frame_bytes;
    *bench = spare;
    spare = (Bench){0};
    if (!bench->workspace) bench->workspace = workspace_new();
    if (bench->room < room) {
        free(bench->out);
        bench->out = malloc(room);
        bench->room = bench->out ? room : 0;
    }
    return bench->workspace && bench->out ? 0 : -1;
}

static void bench_give(Bench *bench) {
    if (!spare.workspace && bench->workspace && bench->out) {
        spare = *bench;
    } else {
        workspace_free(bench->workspace);
        free(bench->out);
    }
}

static PyObject *py_encode(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *capsule, *result = NULL;
    Py_buffer set, frame;
    if (!PyArg_ParseTuple(args, "Oy*y*", &capsule, &set, &frame)) return NULL;
    Bench bench = {0};
    Index *index = PyCapsule_GetPointer(capsule, INDEX_NAME);
    if (!index) goto done;
    const size_t frame_bytes = index_shape(index)->frame_bytes;
    if ((size_t)set.len != index_set_bytes(index) || (size_t)frame.len != frame_bytes) {
        PyErr_Format(PyExc_ValueError, "expected a set of %zu bytes and a frame of %zu, got %zd and %zd",
                     index_set_bytes(index), frame_bytes, set.len, frame.len);
        goto done;
    }
    if (bench_take(&bench, index) < 0) {
        PyErr_NoMemory();
        goto done;
    }
    ptrdiff_t size;
    Py_BEGIN_ALLOW_THREADS
    size = encode_frame(index, bench.workspace, set.buf, frame.buf, bench.out, frame_bytes);
    Py_END_ALLOW_THREADS
    if (size < 0) {
        Py_INCREF(Py_None);
        result = Py_None;
    } else {
        result = PyBytes_FromStringAndSize((const char *)bench.out, size);
    }
done:
    bench_give(&bench);
    PyBuffer_Release(&set);
    PyBuffer_Release(&frame);
    return result;
}

/* The blobs as a list of bytes and None; they are freed. */
static PyObject *list_of(Blob *blobs, Py_ssize_t count) {
    PyObject *list = PyList_New(count);
    for (Py_ssize_t k = 0; k < count; k++) {
        PyObject *item = NULL;
        if (list && blobs[k].bytes) {
            item = PyBytes_FromStringAndSize((const char *)blobs[k].bytes, (Py_ssize_t)blobs[k].size);
        } else if (list) {
            Py_INCREF(Py_None);
            item = Py_None;
        }
        free(blobs[k].bytes);
        if (list && (!item || PyList_SetItem(list, k, item) < 0)) Py_CLEAR(list);
    }
    return list;
}

static PyObject *py_encode_many(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *capsule, *result = NULL;
    Py_buffer set, frames;
    Py_ssize_t helpers;
    Bench bench = {0};
    if (!PyArg_ParseTuple(args, "Oy*y*n", &capsule, &set, &frames, &helpers)) return NULL;
    Index *index = PyCapsule_GetPointer(capsule, INDEX_NAME);
    if (!index) goto done;
    const size_t frame_bytes = index_shape(index)->frame_bytes, count = (size_t)frames.len / frame_bytes;
    if ((size_t)set.len != index_set_bytes(index) || (size_t)frames.len % frame_bytes || helpers < 0) {
        PyErr_Format(PyExc_ValueError, "expected a set of %zu bytes, frames of %zu and helpers, got %zd, %zd and %zd",
                     index_set_bytes(index), frame_bytes, set.len, frames.len, helpers);
        goto done;
    }
    Blob *blobs = calloc(count ? count : 1, sizeof(Blob));
    int failed = !blobs || bench_take(&bench, index) < 0;
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        failed = encode_many(index, bench.workspace, bench.out, set.buf, frames.buf, count, (size_t)helpers, blobs) < 0;
        Py_END_ALLOW_THREADS
        result = list_of(blobs, (Py_ssize_t)count);
    }
    free(blobs);
    if (failed) {
        Py_CLEAR(result);
        PyErr_NoMemory();
    }
done:
    bench_give(&bench);
    PyBuffer_Release(&set);
    PyBuffer_Release(&frames);
    return result;
}

static PyObject *py_decode_batch(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer log, starts, lengths, sets, set_starts, set_lengths, out, places;
    Py_ssize_t frame_bytes, row_bytes, pixel_bytes;
    int planar;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*y*w*y*nnnp", &log, &starts, &lengths, &sets, &set_starts, &set_lengths, &out,
                          &places, &frame_bytes, &row_bytes, &pixel_bytes, &planar))
        return NULL;
    PyObject *result = NULL;
    Batch batch = {.log = log.buf, .sets = sets.buf, .out = out.buf, .log_bytes = (size_t)log.len,
                   .sets_bytes = (size_t)sets.len, .out_bytes = (size_t)out.len, .count = (size_t)starts.len / 8,
                   .starts = starts.buf, .lengths = lengths.buf, .set_starts = set_starts.buf,
                   .set_lengths = set_lengths.buf, .places = places.buf, .planar = planar};
    if (shape_from(&batch.shape, frame_bytes, row_bytes, pixel_bytes) < 0) goto done;
    if (starts.len % 8 || lengths.len != starts.len || set_starts.len != starts.len || set_lengths.len != starts.len ||
        places.len != starts.len) {
        PyErr_Format(PyExc_ValueError, "expected as many int64 of each kind, got %zd, %zd, %zd, %zd and %zd bytes",
                     starts.len, lengths.len, set_starts.len, set_lengths.len, places.len);
        goto done;
    }
    ptrdiff_t damaged;
    Py_BEGIN_ALLOW_THREADS
    damaged = decode_batch(&batch);
    Py_END_ALLOW_THREADS
    result = damaged == -2 ? PyErr_NoMemory() : PyLong_FromSsize_t(damaged);
done:
    PyBuffer_Release(&log);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&sets);
    PyBuffer_Release(&set_starts);
    PyBuffer_Release(&set_lengths);
    PyBuffer_Release(&out);
    PyBuffer_Release(&places);
    return result;
}

static PyMethodDef methods[] = {
    {"index", py_index, METH_VARARGS, "index(set, frame_bytes, row_bytes, pixel_bytes, level): what `encode` needs."},
    {"index_bytes", py_index_bytes, METH_O, "index_bytes(index): memory that it takes, and that coding takes."},
    {"encode", py_encode, METH_VARARGS, "encode(index, set, frame): the coded frame, or None."},
    {"encode_many", py_encode_many, METH_VARARGS,
     "encode_many(index, set, frames, helpers): a list of coded frames, or None, by this thread and so many others."},
    {"decode_batch", py_decode_batch, METH_VARARGS,
     "decode_batch(log, starts, lengths, sets, set_starts, set_lengths, out, places, frame_bytes, row_bytes, "
     "pixel_bytes, planar): the first damaged frame, or -1."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_core", "The compiled half of the codec `delta`.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__core(void) {
    decode_init();
    return PyModule_Create(&module);
}
