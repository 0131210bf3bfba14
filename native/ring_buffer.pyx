# SPDX-License-Identifier: LGPL-2.1-or-later
"""ring_buffer: the events in a page of the kernel's trace buffer. A fence has half a dozen, and there may be millions."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

import sys

cdef enum:
    PADDING = 29
    TIME_EXTEND = 30
    TIME_STAMP = 31
    DELTA_BITS = 27

cdef bint LITTLE = sys.byteorder == "little"
cdef uint64_t MISSED = 1 << 31
cdef uint64_t MISSED_STORED = 1 << 30


cdef inline uint32_t word_at(const unsigned char *place) noexcept:
    cdef uint32_t word
    memcpy(&word, place, sizeof(word))
    return word


def records(const unsigned char[::1] page, Py_ssize_t commit, Py_ssize_t data):
    """Return the events in a page, and how many were lost before it.

    Args:
        page: what tracing_buffers_read gave (``struct buffer_data_page``); what lies past its events may be missing.
        commit: where in it the number of its bytes is (a ``long``), as header_page says.
        data: where its events begin.
    Returns:
        How many were overwritten before somebody read them, at least; (timestamp, fields as bytes) of each event.
    Raises:
        ValueError: this can be no page.

    Mirrors include/linux/ring_buffer.h. Threads: any.
    """
    cdef Py_ssize_t size = page.shape[0]
    cdef Py_ssize_t at, end, start
    cdef uint64_t timestamp, delta
    cdef unsigned long used = 0, missed = 0
    cdef uint32_t word, kind, length
    cdef const unsigned char *bytes_of
    if commit < 0 or data < 8 or size < data or commit + <Py_ssize_t>sizeof(used) > data:
        raise ValueError("too short for a page of the trace buffer")
    bytes_of = &page[0]
    memcpy(&timestamp, bytes_of, sizeof(timestamp))
    memcpy(&used, bytes_of + commit, sizeof(used))
    at = data
    end = data + <Py_ssize_t>(used & (MISSED_STORED - 1))
    if end > size:
        raise ValueError("a page of the trace buffer that ends before its events do")
    if used & MISSED:
        missed = 1
        if used & MISSED_STORED and end + <Py_ssize_t>sizeof(missed) <= size:
            memcpy(&missed, bytes_of + end, sizeof(missed))
    found = []
    while at + 4 <= end:
        word = word_at(bytes_of + at)
        # Bit fields start at the other end where bytes do.
        if LITTLE:
            kind, delta = word & 31, word >> 5
        else:
            kind, delta = word >> DELTA_BITS, word & ((1 << DELTA_BITS) - 1)
        at += 4
        if kind == TIME_EXTEND or kind == TIME_STAMP:
            if at + 4 > end:
                raise ValueError("half a time stamp at the end of a page of the trace buffer")
            delta |= <uint64_t>word_at(bytes_of + at) << DELTA_BITS
            at += 4
            # A stamp has 59 bits, those above are as they were.
            timestamp = timestamp + delta if kind == TIME_EXTEND else (timestamp >> 59 << 59) | delta
            continue
        if kind == PADDING and delta == 0:
            break
        timestamp += delta
        start = at
        if kind == 0 or kind == PADDING:  # the length comes first, and counts itself
            if at + 4 > end:
                raise ValueError("an event without a length at the end of a page of the trace buffer")
            length = word_at(bytes_of + at)
            start = at + 4
        else:
            length = 4 * kind
        if length < start - at or length > end - at:
            raise ValueError("an event that reaches beyond its page of the trace buffer")
        at += length
        if kind != PADDING:
            found.append((timestamp, bytes_of[start:at]))
    return missed, found
