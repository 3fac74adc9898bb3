/* Stands in for TensorRT where a list of all providers' kernels makes ONNX Runtime load it: every object is one thing whose every method does nothing. */
#include <stddef.h>

static long nothing(void) { return 0; }
static long (*methods[512])(void);
static void *object[512] = {methods};

__attribute__((constructor)) static void begin(void) {
    for (size_t method = 0; method < sizeof methods / sizeof *methods; method++) methods[method] = nothing;
}

void *createInferBuilder_INTERNAL(void) { return object; }
void *createInferRuntime_INTERNAL(void) { return object; }
void *createInferRefitter_INTERNAL(void) { return object; }
void *createNvOnnxParser_INTERNAL(void) { return object; }
void *createNvOnnxParserRefitter_INTERNAL(void) { return object; }
void *getPluginRegistry(void) { return object; }
