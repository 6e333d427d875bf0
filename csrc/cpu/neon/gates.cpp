#include "cpu/panel/gates.h"

#include "cpu/neon/kernels.h"
#include "cpu/neon/wide.h"

namespace tqs::neon {

constinit const GatesKernel kGates[kRecurrences] = {
    panel::gates<Wide<float>, Recurrence::lstm>,
    panel::gates<Wide<float>, Recurrence::gru>,
    panel::gates<Wide<float>, Recurrence::rnn_tanh>,
    panel::gates<Wide<float>, Recurrence::rnn_relu>,
};

}  // namespace tqs::neon
