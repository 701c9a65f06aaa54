/* A stand-in for NVML: two GPUs. The first counts 80 W, and 200 W while the file NVML_LOADED is there. The second tells
   no energy, as GPUs before Volta. Names, arguments and status codes are those of nvml.h. */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3 };

static int first, second;
static double energy_mj = 5e12, then_s = -1;

int nvmlInit_v2(void) { return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = 2;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    if (index > 1)
        return INVALID_ARGUMENT;
    *device = index == 0 ? &first : &second;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy)
{
    struct timespec now;
    const char *loaded = getenv("NVML_LOADED");
    if (device != &first)
        return NOT_SUPPORTED;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double now_s = now.tv_sec + 1e-9 * now.tv_nsec;
    double watts = loaded != NULL && access(loaded, F_OK) == 0 ? 200 : 80;
    if (then_s >= 0)
        energy_mj += 1e3 * watts * (now_s - then_s);
    then_s = now_s;
    *energy = (unsigned long long)energy_mj;
    return SUCCESS;
}
