// Elementwise chains over a tile. The elements are cut into blocks; a block's inputs are read where they lie if they
// are a run of the kernel's own precision and are copied to a register otherwise; the interpreter (elementwise_code.h)
// runs over the block; a tangent rollout then combines the tangents of every lane with the Jacobian that the code left
// in registers (elementwise_tangent.h).
//
// Block: all registers of a chain in half a first-level cache of 32 KiB, the smallest of the processors this runs on;
// the other half is for the streams in and out. The interpreter's cost per instruction is about 5 ns, so a block should
// be long: rows longer than a block are cut, rows of at least kShortRow elements are stacked, a fixed step apart, where
// no tangents follow, and shorter ones are joined to one run.
#pragma once

#include "cpu/panel/elementwise_tangent.h"
#include "cpu/panel/nest.h"
#include "cpu/panel/runs.h"

namespace tqs::panel {

inline constexpr std::int64_t kRegisterBytes = 16 * 1024;
inline constexpr std::int64_t kShortRow = 64;
inline constexpr std::int64_t kSmallestBlock = 64, kLargestBlock = 1024;  // multiples of every kLanes

template <class T>
static std::int64_t block_elements(const ElementwiseTask& task) {
    const std::int64_t fit = kRegisterBytes / (task.registers * static_cast<std::int64_t>(sizeof(T)));
    return std::clamp(fit / kSmallestBlock * kSmallestBlock, kSmallestBlock, kLargestBlock);
}

// Blocks beside the registers: a copied tangent and a spread coefficient per input, two partial sums and a result.
static inline std::int64_t extra_blocks(const ElementwiseTask& task) {
    return 2 * task.inputs + 3;
}

template <class W>
static std::int64_t elementwise_scratch(const ElementwiseTask& task) {
    using T = typename W::Element;
    return (task.registers + extra_blocks(task)) * block_elements<T>(task) * static_cast<std::int64_t>(sizeof(T)) +
           task.instructions * static_cast<std::int64_t>(sizeof(std::int16_t));
}

template <class W>
class Elementwise {
    using T = typename W::Element;
    static constexpr int kOperands = kMaxElementwiseInputs + kMaxElementwiseOutputs;
    static constexpr Precision kPrecision = std::is_same_v<T, float> ? Precision::float32 : Precision::float64;

    enum class Access {
        uniform,   // one value for the block
        direct,    // a run of this precision: read and written where it lies
        repeated,  // copied, the same for every block
        copied,
    };

  public:
    explicit Elementwise(const ElementwiseTask& task)
        : task_(task), block_(block_elements<T>(task)), blocks_(static_cast<T*>(task.scratch)) {
        active_ = reinterpret_cast<std::int16_t*>(blocks_ + (task.registers + extra_blocks(task)) * block_);
        for (int k = 0; k < task.outputs; ++k) operands_[task.inputs + k] = &task.out[k];
        for (int k = 0; k < task.inputs; ++k) operands_[k] = &task.in[k];
        count_ = task.inputs + task.outputs;
        for (int k = 0; k < count_; ++k) tables_ = tables_ || operands_[k]->lanes;
        for (int r = 0; r < task.registers; ++r) {
            registers_.data[r] = blocks_ + r * block_;
            registers_.mask[r] = -1;
        }
        build_nest();
        choose_access();
        for (int r = 0; r < task.registers; ++r) registers_.row[r] = nest_.inner();
        select_instructions();
    }

    void run() {
        const bool each_lane = !task_.extent.tangent && tables_;
        for (std::int64_t lane = 0; lane < (each_lane ? task_.extent.lanes : 1); ++lane) {
            for (int k = 0; k < count_; ++k) {
                base_[k] = lane_bytes(*operands_[k], lane, false);
                repeats_[k] = 0;
            }
            run_blocks();
        }
    }

  private:
    T* extra(int block) const { return blocks_ + (task_.registers + block) * block_; }

    bool wants_tangents() const { return task_.extent.tangent && task_.extent.lanes > 1; }

