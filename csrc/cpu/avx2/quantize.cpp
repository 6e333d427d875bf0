#include "cpu/panel/quantize.h"

#include "cpu/avx2/kernels.h"
#include "cpu/avx2/wide.h"

namespace tqs::avx2 {
namespace {

struct Groups : Wide<double> {
    using Singles = float __attribute__((vector_size(16)));
    using Words = std::uint32_t __attribute__((vector_size(16)));
    static Vector widen(const float* at) { return Vector(_mm256_cvtps_pd(_mm_loadu_ps(at))); }
    static void store_bytes(std::uint8_t* at, Vector integers) {
        const __m128i words = _mm256_cvttpd_epi32(__m256d(integers));
        const __m128i pairs = _mm_packus_epi32(words, words);
        _mm_storeu_si32(at, _mm_packus_epi16(pairs, pairs));
    }
};

}  // namespace

constinit const QuantizeKernel kQuantize[kFormats] = {
    panel::quantize<Groups, 2>,
    panel::quantize<Groups, 3>,
    panel::quantize<Groups, 4>,
    panel::quantize<Groups, 8>,
};

}  // namespace tqs::avx2
