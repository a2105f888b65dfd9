#include "plan.h"

#include <algorithm>
#include <new>

namespace parrot {

namespace {

constexpr int64_t kMinSplitTokens = 64;
constexpr int64_t kSplitStep = 64;
constexpr int64_t kUnitsPerThread = 4;
constexpr int64_t kMinUnitCost = 16 * 256;   // query rows · keys
constexpr int64_t kMaxItemQueryRows = 256;

int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace

void* Buffer::reserve(size_t bytes) {
    if (bytes > bytes_) {
        free(at_);
        bytes_ = 0;
        const size_t whole = (bytes + bytes / 2 + 63) / 64 * 64;
        at_ = aligned_alloc(64, whole);
        if (at_ == nullptr) throw std::bad_alloc();
        bytes_ = whole;
    }
    return at_;
}

void Plan::begin(int64_t num_rows, int64_t num_pieces, const int64_t* piece_sizes, const int64_t* runs,
                 const int64_t* ranges, const int64_t* slots) {
    slots_ = slots;
    read(num_pieces, piece_sizes, runs, ranges);
    items_.clear();
    const int64_t unit = unit_cost();
    for (const Item& whole : pieces_) cut(whole, unit);
    // The largest first, so that the threads end together.
    std::stable_sort(items_.begin(), items_.end(), [&](const Item& a, const Item& b) {
        return cost_of(a.num_readers, a.end - a.begin) > cost_of(b.num_readers, b.end - b.begin);
    });
    number_parts(num_rows);
    show(num_rows);
}

void Plan::attend(const void* queries, int64_t query_stride, const void* new_keys, int64_t key_stride,
                  const void* new_values, int64_t value_stride, void* keys, void* values, void* out,
                  const RotateArgs* rotation) const {
    table_->write({pool_, &shape_, step_.num_rows, slots_, new_keys, key_stride, new_values, value_stride, keys, values,
                   rotation});
    table_->attend({pool_, &shape_, &step_, queries, query_stride, keys, values, out});
}

// Rows are computed sixteen at a time.
int64_t Plan::cost_of(int64_t num_readers, int64_t num_tokens) const {
    return rounded_up(num_readers * group(), 16) * num_tokens;
}

void Plan::read(int64_t num_pieces, const int64_t* piece_sizes, const int64_t* runs, const int64_t* ranges) {
    pieces_.clear();
    runs_.clear();
    readers_.clear();
    for (int64_t p = 0; p < num_pieces; ++p) {
        const int64_t num_runs = piece_sizes[2 * p], num_ranges = piece_sizes[2 * p + 1];
        Item whole = {};
        whole.runs = (int64_t)runs_.size();
        whole.readers = (int64_t)readers_.size();
        for (int64_t i = 0; i < num_runs; ++i, runs += 2) runs_.push_back({runs[0], runs[1]});
        for (int64_t i = 0; i < num_ranges; ++i, ranges += 4)
            for (int64_t row = 0; row < ranges[1]; ++row)
                readers_.push_back({ranges[0] + row, ranges[2] + ranges[3] * row});
        whole.num_readers = (int64_t)readers_.size() - whole.readers;
        const auto sees_more = [](const Reader& a, const Reader& b) { return a.limit > b.limit; };
        std::stable_sort(readers_.begin() + whole.readers, readers_.end(), sees_more);
        whole.end = readers_[whole.readers].limit;
        pieces_.push_back(whole);
    }
}

int64_t Plan::unit_cost() const {
    const int64_t num_threads = pool_num_threads(pool_);
    if (num_threads == 1) return INT64_MAX;
    int64_t cost = 0;
    for (const Item& whole : pieces_) cost += cost_of(whole.num_readers, whole.end) * shape_.num_kv_heads;
    return std::max(kMinUnitCost, cost / (num_threads * kUnitsPerThread));
}

void Plan::cut(const Item& whole, int64_t unit_cost) {
    const int64_t max_readers = std::max<int64_t>(1, kMaxItemQueryRows / group());
    for (int64_t first = 0; first < whole.num_readers; first += max_readers) {
        Item item = whole;
        item.readers += first;
        item.num_readers = std::min(max_readers, whole.num_readers - first);
        const int64_t num_tokens = readers_[item.readers].limit;
        const int64_t wanted = cost_of(item.num_readers, num_tokens) / unit_cost;
        const int64_t splits = std::max<int64_t>(1, std::min(wanted, num_tokens / kMinSplitTokens));
        const int64_t width = rounded_up((num_tokens + splits - 1) / splits, kSplitStep);
        for (item.begin = 0; item.begin < num_tokens; item.begin += width) {
            item.end = std::min(item.begin + width, num_tokens);
            // Readers that see nothing from here on are not in it; they are sorted, so they are the last.
            while (readers_[item.readers + item.num_readers - 1].limit <= item.begin) --item.num_readers;
            items_.push_back(item);
        }
    }
}

void Plan::number_parts(int64_t num_rows) {
    part_bounds_.assign(num_rows + 1, 0);
    int64_t num_parts = 0;
    for (Item& item : items_) {
        item.part = num_parts;
        num_parts += item.num_readers;
        for (int64_t i = 0; i < item.num_readers; ++i) ++part_bounds_[readers_[item.readers + i].row + 1];
    }
    for (int64_t row = 0; row < num_rows; ++row) part_bounds_[row + 1] += part_bounds_[row];
    part_numbers_.resize(num_parts);
    next_part_.assign(part_bounds_.begin(), part_bounds_.end() - 1);
    for (const Item& item : items_)
        for (int64_t i = 0; i < item.num_readers; ++i)
            part_numbers_[next_part_[readers_[item.readers + i].row]++] = item.part + i;
}

void Plan::show(int64_t num_rows) {
    step_.items = items_.data();
    step_.num_items = (int64_t)items_.size();
    step_.runs = runs_.data();
    step_.readers = readers_.data();
    step_.part_bounds = part_bounds_.data();
    step_.part_numbers = part_numbers_.data();
    step_.num_rows = num_rows;
    step_.num_parts = (int64_t)part_numbers_.size();
    const size_t part_bytes = (shape_.head_dim + 2) * shape_.num_heads * sizeof(float);
    step_.parts = (float*)parts_.reserve(step_.num_parts > num_rows ? step_.num_parts * part_bytes : 0);
    step_.scratch_bytes = table_->scratch_bytes(shape_);
    step_.scratch = (unsigned char*)scratch_.reserve(step_.scratch_bytes * pool_num_threads(pool_));
}

}  // namespace parrot
