// softmax(scale q k^T + mask) v and its tangents, one query at a time:
//
//     w_t  = exp(s_t - max s) / sum          out  = sum_t w_t v_t
//     ds_t = scale (dq k_t + q dk_t) + dmask_t
//     dout = sum_t (w_t ds_t v_t + w_t dv_t) - (sum_t w_t ds_t) out
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/scalar/kernels.h"

namespace tqs::scalar {
namespace {

// An operand at one sample and head.
template <class T>
struct Matrix {
    T* data;  // null: absent, or a tangent that is zero
    std::int64_t row, column;

    T& at(std::int64_t i, std::int64_t j) const { return data[i * row + j * column]; }
    T element(std::int64_t i, std::int64_t j) const { return data ? at(i, j) : T{0}; }
};

template <class T>
struct Head {
    const AttentionTask& task;
    std::int64_t sample, index;  // of the leading sizes of out

    Matrix<T> at(const Operand& operand, std::int64_t lane) const {
        const int leading = task.out.rank - 2;
        const std::int64_t row = operand.strides[leading], column = operand.strides[leading + 1];
        if (!operand.data && !operand.lanes) return {nullptr, row, column};
        T* data = lane_data<T>(operand, lane, task.extent.tangent);
        if (!data) return {nullptr, row, column};
        std::int64_t offset = sample * operand.sample_stride, rest = index;
        for (int axis = leading - 1; axis >= 0; --axis) {
            offset += rest % task.out.sizes[axis] * operand.strides[axis];
            rest /= task.out.sizes[axis];
        }
        return {data + offset, row, column};
    }
};

template <class T>
T dot(const Matrix<T>& a, std::int64_t i, const Matrix<T>& b, std::int64_t j, std::int64_t count) {
    T sum = 0;
    for (std::int64_t d = 0; a.data && b.data && d < count; ++d) sum += a.at(i, d) * b.at(j, d);
    return sum;
}

// w [keys] of one query of one lane, of which the first `seen` are not hidden.
template <class T>
void weigh(const AttentionTask& task, const Head<T>& head, std::int64_t lane, std::int64_t query, std::int64_t seen,
           std::int64_t depth, T* w) {
    const Matrix<T> q = head.at(task.q, lane), k = head.at(task.k, lane), mask = head.at(task.mask, lane);
    T maximum = -std::numeric_limits<T>::infinity(), total = 0;
    for (std::int64_t key = 0; key < seen; ++key) {
        w[key] = static_cast<T>(task.scale) * dot(q, query, k, key, depth) + mask.element(query, key);
        maximum = w[key] > maximum ? w[key] : maximum;
    }
    if (maximum == -std::numeric_limits<T>::infinity()) maximum = 0;
    for (std::int64_t key = 0; key < seen; ++key) total += w[key] = std::exp(w[key] - maximum);
    for (std::int64_t key = 0; key < seen && total != 0; ++key) w[key] /= total;
}

template <class T>
std::int64_t attention_scratch(const AttentionTask& task) {
    return 2 * task.k.sizes[task.out.rank - 2] * static_cast<std::int64_t>(sizeof(T));
}

template <class T>
void attend(const AttentionTask& task, const Head<T>& head, std::int64_t lane, std::int64_t lanes) {
    const int leading = task.out.rank - 2;
    const std::int64_t keys = task.k.sizes[leading], depth = task.q.sizes[leading + 1];
    const std::int64_t width = task.out.sizes[leading + 1];
    T *w = static_cast<T*>(task.scratch), *moved = w + keys;
    const Matrix<T> q = head.at(task.q, lane), k = head.at(task.k, lane), v = head.at(task.v, lane);
    const Matrix<T> out = head.at(task.out, lane);
    for (std::int64_t query = 0; query < task.out.sizes[leading]; ++query) {
        const std::int64_t seen =
            task.causal ? std::clamp<std::int64_t>(query + task.causal_offset + 1, 0, keys) : keys;
        weigh(task, head, lane, query, seen, depth, w);
        for (std::int64_t e = 0; e < width; ++e) {
            T sum = 0;
            for (std::int64_t key = 0; key < seen; ++key) sum += w[key] * v.at(key, e);
            out.at(query, e) = sum;
        }
        for (std::int64_t tangent = 1; tangent < lanes; ++tangent) {
            const Matrix<T> dq = head.at(task.q, tangent), dk = head.at(task.k, tangent);
            const Matrix<T> dv = head.at(task.v, tangent), dmask = head.at(task.mask, tangent);
            const Matrix<T> dout = head.at(task.out, tangent);
            T drift = 0;
            for (std::int64_t key = 0; key < seen; ++key) {
                const T slope = dot(dq, query, k, key, depth) + dot(q, query, dk, key, depth);
                const T ds = static_cast<T>(task.scale) * slope + dmask.element(query, key);
                moved[key] = w[key] == 0 ? T{0} : w[key] * ds;
                drift += moved[key];
            }
            const bool moves = dq.data || dk.data || dv.data || dmask.data;
            for (std::int64_t e = 0; e < width; ++e) {
                T sum = 0;
                for (std::int64_t key = 0; key < seen; ++key) {
                    sum += moved[key] * v.at(key, e) + w[key] * dv.element(key, e);
                }
                dout.at(query, e) = moves ? sum - drift * out.at(query, e) : T{0};
            }
        }
    }
}

template <class T>
void attention(const AttentionTask& task) {
    std::int64_t heads = 1;
    for (int axis = 0; axis < task.out.rank - 2; ++axis) heads *= task.out.sizes[axis];
    const std::int64_t passes = task.extent.tangent ? 1 : task.extent.lanes;
    const std::int64_t lanes = task.extent.tangent ? task.extent.lanes : 1;
    for (std::int64_t sample = 0; sample < task.extent.samples; ++sample) {
        for (std::int64_t index = 0; index < heads; ++index) {
            for (std::int64_t lane = 0; lane < passes; ++lane) attend<T>(task, {task, sample, index}, lane, lanes);
        }
    }
}

}  // namespace

constinit const AttentionKernels kAttention[kPrecisions] = {
    {attention_scratch<float>, attention<float>},
    {attention_scratch<double>, attention<double>},
};

}  // namespace tqs::scalar