    // Runs the constants; notes the other instructions whose results are used.
    void select_instructions() {
        bool live[kMaxRegisters] = {};
        for (int o = 0; o < task_.outputs; ++o) {
            live[task_.output_registers[o]] = true;
            for (int i = 0; wants_tangents() && i < task_.inputs; ++i) {
                const std::int16_t coefficient = task_.jacobian[o * task_.inputs + i];
                if (coefficient >= 0 && !is_shared(task_.in[i])) live[coefficient] = true;
            }
        }
        for (int index = task_.instructions; index-- > 0;) {
            const Instruction& code = task_.code[index];
            if (!live[code.out]) continue;
            live[code.out] = false;
            if (code.op == Opcode::constant) {
                execute<W>(code, registers_, {1, W::kLanes});
                continue;
            }
            const std::int16_t arguments[] = {code.a, code.b, code.c};
            for (int argument = 0; argument < arity(code.op); ++argument) live[arguments[argument]] = true;
            active_[actives_++] = static_cast<std::int16_t>(index);
        }
    }

    void build_nest() {
        const Operand& out = task_.out[0];
        if (!task_.extent.tangent && !tables_) {
            nest_.add(task_.extent.lanes, count_, [&](int k) { return operands_[k]->lane_stride; });
        }
        nest_.add(task_.extent.samples, count_, [&](int k) { return operands_[k]->sample_stride; });
        for (int axis = 0; axis < out.rank; ++axis) {
            nest_.add(out.sizes[axis], count_, [&](int k) { return axis_stride(*operands_[k], axis); });
        }
        nest_.close(count_);
    }

    void choose_access() {
        const std::int64_t inner = nest_.inner();
        joined_ = inner < kShortRow && nest_.rank > 1;
        stacked_ = !joined_ && nest_.rank > 1 && 2 * inner <= block_ && !task_.extent.tangent;
        const std::int64_t pieces = (inner + block_ - 1) / block_;
        piece_ =
            joined_ || pieces == 1 ? inner : ((inner + pieces - 1) / pieces + W::kLanes - 1) / W::kLanes * W::kLanes;
        for (int k = 0; k < count_; ++k) {
            bool still = true;  // does not move from row to row
            for (int axis = 0; axis + 1 < nest_.rank; ++axis) still = still && nest_.strides[k][axis] == 0;
            const std::int64_t stride = nest_.strides[k][nest_.rank - 1];
            if (stride == 0 && (still || !(joined_ || stacked_))) {
                access_[k] = Access::uniform;
            } else if (operands_[k]->precision == kPrecision && (joined_ ? nest_.dense(k) : stride == 1)) {
                access_[k] = Access::direct;
            } else {
                access_[k] = still && piece_ == inner ? Access::repeated : Access::copied;
            }
        }
    }

    void run_blocks() {
        const std::int64_t rows = nest_.rows(), inner = nest_.inner();
        Row<kOperands> row(nest_, 0);
        if (joined_) {
            const std::int64_t most = block_ / inner;
            for (std::int64_t first = 0; first < rows; first += most) {
                const std::int64_t taken = std::min(most, rows - first);
                run_block(row, 0, taken, inner);
                for (std::int64_t i = 0; i < taken; ++i) row.advance();
            }
        } else if (stacked_) {
            const std::int64_t stack = nest_.sizes[nest_.rank - 2];
            for (std::int64_t first = 0; first < rows;) {
                const std::int64_t taken = std::min(block_ / inner, stack - first % stack);
                run_block(row, 0, taken, inner);
                for (std::int64_t i = 0; i < taken; ++i) row.advance();
                first += taken;
            }
        } else {
            for (std::int64_t r = 0; r < rows; ++r, row.advance()) {
                for (std::int64_t column = 0; column < inner; column += piece_) {
                    run_block(row, column, 1, std::min(piece_, inner - column));
                }
            }
        }
    }

    // Elements [column, column + width) of `rows` rows.
    void run_block(const Row<kOperands>& row, std::int64_t column, std::int64_t rows, std::int64_t width) {
        row_ = &row;
        column_ = column;
        block_rows_ = rows;
        width_ = width;
        elements_ = rows * width;
        padded_ = std::max<std::int64_t>(elements_, W::kLanes);
        for (int k = 0; k < task_.inputs; ++k) load_input(k);
        for (int o = 0; o < task_.outputs; ++o) place_output(o);
        const Block block = stacked_ ? Block{rows, width} : Block{1, padded_};
        for (int index = actives_; index-- > 0;) execute<W>(task_.code[active_[index]], registers_, block);
        for (int o = 0; o < task_.outputs; ++o) finish_output(o);
        if (!wants_tangents()) return;
        for (int o = 0; o < task_.outputs; ++o) run_tangents(o);
    }

