#include "cpu/panel/gates.h"

#include "cpu/scalar/kernels.h"
#include "cpu/scalar/wide.h"

namespace tqs::scalar {

constinit const GatesKernel kGates[kRecurrences] = {
    panel::gates<Wide<float>, Recurrence::lstm>,
    panel::gates<Wide<float>, Recurrence::gru>,
    panel::gates<Wide<float>, Recurrence::rnn_tanh>,
    panel::gates<Wide<float>, Recurrence::rnn_relu>,
};

}  // namespace tqs::scalar
