/* Stands in for cuDNN beside cuda_stub.c: its reductions, convolutions and softmaxes are counted and do nothing. */
#include <stddef.h>

int cuda_stub_count_cudnn(void);

size_t cudnnGetVersion(void) { return 91300; }
const char *cudnnGetErrorString(int status) { return "an error of the stub"; }
void cudnnGetLastErrorString(char *message, size_t size) {
    if (size) *message = 0;
}
int cudnnGetReductionIndicesSize(void *handle, void *reduction, void *from, void *to, size_t *size) {
    *size = 0;
    return 0;
}
int cudnnGetReductionWorkspaceSize(void *handle, void *reduction, void *from, void *to, size_t *size) {
    *size = 1024;
    return 0;
}
int cudnnReduceTensor(void) { return cuda_stub_count_cudnn(); }
int cudnnSoftmaxForward(void) { return cuda_stub_count_cudnn(); }
int cudnnConvolutionForward(void) { return cuda_stub_count_cudnn(); }
int cudnnConvolutionBiasActivationForward(void) { return cuda_stub_count_cudnn(); }
