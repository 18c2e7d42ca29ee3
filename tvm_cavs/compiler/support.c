/* What compiled kernels ask of TVM's runtime and of tvm_ffi, for a process that has none: linked into
 * every library that is exported. Where those are loaded too, their functions take the place of these.
 *
 * Kernels call through pointers of these names, which every object file of theirs defines weakly.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    void *sync_handle;
    int32_t num_task;
} Group;
typedef int (*Task)(int task, Group *group, void *data);

enum { SAID = 512 }; /* bytes of the longest reason */
static __thread char said[SAID];

/* tvm_ffi's name: keeps why a kernel did not take its arguments, for the thread that called it. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t n_parts)
{
    size_t n = 0;
    (void)kind;
    for (int32_t i = 0; i < n_parts; i++) {
        for (const char *c = parts[i]; c != NULL && *c && n + 1 < SAID; c++) {
            said[n++] = *c;
        }
    }
    said[n] = 0;
}

/* The reason, until the thread's next one; "" before any, or where tvm_ffi has it. */
const char *tvm_cavs_said(void)
{
    return said;
}

/* Memory of a kernel for the time of a call, aligned for vectors; NULL where there is none. */
static void *take(int device_type, int device_id, uint64_t n_bytes, int code, int bits)
{
    void *found = NULL;
    (void)device_type, (void)device_id, (void)code, (void)bits;
    return posix_memalign(&found, 64, n_bytes ? (size_t)n_bytes : 1) ? NULL : found;
}

static int give(int device_type, int device_id, void *memory)
{
    (void)device_type, (void)device_id;
    free(memory);
    return 0;
}

/* All of a parallel loop as one task, in the thread that calls. No result depends on how many tasks
 * there are; a server uses its cores by running several calls at a time. */
static int launch(Task task, void *data, int n_tasks)
{
    Group group = {NULL, 1};
    (void)n_tasks;
    return task(0, &group, data);
}

void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = take;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = give;
int (*__TVMBackendParallelLaunch)(Task, void *, int) = launch;

#ifdef __cplusplus
}
#endif
