// Runs the elementwise, row and movement kernels of native programs, and the op with a packed weight, over random
// shapes and strides, on buffers of exactly the elements that a task may touch and scratch of exactly the bytes asked
// for. Each ISA must agree with the scalar one. Prints what went wrong and exits 1. Driven by
// tests/test_kernels_native.py.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "backend/backend.h"
#include "backend/kernel_table.h"
#include "guarded.h"
#include "program/chain.h"
#include "program/op.h"
#include "quant/prepared.h"
#include "quant/quantize.h"

namespace {

using tqs::Extent, tqs::Operand, tqs::Precision;

std::mt19937 generator(1);
int failures = 0;

std::int64_t draw(std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(generator);
}

// An operand and its memory, [lanes, samples, view], ending where the heap block ends.
class Tensor {
  public:
    // `order`: axes from the outermost to the innermost in memory; `gap`: elements between adjacent ones.
    Tensor(Precision precision, const std::vector<std::int64_t>& sizes, const std::vector<int>& order, std::int64_t gap,
           const Extent& extent, bool shared, bool broadcast) {
        operand_ = {};
        operand_.precision = precision;
        operand_.rank = static_cast<int>(sizes.size());
        std::int64_t stride = gap;
        for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
            operand_.sizes[*axis] = sizes[static_cast<std::size_t>(*axis)];
            const bool still = broadcast && draw(0, 1) == 0;
            operand_.strides[*axis] = still ? 0 : stride;
            if (!still) stride *= operand_.sizes[*axis];
        }
        std::int64_t view = 1;
        for (int axis = 0; axis < operand_.rank; ++axis) view += (operand_.sizes[axis] - 1) * operand_.strides[axis];
        operand_.sample_stride = view;
        operand_.lane_stride = shared ? 0 : view * extent.samples;
        count_ = view * extent.samples * (shared ? 1 : extent.lanes);
        bytes_.emplace(count_ * precision_bytes(precision));
        for (std::int64_t i = 0; i < count_; ++i) set(i, static_cast<double>(draw(-800, 800)) / 256.0);
        operand_.data = bytes_->data();
    }
    const Operand& operand() const { return operand_; }
    Operand& operand() { return operand_; }
    std::int64_t count() const { return count_; }
    double get(std::int64_t i) const {
        if (operand_.precision == Precision::float64) return read<double>(i);
        return static_cast<double>(read<float>(i));
    }
    void set(std::int64_t i, double value) {
        if (operand_.precision == Precision::float64) {
            write(i, value);
        } else {
            write(i, static_cast<float>(value));
        }
    }

  private:
    template <class T>
    T read(std::int64_t i) const {
        T value;
        std::memcpy(&value, bytes_->data() + i * static_cast<std::int64_t>(sizeof value), sizeof value);
        return value;
    }
    template <class T>
    void write(std::int64_t i, T value) {
        std::memcpy(bytes_->data() + i * static_cast<std::int64_t>(sizeof value), &value, sizeof value);
    }

    Operand operand_;
    std::int64_t count_;
    std::optional<Guarded> bytes_;
};

struct FreeAligned {
    void operator()(void* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};

// Runs `run(table)` on every ISA and compares what it wrote into `outputs` with the scalar result.
template <class RunTable>
void check_tables(const char* what, const std::vector<Tensor*>& outputs, const RunTable& run) {
    std::vector<double> expected;
    for (const tqs::KernelTable* table : tqs::cpu_tables()) {
        if (!table->supported()) continue;
        for (Tensor* out : outputs) {
            for (std::int64_t i = 0; i < out->count(); ++i) out->set(i, 7.0);
        }
        run(*table);
        std::size_t position = 0;
        for (const Tensor* out : outputs) {
            for (std::int64_t i = 0; i < out->count(); ++i, ++position) {
                const double got = out->get(i);
                if (table->isa == tqs::Isa::scalar) {
                    expected.push_back(got);
                } else if (!(std::fabs(got - expected[position]) <= 2e-4 * (1 + std::fabs(expected[position])))) {
                    ++failures;
                    std::printf("%s on %s: element %lld is %g, %g on scalar\n", what, tqs::isa_name(table->isa),
                                static_cast<long long>(i), got, expected[position]);
                    return;
                }
            }
        }
    }
}

std::unique_ptr<void, FreeAligned> allocate_scratch(std::int64_t bytes) {
    return std::unique_ptr<void, FreeAligned>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{64}));
}

