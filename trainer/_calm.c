/* The module of calm.h. */
#include "calm.h"

PyTypeObject *calm_type, *places_type, *stepping_type;

/* A hook is an object and no function: dynamo, which traces into the functions it knows, warns of those it does not. */
typedef struct {
    PyObject_HEAD
    char after;
} Hook;

static PyObject *hook_call(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs)) {
    PyObject *optimizer, *step_args, *step_kwargs;
    if (!PyArg_UnpackTuple(args, "hook", 3, 3, &optimizer, &step_args, &step_kwargs)) return NULL;
    return ((Hook *)object)->after ? after_step(optimizer, step_args, step_kwargs) : before_step(optimizer, step_args, step_kwargs);
}

static PyType_Slot hook_slots[] = {{Py_tp_call, hook_call}, {0, NULL}};
static PyType_Spec hook_spec = {"smarttuner.trainer._calm.Hook", sizeof(Hook), 0, Py_TPFLAGS_DEFAULT, hook_slots};

static PyObject *of_handler;

PyObject *fetched(void) {
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace != NULL) PyException_SetTraceback(error, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return error;
}

int goes_on(void) {
    if (!PyErr_Occurred()) return 0;
    if (!PyErr_ExceptionMatches(PyExc_Exception)) return 1;
    PyObject *error = fetched(), *found = of_handler == NULL ? NULL : PyObject_CallFunctionObjArgs(of_handler, error, NULL);
    Py_XDECREF(error);
    PyErr_Clear();
    if (found != NULL && PyExceptionInstance_Check(found)) {
        PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(found)), found, PyException_GetTraceback(found));
        return 1;
    }
    Py_XDECREF(found);
    return 0;
}

static PyObject *ask(PyObject *Py_UNUSED(module), PyObject *function) {
    Py_XDECREF(of_handler);
    of_handler = Py_NewRef(function);
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"ask", ask, METH_O, NULL},
    {"steer", steer, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {.m_base = PyModuleDef_HEAD_INIT, .m_name = "_calm", .m_size = -1, .m_methods = module_methods};

PyMODINIT_FUNC PyInit__calm(void) {
    places_type = (PyTypeObject *)PyType_FromSpec(&places_spec);
    calm_type = (PyTypeObject *)PyType_FromSpec(&calm_spec);
    stepping_type = (PyTypeObject *)PyType_FromSpec(&stepping_spec);
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || places_type == NULL || calm_type == NULL || stepping_type == NULL) return NULL;
    if (!intern_names() || !intern_log_names() || PyModule_AddIntConstant(made, "FORM", FORM) < 0) return NULL;
    if (PyModule_AddObjectRef(made, "Places", (PyObject *)places_type) < 0 ||
        PyModule_AddObjectRef(made, "Calm", (PyObject *)calm_type) < 0 ||
        PyModule_AddObjectRef(made, "Stepping", (PyObject *)stepping_type) < 0)
        return NULL;
    PyObject *type = PyType_FromSpec(&hook_spec);
    if (type == NULL || PyObject_SetAttrString(type, "_torchdynamo_disable", Py_True) < 0) return NULL;
    for (int after = 0; after < 2; after++) {
        Hook *hook = (Hook *)PyType_GenericAlloc((PyTypeObject *)type, 0);
        if (hook == NULL || PyModule_AddObjectRef(made, after ? "after_step" : "before_step", (PyObject *)hook) < 0) return NULL;
        hook->after = (char)after;
        Py_DECREF((PyObject *)hook);
    }
    Py_DECREF(type);
    return made;
}
