/* A call of log() that is like the last one. */
#include "calm.h"

#include <math.h>
#include <time.h>

static PyObject *is_cuda_name, *item_name;

int intern_log_names(void) {
    is_cuda_name = PyUnicode_InternFromString("is_cuda");
    item_name = PyUnicode_InternFromString("item");
    return is_cuda_name != NULL && item_name != NULL;
}

/* Whether a rate is what the series hold: the same object, or a float of the same value. */
static int is_told(PyObject *rate, PyObject *told) {
    if (rate == NULL || rate == told) return rate != NULL;
    return PyFloat_CheckExact(rate) && told != NULL && PyFloat_CheckExact(told) && PyFloat_AsDouble(rate) == PyFloat_AsDouble(told);
}

/* Whether the first group of each optimizer has the rate that the series hold. */
static int rates_are_told(PyObject *steerings) {
    for (Py_ssize_t i = 0; i < PyTuple_Size(steerings); i++) {
        Stepping *one = (Stepping *)PyTuple_GetItem(steerings, i);
        PyObject *groups = groups_of(one->optimizer);
        if (groups == NULL) return 0;
        int told = PyList_Size(groups) > 0 && is_told(rate_of(PyList_GetItem(groups, 0)), one->told);
        Py_DECREF(groups);
        if (!told) return 0;
    }
    return 1;
}

/* The one optimizer's one rate, another one than was told, and what is used of it; the rate's object, a new reference. What was
 * told is no float where something else was wanted since: Python tells of that. */
static PyObject *rate_to_tell(PyObject *steerings, double *pair) {
    Stepping *one = (Stepping *)PyTuple_GetItem(steerings, 0);
    PyObject *groups = NULL, *rate = NULL;
    if (one != NULL && one->frame == 0 && one->told != NULL && PyFloat_CheckExact(one->told)) groups = groups_of(one->optimizer);
    if (groups != NULL && PyList_Size(groups) == 1) rate = plain_rate(PyList_GetItem(groups, 0));
    if (rate != NULL && !is_told(rate, one->told)) {
        pair[0] = pair[1] = PyFloat_AsDouble(rate);
        if (one->steers && (one->plan == NULL || !PyList_CheckExact(one->plan) || PyList_Size(one->plan) != 1 ||
                            !used_rate(PyList_GetItem(one->plan, 0), pair[0], one->min_lr, pair + 1)))
            rate = NULL;
    } else {
        rate = NULL;
    }
    Py_XINCREF(rate);
    Py_XDECREF(groups);
    return rate;
}

/* What `item()` of a tensor or a numpy scalar gives; NULL where it is neither, or lies on an accelerator. Runs code that is not
 * ours. */
static PyObject *item_of(const Calm *self, PyObject *value) {
    int known = 0;
    for (Py_ssize_t i = 0; !known && i < PyTuple_Size(self->others); i++)
        known = PyTuple_GetItem(self->others, i) == (PyObject *)Py_TYPE(value);
    if (!known) return NULL;
    PyObject *there = PyObject_GetAttr(value, is_cuda_name), *item = NULL;
    if (there == NULL) PyErr_Clear(); /* of numpy */
    if (there == NULL || there == Py_False) item = PyObject_CallMethodObjArgs(value, item_name, NULL);
    Py_XDECREF(there);
    return item;
}

/* The values, where they are `count` numbers under the expected names. 0 where they are not, or where something else has come to be
 * expected on the way. */
static int numbers_of(const Calm *self, PyObject *values, Py_ssize_t count, double *numbers) {
    Py_ssize_t at = 0, number = 0, first = self->count - count;
    long long expectation = self->expectation;
    PyObject *key, *value;
    if (PyDict_Size(values) != count) return 0;
    while (PyDict_Next(values, &at, &key, &value)) {
        if (number >= count) return 0;
        PyObject *expected = self->names[first + number];
        if (key != expected && (!PyUnicode_CheckExact(key) || PyUnicode_Compare(key, expected) != 0)) return 0;
        if (PyFloat_CheckExact(value)) {
            numbers[number++] = PyFloat_AsDouble(value);
            continue;
        }
        PyObject *whole = Py_NewRef(value);
        if (!PyLong_CheckExact(value)) {
            PyObject *item = item_of(self, value);
            Py_DECREF(whole);
            if ((whole = item) == NULL) return 0;
        }
        double one = PyFloat_CheckExact(whole) ? PyFloat_AsDouble(whole) : PyLong_CheckExact(whole) ? PyLong_AsDouble(whole) : NAN;
        int fits = (PyFloat_CheckExact(whole) || PyLong_CheckExact(whole)) && !PyErr_Occurred() && self->expectation == expectation;
        Py_DECREF(whole);
        if (!fits) return 0;
        numbers[number++] = one;
    }
    return number == count;
}

/* The step of this call; a step at or below the last one where it is none that goes on from there. */
static long long step_of(const Calm *self, PyObject *said) {
    int over = 0;
    if (said == Py_None) return self->logged < INT64_MAX ? self->logged + 1 : self->logged;
    if (!PyLong_CheckExact(said)) return self->logged;
    long long step = PyLong_AsLongLongAndOverflow(said, &over);
    return over ? self->logged : step;
}

