/* What a watched training does at every step, compiled, for the case that nothing is out of the ordinary: a call of log() with the
 * names of the last one and numbers (calm_log.c); the hooks around the step of an optimizer with plain learning rates, and the
 * step boundary behind it at which nothing is to be done (calm_steps.c). All else goes to Python, which does this, too, where it is
 * not built.
 *
 * A training does not pay for the work of such a call but for what it touches, since a step leaves nothing of it in the caches:
 * this touches a fraction of what Python's interpreter does for it.
 *
 * What fails here is tried again the long way, which tells of it. Between ring_room and ring_written, and while learning rates are
 * put in place, no Python code runs and the GIL is kept: other threads and signal handlers see one step. */
#ifndef SMART_TUNER_CALM_H
#define SMART_TUNER_CALM_H

#include "../bus/ring.h"

#define WITH_SUBCLASSES (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC)

/* What log() and a step boundary look at: calm.Calm. */
typedef struct {
    PyObject_HEAD
    PyObject *page; /* words of the control page, for Python */
    Ring *spool;    /* the same words, and where log() writes; NULL on a rank that logs nothing */
    long long expected, steps;
    double looked, interval; /* seconds since 1970 of the last look around, and how long it is good for */
    PyObject *now;           /* the clock; NULL, or None: the system's */
    char fresh;
    /* what the next call of log() is to be like; `names` is NULL while there is nothing to go by */
    PyObject *keys, *ids, *steerings;
    PyObject *others; /* types of which one number may be had */
    PyObject **names; /* those of `keys`; behind them in the same memory lie the bytes of `ids` */
    long long expectation; /* counts them */
    Py_ssize_t count, ids_size;
    long long size, points, logged;
    double own, used; /* learning rates as the series hold them */
    char boundary;    /* a call is a step boundary, too */
    char tells;       /* the record begins with the learning rate and what is used of it */
    char moved;       /* calls were taken that Python has not heard of */
} Calm;

/* The learning rates that a step uses in place of the user's: rates.Placed. */
typedef struct {
    PyObject_HEAD
    char any;
    PyObject *groups; /* list of (group, own, used) */
} Places;

/* One optimizer and the step that it is in: lr.Steering. */
typedef struct {
    PyObject_HEAD
    PyObject *optimizer, *boundary, *calm, *code, *guard, *placed, *plan, *told;
    Py_ssize_t frame;
    long long overwritten;
    double min_lr;
    char steers, by_itself; /* by_itself: the rates of this step were placed here */
    PyObject *lent;         /* the guard that this step has; only compared, since whoever holds it tells of its end */
} Stepping;

extern PyTypeObject *calm_type, *places_type, *stepping_type;
extern PyType_Spec calm_spec, places_spec, stepping_spec;

PyObject *rate_of(PyObject *group);
PyObject *plain_rate(PyObject *group);
PyObject *groups_of(PyObject *optimizer);
int used_rate(PyObject *entry, double own, double floor, double *used);
double now_of(PyObject *now);
int is_changed(const Calm *calm);
/* The error that is set, taken, with its traceback. */
PyObject *fetched(void);
/* After what may have run code of the job's: whether the error that is set is an interrupt, or what a handler of the job's raised,
 * and must reach the training. Another one is forgotten: the long way tells of it. */
int goes_on(void);
PyObject *before_step(PyObject *optimizer, PyObject *args, PyObject *kwargs);
PyObject *after_step(PyObject *optimizer, PyObject *args, PyObject *kwargs);
PyObject *steer(PyObject *module, PyObject *args);
int intern_names(void);
int intern_log_names(void);

static inline void free_object(PyObject *object, inquiry clear) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear(object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

#endif
