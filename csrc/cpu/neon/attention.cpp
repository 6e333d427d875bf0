#include "cpu/panel/attention.h"

#include "cpu/neon/kernels.h"
#include "cpu/neon/wide.h"

namespace tqs::neon {
namespace {

template <class T>
struct AttentionVector {
    using Element = T;
    using Vector = typename Wide<T>::Vector;
    using Word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    typedef Word Words __attribute__((vector_size(16)));
    static constexpr int kLanes = Wide<T>::kLanes;
    static constexpr int kRows = 8;
    static constexpr int kValueSums = 16, kValueColumns = 4;
    static constexpr int kFewQueries = kLanes / 2;

    static Vector broadcast(Element value) { return Wide<T>::broadcast(value); }
    static Vector load(const Element* aligned) { return Wide<T>::load(aligned); }
    static Vector load_any(const Element* at) { return Wide<T>::load(at); }
    static Vector load_partial(const Element* at, std::int64_t count) {
        return count >= kLanes ? Wide<T>::load(at) : Wide<T>::load_first(at, count, broadcast(0));
    }
    static void store(Element* aligned, Vector value) { Wide<T>::store(aligned, value); }
    static void store_partial(Element* at, Vector value, std::int64_t count) {
        if (count >= kLanes) return Wide<T>::store(at, value);
        Wide<T>::store_first(at, value, count);
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return Wide<T>::multiply_add(a, b, c); }
};

}  // namespace

constinit const AttentionKernels kAttention[kPrecisions] = {
    {panel::attention_scratch<AttentionVector<float>>, panel::attention<AttentionVector<float>>},
    {panel::attention_scratch<AttentionVector<double>>, panel::attention<AttentionVector<double>>},
};

}  // namespace tqs::neon
