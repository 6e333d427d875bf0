// Small kernels that show what the emulator does: the fragments of its tensor instructions, and that it finds faults.
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#include "cuda/device/dispatch.cuh"
#include "cuda/device/warpgroup_instructions.cuh"
#include "emulator.h"

using namespace tqs::cuda;

namespace {

std::string message;

int thread() {
    return static_cast<int>(threadIdx.x);
}

const char* outcome(int threads, std::size_t shared, const std::function<void()>& kernel) {
    try {
        emulator::launch({1, 1, 1}, threads, shared, kernel);
        return "";
    } catch (const std::exception& error) {
        message = error.what();
        return message.c_str();
    }
}

// A warp hands a word from lane to lane through shared memory.
void pass_on(bool barrier) {
    auto* words = reinterpret_cast<int*>(shared_memory());
    words[thread()] = thread();
    if (barrier) block_barrier();
    if (words[(thread() + 33) % 64] != (thread() + 33) % 64) throw std::runtime_error("read before it was written");
}

void copy_in(const unsigned char* source, bool wait) {
    copy_async(shared_memory() + 16 * thread(), source, true);
    commit_copies();
    if (wait) wait_copies<0>();
    block_barrier();
    unsigned char bytes[16];
    std::memcpy(bytes, shared_memory() + 16 * ((thread() + 1) % 64), 16);
    if (std::memcmp(bytes, source, 16) != 0) throw std::runtime_error("read before it was copied");
}

// A warp brings 512 bytes for another one.
void bring(const unsigned char* source, int announced, bool wait, bool publish = true) {
    auto* barrier = reinterpret_cast<Barrier*>(shared_memory() + 512);
    if (thread() == 0) make_barrier(barrier, 1);
    if (thread() == 0 && publish) publish_barriers();
    block_barrier();
    if (thread() == 0 && announced >= 0) arrive_expecting(barrier, announced);
    if (thread() < 8) copy_bulk(shared_memory() + 64 * thread(), source, 64, barrier);
    if (thread() < 32) return;
    if (wait) wait_phase(barrier, 0);
    if (shared_memory()[8 * (thread() - 32)] != 1) throw std::runtime_error("read before it was copied");
}

// A warp fills a stage, another one reads it and hands it back: its lanes must have read before one of them does.
void hand_back(unsigned char* source, bool together) {
    auto* full = reinterpret_cast<Barrier*>(shared_memory() + 512);
    Barrier* const empty = full + 1;
    const int lane = thread() % 32;
    source[thread()] = static_cast<unsigned char>(1 + thread() / 16);  // other bytes in every round
    if (thread() == 0) make_barrier(full, 1);
    if (thread() == 0) make_barrier(empty, 1);
    if (thread() == 0) publish_barriers();
    block_barrier();
    for (int round = 0; round < 4; ++round) {
        const int parity = round % 2;
        if (thread() >= 32) {
            wait_phase(empty, 1 - parity);
            if (lane == 0) arrive_expecting(full, 128);
            warp_barrier();
            if (lane < 8) copy_bulk(shared_memory() + 16 * lane, source + 16 * round, 16, full);
            continue;
        }
        wait_phase(full, parity);
        if (shared_memory()[4 * lane] != source[16 * round]) throw std::runtime_error("read after it was handed back");
        if (together) warp_barrier();
        if (lane == 0) arrive(empty, 0);
    }
}

unsigned char* atoms_begin() {
    return shared_memory() + (kAtomBytes - shared_address(shared_memory()) % kAtomBytes) % kAtomBytes;
}

// How operands of a product lie.
enum Way : int { kByColumns, kByRows, kBothShared };
constexpr int kBeside = 64 * 128;  // bytes: by rows, 64 columns; and of a

// Two products by a warpgroup, the second from 16 elements (32 bytes) of k further on.
enum class Careless : int { no = 0, waits_for_too_little = 1, does_not_fence = 2 };
template <int fragments, class Sum, class Multiply>
void multiply_twice(const std::uint32_t* a, Sum* c, Careless careless, const Multiply& multiply) {
    Sum sums[fragments][4];
    std::uint32_t own[2][4];
    std::memcpy(sums, c + thread() * fragments * 4, sizeof sums);
    std::memcpy(own, a + 8 * thread(), sizeof own);
    if (careless != Careless::does_not_fence) fence_products();
    for (int i = 0; i < 2; ++i) {
        multiply(sums, own[i], static_cast<std::uint64_t>(i));
        commit_products();
    }
    if (careless == Careless::waits_for_too_little) {
        wait_products<1>();
    } else {
        wait_products<0>();
    }
    settle(sums);
    std::memcpy(c + thread() * fragments * 4, sums, sizeof sums);
}

// The product of kind 0 or 1 that the way asks for.
template <int fragments>
void multiply_16(int kind, Way way, float (&sums)[fragments][4], const Fragment& a, std::uint64_t i) {
    const std::uint64_t by_columns = describe_atoms(atoms_begin()) + 2 * i;
    if (way == kByRows) {
        const std::uint64_t by_rows = describe_atoms_by_rows<kBeside>(atoms_begin()) + 128 * i;
        return kind == 0 ? products_by_rows_bfloat16(sums, a, by_rows, true)
                         : products_by_rows_float16(sums, a, by_rows, true);
    }
    if constexpr (fragments == 8) {
        const std::uint64_t left = describe_atoms(atoms_begin() + kBeside) + 2 * i;
        if (way == kBothShared && kind == 0) return products_bfloat16(sums, left, by_columns, true);
        if (way == kBothShared) return products_float16(sums, left, by_columns, true);
    }
    kind == 0 ? products_bfloat16(sums, a, by_columns, true) : products_float16(sums, a, by_columns, true);
}

// A warpgroup copies atoms for a product, each thread a part.
enum class Copied { shown, not_shown, late };  // late: when the product has been called
void copy_for_product(const unsigned char* source, Copied how) {
    unsigned char* const atoms = atoms_begin();
    float sums[8][4];
    const Fragment a = {};
    const auto call = [&] {
        fence_products();
        products_bfloat16(sums, a, describe_atoms(atoms), false);
        commit_products();
    };
    std::memset(atoms + 64 * thread(), 0, 64);
    block_barrier();
    if (how == Copied::late) call();
    for (int part = thread(); part < 8 * 64; part += 128) copy_async(atoms + 16 * part, source, true);
    commit_copies();
    wait_copies<0>();
    if (how != Copied::not_shown) show_to_products();
    block_barrier();
    if (how != Copied::late) call();
    wait_products<0>();
}

}  // namespace

