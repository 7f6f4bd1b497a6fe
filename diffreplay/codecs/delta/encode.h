#ifndef DIFFREPLAY_ENCODE_H
#define DIFFREPLAY_ENCODE_H

#include "token.h"

/* What the encoder knows of a set: which references have a value at a place, and where runs of bytes occur. */
typedef struct Index Index;
/* Memory for coding one frame at a time. */
typedef struct Workspace Workspace;

Index *index_new(const uint8_t *set, size_t set_bytes, const Shape *shape, int level);
void index_free(Index *index);
size_t index_bytes(const Index *index);
Workspace *workspace_new(void);
void workspace_free(Workspace *workspace);
size_t workspace_bytes(void);
const Shape *index_shape(const Index *index);
size_t index_set_bytes(const Index *index);

/* Code one frame against the set that the index is of, into `room` bytes. Returns the size, or -1 where it is no less
 * than `room`. */
ptrdiff_t encode_frame(const Index *index, Workspace *workspace, const uint8_t *set, const uint8_t *frame, uint8_t *out,
                       size_t room);

#endif
