// Threads that share the pieces of one job after the other.
//
// A job is a number of pieces that any thread may take. The caller takes pieces as well, and waits in the end only
// for threads that are in the middle of one: a thread that the system has put aside, because the processor is
// wanted by others, holds nothing up unless it holds a piece. (A parallel region of OpenMP ends when every thread
// has been through it; on a busy machine each region then costs a turn of the scheduler.) Threads look out for the
// next job for a short while before they sleep, so that the few microseconds between two layers cost no waking.

#ifndef PARROT_POOL_H
#define PARROT_POOL_H

#include <stdint.h>

namespace parrot {

class Pool;

// `thread` is below the pool's number of threads, and no two pieces that run at once have the same.
typedef void (*PieceWork)(const void* context, int64_t piece, int thread);

Pool* pool_new(int num_threads);
void pool_free(Pool* pool);
int pool_num_threads(const Pool* pool);

// Runs pieces 0 … num_pieces - 1 and returns when all are done. Where the pool is busy with a job of another
// caller, the caller does all pieces itself.
void pool_run(Pool* pool, int64_t num_pieces, PieceWork work, const void* context);

}  // namespace parrot

#endif
