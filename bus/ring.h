/* What the writer of a spool counts with, and how a record of points is written. The layout is that of spool_layout.py. */
#ifndef SMART_TUNER_RING_H
#define SMART_TUNER_RING_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdint.h>
#include <string.h>

/* Of what Python and these files say to each other: to be counted up, here and in ring.py, with any change of it. */
#define FORM 2

typedef struct {
    PyObject_HEAD
    long long head, limit, shift, next_position;
    char open, busy, owing; /* something is taken; somebody works with these fields; something waits to be written first */
    char *map;              /* the mapped file; NULL where there is none */
    Py_ssize_t head_at, armed_at, control_at, ring_at, size;
    Py_buffer view;
    PyObject *parts; /* of the names of the last call: (keys, pack, store, size, points, ids) */
} Ring;

/* Length and CRC, offset, position; then kind, count and series as the shape has them; step, time; the values. */
#define RECORD_IDS_AT 24
#define RECORD_STEP_AND_TIME 16

static inline uint64_t *ring_word(const Ring *ring, Py_ssize_t at) { return (uint64_t *)(ring->map + at); }

/* Where a record of `size` bytes may be written; NULL where Python has to see to it. From here to ring_written nothing else may
 * run. */
static inline char *ring_room(const Ring *ring, long long size) {
    if (!ring->open || ring->busy || ring->owing || ring->map == NULL) return NULL;
    long long at = ring->head - ring->shift;
    if (size < 40 || ring->head + size > ring->limit || at < ring->ring_at || at % 8 || at + size > ring->size) return NULL;
    return ring->map + at;
}

/* CRC-32 of ISO 3309, as zlib's, by half bytes: the table is one line of the cache, where that of bytes is sixteen, all cold. */
static inline uint32_t crc32_of(const char *data, long long size) {
    static const uint32_t halves[16] __attribute__((aligned(64))) = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
        0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C, 0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
    };
    uint32_t crc = 0xFFFFFFFFu;
    for (long long i = 0; i < size; i++) {
        crc ^= (unsigned char)data[i];
        crc = halves[crc & 15] ^ (crc >> 4);
        crc = halves[crc & 15] ^ (crc >> 4);
    }
    return ~crc;
}

/* Completes the record of `size` bytes whose values are in place, and makes it the reader's. Whether that one wants the bell. */
static inline int ring_written(
    Ring *ring, char *record, long long size, long long points, const char *ids, Py_ssize_t ids_size, int64_t step, double time
) {
    int64_t head = ring->head, position = ring->next_position;
    char *rest = record + RECORD_IDS_AT + ids_size;
    memcpy(record + 8, &head, 8);
    memcpy(record + 16, &position, 8);
    memcpy(record + RECORD_IDS_AT, ids, ids_size);
    memcpy(rest, &step, 8);
    memcpy(rest + 8, &time, 8);
    uint32_t length_and_crc[2] = {(uint32_t)size, crc32_of(record + 8, size - 8)};
    memcpy(record, length_and_crc, 8);
    ring->next_position += points;
    ring->head += size;
    __atomic_store_n(ring_word(ring, ring->head_at), (uint64_t)ring->head, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the reader arms the bell and then looks at the head: this, the other way round */
    return __atomic_load_n(ring_word(ring, ring->armed_at), __ATOMIC_RELAXED) != 0;
}

#endif
