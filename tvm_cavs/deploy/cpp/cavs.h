/* An exported model answers, from any language, without Python.
 *
 * In order: cavs_load, cavs_input and cavs_output to see what there is, cavs_run as often as one
 * likes, cavs_free. The caller owns all arrays; nothing that is given is kept or written to.
 *
 * Any number of threads may call cavs_run on one model. A call runs in the thread that makes it. As
 * many run at once as the process may use cores, and the others wait.
 *
 * Every vertex is computed, also where several have equal subtrees. An answer does not depend on
 * what else is in its batch, and is that of tvm_cavs.deploy to the last bit.
 */
#ifndef CAVS_H
#define CAVS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAVS_API __attribute__((visibility("default")))

/* What a call says. All but CAVS_OK leave a text for cavs_last_error. */
typedef enum cavs_status {
    CAVS_OK = 0,
    CAVS_ERROR_ARGUMENT = 1, /* a pointer is NULL, or an array of another size than it must be */
    CAVS_ERROR_FILE = 2,     /* a file of the folder is absent or cannot be read */
    CAVS_ERROR_DAMAGED = 3,  /* a file is not the one that was exported, or no such file */
    CAVS_ERROR_NEWER = 4,    /* the model was made by a newer version */
    CAVS_ERROR_CPU = 5,      /* the model's kernels are for another CPU, or cannot be loaded */
    CAVS_ERROR_GRAPH = 6,    /* the graphs are none, or do not fit the model */
    CAVS_ERROR_KIND = 7,     /* a vertex has what the model was not exported for */
    CAVS_ERROR_MEMORY = 8,   /* there is not as much memory, or it may not be taken */
    CAVS_ERROR_KERNEL = 9    /* a kernel refused its arguments: an error of this library */
} cavs_status;

typedef enum cavs_dtype { CAVS_NONE = 0, CAVS_INT32 = 1, CAVS_FLOAT32 = 2 } cavs_dtype;

typedef struct cavs_model cavs_model;

/* An input that the model reads, or an output. Pointers live as long as the model. */
typedef struct cavs_info {
    const char *name;
    const char *kind;    /* "tokens", "integers" or "numbers"; "" where only presence matters */
    const int64_t *dims; /* shape at one vertex */
    int32_t n_dims;
    int32_t dtype;  /* a cavs_dtype; CAVS_NONE: only whether a vertex has the input matters */
    int64_t width;  /* numbers of one vertex: the product of dims */
    int64_t limit;  /* integers are 0..limit - 1; -1 where the model does not say */
} cavs_info;

/* Values of one input at all vertices. */
typedef struct cavs_values {
    const char *name;
    const void *values;     /* int32 or float32 [n_vertices, dims...]; may be NULL if none has it */
    int64_t n_values;       /* numbers in values: n_vertices * width */
    int32_t dtype;          /* of values */
    const uint8_t *present; /* [n_vertices], 0 where a vertex lacks it; NULL: all have it */
} cavs_values;

/* Graphs as flat arrays: one, or several one after the other, with children numbered in the batch.
 * The slots of vertex v are child[child_ptr[v]] to child[child_ptr[v + 1] - 1]; -1 is an empty one.
 * Vertices may come in any order. */
typedef struct cavs_batch {
    int64_t n_vertices;
    int64_t n_slots;       /* numbers in child */
    const void *child_ptr; /* [n_vertices + 1] */
    const void *child;     /* [n_slots]; may be NULL if that is 0 */
    int32_t index_bits;    /* of both: 32 or 64 */
    int32_t n_inputs;
    const cavs_values *inputs; /* those that the model does not read are left alone */
} cavs_batch;

/* Where an output goes. Outputs that are not asked for are left out. */
typedef struct cavs_result {
    const char *name;
    float *values;    /* [n_vertices, dims...], in the order of the batch's vertices */
    int64_t n_values; /* numbers that fit there: n_vertices * width */
} cavs_result;

/* Check a folder and make it ready: all files are there and what was exported, and this CPU runs
 * them. On success *model is to be freed, else it is NULL. */
CAVS_API cavs_status cavs_load(const char *folder, cavs_model **model);

/* Free a model that no call uses any more; NULL is none. */
CAVS_API void cavs_free(cavs_model *model);

/* What the model is called; how many slots a vertex has at most. */
CAVS_API const char *cavs_name(const cavs_model *model);
CAVS_API int32_t cavs_arity(const cavs_model *model);

CAVS_API int32_t cavs_n_inputs(const cavs_model *model);
CAVS_API int32_t cavs_n_outputs(const cavs_model *model);
CAVS_API cavs_status cavs_input(const cavs_model *model, int32_t i, cavs_info *info);
CAVS_API cavs_status cavs_output(const cavs_model *model, int32_t i, cavs_info *info);

/* How many tokens the model knows, 0 without a vocabulary; and the number of one, given as UTF-8,
 * for an input of kind "tokens": 0 is that of all unknown ones, -1 says: no vocabulary. It is
 * spelled first as the model's data were, in small letters for instance (of A to Z alone). */
CAVS_API int32_t cavs_n_tokens(const cavs_model *model);
CAVS_API int32_t cavs_token(const cavs_model *model, const char *token);

/* The most bytes that the memory of one call may take; 0, as at first: no limit. Memory is kept for
 * later calls, as many times as calls have run at once; cavs_release gives back what is idle. */
CAVS_API cavs_status cavs_limit_memory(cavs_model *model, int64_t n_bytes);
CAVS_API void cavs_release(cavs_model *model);

/* Run a batch. After an error results hold nothing of use; later calls are not touched by it. */
CAVS_API cavs_status cavs_run(cavs_model *model, const cavs_batch *batch,
                              const cavs_result *results, int32_t n_results);

/* Why this thread's last call that failed did so, as UTF-8; "" before any. The text stays until
 * another call of the thread fails. */
CAVS_API const char *cavs_last_error(void);

/* "CAVS_ERROR_GRAPH" and so on. */
CAVS_API const char *cavs_status_name(cavs_status status);

#ifdef __cplusplus
}
#endif

#endif
