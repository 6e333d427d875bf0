#include "cpu/panel/quantize.h"

#include "cpu/avx512/kernels.h"
#include "cpu/avx512/wide.h"

namespace tqs::avx512 {
namespace {

struct Groups : Wide<double> {
    using Singles = float __attribute__((vector_size(32)));
    using Words = std::uint32_t __attribute__((vector_size(32)));
    static Vector widen(const float* at) { return Vector(_mm512_cvtps_pd(_mm256_loadu_ps(at))); }
    static void store_bytes(std::uint8_t* at, Vector integers) {
        const __m256i words = _mm512_cvttpd_epi32(__m512d(integers));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(at), _mm256_cvtepi32_epi8(words));
    }
};

}  // namespace

constinit const QuantizeKernel kQuantize[kFormats] = {
    panel::quantize<Groups, 2>,
    panel::quantize<Groups, 3>,
    panel::quantize<Groups, 4>,
    panel::quantize<Groups, 8>,
};

}  // namespace tqs::avx512
