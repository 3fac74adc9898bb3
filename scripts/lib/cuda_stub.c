/* Stands in for the CUDA runtime, so that ONNX Runtime's CUDA provider opens and runs sessions on a machine without a GPU.
 *
 * Memory of the device is memory of the host, copies are copies, and kernels and products do nothing: what a session computes is meaningless, and no time says
 * anything of a GPU. What is real is the provider's own work on the host: which nodes it takes, where it copies, and where it waits.
 *
 * CUDA_STUB_COUNTS names a file that gets a line `KIND CALLS BYTES` for each kind of call when the process ends.
 * CUDA_STUB_NONZERO is the number of elements that NonZero finds: the answer to every copy of 4 bytes to the host.
 *
 * cuda_stub.py adds the functions that do nothing at all. Signatures and the layout of cudaDeviceProp are those of NVIDIA's documentation of CUDA 13.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { TO_DEVICE, TO_HOST, ON_DEVICE, STREAM_WAIT, DEVICE_WAIT, EVENT_WAIT, LAUNCH, PRODUCT, CUDNN, ALLOCATION, KINDS };
static const char *const NAMES[KINDS] = {"host_to_device", "device_to_host", "device_to_device", "stream_wait", "device_wait",
                                         "event_wait",     "launch",         "product",          "cudnn",       "allocation"};
static atomic_size_t calls[KINDS], bytes[KINDS], in_use, peak;
static int found_by_nonzero;

static int count(int kind, size_t size) {
    calls[kind]++;
    bytes[kind] += size;
    return 0;
}

/* For the stub of cuDNN, which is a library of its own. */
int cuda_stub_count_cudnn(void) { return count(CUDNN, 0); }

__attribute__((constructor)) static void begin(void) {
    const char *nonzero = getenv("CUDA_STUB_NONZERO");
    found_by_nonzero = nonzero ? atoi(nonzero) : 0;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("CUDA_STUB_COUNTS");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    for (int kind = 0; kind < KINDS; kind++) fprintf(file, "%s %zu %zu\n", NAMES[kind], (size_t)calls[kind], (size_t)bytes[kind]);
    fprintf(file, "peak 1 %zu\n", (size_t)peak);
    fclose(file);
}

/* Memory: pages that cost nothing until they are written to, behind one that holds their length. */
enum { PAGE = 4096 };

static int take(void **made, size_t size) {
    char *start = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return 2; /* cudaErrorMemoryAllocation */
    *(size_t *)start = size;
    *made = start + PAGE;
    return 0;
}

static size_t give_back(void *memory) {
    if (!memory) return 0;
    char *start = (char *)memory - PAGE;
    size_t size = *(size_t *)start;
    munmap(start, size + PAGE);
    return size;
}

int cudaMalloc(void **made, size_t size) {
    count(ALLOCATION, size);
    size_t now = atomic_fetch_add(&in_use, size) + size, before = peak;
    while (now > before && !atomic_compare_exchange_weak(&peak, &before, now)) {}
    return take(made, size);
}
int cudaMallocFromPoolAsync(void **made, size_t size, void *pool, void *stream) { return cudaMalloc(made, size); }
int cudaFree(void *memory) {
    in_use -= give_back(memory);
    return 0;
}
int cudaFreeAsync(void *memory, void *stream) { return cudaFree(memory); }
int cudaMallocHost(void **made, size_t size) { return take(made, size); }
int cudaHostAlloc(void **made, size_t size, unsigned flags) { return take(made, size); }
int cudaFreeHost(void *memory) {
    give_back(memory);
    return 0;
}
int cudaMemGetInfo(size_t *left, size_t *total) {
    *total = (size_t)80 << 30;
    *left = (size_t)60 << 30;
    return 0;
}

/* Copies: the direction is 1 to the device, 2 to the host, 3 on the device. */
int cudaMemcpyAsync(void *to, const void *from, size_t size, int direction, void *stream) {
    if (direction >= 1 && direction <= 3) count(TO_DEVICE + direction - 1, size);
    memcpy(to, from, size);
    if (found_by_nonzero && direction == 2 && size == sizeof(int)) *(int *)to = found_by_nonzero;
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int direction) {
    count(STREAM_WAIT, 0);
    return cudaMemcpyAsync(to, from, size, direction, NULL);
}
int cudaMemset(void *to, int value, size_t size) {
    memset(to, value, size);
    return 0;
}
int cudaMemsetAsync(void *to, int value, size_t size, void *stream) { return cudaMemset(to, value, size); }

