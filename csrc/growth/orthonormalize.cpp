#include "growth/orthonormalize.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tqs {
namespace {

// Eight partial sums: the order is fixed, and the compiler may keep them in vector registers.
double dot(const double* a, const double* b, std::int64_t count) {
    constexpr std::int64_t kLanes = 8;
    double sums[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
    }
    double rest = 0;
    for (; i < count; ++i) rest += a[i] * b[i];
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7])) + rest;
}

// Scaled where squares would overflow or underflow.
double norm(const double* a, std::int64_t count) {
    double largest = 0;
    for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(a[i]));
    if (largest == 0 || (largest > 1e-140 && largest < 1e140)) return std::sqrt(dot(a, a, count));
    double sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += (a[i] / largest) * (a[i] / largest);
    return largest * std::sqrt(sum);
}

// H = I - tau v v^T with v[0] = 1 takes x [count] to (beta, 0, ...). Leaves beta in x[0] and the rest of v in x[1 ...].
double reflector(double* x, std::int64_t count) {
    const double rest = norm(x + 1, count - 1);
    if (rest == 0) return 0;
    const double alpha = x[0];
    const double beta = -std::copysign(std::hypot(alpha, rest), alpha);
    for (std::int64_t i = 1; i < count; ++i) x[i] /= alpha - beta;
    x[0] = beta;
    return (beta - alpha) / beta;
}

// y [count] = H y, v as `reflector` left it (v[0] is 1 and not stored).
void reflect(const double* v, double tau, double* y, std::int64_t count) {
    const double along = tau * (y[0] + dot(v + 1, y + 1, count - 1));
    y[0] -= along;
    for (std::int64_t i = 1; i < count; ++i) y[i] -= along * v[i];
}

// R [K, K] by columns, upper triangle.
double condition_of(double* r, std::int64_t size) {
    for (std::int64_t j = 0; j < size; ++j) {
        const double length = norm(r + j * size, j + 1);
        if (r[j * size + j] == 0) return std::numeric_limits<double>::infinity();
        for (std::int64_t i = 0; i <= j; ++i) r[j * size + i] /= length;
    }
    // Column j of the inverse by back substitution; only its norm is needed, so it takes column j's place below R.
    double total = 0;
    for (std::int64_t j = size - 1; j >= 0; --j) {
        double* column = r + j * size;
        column[j] = 1 / column[j];
        for (std::int64_t i = j - 1; i >= 0; --i) {
            double sum = column[i] * column[j];
            for (std::int64_t k = i + 1; k < j; ++k) sum += r[k * size + i] * column[k];
            column[i] = -sum / r[i * size + i];
        }
        total += dot(column, column, j + 1);
    }
    const double condition = std::sqrt(total / static_cast<double>(size));
    return std::isfinite(condition) ? condition : std::numeric_limits<double>::infinity();
}

}  // namespace

double orthonormalize(double* frame, std::int64_t size, std::int64_t directions, double* logs, double* scratch) {
    double* r = scratch;                              // [K, K] by columns
    double* tau = scratch + directions * directions;  // [K]
    for (std::int64_t j = 0; j < directions; ++j) {
        double* column = frame + j * size;
        for (std::int64_t i = 0; i < j; ++i) reflect(frame + i * size + i, tau[i], column + i, size - i);
        tau[j] = reflector(column + j, size - j);
        std::copy(column, column + j + 1, r + j * directions);
        logs[j] = std::log(std::abs(column[j]));
    }
    const double condition = condition_of(r, directions);
    // Q = H_0 ... H_{K-1} applied to the first K unit vectors, the last first so that v are still there when needed.
    for (std::int64_t j = directions - 1; j >= 0; --j) {
        const double* v = frame + j * size + j;
        for (std::int64_t k = j + 1; k < directions; ++k) reflect(v, tau[j], frame + k * size + j, size - j);
        double* column = frame + j * size;
        std::fill(column, column + j, 0.0);
        column[j] = 1 - tau[j];
        for (std::int64_t i = j + 1; i < size; ++i) column[i] *= -tau[j];
    }
    return condition;
}

}  // namespace tqs
