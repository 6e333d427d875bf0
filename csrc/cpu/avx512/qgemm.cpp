#include "cpu/panel/qgemm.h"

#include "cpu/avx512/kernels.h"
#include "cpu/avx512/vector.h"

namespace tqs::avx512 {

std::int64_t scratch_floats(std::int64_t columns) {
    return panel::scratch_floats<Vector>(columns);
}

constinit const QgemmKernel kQgemm[kDTypes][kFormats] = {
    {panel::qgemm<Vector, DType::float32, 2>, panel::qgemm<Vector, DType::float32, 3>,
     panel::qgemm<Vector, DType::float32, 4>, panel::qgemm<Vector, DType::float32, 8>},
    {panel::qgemm<Vector, DType::bfloat16, 2>, panel::qgemm<Vector, DType::bfloat16, 3>,
     panel::qgemm<Vector, DType::bfloat16, 4>, panel::qgemm<Vector, DType::bfloat16, 8>},
};

}  // namespace tqs::avx512
