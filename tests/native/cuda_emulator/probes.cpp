// Small kernels that show what the emulator does: the fragments of its tensor instructions, and that it finds faults.
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#include "kernels.h"

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

}  // namespace

extern "C" {

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
    } else if (fault == "bank conflict") {
        said = outcome(32, 4096, [] { load_from_shared(shared_memory() + 128 * thread()); });
    }
    emulator::release(memory, 64);
    return said;
}
}
