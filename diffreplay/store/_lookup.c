/* diffreplay.store._lookup: what a batch asks of the index, for CPython 3.11 and later through its limited API.
 *
 * It does what store/index.py and store/reader.py say in NumPy, and in a tenth of the time. Another process may write
 * to the columns meanwhile: whatever is read, nothing outside of them is touched. */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A column of the index: row r lies in block r / rows % blocks, as entry r % rows. */
typedef struct {
    Py_buffer buffer;
    const char *start;
    ptrdiff_t stride; /* from block to block */
    int64_t blocks, rows;
    size_t size; /* bytes of an entry */
} Column;

#define ANY_SIZE SIZE_MAX

static void column_release(Column *column) { PyBuffer_Release(&column->buffer); }

/* Of entries of any size, or of a number of at most so many bytes. */
static int column_get(Column *column, PyObject *array, size_t most) {
    Py_buffer *buffer = &column->buffer;
    if (PyObject_GetBuffer(array, buffer, PyBUF_STRIDED_RO) < 0) return -1;
    if (buffer->ndim >= 2 && buffer->shape[0] > 0 && buffer->shape[1] > 0) {
        size_t size = (size_t)buffer->itemsize;
        int whole = 1;
        for (int axis = buffer->ndim; axis-- > 2; size *= (size_t)buffer->shape[axis])
            whole &= buffer->strides[axis] == (Py_ssize_t)size;
        const int fits = most == ANY_SIZE || size == 1 || size == 2 || size == 4 || size == 8;
        if (whole && (buffer->shape[1] == 1 || buffer->strides[1] == (Py_ssize_t)size) && fits && size <= most) {
            *column = (Column){*buffer, buffer->buf, buffer->strides[0], buffer->shape[0], buffer->shape[1], size};
            return 0;
        }
    }
    PyErr_SetString(PyExc_ValueError, "expected a column of blocks of rows, whose entries lie one after the other");
    PyBuffer_Release(buffer);
    return -1;
}

/* The block of a row of any number. */
static inline int64_t block_of(const Column *column, int64_t row) {
    int64_t block = row / column->rows - (row % column->rows < 0);
    if ((uint64_t)block >= (uint64_t)column->blocks) { /* else the division can be saved */
        block %= column->blocks;
        if (block < 0) block += column->blocks;
    }
    return block;
}

/* Where a row of any number lies. */
static inline const char *entry(const Column *column, int64_t row) {
    int64_t place = row % column->rows;
    if (place < 0) place += column->rows;
    return column->start + block_of(column, row) * column->stride + place * (ptrdiff_t)column->size;
}

/* An unsigned number of 1, 2, 4 or 8 bytes, little-endian. */
static inline uint64_t read_number(const char *at, size_t size) {
    uint64_t number = 0;
    switch (size) {
    case 1: return *(const uint8_t *)at;
    case 2: {
        uint16_t two;
        memcpy(&two, at, 2);
        return two;
    }
    case 4: {
        uint32_t four;
        memcpy(&four, at, 4);
        return four;
    }
    default: memcpy(&number, at, 8); return number;
    }
}

static inline uint64_t value(const Column *column, int64_t row) { return read_number(entry(column, row), column->size); }

static inline int64_t number(const Py_buffer *numbers, size_t i) {
    int64_t value;
    memcpy(&value, (const char *)numbers->buf + 8 * i, 8);
    return value;
}

static inline void put(Py_buffer *numbers, size_t i, int64_t value) { memcpy((char *)numbers->buf + 8 * i, &value, 8); }

