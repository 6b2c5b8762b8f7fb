/* A driver that is too old: the libcuda.so.1 of driver 470 (CUDA 11.4), or of $STUB_CUDA, with one GPU, a Tesla T4.
   STUB_ERROR: code of cuInit; STUB_SECONDS: how long that takes; STUB_ABORT: it ends the process. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int cuInit(unsigned flags) {
    if (getenv("STUB_ABORT")) abort();
    if (getenv("STUB_SECONDS")) sleep(atoi(getenv("STUB_SECONDS")));
    return getenv("STUB_ERROR") ? atoi(getenv("STUB_ERROR")) : 0;
}
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_STUB"; return 0; }
int cuDriverGetVersion(int *version) {
    *version = getenv("STUB_CUDA") ? atoi(getenv("STUB_CUDA")) : 11040;
    return 0;
}
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Tesla T4", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 1l << 34; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 7 : 5; /* of the compute capability, the major and the minor part */
    return 0;
}

/* MXNet, and ONNX Runtime for CUDA 13, are linked with these; nothing calls them. */
int cuDevicePrimaryCtxRetain() { return 999; }
int cuGetErrorString() { return 999; }
int cuGraphKernelNodeGetParams() { return 999; }
int cuGraphNodeGetType() { return 999; }
int cuLaunchKernel() { return 999; }
int cuModuleGetFunction() { return 999; }
int cuModuleLoadData() { return 999; }
int cuModuleLoadDataEx() { return 999; }
int cuModuleUnload() { return 999; }
int cuTensorMapEncodeTiled() { return 999; }
