// Jobs of the pool from a function of (piece, thread). Included by each instruction set's translation unit.

// Fewer elements than this are not worth another thread, which may have to be waited for.
constexpr int64_t kPieceElements = 1 << 13;

template <class Work>
INLINE void for_pieces(Pool* pool, int64_t num_pieces, const Work& work) {
    const PieceWork call = [](const void* context, int64_t piece, int thread) {
        (*(const Work*)context)(piece, thread);
    };
    pool_run(pool, num_pieces, call, &work);
}

// A function of (row, thread) for rows of some elements each, in equal pieces that are worth it.
template <class Work>
INLINE void for_rows(Pool* pool, int64_t num_rows, int64_t row_elements, const Work& work) {
    const int64_t num_threads = pool_num_threads(pool), worthwhile = num_rows * row_elements / kPieceElements;
    // As many for each thread, so that none is left to one of them alone.
    const int64_t each = worthwhile / num_threads < 4 ? worthwhile / num_threads : 4;
    const int64_t wanted = each > 0 ? each * num_threads : worthwhile;
    const int64_t num_pieces = wanted < num_rows ? wanted : num_rows;
    if (num_pieces <= 1) {
        for (int64_t row = 0; row < num_rows; ++row) work(row, 0);
        return;
    }
    for_pieces(pool, num_pieces, [&](int64_t piece, int thread) {
        const int64_t end = (piece + 1) * num_rows / num_pieces;
        for (int64_t row = piece * num_rows / num_pieces; row < end; ++row) work(row, thread);
    });
}
