/* The hooks around the step of an optimizer, and the boundary behind it. */
#include "calm.h"

static PyObject *groups_name, *rate_name;

int intern_names(void) {
    groups_name = PyUnicode_InternFromString("param_groups");
    rate_name = PyUnicode_InternFromString("lr");
    return groups_name != NULL && rate_name != NULL;
}

/* ---- the types ---- */

static PyMemberDef places_members[] = {
    {"any", T_BOOL, offsetof(Places, any), 0, NULL},
    {"groups", T_OBJECT_EX, offsetof(Places, groups), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int places_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((Places *)object)->groups);
    return 0;
}

static int places_clear(PyObject *object) {
    Py_CLEAR(((Places *)object)->groups);
    return 0;
}

static void places_dealloc(PyObject *object) { free_object(object, places_clear); }

static PyType_Slot places_slots[] = {
    {Py_tp_members, places_members}, {Py_tp_traverse, places_traverse}, {Py_tp_clear, places_clear},
    {Py_tp_dealloc, places_dealloc}, {0, NULL},
};

PyType_Spec places_spec = {"smarttuner.trainer._calm.Places", sizeof(Places), 0, WITH_SUBCLASSES, places_slots};

static PyMemberDef stepping_members[] = {
    {"optimizer", T_OBJECT_EX, offsetof(Stepping, optimizer), 0, NULL},
    {"boundary", T_OBJECT, offsetof(Stepping, boundary), 0, NULL},
    {"calm", T_OBJECT, offsetof(Stepping, calm), 0, NULL},
    {"code", T_OBJECT, offsetof(Stepping, code), 0, NULL},
    {"guard", T_OBJECT, offsetof(Stepping, guard), 0, NULL},
    {"placed", T_OBJECT_EX, offsetof(Stepping, placed), 0, NULL},
    {"_plan", T_OBJECT_EX, offsetof(Stepping, plan), 0, NULL},
    {"told", T_OBJECT_EX, offsetof(Stepping, told), 0, NULL},
    {"frame", T_PYSSIZET, offsetof(Stepping, frame), 0, NULL},
    {"overwritten", T_LONGLONG, offsetof(Stepping, overwritten), 0, NULL},
    {"min_lr", T_DOUBLE, offsetof(Stepping, min_lr), 0, NULL},
    {"steers", T_BOOL, offsetof(Stepping, steers), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int stepping_traverse(PyObject *object, visitproc visit, void *arg) {
    Stepping *self = (Stepping *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->optimizer);
    Py_VISIT(self->boundary);
    Py_VISIT(self->calm);
    Py_VISIT(self->code);
    Py_VISIT(self->guard);
    Py_VISIT(self->placed);
    Py_VISIT(self->plan);
    Py_VISIT(self->told);
    return 0;
}

static int stepping_clear(PyObject *object) {
    Stepping *self = (Stepping *)object;
    Py_CLEAR(self->optimizer);
    Py_CLEAR(self->boundary);
    Py_CLEAR(self->calm);
    Py_CLEAR(self->code);
    Py_CLEAR(self->guard);
    Py_CLEAR(self->placed);
    Py_CLEAR(self->plan);
    Py_CLEAR(self->told);
    return 0;
}

static void stepping_dealloc(PyObject *object) { free_object(object, stepping_clear); }

static PyType_Slot stepping_slots[] = {
    {Py_tp_members, stepping_members}, {Py_tp_traverse, stepping_traverse}, {Py_tp_clear, stepping_clear},
    {Py_tp_dealloc, stepping_dealloc}, {0, NULL},
};

PyType_Spec stepping_spec = {"smarttuner.trainer._calm.Stepping", sizeof(Stepping), 0, WITH_SUBCLASSES, stepping_slots};

/* ---- learning rates ---- */

/* The learning rate of a group; borrowed from the group. NULL where it has none. */
PyObject *rate_of(PyObject *group) {
    return group != NULL && PyDict_CheckExact(group) ? PyDict_GetItemWithError(group, rate_name) : NULL;
}

/* The same, where it is a plain float. */
PyObject *plain_rate(PyObject *group) {
    PyObject *rate = rate_of(group);
    return rate != NULL && PyFloat_CheckExact(rate) ? rate : NULL;
}

/* The optimizer's list of groups, a new reference; NULL where it is no list. May run code of the job's (a property). */
PyObject *groups_of(PyObject *optimizer) {
    PyObject *groups = optimizer == NULL ? NULL : PyObject_GetAttr(optimizer, groups_name);
    if (groups != NULL && PyList_CheckExact(groups)) return groups;
    Py_XDECREF(groups);
    return NULL;
}

/* What a group uses whose own rate is `own`, by its entry in a plan: None, or (multiplier, hold or None). 0 where that is none. */
int used_rate(PyObject *entry, double own, double floor, double *used) {
    if (entry == Py_None) {
        *used = own;
        return 1;
    }
    if (entry == NULL || !PyTuple_CheckExact(entry) || PyTuple_Size(entry) != 2) return 0;
    PyObject *multiplier = PyTuple_GetItem(entry, 0), *hold = PyTuple_GetItem(entry, 1);
    if (hold != Py_None) {
        if (!PyFloat_CheckExact(hold)) return 0;
        *used = PyFloat_AsDouble(hold);
        return 1;
    }
    if (!PyFloat_CheckExact(multiplier)) return 0;
    *used = own * PyFloat_AsDouble(multiplier);
    if (*used < floor) { /* max(used, min(own, floor)) as Python compares */
        double least = floor < own ? floor : own;
        if (least > *used) *used = least;
    }
    return 1;
}

/* ---- the hooks ---- */

static PyObject *steered, *long_before, *long_after, *failed; /* a tuple of steerings, each of an optimizer that is steered once */

static Stepping *steering_of(PyObject *optimizer) {
    for (Py_ssize_t i = 0, count = steered == NULL ? 0 : PyTuple_Size(steered); i < count; i++) {
        Stepping *one = (Stepping *)PyTuple_GetItem(steered, i);
        if (one->optimizer == optimizer) return one;
    }
    return NULL;
}

/* As rates.Placed.put_back, of plain rates. */
static void put_back(Stepping *self) {
    Places *placed = (Places *)self->placed;
    for (Py_ssize_t i = 0; i < PyList_Size(placed->groups); i++) {
        PyObject *all = PyList_GetItem(placed->groups, i), *group = PyTuple_GetItem(all, 0);
        if (PyDict_GetItemWithError(group, rate_name) == PyTuple_GetItem(all, 2))
            PyDict_SetItem(group, rate_name, PyTuple_GetItem(all, 1));
        else
            self->overwritten++;
    }
    placed->any = 0;
    PyList_SetSlice(placed->groups, 0, PyList_Size(placed->groups), NULL);
}

/* Puts the wanted rates in place where all groups have plain ones and the last step's arguments can serve again. 0 where not, and
 * nothing was changed. */
static int place(Stepping *self, PyObject *kwargs) {
    PyObject *groups = groups_of(self->optimizer); /* first: it may run code of the job's */
    Places *placed = (Places *)self->placed;
    if (groups == NULL) return 0;
    if (self->guard == NULL || self->guard == Py_None || !PyDict_Check(kwargs) || PyDict_Size(kwargs) != 0 || placed->any ||
        placed->groups == NULL || !PyList_CheckExact(placed->groups) || self->plan == NULL || !PyList_CheckExact(self->plan)) {
        Py_DECREF(groups);
        return 0;
    }
    Py_ssize_t count = PyList_Size(groups);
    double used;
    int fits = count == PyList_Size(self->plan);
    for (Py_ssize_t i = 0; fits && i < count; i++) {
        PyObject *entry = PyList_GetItem(self->plan, i), *rate = entry == Py_None ? NULL : plain_rate(PyList_GetItem(groups, i));
        fits = entry == Py_None || (rate != NULL && used_rate(entry, PyFloat_AsDouble(rate), self->min_lr, &used));
    }
    if (!fits) {
        Py_DECREF(groups);
        return 0;
    }
    placed->any = 1;
    for (Py_ssize_t i = 0; fits && i < count; i++) {
        PyObject *entry = PyList_GetItem(self->plan, i), *group = PyList_GetItem(groups, i);
        if (entry == Py_None) continue;
        PyObject *own = plain_rate(group);
        used_rate(entry, PyFloat_AsDouble(own), self->min_lr, &used);
        PyObject *number = PyFloat_FromDouble(used), *all = number == NULL ? NULL : PyTuple_Pack(3, group, own, number);
        fits = all != NULL && PyList_Append(placed->groups, all) == 0 && PyDict_SetItem(group, rate_name, number) == 0;
        Py_XDECREF(number);
        Py_XDECREF(all);
    }
    Py_DECREF(groups);
    if (!fits) put_back(self); /* memory ran out half way */
    return fits;
}

/* torch's hook before a step. */
PyObject *before_step(PyObject *optimizer, PyObject *args, PyObject *kwargs) {
    Stepping *one = steering_of(optimizer);
    PyFrameObject *frame = one == NULL || one->frame != 0 ? NULL : PyEval_GetFrame();
    Py_ssize_t hash = frame == NULL ? 0 : PyObject_Hash((PyObject *)frame);
    if (one != NULL) one->by_itself = 0;
    if (hash != 0 && hash != -1) {
        Py_INCREF((PyObject *)one);
        PyObject *result = NULL;
        if (one->code == NULL || one->code == Py_None) {
            Py_XDECREF(one->code);
            one->code = (PyObject *)PyFrame_GetCode(frame);
        }
        if (!one->steers) {
            result = Py_NewRef(Py_None);
        } else if (place(one, kwargs)) {
            one->by_itself = 1;
            one->lent = one->guard;
            result = PyTuple_Pack(2, args, one->guard);
            if (result != NULL)
                Py_CLEAR(one->guard);
            else
                put_back(one);
        }
        if (result != NULL) one->frame = hash;
        Py_DECREF((PyObject *)one);
        if (result != NULL) return result;
    }
    if (goes_on()) return NULL;
    return PyObject_CallFunctionObjArgs(long_before, optimizer, args, kwargs, NULL);
}

/* Whether something new stands on the control page, or waits. */
int is_changed(const Calm *calm) {
    const Ring *spool = calm->spool;
    if (spool == NULL) return calm->expected != 0;
    return spool->map != NULL && (long long)*ring_word(spool, spool->control_at) != calm->expected;
}

/* Whether this boundary is one at which nothing is to be done; it is counted then. */
static int is_calm(Calm *calm) {
    if (is_changed(calm)) return 0;
    if (!calm->fresh) {
        double since = now_of(calm->now) - calm->looked;
        if (PyErr_Occurred() || !(since >= 0.0 && since < calm->interval)) return 0;
    }
    calm->fresh = 0;
    calm->steps = (long long)((unsigned long long)calm->steps + 1);
    return 1;
}

/* A hook of ours never reaches the training, but what a handler of the job's raised does. */
static PyObject *tell_failed(void) {
    PyObject *error = fetched(), *told = PyObject_CallFunctionObjArgs(failed, error, NULL);
    Py_XDECREF(error);
    return told;
}

/* torch's hook behind a step. */
PyObject *after_step(PyObject *optimizer, PyObject *args, PyObject *kwargs) {
    Stepping *one = steering_of(optimizer);
    PyFrameObject *frame = one == NULL ? NULL : PyEval_GetFrame();
    Py_ssize_t hash = frame == NULL ? 0 : PyObject_Hash((PyObject *)frame);
    if (hash != 0 && one->frame == hash && (one->by_itself || !((Places *)one->placed)->any)) {
        Py_INCREF((PyObject *)one);
        if (one->by_itself) {
            put_back(one);
            one->by_itself = 0;
            if (one->guard == NULL && kwargs == one->lent && PyDict_Size(kwargs) == 0) one->guard = Py_NewRef(kwargs);
        }
        one->frame = 0;
        PyObject *calm = Py_NewRef(one->calm == NULL ? Py_None : one->calm);
        int done = PyObject_TypeCheck(calm, calm_type) && is_calm((Calm *)calm);
        PyObject *boundary = done || one->boundary == NULL ? Py_NewRef(Py_None) : Py_NewRef(one->boundary);
        Py_DECREF(calm);
        Py_DECREF((PyObject *)one);
        PyObject *result = goes_on() ? NULL : boundary == Py_None ? Py_NewRef(Py_None) : PyObject_CallNoArgs(boundary);
        Py_DECREF(boundary);
        return result != NULL ? result : PyErr_ExceptionMatches(PyExc_Exception) ? tell_failed() : NULL;
    }
    return PyObject_CallFunctionObjArgs(long_after, optimizer, args, kwargs, NULL);
}

/* steer(steerings, before, after, failed) */
PyObject *steer(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *given[4];
    if (!PyArg_ParseTuple(args, "O!OOO", &PyTuple_Type, given, given + 1, given + 2, given + 3)) return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_Size(given[0]); i++) {
        PyObject *one = PyTuple_GetItem(given[0], i);
        if (!PyObject_TypeCheck(one, stepping_type) || !PyObject_TypeCheck(((Stepping *)one)->placed, places_type)) {
            PyErr_SetString(PyExc_TypeError, "no steering");
            return NULL;
        }
    }
    PyObject **kept[4] = {&steered, &long_before, &long_after, &failed};
    for (int i = 0; i < 4; i++) {
        PyObject *before = *kept[i];
        *kept[i] = Py_NewRef(given[i]);
        Py_XDECREF(before);
    }
    Py_RETURN_NONE;
}