static PyObject *py_take(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *array, *result = NULL;
    Py_buffer rows, out;
    Column column;
    if (!PyArg_ParseTuple(args, "Oy*w*", &array, &rows, &out)) return NULL;
    if (column_get(&column, array, ANY_SIZE) < 0) goto done;
    const size_t count = (size_t)rows.len / 8;
    if (rows.len % 8 || (size_t)out.len != count * column.size) {
        PyErr_SetString(PyExc_ValueError, "expected int64 rows, and room for an entry of each");
    } else {
        for (size_t i = 0; i < count; i++)
            memcpy((char *)out.buf + i * column.size, entry(&column, number(&rows, i)), column.size);
        result = Py_NewRef(Py_None);
    }
    column_release(&column);
done:
    PyBuffer_Release(&rows);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_stacks(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *flags_array, *links_array, *result = NULL;
    Py_buffer rows, out;
    Column flags, links;
    unsigned padding, restart;
    if (!PyArg_ParseTuple(args, "OOy*w*II", &flags_array, &links_array, &rows, &out, &padding, &restart)) return NULL;
    if (column_get(&flags, flags_array, 8) < 0) goto done;
    if (column_get(&links, links_array, 8) < 0) goto flags_only;
    const size_t count = (size_t)rows.len / 8, length = count ? (size_t)out.len / 8 / count : 0;
    if (rows.len % 8 || (size_t)out.len != 8 * count * length || (count && !length)) {
        PyErr_SetString(PyExc_ValueError, "expected int64 rows, and int64 room for as many frames of each");
    } else {
        for (size_t i = 0; i < count; i++) {
            int64_t row = number(&rows, i);
            put(&out, (i + 1) * length - 1, row);
            for (size_t k = length - 1; k-- > 0;) {
                const uint64_t flag = value(&flags, row);
                const int zeros = (flag & (padding | restart)) == padding;
                row = row < 0 || zeros ? -1 : (int64_t)((uint64_t)row - value(&links, row));
                put(&out, i * length + k, row);
            }
        }
        result = Py_NewRef(Py_None);
    }
    column_release(&links);
flags_only:
    column_release(&flags);
done:
    PyBuffer_Release(&rows);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_spans(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *base_array, *before_array, *ends_array, *result = NULL;
    Py_buffer rows, starts_out, ends_out;
    Column base, before, ends;
    Py_ssize_t log_bytes;
    int back;
    if (!PyArg_ParseTuple(args, "OOOy*w*w*ni", &base_array, &before_array, &ends_array, &rows, &starts_out, &ends_out,
                          &log_bytes, &back))
        return NULL;
    if (column_get(&ends, ends_array, 8) < 0) goto done;
    if (column_get(&before, before_array, 8) < 0) goto ends_only;
    if (column_get(&base, base_array, 8) < 0) goto ends_and_before;
    if (base.blocks != ends.blocks || before.blocks != ends.blocks || before.rows != ends.rows || rows.len % 8 ||
        starts_out.len != rows.len || ends_out.len != rows.len || log_bytes < 1 || (back & ~1)) {
        PyErr_SetString(PyExc_ValueError, "expected int64 rows, and int64 room for as many beginnings and ends");
    } else {
        for (size_t i = 0; i < (size_t)rows.len / 8; i++) {
            const int64_t row = number(&rows, i);
            const uint64_t begin = value(&base, block_of(&ends, row));
            const char *own = entry(&ends, row), *prior = entry(&before, row) - (back ? before.size : 0);
            const uint64_t end = begin + read_number(own, ends.size);
            uint64_t start = begin;
            if (!back || row % ends.rows) start += read_number(prior, before.size);
            if (back) { /* a row's frames never straddle the ring's end: they start there anew */
                const int64_t last = (int64_t)(end - 1), over = last % log_bytes;
                const int64_t lap = (int64_t)((uint64_t)last - (uint64_t)(over < 0 ? over + log_bytes : over));
                if ((int64_t)start < lap) start = (uint64_t)lap;
            }
            put(&starts_out, i, (int64_t)start);
            put(&ends_out, i, (int64_t)end);
        }
        result = Py_NewRef(Py_None);
    }
    column_release(&base);
ends_and_before:
    column_release(&before);
ends_only:
    column_release(&ends);
done:
    PyBuffer_Release(&rows);
    PyBuffer_Release(&starts_out);
    PyBuffer_Release(&ends_out);
    return result;
}

static PyObject *py_ranges(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *array, *result = NULL;
    Py_buffer rows, out;
    Column table;
    Py_ssize_t block_rows;
    int none;
    if (!PyArg_ParseTuple(args, "Oy*w*ni", &array, &rows, &out, &block_rows, &none)) return NULL;
    if (column_get(&table, array, 4) < 0) goto done;
    if (table.size != 4 || rows.len % 8 || out.len != rows.len || block_rows < 1) {
        PyErr_SetString(PyExc_ValueError, "expected ranges, int64 rows, and int64 room for as many slots");
    } else {
        for (size_t i = 0; i < (size_t)rows.len / 8; i++) {
            const int64_t row = number(&rows, i), over = row % block_rows;
            const int64_t place = over < 0 ? over + block_rows : over;
            int64_t block = (row / block_rows - (over < 0)) % table.blocks, slot = none;
            const char *at = table.start + (block < 0 ? block + table.blocks : block) * table.stride;
            for (int64_t k = 0; k < table.rows; k++, at += 4) {
                uint16_t range[2]; /* place, slot */
                memcpy(range, at, 4);
                if (range[0] <= place) slot = range[1];
            }
            put(&out, i, slot);
        }
        result = Py_NewRef(Py_None);
    }
    column_release(&table);
done:
    PyBuffer_Release(&rows);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_follow(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *array, *result = NULL;
    Py_buffer starts, out;
    Column further;
    if (!PyArg_ParseTuple(args, "Oy*w*", &array, &starts, &out)) return NULL;
    if (column_get(&further, array, 8) < 0) goto done;
    const size_t count = (size_t)starts.len / 8;
    if (starts.len % 8 || !count || out.len % starts.len) {
        PyErr_SetString(PyExc_ValueError, "expected int64 rows, and room for as many of each of them");
    } else {
        const size_t length = (size_t)out.len / (size_t)starts.len;
        for (size_t i = 0; i < count; i++) {
            int64_t row = number(&starts, i);
            for (size_t k = 0; k < length; k++) {
                if (k) {
                    const uint64_t step = row < 0 ? 0 : value(&further, row);
                    row = step ? (int64_t)((uint64_t)row + step) : -1;
                }
                put(&out, i * length + k, row);
            }
        }
        result = Py_NewRef(Py_None);
    }
    column_release(&further);
done:
    PyBuffer_Release(&starts);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_equal(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *arrays[2], *result = NULL;
    Py_buffer one, other;
    if (!PyArg_ParseTuple(args, "OO", &arrays[0], &arrays[1])) return NULL;
    if (PyObject_GetBuffer(arrays[0], &one, PyBUF_SIMPLE) < 0) return NULL;
    if (PyObject_GetBuffer(arrays[1], &other, PyBUF_SIMPLE) < 0) goto done;
    result = Py_NewRef(one.len == other.len && !memcmp(one.buf, other.buf, (size_t)one.len) ? Py_True : Py_False);
    PyBuffer_Release(&other);
done:
    PyBuffer_Release(&one);
    return result;
}

static PyMethodDef methods[] = {
    {"equal", py_equal, METH_VARARGS, "equal(one, other): whether two contiguous arrays hold the same bytes."},
    {"take", py_take, METH_VARARGS, "take(column, rows, out): copy a column's entries."},
    {"stacks", py_stacks, METH_VARARGS, "stacks(flags, links, rows, out, padding, restart): rows of older frames."},
    {"spans", py_spans, METH_VARARGS, "spans(base, before, ends, rows, starts_out, ends_out, log_bytes, back): where."},
    {"follow", py_follow, METH_VARARGS, "follow(further, starts, out): the rows that follow each."},
    {"ranges", py_ranges, METH_VARARGS, "ranges(table, rows, out, block_rows, none): slots of reference sets."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_lookup", "Looks rows up in the index.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__lookup(void) { return PyModule_Create(&module); }
