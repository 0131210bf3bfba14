# SPDX-License-Identifier: LGPL-2.1-or-later
# cython: cdivision=True, nonecheck=True
"""table: the rows of a table as JSON. json.dumps takes longer for 10,000 fences than asking the kernel for them does."""

cimport cython
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.string cimport memcpy

from linuxsync._native.processes cimport Descriptor

from json import dumps

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    const char *PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    bint Py_EnterRecursiveCall(const char *where)  # anything but 0 with an exception set
    void Py_LeaveRecursiveCall()

cdef enum:
    PIECE = 32768  # bytes


@cython.internal
cdef class Text:
    """ASCII text that grows."""
    cdef char *bytes
    cdef Py_ssize_t used, room

    def __dealloc__(self):
        PyMem_Free(self.bytes)

    cdef int add(self, const char *more, Py_ssize_t size) except -1:
        cdef char *moved
        if self.room - self.used < size:
            moved = <char *>PyMem_Realloc(self.bytes, 2 * (self.used + size) + 4096)
            if moved is NULL:
                raise MemoryError
            self.bytes = moved
            self.room = 2 * (self.used + size) + 4096
        memcpy(self.bytes + self.used, more, size)
        self.used += size
        return 0

    cdef str taken(self):
        """All of it, which is not in here any more."""
        text = self.bytes[:self.used].decode("ascii")
        self.used = 0
        return text

    cdef int add_str(self, str more) except -1:
        return self.add(PyUnicode_DATA(more), PyUnicode_GET_LENGTH(more))

    cdef int add_number(self, long long number) except -1:
        cdef char digits[24]
        cdef int at = sizeof(digits)
        cdef unsigned long long left = -<unsigned long long>number if number < 0 else number
        while True:  # snprintf takes three times as long
            at -= 1
            digits[at] = c"0" + left % 10
            left //= 10
            if left == 0:
                break
        if number < 0:
            at -= 1
            digits[at] = c"-"
        return self.add(digits + at, sizeof(digits) - at)

    cdef int add_descriptor(self, Descriptor holder) except -1:
        self.add(b'{"pid": ', 8)
        self.add_number(holder.process.pid)
        self.add(b', "comm": ', 10)
        self.add_value(holder.process.comm)
        self.add(b', "uid": ', 9)
        self.add_number(holder.process.uid)
        self.add(b', "fd": ', 8)
        self.add_number(holder.fd)
        return self.add(b"}", 1)

    cdef int add_value(self, object value) except -1:
        """A value as json.dumps has it, which does what is rare."""
        cdef long long number
        cdef int overflow = 1
        if type(value) is str and is_plain(value):
            self.add(b'"', 1)
            self.add_str(value)
            return self.add(b'"', 1)
        if value is None:
            return self.add(b"null", 4)
        if type(value) is int:
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if not overflow:
                return self.add_number(number)
        if type(value) is Descriptor:
            return self.add_descriptor(<Descriptor>value)
        if type(value) is list or type(value) is tuple or type(value) is dict:
            if Py_EnterRecursiveCall(b" while writing JSON"):  # the C stack ends without an exception
                return -1
            try:
                return self.add_values(value)
            finally:
                Py_LeaveRecursiveCall()
        return self.add_str(dumps(value))

    cdef int add_values(self, object value) except -1:
        """A list, a tuple or a dict, with what is in it."""
        cdef bint first = True
        if type(value) is dict:
            if not all([type(key) is str for key in value]):
                return self.add_str(dumps(value))
            self.add(b"{", 1)
            for key, one in (<dict>value).items():
                if not first:
                    self.add(b", ", 2)
                first = False
                self.add_value(key)
                self.add(b": ", 2)
                self.add_value(one)
            return self.add(b"}", 1)
        self.add(b"[", 1)
        for one in value:
            if not first:
                self.add(b", ", 2)
            first = False
            self.add_value(one)
        return self.add(b"]", 1)


cdef bint is_plain(str text):
    """Whether it stands in JSON as it is: printable ASCII without a quote or a backslash."""
    cdef const unsigned char *at = <const unsigned char *>PyUnicode_DATA(text)
    cdef Py_ssize_t i
    if not PyUnicode_IS_ASCII(text):
        return False
    for i in range(PyUnicode_GET_LENGTH(text)):
        if not 0x20 <= at[i] < 0x7F or at[i] == c'"' or at[i] == c"\\":
            return False
    return True


def json_rows(list columns not None, rows, write not None):
    """Write a JSON array (ASCII) with an object for each row, one a line.

    Args:
        columns: (str, str or callable) each: the key, and the attribute of a row that is its value or a function of
            the row that returns it. A Descriptor becomes an object with pid, comm, uid and fd.
        rows: iterable.
        write: takes str, a piece of the array.
    Raises:
        TypeError: a value is nothing that json.dumps takes.
        RecursionError: a value is nested too deeply.
    """
    cdef Text text = Text()
    cdef list keys = [f"{', ' if at else '{'}{dumps(name)}: " for at, (name, _) in enumerate(columns)]
    cdef list getters = [getter for _, getter in columns]
    cdef Py_ssize_t at
    cdef bint first = True
    text.add(b"[", 1)
    for row in rows:
        text.add(b"\n  ", 3) if first else text.add(b",\n  ", 4)
        first = False
        for at in range(len(getters)):
            getter = getters[at]
            text.add_str(<str>keys[at])
            text.add_value(getattr(row, getter) if type(getter) is str else getter(row))
        text.add(b"}", 1)
        if text.used > PIECE:  # memory that is used again need not come from the kernel first
            write(text.taken())
    text.add(b"]" if first else b"\n ]", 1 if first else 3)
    write(text.taken())
