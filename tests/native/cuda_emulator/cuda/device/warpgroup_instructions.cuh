// csrc/cuda/device/warpgroup_instructions.cuh for the emulator: the same functions with the same meaning, in plain C++.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "cuda/device/instructions.cuh"
#include "cuda/device/matrix_descriptor.h"
#include "emulator.h"

namespace tqs::cuda {

inline constexpr int kAtomColumns = 8;
inline constexpr int kAtomBytes = 1024;

inline std::uint32_t shared_address(const void* pointer) {
    return emulator::shared_begin() +
           static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - shared_memory());
}

template <int count>
inline void release_registers() {
    static_assert(count >= 24 && count <= 256 && count % 8 == 0);
    emulator::meet_warpgroup("release_registers", nullptr, nullptr);
}
template <int count>
inline void claim_registers() {
    static_assert(count >= 24 && count <= 256 && count % 8 == 0);
    emulator::meet_warpgroup("claim_registers", nullptr, nullptr);
}

inline int cluster_rank() {
    return emulator::cluster_rank();
}
inline void cluster_barrier() {
    emulator::meet_cluster("cluster_barrier");
}

struct alignas(8) Barrier {
    std::uint64_t state;
};

inline void make_barrier(Barrier* barrier, int arrivals) {
    emulator::make_barrier(barrier, arrivals);
}
inline void publish_barriers() {
    emulator::publish_barriers();
}
inline void arrive(Barrier* barrier) {
    emulator::arrive(barrier, 0);
}
inline void arrive(Barrier* barrier, int rank) {
    emulator::arrive(emulator::there(barrier, rank), 0);
}
inline void arrive_expecting(Barrier* barrier, int bytes) {
    emulator::arrive(barrier, bytes);
}
inline void wait_phase(Barrier* barrier, int parity) {
    emulator::wait_phase(barrier, parity);
}
inline void copy_bulk(unsigned char* shared, const void* global, int bytes, Barrier* barrier) {
    emulator::copy_bulk(shared, static_cast<const unsigned char*>(global), bytes, barrier);
}

inline void copy_bulk_to(unsigned char* shared, const void* global, int bytes, Barrier* barrier, std::uint16_t ranks) {
    for (int rank = 0; ranks >> rank != 0; ++rank) {
        if ((ranks >> rank & 1) == 0) continue;
        emulator::copy_bulk(static_cast<unsigned char*>(emulator::there(shared, rank)),
                            static_cast<const unsigned char*>(global), bytes, emulator::there(barrier, rank));
    }
}

using Fragment = std::uint32_t[4];

namespace emulated {

// Of one thread of a warpgroup; a in registers, or null and described.
template <class Sum>
struct AtomProduct {
    Sum* c;
    const std::uint32_t* a;
    std::uint64_t described_a, b;
    bool add;
};

struct Descriptor {
    std::uint64_t start, leading, stride;  // bytes

    explicit Descriptor(std::uint64_t bits) {
        const auto field = [&](int low, int count) {
            return bits >> low & ((std::uint64_t{1} << count) - 1);
        };
        start = 16 * field(0, 14);
        leading = 16 * field(16, 14);
        stride = 16 * field(32, 14);
        if (field(62, 2) != 1 || field(49, 3) != 0 || (bits & 0xC0004000C000u) != 0) {
            throw std::runtime_error("a matrix descriptor without the 128-byte swizzle");
        }
    }
    // The swizzle is one of addresses: bits 7 to 9 onto bits 4 to 6.
    const unsigned char* at(std::uint64_t offset) const {
        const std::uint64_t plain = start + offset, address = plain ^ (plain >> 7 & 7) << 4;
        const std::uint64_t begin = emulator::shared_begin();
        if (address < begin || address >= begin + emulator::shared_memory_bytes()) {
            throw std::runtime_error("a product reads outside of shared memory");
        }
        const unsigned char* const result = shared_memory() + (address - begin);
        emulator::require_shown(result);
        return result;
    }
};

// K-major, Swizzle<3,4,3> o ((8,m),(T,2)):((8T,SBO),(1,T)) in CUTLASS's comment on make_gmma_desc: byte `byte` (of the
// 32 that a product reads) of row or column n.
inline const unsigned char* atom_byte(std::uint64_t descriptor, int n, int byte) {
    const Descriptor atoms(descriptor);
    const auto outer = static_cast<std::uint64_t>(n / kAtomColumns);
    return atoms.at(outer * atoms.stride + static_cast<std::uint64_t>(n % kAtomColumns * 128 + byte));
}
// MN-major, Swizzle<3,4,3> o ((T,8,m),(8,k)):((1,T,LBO),(8T,SBO)), T = 8 elements of 16 bits: (k, n).
inline const unsigned char* atom_element_by_rows(std::uint64_t descriptor, int n, int k) {
    const Descriptor atoms(descriptor);
    const auto right = static_cast<std::uint64_t>(n / 64), below = static_cast<std::uint64_t>(k / 8);
    return atoms.at(right * atoms.leading + below * atoms.stride +
                    static_cast<std::uint64_t>(k % 8 * 128 + n % 64 * 2));
}

// a [64, depth] and b [N, depth].
template <class Wide>
struct Operands {
    std::vector<Wide> a, b;

