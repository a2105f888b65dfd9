// A step's attention, divided into items of work that are the same for all layers.
//
// A piece (some tokens of the cache, and the rows that see them) becomes items by readers, and by tokens as far as
// that gives the threads enough to share. Where several items have results for one row, they are parts, merged by
// their weights.

#ifndef PARROT_PLAN_H
#define PARROT_PLAN_H

#include <stdint.h>
#include <stdlib.h>

#include <vector>

#include "kernels.h"

namespace parrot {

// Memory that begins at a cache line and only grows.
class Buffer {
   public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { free(at_); }

    // Throws std::bad_alloc. What was in it is lost.
    void* reserve(size_t bytes);

   private:
    void* at_ = nullptr;
    size_t bytes_ = 0;
};

class Plan {
   public:
    Plan(const Table* table, Pool* pool, const Shape& shape) : table_(table), pool_(pool), shape_(shape) {}

    // As parrot_plan_begin in interface.cpp; throws std::bad_alloc.
    void begin(int64_t num_rows, int64_t num_pieces, const int64_t* piece_sizes, const int64_t* runs,
               const int64_t* ranges, const int64_t* slots);

    // One layer of the step, as parrot_attend in interface.cpp. `rotation` of the queries and new keys is done first;
    // null: they are taken as they are.
    void attend(const void* queries, int64_t query_stride, const void* new_keys, int64_t key_stride,
                const void* new_values, int64_t value_stride, void* keys, void* values, void* out,
                const RotateArgs* rotation) const;

    const Table* table() const { return table_; }
    Pool* pool() const { return pool_; }
    const Shape& shape() const { return shape_; }

   private:
    int64_t group() const { return shape_.num_heads / shape_.num_kv_heads; }
    int64_t cost_of(int64_t num_readers, int64_t num_tokens) const;
    void read(int64_t num_pieces, const int64_t* piece_sizes, const int64_t* runs, const int64_t* ranges);
    int64_t unit_cost() const;
    void cut(const Item& whole, int64_t unit_cost);
    void number_parts(int64_t num_rows);
    void show(int64_t num_rows);

    const Table* table_;
    Pool* pool_;
    Shape shape_;
    const int64_t* slots_ = nullptr;
    std::vector<Item> pieces_, items_;
    std::vector<Run> runs_;
    std::vector<Reader> readers_;
    std::vector<int64_t> part_bounds_, part_numbers_, next_part_;
    Buffer parts_, scratch_;
    Step step_ = {};
};

}  // namespace parrot

#endif