/* Seconds since 1970, of a clock of Python's (which may raise) or, with None, of the system's. */
double now_of(PyObject *now) {
    if (now == NULL || now == Py_None) {
        struct timespec time;
        clock_gettime(CLOCK_REALTIME, &time);
        return (double)(time.tv_sec * 1000000000LL + time.tv_nsec) / 1e9; /* as time.time() rounds it */
    }
    Py_INCREF(now);
    PyObject *said = PyObject_CallNoArgs(now);
    Py_DECREF(now);
    double time = said == NULL ? -1.0 : PyFloat_AsDouble(said);
    Py_XDECREF(said);
    return time;
}

static const char *ids_of(const Calm *self) { return (const char *)(self->names + self->count); }

/* What came of a call: written; the reader sleeps and wants the bell; this is a boundary, and something new stands on the page. */
enum { TAKEN = 1, RING = 2, LOOK = 4 };
#define MOST_ON_STACK 64

static int log_as_usual(Calm *self, PyObject *values, PyObject *said, PyObject *steerings) {
    long long step = step_of(self, said), logged = self->logged, expectation = self->expectation;
    Py_ssize_t first = self->tells ? 2 : 0, count = self->count - first;
    double pair[2] = {0.0, 0.0}, few[MOST_ON_STACK], *numbers = few;
    PyObject *rate = NULL;
    if (step <= logged || !(self->tells ? (rate = rate_to_tell(steerings, pair)) != NULL : rates_are_told(steerings))) return 0;
    if (count > MOST_ON_STACK) numbers = PyMem_Malloc(sizeof(double) * count);
    double time = now_of(self->now), since = time - self->looked;
    int result = 0;
    char *record = NULL;
    /* An optimizer's attribute, a clock of Python's or a tensor may run anything, and let another thread log: both counts tell. */
    if (numbers != NULL && !PyErr_Occurred() && self->expectation == expectation && numbers_of(self, values, count, numbers) &&
        self->expectation == expectation && self->logged == logged && since >= 0.0 && since < self->interval)
        record = ring_room(self->spool, self->size);
    if (record != NULL) {
        char *values_at = record + RECORD_IDS_AT + self->ids_size + RECORD_STEP_AND_TIME;
        memcpy(values_at, pair, sizeof(double) * first);
        memcpy(values_at + sizeof(double) * first, numbers, sizeof(double) * count);
        int armed = ring_written(self->spool, record, self->size, self->points, ids_of(self), self->ids_size, step, time);
        result = TAKEN | (armed ? RING : 0) | (self->boundary && is_changed(self) ? LOOK : 0);
        self->logged = step;
        self->moved = self->fresh = 1;
        if (rate != NULL) {
            Stepping *one = (Stepping *)PyTuple_GetItem(steerings, 0);
            PyObject *before = one->told;
            one->told = Py_NewRef(rate);
            self->own = pair[0], self->used = pair[1];
            Py_XDECREF(before);
        }
    }
    if (numbers != few) PyMem_Free(numbers);
    Py_XDECREF(rate);
    return result;
}

static PyObject *calm_log(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Calm *self = (Calm *)object;
    int result = 0;
    if (count == 2 && self->names != NULL && PyDict_CheckExact(args[0])) {
        PyObject *steerings = Py_NewRef(self->steerings);
        result = log_as_usual(self, args[0], args[1], steerings);
        Py_DECREF(steerings);
        if (goes_on()) return NULL; /* nothing was written */
    }
    return PyLong_FromLong(result);
}

static void forget_expected(Calm *self) { /* `moved`, `logged` and `tells` stay for who asks */
    self->expectation++;
    PyMem_Free(self->names);
    self->names = NULL;
    Py_CLEAR(self->keys);
    Py_CLEAR(self->ids);
    Py_CLEAR(self->steerings);
    Py_CLEAR(self->others);
}

static PyObject *calm_expect(PyObject *object, PyObject *args) {
    Calm *self = (Calm *)object;
    PyObject *steerings, *keys, *ids, *pack, *store, *others;
    long long step, size, points;
    int tells, boundary;
    if (!PyArg_ParseTuple(args, "O!LppO!", &PyTuple_Type, &steerings, &step, &tells, &boundary, &PyTuple_Type, &others))
        return NULL;
    if (self->spool == NULL || self->spool->parts == NULL) return Py_NewRef(Py_None);
    if (!PyArg_ParseTuple(self->spool->parts, "O!OOLLS", &PyTuple_Type, &keys, &pack, &store, &size, &points, &ids)) return NULL;
    Py_ssize_t count = PyTuple_Size(keys), head = RECORD_IDS_AT + RECORD_STEP_AND_TIME;
    int fits = size == head + PyBytes_Size(ids) + 8 * count && points == count;
    if (tells) fits = fits && count >= 2 && PyTuple_Size(steerings) == 1;
    for (Py_ssize_t i = 0; fits && i < count; i++) fits = PyUnicode_CheckExact(PyTuple_GetItem(keys, i));
    for (Py_ssize_t i = 0; fits && i < PyTuple_Size(steerings); i++)
        fits = PyObject_TypeCheck(PyTuple_GetItem(steerings, i), stepping_type);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "a record of another form, or no steerings");
        return NULL;
    }
    char *text;
    Py_ssize_t ids_size;
    if (PyBytes_AsStringAndSize(ids, &text, &ids_size) < 0) return NULL;
    PyObject **names = PyMem_Malloc(count * sizeof(PyObject *) + ids_size);
    if (names == NULL) return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) names[i] = PyTuple_GetItem(keys, i);
    memcpy(names + count, text, ids_size);
    forget_expected(self);
    self->names = names, self->count = count, self->ids_size = ids_size;
    self->others = Py_NewRef(others);
    self->steerings = Py_NewRef(steerings);
    self->keys = Py_NewRef(keys);
    self->ids = Py_NewRef(ids);
    self->size = size, self->points = points, self->logged = step, self->tells = (char)tells;
    self->boundary = (char)boundary, self->moved = 0;
    Py_RETURN_NONE;
}