int cudaStreamSynchronize(void *stream) { return count(STREAM_WAIT, 0); }
int cudaDeviceSynchronize(void) { return count(DEVICE_WAIT, 0); }
int cudaEventSynchronize(void *event) { return count(EVENT_WAIT, 0); }

int cudaLaunchKernel(void) { return count(LAUNCH, 0); }
int __cudaLaunchKernel(void) { return count(LAUNCH, 0); }
int cudaLaunchKernelExC(void) { return count(LAUNCH, 0); }
int cudaLaunchCooperativeKernel(void) { return count(LAUNCH, 0); }
int cublasSgemm_v2(void) { return count(PRODUCT, 0); }
int cublasSgemmStridedBatched(void) { return count(PRODUCT, 0); }
int cublasSgemmBatched(void) { return count(PRODUCT, 0); }
int cublasGemmEx(void) { return count(PRODUCT, 0); }
int cublasGemmStridedBatchedEx(void) { return count(PRODUCT, 0); }
int cublasGemmBatchedEx(void) { return count(PRODUCT, 0); }
int cublasLtMatmul(void) { return count(PRODUCT, 0); }

/* One device, as able as an H100. */
int cudaGetDevice(int *device) {
    *device = 0;
    return 0;
}
int cudaGetDeviceCount(int *devices) {
    *devices = 1;
    return 0;
}
int cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return 0;
}
int cudaDriverGetVersion(int *version) { return cudaRuntimeGetVersion(version); }

struct cudaDeviceProp {
    char name[256];
    char uuid[16];
    char luid[8];
    unsigned luid_mask;
    size_t total_memory, shared_memory_per_block;
    int registers_per_block, warp_size;
    size_t memory_pitch;
    int threads_per_block, threads[3], grid[3];
    size_t constant_memory;
    int major, minor;
    size_t texture_alignment, texture_pitch_alignment;
    int processors;
};

int cudaGetDeviceProperties(struct cudaDeviceProp *device, int number) {
    *device = (struct cudaDeviceProp){
        .name = "no GPU",
        .total_memory = (size_t)80 << 30,
        .shared_memory_per_block = 48 << 10,
        .registers_per_block = 65536,
        .warp_size = 32,
        .memory_pitch = INT32_MAX,
        .threads_per_block = 1024,
        .threads = {1024, 1024, 64},
        .grid = {INT32_MAX, 65535, 65535},
        .constant_memory = 64 << 10,
        .major = 9,
        .texture_alignment = 512,
        .texture_pitch_alignment = 32,
        .processors = 132,
    };
    memset(device + 1, 0, 512);
    return 0;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 16: *value = 132; break;           /* processors */
    case 75: *value = 9; break;             /* major */
    case 76: *value = 0; break;             /* minor */
    case 97: *value = 227 << 10; break;     /* shared memory that a block may ask for */
    default: *value = 1024;
    }
    return 0;
}

struct cudaFuncAttributes {
    size_t shared, constant, local;
    int threads_per_block, registers, ptx_version, binary_version;
    char rest[100];
};

int cudaFuncGetAttributes(struct cudaFuncAttributes *kernel, const void *function) {
    *kernel = (struct cudaFuncAttributes){.threads_per_block = 1024, .registers = 32, .ptx_version = 90, .binary_version = 90};
    return 0;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int block, size_t shared, unsigned flags) {
    *blocks = 2;
    return 0;
}

struct cudaPointerAttributes {
    int type, device;
    void *on_device, *on_host;
};

int cudaPointerGetAttributes(struct cudaPointerAttributes *pointer, const void *memory) {
    *pointer = (struct cudaPointerAttributes){.type = 2, .on_device = (void *)memory};
    return 0;
}

int cudaStreamIsCapturing(void *stream, int *status) {
    *status = 0;
    return 0;
}
int cublasGetMathMode(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

void **__cudaRegisterFatBinary(void *binary) {
    static void *handle[4];
    return handle;
}

const char *cudaGetErrorString(int error) { return "an error of the stub"; }
const char *cudaGetErrorName(int error) { return "stub"; }
const char *cublasGetStatusName(int status) { return "stub"; }
const char *cublasGetStatusString(int status) { return "an error of the stub"; }