// Runs `run(kernels, scratch)` likewise.
template <class Scratch, class RunTask>
void check(const char* what, const std::vector<Tensor*>& outputs, const Scratch& scratch_bytes, const RunTask& run) {
    check_tables(what, outputs, [&](const tqs::KernelTable& table) {
        run(table.program, allocate_scratch(scratch_bytes(table.program)).get());
    });
}

std::vector<std::int64_t> draw_sizes(int rank, std::int64_t most) {
    std::vector<std::int64_t> sizes;
    for (int axis = 0; axis < rank; ++axis) sizes.push_back(draw(1, axis + 1 == rank ? most : 4));
    return sizes;
}

std::vector<int> draw_order(int rank) {
    std::vector<int> order;
    for (int axis = 0; axis < rank; ++axis) order.push_back(axis);
    if (draw(0, 2) == 0) std::shuffle(order.begin(), order.end(), generator);
    return order;
}

struct Setting {
    Extent extent;
    Precision precision, other;
    std::vector<std::int64_t> sizes;

    Tensor tensor(const std::vector<std::int64_t>& of, Precision kind, bool input) const {
        const int rank = static_cast<int>(of.size());
        return Tensor(kind, of, draw_order(rank), draw(0, 3) == 0 ? 2 : 1, extent, input && draw(0, 3) == 0,
                      input && draw(0, 2) == 0);
    }
};

Setting draw_setting(std::int64_t most) {
    const bool tangent = draw(0, 1) == 1;
    const auto precision = static_cast<Precision>(draw(0, 1));
    const auto other = draw(0, 3) == 0 ? static_cast<Precision>(draw(0, 1)) : precision;
    return {{draw(1, 4), draw(1, 3), tangent}, precision, other, draw_sizes(static_cast<int>(draw(1, 3)), most)};
}

void check_elementwise() {
    const Setting s = draw_setting(draw(0, 3) == 0 ? 700 : 90);
    tqs::Chain chain;
    chain.inputs = 3;
    const auto emit = [&](tqs::Opcode op, int a, int b, double value = 0.0) {
        const auto out = static_cast<std::int16_t>(chain.inputs + static_cast<int>(chain.code.size()));
        chain.code.push_back({op, out, static_cast<std::int16_t>(a), static_cast<std::int16_t>(b), 0, value});
        return out;
    };
    const auto product = emit(tqs::Opcode::multiply, 0, 1);
    const auto bounded = emit(tqs::Opcode::tanh, product, 0);
    const auto sum = emit(tqs::Opcode::add, bounded, 2);
    const auto half = emit(tqs::Opcode::constant, 0, 0, 0.5);
    chain.outputs = {sum, emit(tqs::Opcode::multiply, sum, half)};
    chain.registers = chain.inputs + static_cast<int>(chain.code.size());
    chain = tqs::allocate_registers(s.extent.tangent ? tqs::differentiate(chain) : tqs::simplify(chain));

    const Tensor x = s.tensor(s.sizes, s.precision, true), y = s.tensor(s.sizes, s.other, true);
    const Tensor z = s.tensor(s.sizes, s.precision, true);
    Tensor first = s.tensor(s.sizes, s.precision, false), second = s.tensor(s.sizes, s.other, false);
    const Operand in[] = {x.operand(), y.operand(), z.operand()}, out[] = {first.operand(), second.operand()};
    const auto task = [&](void* scratch) {
        return tqs::ElementwiseTask{.extent = s.extent,
                                    .inputs = 3,
                                    .in = in,
                                    .outputs = 2,
                                    .out = out,
                                    .output_registers = chain.outputs.data(),
                                    .jacobian = chain.jacobian.data(),
                                    .instructions = static_cast<int>(chain.code.size()),
                                    .code = chain.code.data(),
                                    .registers = chain.registers,
                                    .scratch = scratch};
    };
    const int family = static_cast<int>(s.precision);
    check(
        "elementwise", {&first, &second},
        [&](const tqs::ProgramKernels& kernels) { return kernels.elementwise[family].elementwise_scratch(task({})); },
        [&](const tqs::ProgramKernels& kernels, void* scratch) {
            kernels.elementwise[family].elementwise(task(scratch));
        });
}