    char* at(int k, char* base) const {
        const std::int64_t offset = row_->offset(k) + column_ * nest_.strides[k][nest_.rank - 1];
        return base + offset * precision_bytes(operands_[k]->precision);
    }

    // A block shorter than a vector is never used where it lies: a vector would leave it.
    bool in_place(int k) const { return access_[k] == Access::direct && elements_ >= W::kLanes; }

    // Between the rows of a stack.
    std::int64_t step(int k) const { return stacked_ ? nest_.strides[k][nest_.rank - 2] : 0; }

    template <class Body>
    void for_block_rows(int k, char* base, const Body& body) const {
        if (block_rows_ == 1) return body(at(k, base), std::int64_t{0});
        Row<kOperands> row = *row_;
        const std::int64_t item = precision_bytes(operands_[k]->precision);
        for (std::int64_t r = 0; r < block_rows_; ++r, row.advance()) body(base + row.offset(k) * item, r * width_);
    }

    void copy_in(int k, char* base, T* to) const {
        const std::int64_t stride = nest_.strides[k][nest_.rank - 1];
        for_block_rows(k, base, [&](const char* from, std::int64_t position) {
            load_run<W>(to + position, from, operands_[k]->precision, stride, width_);
        });
    }

    // Rows of `from` are `apart` elements apart.
    void copy_out(int k, char* base, const T* from, std::int64_t apart) const {
        const std::int64_t stride = nest_.strides[k][nest_.rank - 1];
        for_block_rows(k, base, [&](char* to, std::int64_t position) {
            store_run<W>(to, operands_[k]->precision, stride, from + position / width_ * apart, width_);
        });
    }

    void load_input(int k) {
        T* block = blocks_ + k * block_;
        if (in_place(k)) {
            registers_.data[k] = reinterpret_cast<T*>(at(k, base_[k]));
            registers_.row[k] = step(k);
            return;
        }
        registers_.data[k] = block;
        registers_.row[k] = width_;
        if (access_[k] == Access::uniform) {
            load_run<W>(block, at(k, base_[k]), operands_[k]->precision, 0, W::kLanes);
            registers_.mask[k] = 0;
            registers_.row[k] = 0;
        } else if (access_[k] != Access::repeated || repeats_[k] < elements_) {
            copy_in(k, base_[k], block);
            repeats_[k] = elements_;
        }
    }

    // The register of an output that lies in one run is that run itself, unless it must outlive the block.
    void place_output(int o) {
        const std::int16_t r = task_.output_registers[o];
        const int k = task_.inputs + o;
        placed_[o] = in_place(k) && r >= task_.inputs && registers_.mask[r] != 0;
        for (int other = 0; other < o; ++other) placed_[o] = placed_[o] && task_.output_registers[other] != r;
        if (placed_[o]) {
            registers_.data[r] = reinterpret_cast<T*>(at(k, base_[k]));
            registers_.row[r] = step(k);
        } else if (r >= task_.inputs) {
            bool shared = false;
            for (int other = 0; other < o; ++other) shared = shared || task_.output_registers[other] == r;
            if (!shared) {
                registers_.data[r] = blocks_ + r * block_;
                registers_.row[r] = registers_.mask[r] == 0 ? 0 : width_;
            }
        }
    }

    const T* spread(std::int16_t r, T* block) const {
        if (registers_.mask[r] != 0) return registers_.data[r];
        fill_run<W>(block, registers_.data[r][0], padded_);
        return block;
    }

    void finish_output(int o) {
        const std::int16_t r = task_.output_registers[o];
        const int k = task_.inputs + o;
        if (placed_[o] && registers_.mask[r] != 0) return;
        const bool apart = stacked_ && registers_.mask[r] != 0;
        copy_out(k, base_[k], spread(r, extra(2 * task_.inputs)), apart ? registers_.row[r] : width_);
    }

    // An input that counts, and d output / d input over the block (null: one).
    struct Source {
        int input;
        const T* coefficient;
    };

