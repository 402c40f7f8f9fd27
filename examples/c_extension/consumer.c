/* An extension module in C that calls the installed kernels through a capsule: there is nothing to link. */
#include <Python.h>

#include <math.h>
#include <microgpt_fast.h>

static const mgf_api *mgf;

static PyObject *softmax_gradient(PyObject *self, PyObject *args) {
    double a, b;
    int target;
    if (!PyArg_ParseTuple(args, "ddi", &a, &b, &target)) return NULL;
    double logits[2] = {a, b}, loss, lse, weight = 1, gradient[2];
    int32_t targets[1] = {target};
    if (mgf->f64->cross_entropy_forward(&loss, &lse, logits, targets, 1, 2) >= 0)
        return PyErr_Format(PyExc_IndexError, "target %d is neither 0 nor 1", target);
    mgf->f64->cross_entropy_backward(gradient, &weight, &lse, logits, targets, 1, 2);
    return Py_BuildValue("d(dd)", loss, gradient[0], gradient[1]);
}

static PyMethodDef methods[] = {
    {"softmax_gradient", softmax_gradient, METH_VARARGS,
     "softmax_gradient(a, b, target): the cross-entropy of two logits, and its gradient"},
    {0},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "consumer", NULL, -1, methods};

PyMODINIT_FUNC PyInit_consumer(void) {
    mgf = mgf_import();
    return mgf ? PyModule_Create(&module) : NULL;
}