    bool same(const Operands& other) const {  // bits: what nobody needs may be NaN
        return std::memcmp(a.data(), other.a.data(), a.size() * sizeof(Wide)) == 0 &&
               std::memcmp(b.data(), other.b.data(), b.size() * sizeof(Wide)) == 0;
    }
};
// As they are now. `left` is element i of a register of a, `right` of an operand's bytes.
template <class Wide, int depth, bool by_rows, class Sum, class Left, class Right>
Operands<Wide> read_operands(const std::vector<AtomProduct<Sum>>& lanes, int columns, const Left& left,
                             const Right& right) {
    constexpr int kHalf = depth / 2, kEach = depth / 8, kSize = 32 / depth;  // elements per register; bytes of one
    Operands<Wide> result{std::vector<Wide>(64 * depth), std::vector<Wide>(static_cast<std::size_t>(columns) * depth)};
    for (int thread = 0; lanes[0].a && thread < 128; ++thread) {
        const int row = thread / 32 * 16 + thread % 32 / 4, t = thread % 4;
        for (int i = 0; i < 4; ++i) {
            for (int e = 0; e < kEach; ++e) {
                const int k = kEach * t + i / 2 * kHalf + e;
                result.a[static_cast<std::size_t>((row + 8 * (i % 2)) * depth + k)] =
                    left(lanes[static_cast<std::size_t>(thread)].a[i], e);
            }
        }
    }
    for (int row = 0; !lanes[0].a && row < 64; ++row) {
        for (int k = 0; k < depth; ++k) {
            result.a[static_cast<std::size_t>(row * depth + k)] =
                right(atom_byte(lanes[0].described_a, row, k * kSize));
        }
    }
    for (int n = 0; n < columns; ++n) {
        for (int k = 0; k < depth; ++k) {
            result.b[static_cast<std::size_t>(n * depth + k)] =
                right(by_rows ? atom_element_by_rows(lanes[0].b, n, k) : atom_byte(lanes[0].b, n, k * kSize));
        }
    }
    return result;
}

// c [64, N] (+)= a b, later: until then both stay as they are now.
template <class Wide, int depth, bool by_rows, class Sum, class Left, class Right, class Round>
void defer_product(std::vector<AtomProduct<Sum>> lanes, int columns, Left left, Right right, Round round) {
    for (const AtomProduct<Sum>& own : lanes) {
        if (own.b != lanes[0].b || own.described_a != lanes[0].described_a || own.add != lanes[0].add)
            throw std::runtime_error("a product that differs by thread");
    }
    const auto read = [=] {
        return read_operands<Wide, depth, by_rows>(lanes, columns, left, right);
    };
    emulator::defer([=, first = read()] {
        const Operands<Wide> operands = read();
        if (!operands.same(first))
            throw std::runtime_error("an operand of a product that changes while it is under way");
        for (int thread = 0; thread < 128; ++thread) {
            const AtomProduct<Sum>& own = lanes[static_cast<std::size_t>(thread)];
            const int first_row = thread / 32 * 16 + thread % 32 / 4, t = thread % 4;
            for (int i = 0; i < columns / 2; ++i) {
                const int row = first_row + 8 * (i / 2 % 2), column = i / 4 * 8 + 2 * t + i % 2;
                Wide sum = own.add ? static_cast<Wide>(own.c[i]) : Wide{0};
                for (int k = 0; k < depth; ++k) {
                    sum += operands.a[static_cast<std::size_t>(row * depth + k)] *
                           operands.b[static_cast<std::size_t>(column * depth + k)];
                }
                own.c[i] = round(sum);
            }
        }
    });
}

template <class Sum>
std::vector<AtomProduct<Sum>> copied(void* const* brought, int count) {
    std::vector<AtomProduct<Sum>> lanes;
    for (int lane = 0; lane < count; ++lane) lanes.push_back(*static_cast<const AtomProduct<Sum>*>(brought[lane]));
    return lanes;
}

template <double (*value)(std::uint32_t), int columns, bool by_rows>
void defer_16(void* const* brought, int count) {
    defer_product<double, 16, by_rows>(
        copied<float>(brought, count), columns,
        [](std::uint32_t word, int e) { return value(word >> 16 * e & 0xFFFF); },
        [](const unsigned char* bytes) {
            std::uint16_t bits;
            std::memcpy(&bits, bytes, sizeof bits);
            return value(bits);
        },
        truncated);
}
template <int columns>
void defer_8(void* const* brought, int count) {
    defer_product<std::int64_t, 32, false>(
        copied<int>(brought, count), columns,
        [](std::uint32_t word, int e) { return static_cast<std::int64_t>(word >> 8 * e & 0xFF); },
        [](const unsigned char* byte) { return static_cast<std::int64_t>(static_cast<std::int8_t>(*byte)); },
        [](std::int64_t sum) { return static_cast<int>(sum); });
}

}  // namespace emulated

