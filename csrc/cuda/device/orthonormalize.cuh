// QR factorisation of tall frames by Householder reflections, in a tree over their rows (Demmel, Grigori, Hoemmen and
// Langou, "Communication-optimal parallel and sequential QR and LU factorizations", 2012). A chunk of rows that fits
// shared memory is factored by a block; the triangles of all chunks, one below the other, are the rows of the level
// above, until one chunk holds them all. Q then comes down again:
//
//     A = [A_1; A_2] = [Q_1 R_1; Q_2 R_2],   [R_1; R_2] = [B_1; B_2] R,   Q = [Q_1 B_1; Q_2 B_2]
//
// so that a frame is read and written twice, whatever its size. It is as stable as Householder's method without a tree,
// column by column, and completes Q where columns depend on each other. Rejected: Cholesky of A^T A, even twice over,
// fails from a condition of 10^8 on, and frames are let turn towards each other up to 10^15; Gram-Schmidt, twice over,
// goes over the frame 2 K times and has nothing to put in place of a dependent column.
//
// Within a chunk a warp reflects a column at a time, its lanes side by side along the rows. A column and its reflection
// cost 5 accesses of shared memory to 2 multiply-adds: for K columns of D rows K^2 D such pairs in all, at 3.2 per
// cycle and multiprocessor.
//
// Sums run over every 32nd (or 256th) row and then by halves: |error| of a sum of n terms <= (n / 32 + 14) u sum
// |terms|. Bits depend on K and D only.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "cuda/device/instructions.cuh"
#include "cuda/device/team.cuh"

namespace tqs::cuda {

inline constexpr int kFrameThreads = team_threads(Shape::block);
inline constexpr int kFrameWarps = kFrameThreads / 32;
// Of a block: two of them fit a multiprocessor of sm_80.
inline constexpr std::int64_t kChunkBytes = 80 << 10;

// Shared memory of a chunk: the columns, two vectors, K factors, and what a team needs.
static constexpr std::int64_t chunk_bytes(std::int64_t rows, std::int64_t directions) {
    const std::int64_t bytes = 8 * (rows * (directions + 2) + directions) + team_bytes(Shape::block);
    return (bytes + 127) / 128 * 128;
}
// Rows that fit.
static constexpr std::int64_t chunk_rows(std::int64_t directions) {
    return (kChunkBytes - 128 - team_bytes(Shape::block) - 8 * directions) / (8 * (directions + 2));
}
// With less than twice as many rows as columns, levels would not become shorter.
static constexpr bool chunks_fit(std::int64_t directions) {
    return chunk_rows(directions) >= 2 * directions;
}

// What is wrong with a sample.
inline constexpr int kStateNotFinite = 1, kFrameNotFinite = 2;

// A level: K columns of `rows` rows per sample, cut into chunks of whole units: rows, above the first level triangles.
struct LevelArgument {
    double* columns;  // of sample 0; factored, then Q
    std::int64_t rows, unit, sample_step;
    std::int64_t directions, chunks;
    double* above;        // [samples, K, chunks K]: triangles, then what the level above made of them
    bool top;             // one chunk, so that nothing is above but R
    double* factors;      // tau [samples, chunks, K]
    const double* state;  // of sample 0 [rows], looked at beside the columns; null: above the first level
    int* found;           // [samples, chunks] of the first level: what is not finite
    const int* failed;    // [samples]
};

class FrameChunk {
  public:
    __device__ explicit FrameChunk(const LevelArgument& argument) : a(argument) {
        sample = blockIdx.x / a.chunks;
        chunk = blockIdx.x % a.chunks;
        const std::int64_t units = a.rows / a.unit;
        first = units * chunk / a.chunks * a.unit;
        rows = static_cast<int>(units * (chunk + 1) / a.chunks * a.unit - first);
        directions = static_cast<int>(a.directions);
        columns = a.columns + sample * a.sample_step + first;
        team_memory = shared_memory();
        tile = reinterpret_cast<double*>(team_memory + team_bytes(Shape::block));
        vectors = tile + directions * rows;
        factors = vectors + 2 * rows;
        thread = static_cast<int>(threadIdx.x);
        warp = thread / 32;
        lane = thread % 32;
    }

    // False where the sample was set aside before.
    __device__ bool wanted() const { return a.failed[sample] == 0; }

    __device__ void load() {
        int found = 0;
        for (int k = 0; k < directions; ++k) {
            for (int i = thread; i < rows; i += kFrameThreads) {
                const double value = columns[k * a.rows + i];
                tile[k * rows + i] = value;
                if (!finite(value)) found |= kFrameNotFinite;
            }
        }
        if (!a.state) return block_barrier();
        for (int i = thread; i < rows; i += kFrameThreads) {
            if (!finite(a.state[sample * a.sample_step + first + i])) found |= kStateNotFinite;
        }
        found = team.all(found, team_memory, [](int x, int y) { return x | y; });
        if (thread == 0) a.found[sample * a.chunks + chunk] = found;
    }

