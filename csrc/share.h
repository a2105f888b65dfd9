// Jobs of the pool from a function of (piece, thread). Included by each instruction set's translation unit.

// Fewer elements than this are not worth another thread, which may have to be waited for.
constexpr int64_t kPieceElements = 1 << 15;

template <class Work>
INLINE void for_pieces(Pool* pool, int64_t num_pieces, const Work& work) {
    const PieceWork call = [](const void* context, int64_t piece, int thread) {
        (*(const Work*)context)(piece, thread);
    };
    pool_run(pool, num_pieces, call, &work);
}

// A function of (row, thread) for rows of some elements each, as many to a piece as are worth it.
template <class Work>
INLINE void for_rows(Pool* pool, int64_t num_rows, int64_t row_elements, const Work& work) {
    const int64_t rows_each = (kPieceElements + row_elements - 1) / row_elements;
    for_pieces(pool, (num_rows + rows_each - 1) / rows_each, [&](int64_t piece, int thread) {
        const int64_t until = (piece + 1) * rows_each, end = until < num_rows ? until : num_rows;
        for (int64_t row = piece * rows_each; row < end; ++row) work(row, thread);
    });
}