void check_rows() {
    const Setting s = draw_setting(draw(0, 3) == 0 ? 700 : 70);
    const int rank = static_cast<int>(s.sizes.size()), family = static_cast<int>(s.precision);
    const Tensor x = s.tensor(s.sizes, s.precision, true);
    Tensor y = s.tensor(s.sizes, s.other, false);
    const auto run = [&](const char* what, const std::vector<Tensor*>& outputs, auto scratch, auto kernel, auto task) {
        check(
            what, outputs, [&](const tqs::ProgramKernels& kernels) { return (kernels.rows[family].*scratch)(task); },
            [&](const tqs::ProgramKernels& kernels, void* memory) {
                task.scratch = memory;
                (kernels.rows[family].*kernel)(task);
            });
    };
    using Kernels = tqs::RowKernels;
    for (const bool logarithm : {false, true}) {
        run("softmax", {&y}, &Kernels::softmax_scratch, &Kernels::softmax,
            tqs::SoftmaxTask{s.extent, x.operand(), y.operand(), logarithm, nullptr});
        run("normalize", {&y}, &Kernels::normalize_scratch, &Kernels::normalize,
            tqs::NormalizeTask{s.extent, x.operand(), y.operand(), static_cast<int>(draw(1, rank)), 0.3, logarithm,
                               nullptr});
    }
    if (s.precision == s.other) {
        run("scan", {&y}, &Kernels::scan_scratch, &Kernels::scan,
            tqs::ScanTask{s.extent, x.operand(), y.operand(), static_cast<int>(draw(0, rank - 1)), false, nullptr});
        Tensor places = s.tensor(s.sizes, s.other, false);
        run("running_extreme", {&y, &places}, &Kernels::running_extreme_scratch, &Kernels::running_extreme,
            tqs::RunningExtremeTask{s.extent, x.operand(), y.operand(), places.operand(),
                                    static_cast<int>(draw(0, rank - 1)), draw(0, 1) == 1, nullptr});
    }
    const auto axes = static_cast<std::uint32_t>(draw(0, (1 << rank) - 1));
    std::vector<std::int64_t> kept = s.sizes;
    for (int axis = 0; axis < rank; ++axis) {
        if (axes >> axis & 1u) kept[static_cast<std::size_t>(axis)] = 1;
    }
    Tensor reduced = s.tensor(kept, s.other, false);
    for (int kind = 0; kind <= static_cast<int>(tqs::Reduction::argmin); ++kind) {
        if (kind == static_cast<int>(tqs::Reduction::product)) continue;  // overflows
        run("reduce", {&reduced}, &Kernels::reduce_scratch, &Kernels::reduce,
            tqs::ReduceTask{s.extent, x.operand(), reduced.operand(), static_cast<tqs::Reduction>(kind), axes,
                            nullptr});
    }
    kept = s.sizes;
    kept.back() = draw(1, kept.back());
    Tensor values = s.tensor(kept, s.other, false), positions = s.tensor(kept, s.other, false);
    run("top_k", {&values, &positions}, &Kernels::top_k_scratch, &Kernels::top_k,
        tqs::TopKTask{s.extent, x.operand(), values.operand(), positions.operand(), kept.back(), draw(0, 1) == 1,
                      nullptr});
}

void check_movement() {
    const Setting s = draw_setting(90);
    const Tensor x = s.tensor(s.sizes, s.precision, true);
    Tensor y = s.tensor(s.sizes, s.other, false);
    const int family = static_cast<int>(s.other);
    const auto none = [](const tqs::ProgramKernels&) {
        return std::int64_t{0};
    };
    check("copy", {&y}, none, [&](const tqs::ProgramKernels& kernels, void*) {
        kernels.movement[family].copy({s.extent, x.operand(), y.operand()});
    });
    Tensor index = s.tensor(s.sizes, Precision::float32, true);
    const int axis = static_cast<int>(draw(0, static_cast<std::int64_t>(s.sizes.size()) - 1));
    for (std::int64_t i = 0; i < index.count(); ++i) {
        index.set(i, static_cast<double>(draw(0, s.sizes[static_cast<std::size_t>(axis)] - 1)));
    }
    check("gather", {&y}, none, [&](const tqs::ProgramKernels& kernels, void*) {
        kernels.movement[family].gather({s.extent, x.operand(), index.operand(), y.operand(), axis});
    });
    const std::int64_t count = draw(1, 40);
    const Tensor flat(s.precision, {count}, {0}, 1, s.extent, false, false);
    Tensor out(s.other, {2 * count}, {0}, 1, s.extent, false, false);
    const tqs::Run runs[] = {{0, count - 1, count, -1}, {count, draw(-1, 0), count, draw(0, 1)}};
    check("remap", {&out}, none, [&](const tqs::ProgramKernels& kernels, void*) {
        kernels.movement[family].remap({s.extent, flat.operand(), out.operand(), 2, runs, 0.5});
    });
}