    __device__ void factor() {
        for (int j = 0; j < directions; ++j) {
            double* const column = tile + j * rows;
            const double alpha = column[j], rest = norm(column + j + 1, rows - j - 1);
            double factor = 0.0;
            if (rest != 0.0) {
                const double beta = -std::copysign(std::hypot(alpha, rest), alpha);
                factor = (beta - alpha) / beta;
                for (int i = j + 1 + thread; i < rows; i += kFrameThreads) column[i] /= alpha - beta;
                if (thread == 0) column[j] = beta;
            }
            if (thread == 0) factors[j] = factor;
            block_barrier();
            for (int k = j + 1 + warp; k < directions; k += kFrameWarps) reflect(column, factor, tile + k * rows, j);
            block_barrier();
        }
    }

    // The reflections in place of the columns, their factors, and R.
    __device__ void store_factored() const {
        store();
        for (int i = thread; i < directions; i += kFrameThreads) {
            a.factors[(sample * a.chunks + chunk) * directions + i] = factors[i];
        }
        for (int i = thread; i < directions * directions; i += kFrameThreads) {
            const int k = i / directions, row = i % directions;
            *above(k, row) = row <= k ? tile[k * rows + row] : 0.0;
        }
    }

    // The columns [B; 0] that reflections are to act on.
    __device__ void load_above() {
        for (int i = thread; i < directions; i += kFrameThreads) {
            factors[i] = a.factors[(sample * a.chunks + chunk) * directions + i];
        }
        for (int k = 0; k < directions; ++k) {
            for (int i = thread; i < rows; i += kFrameThreads) {
                const bool head = i < directions;
                tile[k * rows + i] = a.top ? (i == k ? 1.0 : 0.0) : head ? *above(k, i) : 0.0;
            }
        }
    }

    // H_0 ... H_{K-1} applied to them, the last first; the next reflection is on its way meanwhile.
    __device__ void form() {
        fetch(directions - 1);
        for (int j = directions - 1; j >= 0; --j) {
            if (j > 0) {
                fetch(j - 1);
                wait_copies<1>();
            } else {
                wait_copies<0>();
            }
            block_barrier();
            // B = R_chunk R^-1 is a triangle: columns before j are 0 from row j on.
            for (int k = j + warp; k < directions; k += kFrameWarps) {
                reflect(vector(j), factors[j], tile + k * rows, j);
            }
            block_barrier();
        }
    }

    __device__ void store() const {
        for (int k = 0; k < directions; ++k) {
            for (int i = thread; i < rows; i += kFrameThreads) columns[k * a.rows + i] = tile[k * rows + i];
        }
    }

  private:
    __device__ static bool finite(double value) { return std::fabs(value) <= std::numeric_limits<double>::max(); }
    __device__ double* above(int k, int row) const {
        return a.above + ((sample * directions + k) * a.chunks + chunk) * directions + row;
    }
    __device__ double* vector(int j) const { return vectors + j % 2 * rows; }

    __device__ void fetch(int j) {
        for (int i = j + 1 + thread; i < rows; i += kFrameThreads) {
            copy_element_async(vector(j) + i, columns + j * a.rows + i, true);
        }
        commit_copies();
    }

    // Of x [count], by all threads; scaled where squares would overflow or underflow.
    __device__ double norm(const double* x, int count) {
        double sum = 0.0;
        for (int i = thread; i < count; i += kFrameThreads) sum = fused(x[i], x[i], sum);
        sum = team.all(sum, team_memory, Plus{});
        if (sum > 1e-270 && sum < 1e280) return std::sqrt(sum);
        double largest = 0.0;
        for (int i = thread; i < count; i += kFrameThreads) largest = larger(std::fabs(x[i]), largest);
        largest = team.all(largest, team_memory, [](double p, double q) { return larger(p, q); });
        if (largest == 0.0) return 0.0;
        sum = 0.0;
        for (int i = thread; i < count; i += kFrameThreads) sum = fused(x[i] / largest, x[i] / largest, sum);
        return largest * std::sqrt(team.all(sum, team_memory, Plus{}));
    }
    __device__ static double larger(double p, double q) { return p > q ? p : q; }

    // y [rows] = H y by a warp, H = I - factor v v^T where v is 0 before row j, 1 there and then as given.
    __device__ void reflect(const double* v, double factor, double* y, int j) const {
        double sum = lane == 0 ? y[j] : 0.0;  // no other lane reads what this one writes
        for (int i = j + 1 + lane; i < rows; i += 32) sum = fused(v[i], y[i], sum);
        for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
        const double along = factor * sum;
        if (lane == 0) y[j] -= along;
        for (int i = j + 1 + lane; i < rows; i += 32) y[i] = fused(-along, v[i], y[i]);
    }

    const LevelArgument& a;
    const Team<Shape::block> team;
    std::int64_t sample, chunk, first;
    int rows, directions, thread, warp, lane;
    double *columns, *tile, *vectors, *factors;
    unsigned char* team_memory;
};

static __global__ void __launch_bounds__(kFrameThreads) factor_chunks(const LevelArgument a) {
    begin_kernel();
    FrameChunk chunk(a);
    if (!chunk.wanted()) return;  // the whole block
    chunk.load();
    chunk.factor();
    chunk.store_factored();
}

static __global__ void __launch_bounds__(kFrameThreads) form_chunks(const LevelArgument a) {
    begin_kernel();
    FrameChunk chunk(a);
    if (!chunk.wanted()) return;
    chunk.load_above();
    chunk.form();
    chunk.store();
}

}  // namespace tqs::cuda