inline std::uint64_t describe_atoms(const unsigned char* atoms) {
    const std::uint32_t address = shared_address(atoms);
    if (address % kAtomBytes != 0) throw std::runtime_error("atoms are aligned to 1024 bytes");
    return matrix_descriptor(address, 16, kAtomBytes);
}
template <int beside>
inline std::uint64_t describe_atoms_by_rows(const unsigned char* atoms) {
    static_assert(beside % kAtomBytes == 0 && beside / 16 < 1 << 14);
    describe_atoms(atoms);
    return matrix_descriptor(shared_address(atoms), beside, kAtomBytes);
}
inline void show_to_products() {
    emulator::show_copies();
}
template <class... Registers>
inline void fence_products(Registers&...) {
    emulator::meet_warpgroup("fence_products", nullptr, [](void* const*, int) { emulator::fence_deferred(); });
}
inline void commit_products() {
    emulator::meet_warpgroup("commit_products", nullptr, [](void* const*, int) { emulator::commit_deferred(); });
}
template <int pending>
inline void wait_products() {
    emulator::meet_warpgroup("wait_products", nullptr, [](void* const*, int) { emulator::wait_deferred(pending); });
}
template <class Sum, int fragments>
inline void settle(Sum (&)[fragments][4]) {}

template <int fragments>
inline void products_bfloat16(float (&c)[fragments][4], const Fragment& a, std::uint64_t b, bool add) {
    emulated::AtomProduct<float> own{&c[0][0], a, 0, b, add};
    emulator::meet_warpgroup("products_bfloat16", &own,
                             emulated::defer_16<emulated::bfloat16_value, 8 * fragments, false>);
}
template <int fragments>
inline void products_float16(float (&c)[fragments][4], const Fragment& a, std::uint64_t b, bool add) {
    emulated::AtomProduct<float> own{&c[0][0], a, 0, b, add};
    emulator::meet_warpgroup("products_float16", &own,
                             emulated::defer_16<emulated::float16_value, 8 * fragments, false>);
}
template <int fragments>
inline void products_by_rows_bfloat16(float (&c)[fragments][4], const Fragment& a, std::uint64_t b, bool add) {
    emulated::AtomProduct<float> own{&c[0][0], a, 0, b, add};
    emulator::meet_warpgroup("products_by_rows_bfloat16", &own,
                             emulated::defer_16<emulated::bfloat16_value, 8 * fragments, true>);
}
template <int fragments>
inline void products_by_rows_float16(float (&c)[fragments][4], const Fragment& a, std::uint64_t b, bool add) {
    emulated::AtomProduct<float> own{&c[0][0], a, 0, b, add};
    emulator::meet_warpgroup("products_by_rows_float16", &own,
                             emulated::defer_16<emulated::float16_value, 8 * fragments, true>);
}
inline void products_bfloat16(float (&c)[8][4], std::uint64_t a, std::uint64_t b, bool add) {
    emulated::AtomProduct<float> own{&c[0][0], nullptr, a, b, add};
    emulator::meet_warpgroup("products_bfloat16 of shared memory", &own,
                             emulated::defer_16<emulated::bfloat16_value, 64, false>);
}
inline void products_float16(float (&c)[8][4], std::uint64_t a, std::uint64_t b, bool add) {
    emulated::AtomProduct<float> own{&c[0][0], nullptr, a, b, add};
    emulator::meet_warpgroup("products_float16 of shared memory", &own,
                             emulated::defer_16<emulated::float16_value, 64, false>);
}
template <int fragments>
inline void products_int8(int (&c)[fragments][4], const Fragment& a, std::uint64_t b, bool add) {
    emulated::AtomProduct<int> own{&c[0][0], a, 0, b, add};
    emulator::meet_warpgroup("products_int8", &own, emulated::defer_8<8 * fragments>);
}

}  // namespace tqs::cuda