// The op itself: rows of x anywhere, lanes that share x or not, a bias of all lanes, of some, or none, rows rounded or
// not.
void check_packed_linear() {
    Setting s = draw_setting(draw(0, 3) == 0 ? 300 : 40);
    s.precision = Precision::float32;
    const std::int64_t depth = s.sizes.back(), width = draw(1, 70);
    const int bits = tqs::kFormatBits[draw(0, tqs::kFormats - 1)];
    const std::int64_t group_size = draw(0, 1) == 0 ? 0 : 32, groups = tqs::packed_groups(depth, group_size);
    const bool symmetric = draw(0, 1) == 0;
    const Guarded codes(width * tqs::packed_row_bytes(depth, bits)), scales(width * groups * 2), zeros(width * groups);
    std::vector<float> weights;
    for (std::int64_t i = 0; i < width * depth; ++i) weights.push_back(static_cast<float>(draw(-800, 800)) / 256.0f);
    auto* const scale = reinterpret_cast<std::uint16_t*>(scales.data());
    std::uint8_t* const zero = symmetric ? nullptr : zeros.data();
    tqs::quantize({weights.data(), width, depth, depth}, bits, group_size, tqs::Search::minmax,
                  {codes.data(), scale, zero}, 1);
    const tqs::PackedView weight{codes.data(), scale, zero, width, depth, group_size, bits};

    std::vector<std::int64_t> sizes = s.sizes;
    sizes.back() = width;
    const Tensor x = s.tensor(s.sizes, Precision::float32, true);
    std::vector<int> order;
    for (int axis = 0; axis < static_cast<int>(sizes.size()); ++axis) order.push_back(axis);
    Tensor y(Precision::float32, sizes, order, 1, s.extent, false, false);
    const Tensor own(Precision::float32, {width}, {0}, 1, {s.extent.lanes, 1, false}, false, false);
    Operand bias = own.operand();
    bias.sample_stride = bias.lane_stride = 0;
    std::vector<void*> lanes;
    for (std::int64_t lane = 0; lane < s.extent.lanes; ++lane) {
        const bool none = s.extent.tangent && lane > 0 && draw(0, 1) == 0;
        lanes.push_back(none ? nullptr : static_cast<float*>(bias.data) + lane * width);
    }
    const std::int64_t form = draw(0, 2);
    if (form == 0) bias = Operand{};
    if (form == 1) bias.lanes = lanes.data();

    const tqs::NodeSpec node{
        "packed_linear", {0, form == 0 ? -1 : 1}, {2}, {{"weight", {0}}, {"int8", {draw(0, 1)}}}, {}, "test"};
    const auto contiguous = [](const std::vector<std::int64_t>& of) {
        std::vector<std::int64_t> strides(of.size(), 1);
        for (std::size_t axis = of.size() - 1; axis > 0; --axis) strides[axis - 1] = strides[axis] * of[axis];
        return tqs::ValueSpec{0, 0, 0, of, strides};
    };
    const tqs::ValueSpec given = contiguous(s.sizes), added = contiguous({width}), made = contiguous(sizes);
    const tqs::ValueSpec* const reads[] = {&given, form == 0 ? nullptr : &added};
    const tqs::ValueSpec* const writes[] = {&made};
    const Precision precisions[] = {Precision::float32, Precision::float32};
    const Operand in[] = {x.operand(), bias}, out[] = {y.operand()};
    check_tables("packed_linear", {&y}, [&](const tqs::KernelTable& table) {
        tqs::use_isa(tqs::isa_name(table.isa));
        const auto prepared = tqs::prepack(weight);
        const tqs::PlacedWeight packed[] = {{prepared->weight, prepared->panels.get()}};
        const auto op = tqs::make_op({node, reads, writes, precisions, std::span(precisions, 1), packed});
        tqs::Frame frame{s.extent, &table.program, nullptr, in, out, {}, nullptr, 0};
        const auto scratch = allocate_scratch(op->scratch_bytes(frame));
        frame.scratch = scratch.get();
        op->run(frame);
    });
    tqs::use_isa("");
}

}  // namespace

int main() {
    for (int round = 0; round < 400; ++round) {
        check_packed_linear();
        check_elementwise();
        check_rows();
        check_movement();
    }
    return failures ? 1 : 0;
}