extern "C" {

// a [128, 2, 4] words by thread, operands as they lie in shared memory (`bytes`), c [128, columns / 2] by thread; kind
// as below, columns 64 or 128. c is updated. Returns what was said.
const char* emulated_atoms(int kind, int way, int columns, const std::uint32_t* a, const unsigned char* atoms,
                           std::int64_t bytes, void* c, Careless careless) {
    return outcome(128, static_cast<std::size_t>(bytes) + 1024, [&] {
        if (thread() == 0) std::memcpy(atoms_begin(), atoms, static_cast<std::size_t>(bytes));
        block_barrier();
        const auto run = [&](auto fragments) {
            constexpr int kFragments = decltype(fragments)::value;
            if (kind == 2) {
                multiply_twice<kFragments>(a, static_cast<int*>(c), careless,
                                           [&](int (&sums)[kFragments][4], const Fragment& own, std::uint64_t i) {
                                               products_int8(sums, own, describe_atoms(atoms_begin()) + 2 * i, true);
                                           });
            } else {
                multiply_twice<kFragments>(a, static_cast<float*>(c), careless,
                                           [&](float (&sums)[kFragments][4], const Fragment& own, std::uint64_t i) {
                                               multiply_16(kind, static_cast<Way>(way), sums, own, i);
                                           });
            }
        };
        if (columns == 64) {
            run(Constant<8>{});
        } else {
            run(Constant<16>{});
        }
    });
}

// a [32, 4], b [32, 2], c [32, 4] words by lane; kind 0 bfloat16, 1 float16, 2 int8. c is updated.
void emulated_mma(int kind, const std::uint32_t* a, const std::uint32_t* b, void* c) {
    emulator::launch({1, 1, 1}, 32, 0, [&] {
        std::uint32_t own_a[4], own_b[2];
        std::memcpy(own_a, a + 4 * thread(), sizeof own_a);
        std::memcpy(own_b, b + 2 * thread(), sizeof own_b);
        if (kind == 2) {
            int sums[4];
            std::memcpy(sums, static_cast<int*>(c) + 4 * thread(), sizeof sums);
            mma_int8(sums, own_a, own_b);
            std::memcpy(static_cast<int*>(c) + 4 * thread(), sums, sizeof sums);
        } else {
            float sums[4];
            std::memcpy(sums, static_cast<float*>(c) + 4 * thread(), sizeof sums);
            kind == 0 ? mma_bfloat16(sums, own_a, own_b) : mma_float16(sums, own_a, own_b);
            std::memcpy(static_cast<float*>(c) + 4 * thread(), sums, sizeof sums);
        }
    });
}

// By a warp: four matrices [8, 8] of 16 bits, words [lane, 4].
void emulated_matrices(int transposed, const unsigned char* rows, std::uint32_t* words) {
    emulator::launch({1, 1, 1}, 32, 512, [&] {
        std::memcpy(shared_memory() + 16 * thread(), rows + 16 * thread(), 16);
        warp_barrier();
        std::uint32_t own[4];
        transposed ? load_matrices_transposed(shared_memory() + 16 * thread(), own)
                   : load_matrices(shared_memory() + 16 * thread(), own);
        std::memcpy(words + 4 * thread(), own, sizeof own);
    });
}

std::uint64_t emulated_descriptor(std::uint32_t address, int leading, int stride) {
    return matrix_descriptor(address, leading, stride);
}

// Where a launch found its shared memory.
std::uint32_t emulated_shared_begin() {
    std::uint32_t begin = 0;
    emulator::launch({1, 1, 1}, 32, 128, [&] { begin = shared_address(shared_memory()); });
    return begin;
}

std::uint16_t emulated_float_to_float16(float value) {
    return float_to_float16(value);
}

// A kernel with the named fault, in both orders of threads: what was said, empty where nothing was found.
const char* emulated_fault(const char* name, int reversed) {
    emulator::reversed = reversed != 0;
    const std::string fault = name;
    auto* memory = static_cast<unsigned char*>(emulator::allocate(64));
    std::memset(memory, 1, 64);
    const char* said = "unknown fault";
    if (fault == "none") {
        said = outcome(64, 1024, [&] {
            pass_on(true);
            block_barrier();
            copy_in(memory, true);
        });
    } else if (fault == "no barrier") {
        said = outcome(64, 1024, [] { pass_on(false); });
    } else if (fault == "no wait") {
        said = outcome(64, 1024, [&] { copy_in(memory, false); });
    } else if (fault == "lane leaves") {
        said = outcome(32, 0, [] {
            if (thread() != 7) shuffle_xor(1, 1);
        });
    } else if (fault == "two collectives") {
        said = outcome(32, 0, [] {
            if (thread() < 16) {
                shuffle_xor(1, 1);
            } else {
                block_barrier();
            }
        });
    } else if (fault == "different collectives") {
        said = outcome(32, 0, [] {
            float c[4] = {};
            const std::uint32_t a[4] = {}, b[2] = {};
            if (thread() < 16) {
                mma_bfloat16(c, a, b);
            } else {
                mma_float16(c, a, b);
            }
        });
    } else if (fault == "outside") {
        said = outcome(32, 0, [&] { memory[64 + thread()] = 1; });
    } else if (fault == "outside shared") {
        said = outcome(32, 128, [] { shared_memory()[128 + thread()] = 1; });
    } else if (fault == "not aligned") {
        said = outcome(32, 0, [&] { load_streamed(memory + 8); });
    } else if (fault == "right bulk copy") {
        said = outcome(64, 1024, [&] { bring(memory, 512, true); });
    } else if (fault == "bulk copy not waited for") {
        said = outcome(64, 1024, [&] { bring(memory, 512, false); });
    } else if (fault == "barrier not published") {
        said = outcome(64, 1024, [&] { bring(memory, 512, true, false); });
    } else if (fault == "stage handed back by all") {
        said = outcome(64, 1024, [&] { hand_back(memory, true); });
    } else if (fault == "stage handed back too early") {
        said = outcome(64, 1024, [&] { hand_back(memory, false); });
    } else if (fault == "too few announced") {
        said = outcome(64, 1024, [&] { bring(memory, 256, true); });
    } else if (fault == "too many announced") {
        said = outcome(64, 1024, [&] { bring(memory, 1024, true); });
    } else if (fault == "nobody arrives") {
        said = outcome(64, 1024, [&] { bring(memory, -1, true); });
    } else if (fault == "copy shown to a product") {
        said = outcome(128, 9 << 10, [&] { copy_for_product(memory, Copied::shown); });
    } else if (fault == "copy not shown to a product") {
        said = outcome(128, 9 << 10, [&] { copy_for_product(memory, Copied::not_shown); });
    } else if (fault == "copied under a product") {
        said = outcome(128, 9 << 10, [&] { copy_for_product(memory, Copied::late); });
    } else if (fault == "bank conflict") {
        said = outcome(32, 4096, [] { load_from_shared(shared_memory() + 128 * thread()); });
    }
    emulator::release(memory, 64);
    return said;
}
}