    void run_tangents(int o) {
        Source sources[kMaxElementwiseInputs];
        int count = 0;
        bool steady = in_place(task_.inputs + o);
        for (int i = 0; i < task_.inputs; ++i) {
            const std::int16_t coefficient = task_.jacobian[o * task_.inputs + i];
            if (coefficient == kZeroCoefficient || is_shared(task_.in[i])) continue;
            const bool unit = coefficient == kUnitCoefficient;
            sources[count++] = {i, unit ? nullptr : spread(coefficient, extra(task_.inputs + i))};
            steady = steady && in_place(i) && !task_.in[i].lanes;
        }
        if (steady && count <= kMaxTerms) {
            combine_steadily(o, sources, count);
        } else {
            for (std::int64_t lane = 1; lane < task_.extent.lanes; ++lane) combine_lane(o, sources, count, lane);
        }
    }

    // All tangents where they lie, a fixed step from lane to lane: nothing but pointers changes between lanes.
    void combine_steadily(int o, const Source* sources, int count) {
        Terms<T> terms;
        std::int64_t unit_step[kMaxTerms], tangent_step[kMaxTerms];
        for (const Source* source = sources; source < sources + count; ++source) {
            const Operand& in = task_.in[source->input];
            const T* tangent = reinterpret_cast<const T*>(at(source->input, lane_bytes(in, 1, true)));
            if (source->coefficient) {
                terms.coefficient[terms.products] = source->coefficient;
                tangent_step[terms.products] = in.lane_stride;
                terms.tangent[terms.products++] = tangent;
            } else {
                unit_step[terms.units] = in.lane_stride;
                terms.unit[terms.units++] = tangent;
            }
        }
        const Operand& out = task_.out[o];
        T* to = reinterpret_cast<T*>(at(task_.inputs + o, lane_bytes(out, 1, false)));
        const Combine<W> combine = find_combine<W>(terms.units, terms.products);
        for (std::int64_t lane = 1; lane < task_.extent.lanes; ++lane, to += out.lane_stride) {
            combine(terms, 0, 0, to, padded_);
            for (int k = 0; k < terms.units; ++k) terms.unit[k] += unit_step[k];
            for (int k = 0; k < terms.products; ++k) terms.tangent[k] += tangent_step[k];
        }
    }

    void combine_lane(int o, const Source* sources, int count, std::int64_t lane) {
        Terms<T> terms;
        for (const Source* source = sources; source < sources + count; ++source) {
            const int i = source->input;
            char* base = lane_bytes(task_.in[i], lane, true);
            if (!base) continue;
            const T* tangent = extra(i);
            if (in_place(i)) {
                tangent = reinterpret_cast<const T*>(at(i, base));
            } else {
                copy_in(i, base, extra(i));
            }
            if (source->coefficient) {
                terms.coefficient[terms.products] = source->coefficient;
                terms.tangent[terms.products++] = tangent;
            } else {
                terms.unit[terms.units++] = tangent;
            }
        }
        T* const partial[2] = {extra(2 * task_.inputs), extra(2 * task_.inputs + 1)};
        const int k = task_.inputs + o;
        char* base = lane_bytes(task_.out[o], lane, false);
        if (in_place(k)) {
            combine_terms<W>(terms, reinterpret_cast<T*>(at(k, base)), padded_, partial);
        } else {
            T* block = extra(2 * task_.inputs + 2);
            combine_terms<W>(terms, block, padded_, partial);
            copy_out(k, base, block, width_);
        }
    }

    const ElementwiseTask& task_;
    const std::int64_t block_;
    T* const blocks_;
    std::int16_t* active_;  // instructions to run, last first
    int actives_ = 0;
    int count_ = 0;         // operands: inputs, then outputs
    bool tables_ = false;   // some operand has per-lane data
    bool joined_ = false;   // a block is several whole rows, joined to one
    bool stacked_ = false;  // a block is several whole rows, a fixed step apart
    std::int64_t piece_ = 0;
    const Operand* operands_[kOperands];
    Access access_[kOperands];
    char* base_[kOperands];
    std::int64_t repeats_[kOperands];  // elements of a repeated operand that are copied already
    bool placed_[kMaxElementwiseOutputs];
    Nest<kOperands> nest_;
    Registers<T> registers_;
    // The block at hand.
    const Row<kOperands>* row_ = nullptr;
    std::int64_t column_ = 0, block_rows_ = 0, width_ = 0, elements_ = 0, padded_ = 0;
};

template <class W>
static void elementwise(const ElementwiseTask& task) {
    Elementwise<W>(task).run();
}

}  // namespace tqs::panel
