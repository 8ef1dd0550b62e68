/* ring.Ring, compiled: so that the usual call of log() (trainer/_calm.c) finds what a spool's writer counts with in one place.
 * Python works with the same fields, and does all of it where this is not built. */
#include "ring.h"

#include <sys/socket.h>

static PyMemberDef ring_members[] = {
    {"_head", T_LONGLONG, offsetof(Ring, head), 0, NULL},
    {"_limit", T_LONGLONG, offsetof(Ring, limit), 0, NULL},
    {"_shift", T_LONGLONG, offsetof(Ring, shift), 0, NULL},
    {"next_position", T_LONGLONG, offsetof(Ring, next_position), 0, NULL},
    {"_open", T_BOOL, offsetof(Ring, open), 0, NULL},
    {"_parts", T_OBJECT_EX, offsetof(Ring, parts), 0, NULL},
    {"_busy", T_BOOL, offsetof(Ring, busy), 0, NULL},
    {"_owing", T_BOOL, offsetof(Ring, owing), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *ring_unmap(PyObject *object, PyObject *Py_UNUSED(none)) {
    ((Ring *)object)->map = NULL;
    PyBuffer_Release(&((Ring *)object)->view);
    Py_RETURN_NONE;
}

static PyObject *ring_map(PyObject *object, PyObject *args) {
    Ring *self = (Ring *)object;
    PyObject *memory;
    Py_ssize_t words[3], ring_at;
    if (!PyArg_ParseTuple(args, "Onnnn", &memory, words, words + 1, words + 2, &ring_at)) return NULL;
    Py_XDECREF(ring_unmap(object, NULL));
    if (PyObject_GetBuffer(memory, &self->view, PyBUF_WRITABLE) < 0) return NULL;
    for (int i = 0; i < 3; i++)
        if (words[i] < 0 || words[i] % 8 || words[i] + 8 > self->view.len || ring_at < words[i] + 8) {
            PyBuffer_Release(&self->view);
            PyErr_SetString(PyExc_ValueError, "a word outside the file, or in its ring");
            return NULL;
        }
    self->head_at = words[0], self->armed_at = words[1], self->control_at = words[2], self->ring_at = ring_at;
    self->map = self->view.buf, self->size = self->view.len;
    Py_RETURN_NONE;
}

static int ring_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((Ring *)object)->parts);
    return 0;
}

static int ring_clear(PyObject *object) {
    Py_CLEAR(((Ring *)object)->parts);
    return 0;
}

static void ring_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    ring_clear(object);
    PyBuffer_Release(&((Ring *)object)->view);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef ring_methods[] = {
    {"_map", ring_map, METH_VARARGS, NULL},
    {"_unmap", ring_unmap, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_doc, "What the writer of a spool counts with."},
    {Py_tp_members, ring_members},
    {Py_tp_methods, ring_methods},
    {Py_tp_traverse, ring_traverse},
    {Py_tp_clear, ring_clear},
    {Py_tp_dealloc, ring_dealloc},
    {0, NULL},
};

static PyType_Spec ring_spec = {
    "smarttuner.bus._ring.Ring", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, ring_slots};

static PyObject *send_byte(PyObject *Py_UNUSED(module), PyObject *descriptor) {
    long fd = PyLong_AsLong(descriptor);
    if (fd == -1 && PyErr_Occurred()) return NULL;
    return PyBool_FromLong(send((int)fd, "\1", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1);
}

static PyMethodDef module_methods[] = {
    {"send_byte", send_byte, METH_O, "One byte to a socket, without waiting and without giving up the GIL; whether it went."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {.m_base = PyModuleDef_HEAD_INIT, .m_name = "_ring", .m_size = -1, .m_methods = module_methods};

PyMODINIT_FUNC PyInit__ring(void) {
    PyObject *made = PyModule_Create(&module), *ring = PyType_FromSpec(&ring_spec);
    if (made == NULL || ring == NULL || PyModule_AddObjectRef(made, "Ring", ring) < 0 ||
        PyModule_AddIntConstant(made, "FORM", FORM) < 0)
        return NULL;
    Py_DECREF(ring);
    return made;
}