static PyObject *calm_off(PyObject *object, PyObject *Py_UNUSED(none)) {
    forget_expected((Calm *)object);
    Py_RETURN_NONE;
}

static PyObject *calm_taken(PyObject *object, PyObject *Py_UNUSED(none)) {
    Calm *self = (Calm *)object;
    if (!self->moved) Py_RETURN_NONE;
    self->moved = 0;
    return self->tells ? Py_BuildValue("L(dd)", self->logged, self->own, self->used) : Py_BuildValue("LO", self->logged, Py_None);
}

/* keep_time(now, interval) */
static PyObject *calm_keep_time(PyObject *object, PyObject *args) {
    Calm *self = (Calm *)object;
    PyObject *now, *before = self->now;
    double interval;
    if (!PyArg_ParseTuple(args, "Od", &now, &interval)) return NULL;
    self->now = Py_NewRef(now);
    self->interval = interval;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static int calm_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    Calm *self = (Calm *)object;
    static char *names[] = {"page", "spool", NULL};
    PyObject *page = NULL, *spool = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO", names, &page, &spool)) return -1;
    PyObject *ring_module = spool == Py_None ? NULL : PyImport_ImportModule("smarttuner.bus._ring");
    PyObject *ring_type = ring_module == NULL ? NULL : PyObject_GetAttrString(ring_module, "Ring");
    int is_ring = ring_type != NULL && PyObject_IsInstance(spool, ring_type) == 1;
    Py_XDECREF(ring_module);
    Py_XDECREF(ring_type);
    if (spool != Py_None && !is_ring) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "spool= is no Ring");
        return -1;
    }
    page = page == NULL ? Py_BuildValue("(i)", 0) : Py_NewRef(page);
    if (page == NULL) return -1;
    forget_expected(self);
    PyObject *old_page = self->page, *old_spool = (PyObject *)self->spool;
    self->page = page;
    self->spool = spool == Py_None ? NULL : (Ring *)Py_NewRef(spool);
    Py_XDECREF(old_page);
    Py_XDECREF(old_spool);
    return 0;
}

static PyMemberDef calm_members[] = {
    {"page", T_OBJECT_EX, offsetof(Calm, page), 0, NULL},
    {"expected", T_LONGLONG, offsetof(Calm, expected), 0, NULL},
    {"steps", T_LONGLONG, offsetof(Calm, steps), 0, NULL},
    {"looked", T_DOUBLE, offsetof(Calm, looked), 0, NULL},
    {"fresh", T_BOOL, offsetof(Calm, fresh), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef calm_methods[] = {
    {"log", (PyCFunction)(void (*)(void))calm_log, METH_FASTCALL, NULL},
    {"expect", calm_expect, METH_VARARGS, NULL},
    {"keep_time", calm_keep_time, METH_VARARGS, NULL},
    {"off", calm_off, METH_NOARGS, NULL},
    {"taken", calm_taken, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int calm_traverse(PyObject *object, visitproc visit, void *arg) {
    Calm *self = (Calm *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->page);
    Py_VISIT(self->spool);
    Py_VISIT(self->keys);
    Py_VISIT(self->ids);
    Py_VISIT(self->steerings);
    Py_VISIT(self->others);
    Py_VISIT(self->now);
    return 0;
}

static int calm_clear(PyObject *object) {
    Calm *self = (Calm *)object;
    forget_expected(self);
    Py_CLEAR(self->now);
    Py_CLEAR(self->page);
    Py_CLEAR(self->spool);
    return 0;
}

static void calm_dealloc(PyObject *object) { free_object(object, calm_clear); }

static PyType_Slot calm_slots[] = {
    {Py_tp_init, calm_init},         {Py_tp_members, calm_members}, {Py_tp_methods, calm_methods},
    {Py_tp_traverse, calm_traverse}, {Py_tp_clear, calm_clear},     {Py_tp_dealloc, calm_dealloc}, {0, NULL},
};

PyType_Spec calm_spec = {"smarttuner.trainer._calm.Calm", sizeof(Calm), 0, WITH_SUBCLASSES, calm_slots};

