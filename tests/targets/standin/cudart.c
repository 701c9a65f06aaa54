/* A stand-in for libcudart: the GPU's memory is memory of the host, and everything happens at once. Its clock is the
   host's, so its times are no times of a GPU. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LARGEST ((size_t)1 << 31) /* bytes: the memory of this GPU */

static const char *const no_memory = "out of memory";
static const char *const unknown = "unknown error";

const char *cudaGetErrorString(int status) { return status == 2 ? no_memory : unknown; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaSetDeviceFlags(unsigned flags) { (void)flags; return 0; }

static int allocate(void **address, size_t size)
{
    *address = size > LARGEST ? NULL : malloc(size);
    return *address == NULL ? 2 : 0;
}
int cudaMalloc(void **address, size_t size) { return allocate(address, size); }
int cudaMallocHost(void **address, size_t size) { return allocate(address, size); }
int cudaFree(void *address) { free(address); return 0; }
int cudaFreeHost(void *address) { free(address); return 0; }

int cudaStreamCreateWithFlags(void **stream, unsigned flags) { (void)flags; return allocate(stream, 1); }
int cudaStreamSynchronize(void *stream) { (void)stream; return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream)
{
    (void)kind; (void)stream;
    memcpy(to, from, size);
    return 0;
}

int cudaEventCreate(void **event) { return allocate(event, sizeof(struct timespec)); }
int cudaEventRecord(void *event, void *stream)
{
    (void)stream;
    return clock_gettime(CLOCK_MONOTONIC, event);
}
int cudaEventSynchronize(void *event) { (void)event; return 0; }
int cudaEventElapsedTime(float *ms, void *first, void *second)
{
    const struct timespec *a = first, *b = second;
    *ms = (float)((b->tv_sec - a->tv_sec) * 1e3 + (b->tv_nsec - a->tv_nsec) / 1e6);
    return 0;
}
