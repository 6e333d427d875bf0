#include "cpu/panel/gates.h"

#include "cpu/avx512/kernels.h"
#include "cpu/avx512/wide.h"

namespace tqs::avx512 {

constinit const GatesKernel kGates[kRecurrences] = {
    panel::gates<Wide<float>, Recurrence::lstm>,
    panel::gates<Wide<float>, Recurrence::gru>,
    panel::gates<Wide<float>, Recurrence::rnn_tanh>,
    panel::gates<Wide<float>, Recurrence::rnn_relu>,
};

}  // namespace tqs::avx512
